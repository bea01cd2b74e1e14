//! What limits cost that many nodes share: leases on PostgreSQL and Valkey, beside the same layer on memory and beside a script in Valkey for every request.
//!
//! A thousand keys used in turn, each with a rate by the minute and a quota by the month of its own (`tests/bench/src/crowd.rs`), so that every key is in steady use. Run it as
//! `tests/with-servers cargo bench -p usage-gate-bench --bench leases`; the servers have to be on this machine, because their time of the processor is read from `/proc`. A load that
//! knows no pause favours leases, which cost by the second and not by the request: so there is one at the pace of the script, too.
//!
//! A layer with leases does all that the layer does (who is calling, which route, how limits stand in the answer), and the script decides about two limits only. What the layer costs on
//! memory is therefore a row of its own, and what leases add to it stands below the table.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and ends if it cannot go on")]

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tokio::runtime::Runtime;
use tower::{Layer, Service};
use usage_gate_bench::{Body, Crowd, Load, Processes, ScriptARequest, Spread, Turns, Used, served, timed};
use usage_gate_core::clock::Clock;
use usage_gate_core::store::{MemoryStore, PostgresStore, ValkeyStore};
use usage_gate_core::{UsageGate, UsageGateBuilder};
use usage_gate_tower::UsageGateLayer;

const CALLS: u32 = 256;
/// Requests at once, for the script: with fewer each pays for more wake-ups.
const IN_FLIGHT: usize = 64;
/// How long a paced load lasts.
const PACED: f64 = 10.0;

/// Where everything runs.
struct Bench {
    runtime: Runtime,
    database: PostgresStore,
    valkey_url: String,
    processes: Processes,
}

/// Microseconds of the processor a request, beyond those of a service without limits.
struct Cost(Used);

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Used { here, postgres, valkey }) = self;
        write!(f, "{here:8.2} {postgres:11.2} {valkey:8.2} {:8.2}", self.0.sum())
    }
}

/// A load, and what it took.
struct Taken {
    /// Seconds of the processor.
    used: Used,
    a_second: f64,
    requests: f64,
}

impl Taken {
    fn beyond(&self, bare: &Self) -> Cost {
        let micros = |seconds: f64, requests: f64| seconds * 1e6 / requests;
        Cost(Used {
            here: micros(self.used.here, self.requests) - micros(bare.used.here, bare.requests),
            postgres: micros(self.used.postgres, self.requests),
            valkey: micros(self.used.valkey, self.requests),
        })
    }
}

impl Bench {
    fn new() -> Self {
        let given = |name| {
            let url = std::env::var_os(name).and_then(|url| url.into_string().ok());
            url.ok_or_else(|| format!("{name} is not set: run this by tests/with-servers")).unwrap()
        };
        let (database_url, valkey_url) = (given("DATABASE_URL"), given("VALKEY_URL"));
        // The gate's tasks run on the second thread, as they do beside a server.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let database = runtime.block_on(PostgresStore::open(&database_url)).unwrap();
        let processes = runtime.block_on(Processes::of(&database_url, &valkey_url)).unwrap();
        Self { runtime, database, valkey_url, processes }
    }

    fn on_memory(&self, change: fn(UsageGateBuilder) -> UsageGateBuilder) -> Crowd {
        let stores = UsageGate::builder().store(MemoryStore::new(Clock::system()));
        self.runtime.block_on(Crowd::on(change(stores))).unwrap()
    }

    fn on_servers(&self, change: fn(UsageGateBuilder) -> UsageGateBuilder) -> Crowd {
        let valkey = ValkeyStore::options(&self.valkey_url).ledger(Arc::new(self.database.clone())).open();
        let valkey = Arc::new(self.runtime.block_on(valkey).unwrap());
        let stores = UsageGate::builder().store(self.database.clone());
        let stores = stores.rates(Arc::new(self.database.clone())).volatile_rates(valkey);
        self.runtime.block_on(Crowd::on(change(stores))).unwrap()
    }

