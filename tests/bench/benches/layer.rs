//! What the layer adds to a trivial service, beside `tower_governor` with headers in the same run.
//!
//! On: authentication, scope, a rate, a quota, a seat, the record, RateLimit headers, the request id; SQLite as store. The peer does one rate
//! limit by address with its headers, and needs axum's body in the answer, so all three have it. Printed at the end: the ratio of added costs, and the store calls a request.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and ends if it cannot go on")]

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use criterion::Criterion;
use http::{Request, Response};
use tower::Layer;
use tower_governor::GovernorLayer;
use tower_governor::governor::GovernorConfigBuilder;
use tower_governor::key_extractor::SmartIpKeyExtractor;
use usage_gate_bench::{Body, Spread, Turns, timed};
use usage_gate_tower::UsageGateLayer;

/// Page faults of this thread that needed no disk.
fn minor_faults() -> u32 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
    let behind_name = stat.rsplit(") ").next().unwrap_or_default();
    behind_name.split(' ').nth(7).and_then(|faults| faults.parse().ok()).unwrap_or_default()
}

fn count(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

fn main() {
    // The gate's tasks run on the second thread, as they do beside a server.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let stage = runtime.block_on(usage_gate_bench::stage()).unwrap();
    let keys = Turns::of(vec![stage.key.clone()]);
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
    let limits_only_keys = Turns::of(vec![limits_only.key.clone()]);
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
    timed(&runtime, &stage.gate, &mut gated, &keys, 2_000_000);
    timed(&runtime, &limits_only.gate, &mut unmetered, &limits_only_keys, 2_000_000);

    let mut criterion = Criterion::default().measurement_time(Duration::from_secs(4)).configure_from_args();
    criterion.bench_function("bare", |b| b.iter_custom(|n| timed(&runtime, &stage.gate, &mut bare, &keys, count(n))));
    criterion.bench_function("tower_governor", |b| {
        b.iter_custom(|n| timed(&runtime, &stage.gate, &mut governed, &keys, count(n)))
    });
    criterion
        .bench_function("usage_gate", |b| b.iter_custom(|n| timed(&runtime, &stage.gate, &mut gated, &keys, count(n))));
    criterion.bench_function("usage_gate without journal and seats", |b| {
        b.iter_custom(|n| timed(&runtime, &limits_only.gate, &mut unmetered, &limits_only_keys, count(n)))
    });

    // Many short interleaved rounds: what each adds is the median of differences within a round. What slows the machine for a while slows both sides, and
    // a round in which somebody else had the processor is not in the middle.
    const ROUNDS: u32 = 4_000;
    const CALLS: u32 = 256;
    let calls_before = stage.store.quota_calls();
    let mut faults = [0; 2];
    let rounds: Vec<[f64; 4]> = (0..ROUNDS)
        .map(|_| {
            let calls = count(u64::from(CALLS));
            let nanos = |time: Duration| time.as_secs_f64() * 1e9 / f64::from(CALLS);
            let bare = nanos(timed(&runtime, &stage.gate, &mut bare, &keys, calls));
            let governed = nanos(timed(&runtime, &stage.gate, &mut governed, &keys, calls));
            let before = minor_faults();
            let gated = nanos(timed(&runtime, &stage.gate, &mut gated, &keys, calls));
            let between = minor_faults();
            let unmetered = nanos(timed(&runtime, &limits_only.gate, &mut unmetered, &limits_only_keys, calls));
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
