//! What the layer adds to a trivial service, beside `tower_governor` with headers in the same run.
//!
//! On: authentication, scope, a rate, a quota, a seat, the record, RateLimit headers, the request id; SQLite as store. The peer does one rate
//! limit by address with its headers, and needs axum's body in the answer, so all three have it. Printed at the end: the ratio of added costs, and the store calls a request.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and ends if it cannot go on")]

use std::convert::Infallible;
use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::Criterion;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt};
use tower_governor::GovernorLayer;
use tower_governor::governor::GovernorConfigBuilder;
use tower_governor::key_extractor::SmartIpKeyExtractor;
use usage_gate_bench::CLIENT;
use usage_gate_core::UsageGate;
use usage_gate_tower::{ClientAddress, UsageGateLayer};

type Body = Full<Bytes>;

fn request(key: &str) -> Request<Body> {
    let mut request = Request::get("/v1/search?q=hello")
        .header("host", "api.example.com")
        .header("user-agent", "bench")
        .header("accept", "*/*")
        .header("x-api-key", key)
        .header("x-real-ip", "192.0.2.7")
        .body(Body::default())
        .unwrap();
    request.extensions_mut().insert(ClientAddress(CLIENT));
    request.extensions_mut().insert(SocketAddr::from((CLIENT, 4711)));
    request
}

/// Calls a service once and reads the whole body, as a server does.
async fn once<S, R>(service: &mut S, request: Request<Body>)
where
    S: Service<Request<Body>, Response = Response<R>>,
    S::Error: std::fmt::Debug,
    R: http_body::Body,
    R::Error: std::fmt::Debug,
{
    let response = service.ready().await.unwrap().call(request).await.unwrap();
    let status = response.status();
    let body = black_box(response.into_body().collect().await.unwrap().to_bytes());
    assert_eq!(status, 200, "{body:?}");
}

/// Time of `iterations` calls. Requests are made outside of the measured time, in small batches; and so is waiting until the records of
/// earlier ones are shipped and the journal has room, since one caller that does nothing else makes them faster than a database and a disk take them.
fn timed<S, R>(
    runtime: &tokio::runtime::Runtime,
    gate: &UsageGate,
    service: &mut S,
    key: &str,
    iterations: u64,
) -> Duration
where
    S: Service<Request<Body>, Response = Response<R>>,
    S::Error: std::fmt::Debug,
    R: http_body::Body,
    R::Error: std::fmt::Debug,
{
    let mut total = Duration::ZERO;
    let mut left = iterations;
    while left > 0 {
        let batch = left.min(256);
        if gate.numbers().unshipped > 65_536 {
            runtime.block_on(gate.ship()).unwrap();
        }
        // Nor is a disk that others use as fast with new segments as this is with records.
        while !gate.status().ready {
            std::thread::yield_now();
        }
        let requests: Vec<_> = (0..batch).map(|_| request(key)).collect();
        runtime.block_on(async {
            #[expect(clippy::disallowed_methods, reason = "a benchmark measures")]
            let began = Instant::now();
            for request in requests {
                once(service, request).await;
            }
            total += began.elapsed();
        });
        left -= batch;
    }
    total
}

/// Page faults of this thread that needed no disk.
fn minor_faults() -> u32 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
    let behind_name = stat.rsplit(") ").next().unwrap_or_default();
    behind_name.split(' ').nth(7).and_then(|faults| faults.parse().ok()).unwrap_or_default()
}

/// A time in nanoseconds over all rounds.
struct Spread {
    median: f64,
    lower_quarter: f64,
}

impl Spread {
    fn of(rounds: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = rounds.collect();
        sorted.sort_by(f64::total_cmp);
        Self { median: sorted[sorted.len() / 2], lower_quarter: sorted[sorted.len() / 4] }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} ({:.0})", self.median, self.lower_quarter)
    }
}

