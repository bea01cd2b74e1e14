//! A plan that changes under load: use is kept, and the new limit holds on every node.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use usage_gate_tests::cluster::{Cluster, Database, Load, Stores};

fn plan(units: usize) -> Value {
    json!({"id": "changing", "name": "Changing", "limits": [
        {"name": "month", "kind": "quota", "meter": "requests", "units": units, "per": "month", "counted_by": "tenant"}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_raised_and_lowered_keeps_its_use_and_holds_on_every_node() {
    let database = Database::new().await;
    let cluster = Cluster::start(3, &Stores::with_valkey(&database), "").await;
    let (_, key) = cluster.key("changing", plan(1_000)["limits"].clone()).await;
    let urls = Arc::new(Mutex::new(cluster.urls()));
    let load = Load::start(16, &urls, &key, 1, Duration::from_millis(2));
    let mut expected = 1_000;
    // Raised, raised, lowered below what is used, and raised again.
    for (node, units) in [(0, 3_000), (1, 5_000), (2, 4_000), (0, 6_000)] {
        let began = Instant::now();
        while load.so_far().with(200) < expected {
            assert!(began.elapsed() < Duration::from_secs(30), "{} of {expected}", load.so_far().with(200));
            sleep(Duration::from_millis(20)).await;
        }
        // Nothing more comes: what is waited for is that nothing happens.
        sleep(Duration::from_millis(1_500)).await;
        assert_eq!(load.so_far().with(200), expected);
        let changed = cluster.admin(node).call(Method::PUT, "/plans/changing", plan(units).to_string()).await;
        assert!(changed.status.is_success(), "{}", changed.json());
        let (before, began) = (load.so_far().with(200), Instant::now());
        if units > expected {
            while load.so_far().with(200) == before {
                assert!(began.elapsed() < Duration::from_secs(30), "{units} units are in force nowhere");
                sleep(Duration::from_millis(2)).await;
            }
            println!("{units} units: the first passed after {:?}", began.elapsed());
        }
        expected = expected.max(units);
    }
    while load.so_far().with(200) < expected {
        sleep(Duration::from_millis(20)).await;
    }
    sleep(Duration::from_millis(1_500)).await;
    let passed = load.stop().await;
    assert_eq!((passed.with(200), cluster.upstream.count()), (6_000, 6_000), "{:?}", passed.statuses());
}
