//! Requests, and the time that a service takes for them.
#![expect(clippy::unwrap_used, reason = "a benchmark ends if it cannot go on")]

use std::cell::Cell;
use std::fmt;
use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tower::{Service, ServiceExt};
use usage_gate_core::UsageGate;
use usage_gate_tower::ClientAddress;

use crate::CLIENT;

/// The body of a request.
pub type Body = Full<Bytes>;

/// Keys that are used one after the other, from the first again after the last.
#[derive(Debug)]
pub struct Turns {
    keys: Vec<String>,
    next: Cell<usize>,
}

impl Turns {
    /// Of these keys.
    #[must_use]
    pub fn of(keys: Vec<String>) -> Self {
        Self { keys, next: Cell::new(0) }
    }

    /// Requests of the next so many keys.
    ///
    /// # Panics
    /// If there are no keys.
    #[must_use]
    pub fn requests(&self, count: usize) -> Vec<Request<Body>> {
        let first = self.next.replace((self.next.get() + count) % self.keys.len());
        self.keys.iter().cycle().skip(first).take(count).map(|key| request(key)).collect()
    }
}

/// Requests that are made at once.
const BATCH: usize = 256;

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
    S::Error: fmt::Debug,
    R: http_body::Body,
    R::Error: fmt::Debug,
{
    let response = service.ready().await.unwrap().call(request).await.unwrap();
    let status = response.status();
    let body = black_box(response.into_body().collect().await.unwrap().to_bytes());
    assert_eq!(status, 200, "{body:?}");
}

/// Time of `iterations` calls, with each key in its turn. Requests are made outside of the measured time, in small batches; and so is waiting until the records of
/// earlier ones are shipped and the journal has room, since one caller that does nothing else makes them faster than a database and a disk take them.
///
/// # Panics
/// If an answer is not 200, or a store does not answer.
pub fn timed<S, R>(runtime: &Runtime, gate: &UsageGate, service: &mut S, keys: &Turns, iterations: usize) -> Duration
where
    S: Service<Request<Body>, Response = Response<R>>,
    S::Error: fmt::Debug,
    R: http_body::Body,
    R::Error: fmt::Debug,
{
    let mut total = Duration::ZERO;
    let mut left = iterations;
    while left > 0 {
        let batch = left.min(BATCH);
        if gate.numbers().unshipped > 65_536 {
            runtime.block_on(gate.ship()).unwrap();
        }
        // Nor is a disk that others use as fast with new segments as this is with records.
        while !gate.status().ready {
            std::thread::yield_now();
        }
        let requests = keys.requests(batch);
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

/// What is asked of a service.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// How many requests.
    pub requests: usize,
    /// How many of them at once.
    pub in_flight: usize,
    /// How many in a second; as fast as they are answered without.
    pub a_second: Option<f64>,
}

/// Requests that are made at once where no pace is given.
const CHUNK: usize = 16_384;
/// Steps of a pace in a second.
const STEPS: f64 = 100.0;

/// Serves a load, its records shipped at the end: how long that took, with all that belongs to it.
///
/// # Panics
/// If an answer is not 200, or a store does not answer.
pub fn served<S, R>(runtime: &Runtime, gate: &UsageGate, service: &S, keys: &Turns, load: Load) -> Duration
where
    S: Service<Request<Body>, Response = Response<R>, Future: Send> + Clone + Send + 'static,
    S::Error: fmt::Debug,
    R: http_body::Body<Data: Send> + Send,
    R::Error: fmt::Debug,
{
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures")]
    let began = Instant::now();
    let step = Duration::from_secs_f64(1.0 / STEPS);
    let (mut sent, mut steps) = (0, 0);
    while sent < load.requests {
        if gate.numbers().unshipped > 65_536 {
            runtime.block_on(gate.ship()).unwrap();
        }
        while !gate.status().ready {
            std::thread::yield_now();
        }
        let until = match load.a_second {
            Some(pace) => due(pace, steps + 1),
            None => sent + CHUNK,
        };
        let mut requests = keys.requests(until.min(load.requests) - sent);
        sent += requests.len();
        steps += 1;
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for share in (1..=load.in_flight).rev() {
                let mut service = service.clone();
                let own = requests.split_off(requests.len() - requests.len() / share);
                tasks.spawn(async move {
                    for request in own {
                        once(&mut service, request).await;
                    }
                });
            }
            tasks.join_all().await;
            if load.a_second.is_some() {
                tokio::time::sleep_until((began + step * steps).into()).await;
            }
        });
    }
    runtime.block_on(gate.ship()).unwrap();
    began.elapsed()
}

/// How many requests are due at the end of so many steps.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a pace is above zero, and a benchmark is short"
)]
fn due(pace: f64, steps: u32) -> usize {
    (pace * f64::from(steps) / STEPS) as usize
}

/// A time in nanoseconds over all rounds.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// Half of the rounds took less.
    pub median: f64,
    /// A quarter of them took less.
    pub lower_quarter: f64,
}

impl Spread {
    /// Of the times of all rounds.
    ///
    /// # Panics
    /// If there are none.
    #[must_use]
    pub fn of(rounds: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = rounds.collect();
        sorted.sort_by(f64::total_cmp);
        Self { median: sorted[sorted.len() / 2], lower_quarter: sorted[sorted.len() / 4] }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} ({:.0})", self.median, self.lower_quarter)
    }
}