    /// Prints what each gate adds to the time of a request, and gives both, that on servers second. The rounds are short and take turns, and what each adds is the median of differences within a
    /// round: what slows the machine for a while slows all of them.
    fn compare(&self, name: &str, change: fn(UsageGateBuilder) -> UsageGateBuilder, extent: Extent) -> [Crowd; 2] {
        let (memory, servers) = (self.on_memory(change), self.on_servers(change));
        let calls = usize::try_from(CALLS).unwrap();
        let (mut on_memory, mut on_servers) = (gated(&memory.gate), gated(&servers.gate));
        timed(&self.runtime, &memory.gate, &mut on_memory, &memory.keys, extent.warm);
        timed(&self.runtime, &servers.gate, &mut on_servers, &servers.keys, extent.warm);
        let rounds: Vec<[f64; 2]> = (0..extent.rounds)
            .map(|_| {
                let nanos = |time: Duration| time.as_secs_f64() * 1e9 / f64::from(CALLS);
                let bare = nanos(timed(&self.runtime, &memory.gate, &mut bare(), &memory.keys, calls));
                let on_memory = nanos(timed(&self.runtime, &memory.gate, &mut on_memory, &memory.keys, calls));
                let on_servers = nanos(timed(&self.runtime, &servers.gate, &mut on_servers, &servers.keys, calls));
                [on_memory - bare, on_servers - bare]
            })
            .collect();
        let [of_memory, of_servers] = [0, 1].map(|at| Spread::of(rounds.iter().map(|round| round[at])));
        let ratio = of_servers.median / of_memory.median;
        println!("{name:44} {:>14} {:>22} {ratio:6.2}", of_memory.to_string(), of_servers.to_string());
        [memory, servers]
    }

    fn take<S, R>(&self, gate: &UsageGate, service: &S, keys: &Turns, load: Load) -> Taken
    where
        S: Service<Request<Body>, Response = Response<R>, Future: Send> + Clone + Send + 'static,
        S::Error: fmt::Debug,
        R: http_body::Body<Data: Send> + Send,
        R::Error: fmt::Debug,
    {
        let before = self.processes.used();
        let time = served(&self.runtime, gate, service, keys, load);
        let requests = f64::from(u32::try_from(load.requests).unwrap());
        Taken { used: self.processes.used() - before, a_second: requests / time.as_secs_f64(), requests }
    }
}

fn answer() -> Response<axum::body::Body> {
    Response::new(axum::body::Body::from(Bytes::from_static(b"hello")))
}

/// The service without limits.
fn bare() -> impl Service<Request<Body>, Response = Response<axum::body::Body>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    tower::service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(answer()) })
}

/// Behind a gate.
fn gated(
    gate: &UsageGate,
) -> impl Service<
    Request<Body>,
    Response = Response<impl http_body::Body<Data: Send, Error: fmt::Debug> + Send>,
    Error: fmt::Debug,
    Future: Send,
> + Clone
+ Send
+ 'static {
    UsageGateLayer::new(gate).layer(tower::service_fn(|_: Request<usage_gate_tower::RequestBody<Body>>| async {
        Ok::<_, Infallible>(answer())
    }))
}

/// With a script a request.
fn scripted(
    script: &ScriptARequest,
) -> impl Service<Request<Body>, Response = Response<axum::body::Body>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    let script = script.clone();
    tower::service_fn(move |request: Request<Body>| {
        let mut script = script.clone();
        async move {
            let key = request.headers()["x-api-key"].to_str().unwrap();
            let mut answer = answer();
            if !script.allows(key).await.unwrap() {
                *answer.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
            }
            Ok::<_, Infallible>(answer)
        }
    })
}

/// How much of it a run is: usage is slower to ship than to make.
#[derive(Clone, Copy)]
struct Extent {
    /// So that caches are filled, and leases have the size that the load needs.
    warm: usize,
    rounds: u32,
}

const LIMITS: Extent = Extent { warm: 500_000, rounds: 2_000 };
const USAGE: Extent = Extent { warm: 60_000, rounds: 400 };
/// For the processor's time.
const REQUESTS: usize = 2_000_000;