fn main() {
    // The gate's tasks run on the second thread, as they do beside a server.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let stage = runtime.block_on(usage_gate_bench::stage()).unwrap();
    let answer = || Response::new(axum::body::Body::from(Bytes::from_static(b"hello")));

    let mut bare = tower::service_fn(move |_: Request<Body>| async move { Ok::<_, Infallible>(answer()) });
    let inner = tower::service_fn(move |_: Request<usage_gate_tower::RequestBody<Body>>| async move {
        Ok::<_, Infallible>(answer())
    });
    let mut gated = UsageGateLayer::new(&stage.gate).layer(inner);
    let limits_only = runtime.block_on(usage_gate_bench::unmetered_stage()).unwrap();
    let inner = tower::service_fn(move |_: Request<usage_gate_tower::RequestBody<Body>>| async move {
        Ok::<_, Infallible>(answer())
    });
    let mut unmetered = UsageGateLayer::new(&limits_only.gate).layer(inner);
    let governor = GovernorConfigBuilder::default()
        .per_nanosecond(1)
        .burst_size(u32::MAX)
        .key_extractor(SmartIpKeyExtractor)
        .use_headers()
        .finish()
        .unwrap();
    let mut governed = GovernorLayer::new(governor)
        .layer(tower::service_fn(move |_: Request<Body>| async move { Ok::<_, Infallible>(answer()) }));

    // Filled caches and leases of the size that the load needs.
    timed(&runtime, &stage.gate, &mut gated, &stage.key, 2_000_000);
    timed(&runtime, &limits_only.gate, &mut unmetered, &limits_only.key, 2_000_000);

    let mut criterion = Criterion::default().measurement_time(Duration::from_secs(4)).configure_from_args();
    criterion.bench_function("bare", |b| b.iter_custom(|n| timed(&runtime, &stage.gate, &mut bare, &stage.key, n)));
    criterion.bench_function("tower_governor", |b| {
        b.iter_custom(|n| timed(&runtime, &stage.gate, &mut governed, &stage.key, n))
    });
    criterion
        .bench_function("usage_gate", |b| b.iter_custom(|n| timed(&runtime, &stage.gate, &mut gated, &stage.key, n)));
    criterion.bench_function("usage_gate without journal and seats", |b| {
        b.iter_custom(|n| timed(&runtime, &limits_only.gate, &mut unmetered, &limits_only.key, n))
    });

    // Many short interleaved rounds: what each adds is the median of differences within a round. What slows the machine for a while slows both sides, and
    // a round in which somebody else had the processor is not in the middle.
    const ROUNDS: u32 = 4_000;
    const CALLS: u32 = 256;
    let calls_before = stage.store.quota_calls();
    let mut faults = [0; 2];
    let rounds: Vec<[f64; 4]> = (0..ROUNDS)
        .map(|_| {
            let calls = u64::from(CALLS);
            let nanos = |time: Duration| time.as_secs_f64() * 1e9 / f64::from(CALLS);
            let bare = nanos(timed(&runtime, &stage.gate, &mut bare, &stage.key, calls));
            let governed = nanos(timed(&runtime, &stage.gate, &mut governed, &stage.key, calls));
            let before = minor_faults();
            let gated = nanos(timed(&runtime, &stage.gate, &mut gated, &stage.key, calls));
            let between = minor_faults();
            let unmetered = nanos(timed(&runtime, &limits_only.gate, &mut unmetered, &limits_only.key, calls));
            faults = [faults[0] + between - before, faults[1] + minor_faults() - between];
            [bare, governed, gated, unmetered]
        })
        .collect();
    let quota_calls = stage.store.quota_calls() - calls_before;
    let bare = Spread::of(rounds.iter().map(|[bare, ..]| *bare));
    let peer = Spread::of(rounds.iter().map(|[bare, governed, ..]| governed - bare));
    let ours = Spread::of(rounds.iter().map(|[bare, _, gated, _]| gated - bare));
    let unmetered = Spread::of(rounds.iter().map(|[bare, _, _, unmetered]| unmetered - bare));
    let journal = Spread::of(rounds.iter().map(|[_, _, gated, unmetered]| gated - unmetered));
    println!("\nns a request, median of {ROUNDS} rounds (lower quarter)");
    println!("bare: {bare}; tower_governor with headers adds {peer}");
    println!("usage-gate adds {ours}: ratio {:.2}", ours.median / peer.median);
    println!("of that {journal} are journal and seats: without them it adds {unmetered}");
    let [with, without] = faults.map(|faults| f64::from(faults) / f64::from(ROUNDS * CALLS));
    println!("page faults of the thread a request: {with:.4} with journal and seats, {without:.4} without");
    println!("quota store calls in {} requests: {quota_calls}", ROUNDS * CALLS);
    runtime.block_on(stage.gate.drain()).unwrap();
    runtime.block_on(limits_only.gate.drain()).unwrap();
    criterion.final_summary();
}
