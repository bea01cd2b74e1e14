//! Quotas: what three gateways give together.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};
use usage_gate_tests::cluster::{Cluster, Database, Load, Passed, Stores};

const QUOTA: usize = 10_000;
const CLIENTS: u64 = 16;

/// Seeds of the default run; `USAGE_GATE_CLUSTER_SEED` names one.
fn seeds() -> Vec<u64> {
    match std::env::var_os("USAGE_GATE_CLUSTER_SEED") {
        Some(seed) => vec![seed.into_string().unwrap().parse().unwrap()],
        None => (1..=10).collect(),
    }
}

async fn key(cluster: &Cluster, seed: u64, units: usize) -> String {
    let limit = json!([{"name": "month", "kind": "quota", "meter": "requests", "units": units, "per": "month", "counted_by": "tenant"}]);
    cluster.key(&format!("plan-{seed}"), limit).await.1
}

/// Waits until nobody has passed for so long.
async fn until_nobody_passes(load: &Load, quiet: Duration) {
    let (mut passed, mut since) = (0, Instant::now());
    while since.elapsed() < quiet {
        sleep(Duration::from_millis(50)).await;
        let now = load.so_far().with(200);
        if now != passed {
            (passed, since) = (now, Instant::now());
        }
    }
}

fn assert_quiet(passed: &Passed) {
    let statuses = passed.statuses();
    assert!(statuses.keys().all(|status| [200, 429].contains(status)), "{statuses:?}");
}

async fn exact(stores: &Stores) {
    let cluster = Cluster::start(3, stores, "").await;
    let urls = Arc::new(Mutex::new(cluster.urls()));
    for seed in seeds() {
        let key = key(&cluster, seed, QUOTA).await;
        let load = Load::start(CLIENTS, &urls, &key, seed, Duration::ZERO);
        until_nobody_passes(&load, Duration::from_secs(2)).await;
        let passed = load.stop().await;
        println!("seed {seed}: {:?}, slowest {:?}", passed.statuses(), passed.slowest());
        assert_eq!(passed.with(200), QUOTA, "seed {seed}");
        assert_quiet(&passed);
    }
    assert_eq!(cluster.upstream.seen().len(), QUOTA * seeds().len(), "what reached the upstream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a1_three_gateways_on_postgres_and_valkey_give_exactly_the_quota() {
    let database = Database::new().await;
    exact(&Stores::with_valkey(&database)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a1_three_gateways_on_postgres_alone_give_exactly_the_quota() {
    let database = Database::new().await;
    exact(&Stores::postgres(&database)).await;
}

/// Counted by the database itself.
#[tokio::test(flavor = "multi_thread")]
async fn few_requests_make_a_round_trip() {
    let database = Database::new().await;
    let mut cluster = Cluster::start(3, &Stores::with_valkey(&database), "").await;
    let urls = Arc::new(Mutex::new(cluster.urls()));
    let units = 100_000;
    let key = key(&cluster, 1, units).await;
    let load = Load::start(CLIENTS, &urls, &key, 1, Duration::ZERO);
    let enough = Instant::now() + Duration::from_secs(20);
    while Instant::now() < enough && load.so_far().with(200) < units {
        sleep(Duration::from_millis(100)).await;
    }
    let passed = load.stop().await;
    for gateway in &mut cluster.gateways {
        assert!(gateway.terminate().await.success());
    }
    let calls = calls(&database).await;
    println!("{:?}: {calls} calls of usage_gate_lease", passed.statuses());
    assert_quiet(&passed);
    let most = i64::try_from(passed.0.len() / 50).unwrap();
    assert!(calls > 0 && calls <= most, "{calls} round trips, and at most {most} are allowed");
}

/// Calls of the lease function so far, as the database counts them, about a second late.
async fn calls(database: &Database) -> i64 {
    database
        .number("SELECT coalesce(sum(calls), 0)::int8 FROM pg_stat_user_functions WHERE funcname = 'usage_gate_lease'")
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_used_up_costs_five_round_trips_a_second_at_most_and_a_steady_one_one_in_a_thousand_requests() {
    const SECONDS: u64 = 8;
    let database = Database::new().await;
    let cluster = Cluster::start(3, &Stores::with_valkey(&database), "").await;
    let urls = Arc::new(Mutex::new(cluster.urls()));
    let watch = async |key: &str, warm_up: Duration| {
        let load = Load::start(CLIENTS, &urls, key, 1, Duration::ZERO);
        sleep(warm_up).await;
        let before = (calls(&database).await, load.so_far().0.len());
        sleep(Duration::from_secs(SECONDS)).await;
        let after = (calls(&database).await, load.so_far().0.len());
        let passed = load.stop().await;
        (after.0 - before.0, i64::try_from(after.1 - before.1).unwrap(), passed)
    };
    // First, because a node that holds units asks once a second whether others need them.
    let used_up = key(&cluster, 2, 100).await;
    let (made, requests, passed) = watch(&used_up, Duration::from_secs(2)).await;
    println!("used up: {made} calls for {requests} refusals in {SECONDS} s");
    assert_eq!(passed.with(200), 100);
    let most = i64::try_from(5 * SECONDS).unwrap();
    assert!(made <= most, "{made} calls for {requests} refusals in {SECONDS} s");

    let steady = key(&cluster, 1, 100_000_000).await;
    let (made, requests, passed) = watch(&steady, Duration::from_secs(4)).await;
    println!("steady: {made} calls for {requests} requests in {SECONDS} s");
    assert_quiet(&passed);
    assert_eq!(passed.with(429), 0);
    assert!(made > 0 && made * 1_000 <= requests, "{made} calls for {requests} requests");
}