fn main() {
    let bench = Bench::new();
    println!(
        "1,000 keys, each with a rate and a quota. Nanoseconds that the layer adds to a request, median (lower quarter):"
    );
    println!("{:44} {:>14} {:>22} {:>6}", "", "memory", "PostgreSQL + Valkey", "ratio");

    let crowds = bench.compare("limits only", UsageGateBuilder::unmetered, LIMITS);
    let script = bench.runtime.block_on(ScriptARequest::on(&bench.valkey_url)).unwrap();
    let (gate, keys, bare, script) = (&crowds[0].gate, &crowds[0].keys, bare(), scripted(&script));
    let unpaced = |requests, in_flight| Load { requests, in_flight, a_second: None };
    bench.take(gate, &script, keys, unpaced(20_000, IN_FLIGHT));
    let one = bench.take(gate, &script, keys, unpaced(30_000, 1));
    let many = bench.take(gate, &script, keys, unpaced(200_000, IN_FLIGHT));
    let a_second = many.a_second;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "what was served in some seconds")]
    let paced = Load { requests: (a_second * PACED) as usize, in_flight: IN_FLIGHT, a_second: Some(a_second) };
    let bare_one = bench.take(gate, &bare, keys, unpaced(REQUESTS, 1));
    let bare_fast = bench.take(gate, &bare, keys, unpaced(REQUESTS, IN_FLIGHT));
    let bare_paced = bench.take(gate, &bare, keys, paced);
    let [[memory_one, memory, memory_paced], [leases_one, leases, leases_paced]] =
        crowds.each_ref().map(|Crowd { gate, keys, .. }| {
            bench.take(gate, &gated(gate), keys, unpaced(LIMITS.warm, IN_FLIGHT));
            let loads = [unpaced(REQUESTS, 1), unpaced(REQUESTS, IN_FLIGHT), paced];
            loads.map(|load| bench.take(gate, &gated(gate), keys, load))
        });
    crowds.into_iter().for_each(|crowd| bench.runtime.block_on(crowd.gate.drain()).unwrap());
    for crowd in bench.compare("with usage", |gate| gate, USAGE) {
        bench.runtime.block_on(crowd.gate.drain()).unwrap();
    }

    println!("\nMicroseconds of the processor that a request takes, beyond those of the service without limits:");
    print!("{:44} {:>10} {:>8} {:>11} {:>8} {:>8}", "", "requests/s", "gateway", "PostgreSQL", "Valkey", "sum");
    println!("   the script: 64 at a time, one at a time");
    let scripts = [many.beyond(&bare_fast).0.sum(), one.beyond(&bare_one).0.sum()];
    let times = |cost: f64| format!("{:6.1} and {:.1} times that", scripts[0] / cost, scripts[1] / cost);
    for (name, taken, bare) in [
        ("a script a request, one at a time", &one, &bare_one),
        ("a script a request, 64 at a time", &many, &bare_fast),
        ("the layer on memory, one at a time", &memory_one, &bare_one),
        ("the layer on memory, 64 at a time", &memory, &bare_fast),
        ("the layer on memory, at the script's pace", &memory_paced, &bare_paced),
        ("leases, one at a time", &leases_one, &bare_one),
        ("leases, 64 at a time", &leases, &bare_fast),
        ("leases, at the script's pace", &leases_paced, &bare_paced),
    ] {
        let cost = taken.beyond(bare);
        println!("{name:44} {:>10.0} {cost}   {}", taken.a_second, times(cost.0.sum()));
    }
    println!("\nWhat limits cost that nodes share, beyond the same layer on memory:");
    for (name, leases, memory, bare) in [
        ("leases, one at a time", &leases_one, &memory_one, &bare_one),
        ("leases, 64 at a time", &leases, &memory, &bare_fast),
        ("leases, at the script's pace", &leases_paced, &memory_paced, &bare_paced),
    ] {
        let more = leases.beyond(bare).0.sum() - memory.beyond(bare).0.sum();
        println!("{name:44} {more:>48.2}   {}", times(more));
    }
}
