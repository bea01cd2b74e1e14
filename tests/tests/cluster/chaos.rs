//! Gateways, PostgreSQL and Valkey are killed under load: never a unit too many.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};
use usage_gate_tests::cluster::{Cluster, Load, OwnPostgres, OwnValkey, Stores};
use usage_gate_tests::crash::Random;

const QUOTA: usize = 10_000;
const RUN: Duration = Duration::from_secs(30);

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Event {
    KillGateway,
    RestartPostgres,
    RestartValkeyEmpty,
    /// It comes back as it was some time ago, as a replica does that was behind.
    RestartValkeyBehind,
    SaveValkey,
}

const EVENTS: [Event; 5] = [
    Event::KillGateway,
    Event::RestartPostgres,
    Event::RestartValkeyEmpty,
    Event::RestartValkeyBehind,
    Event::SaveValkey,
];

fn seed() -> u64 {
    match std::env::var_os("USAGE_GATE_CLUSTER_SEED") {
        Some(seed) => seed.into_string().unwrap().parse().unwrap(),
        None => u64::from(std::process::id()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a1_a_quota_is_never_passed_whatever_is_killed() {
    let seed = seed();
    println!("USAGE_GATE_CLUSTER_SEED={seed}");
    let mut random = Random::new(seed);
    let (mut postgres, mut valkey) = (OwnPostgres::start().await, OwnValkey::start().await);
    let stores = Stores { postgres: postgres.url(), valkey: Some(valkey.url()) };
    let mut cluster = Cluster::start(3, &stores, "").await;
    let limits = json!([
        {"name": "month", "kind": "quota", "meter": "requests", "units": QUOTA, "per": "month", "counted_by": "tenant"},
        {"name": "burst", "kind": "rate", "meter": "requests", "units": 2_000, "per": "second", "burst": 2_000, "counted_by": "tenant"},
    ]);
    let (tenant, key) = cluster.key("chaos", limits).await;
    let urls = Arc::new(Mutex::new(cluster.urls()));
    let load = Load::start(16, &urls, &key, seed, Duration::from_millis(2));
    let until = Instant::now() + RUN;
    while Instant::now() < until {
        sleep(Duration::from_millis(random.within(300..1_500))).await;
        let event = EVENTS[usize::try_from(random.within(0..5)).unwrap()];
        match event {
            Event::KillGateway => {
                let node = usize::try_from(random.within(0..3)).unwrap();
                cluster.kill(node).await;
                cluster.start_again(node).await;
                *urls.lock().unwrap() = cluster.urls();
            }
            Event::RestartPostgres => {
                postgres.kill().await;
                postgres.start_again().await;
            }
            Event::RestartValkeyEmpty => {
                valkey.kill().await;
                valkey.forget();
                valkey.start_again().await;
            }
            Event::RestartValkeyBehind => {
                valkey.kill().await;
                valkey.start_again().await;
            }
            Event::SaveValkey => valkey.save().await,
        }
        let passed = load.so_far().with(200);
        assert!(passed <= QUOTA, "{passed} after {event:?}, seed {seed}");
    }
    // What killed nodes held they spend on, since all of them are back.
    let (mut passed, mut since) = (0, Instant::now());
    while since.elapsed() < Duration::from_secs(4) {
        sleep(Duration::from_millis(100)).await;
        let now = load.so_far().with(200);
        if now != passed {
            (passed, since) = (now, Instant::now());
        }
    }
    let passed = load.stop().await;
    println!("{:?}, upstream {}, slowest {:?}", passed.statuses(), cluster.upstream.count(), passed.slowest());
    assert!(passed.with(200) <= QUOTA && cluster.upstream.count() <= QUOTA, "seed {seed}");
    let limits = cluster.admin(0).read(&format!("/tenants/{tenant}/limits")).await;
    let month = limits["items"].as_array().unwrap().iter().find(|limit| limit["name"] == "month").unwrap().clone();
    // Every unit is accounted for: what was not answered was taken by requests that a kill has cut off.
    assert_eq!((&month["used"], &month["reserved"]), (&json!(QUOTA), &json!(0)), "seed {seed}: {month}");
}
