//! A plan that changes under load: use is kept, and the new limit holds on every node.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use usage_gate_tests::cluster::{Cluster, Curve, Database, Load, Stores};

/// A change is in force on every node after so long.
const WITHIN: Duration = Duration::from_secs(1);

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
        let (before, asked) = (load.so_far().with(200), Instant::now());
        let changed = cluster.admin(node).call(Method::PUT, "/plans/changing", plan(units).to_string()).await;
        assert!(changed.status.is_success(), "{}", changed.json());
        if units > expected {
            // On any node: who is the first may take all of it. The other tests look at each.
            while load.so_far().with(200) == before {
                assert!(asked.elapsed() < Duration::from_secs(30), "{units} units are in force nowhere");
                sleep(Duration::from_millis(2)).await;
            }
            println!("raised to {units} units: the first passed after {:?}", asked.elapsed());
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

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_lowered_below_its_use_is_in_force_on_every_node_within_a_second() {
    let database = Database::new().await;
    let cluster = Cluster::start(3, &Stores::with_valkey(&database), "").await;
    let (tenant, key) = cluster.key("changing", plan(1_000_000)["limits"].clone()).await;
    let urls = Arc::new(Mutex::new(cluster.urls()));
    let load = Load::start(9, &urls, &key, 1, Duration::from_millis(10));
    let put = async |node: usize, plan: Value| {
        let id = plan["id"].as_str().unwrap();
        let changed = cluster.admin(node).call(Method::PUT, &format!("/plans/{id}"), plan.to_string()).await;
        assert!(changed.status.is_success(), "{}", changed.json());
        load.now()
    };
    for (node, turn) in (0..3).zip(1..) {
        let used = load.so_far().with(200);
        while load.so_far().with(200) < used + 500 {
            sleep(Duration::from_millis(20)).await;
        }
        // Each node has leased more than it has spent.
        let lowered = put(node, plan(100)).await;
        sleep(Duration::from_secs(3)).await;
        for node in 0..3 {
            let shots = load.so_far().of_node(node).only(|shot| shot.sent > lowered);
            let served = shots.only(|shot| shot.status == 200);
            let last = served.0.iter().map(|shot| shot.sent - lowered).max().unwrap_or_default();
            println!("lowered, turn {turn}: node {node} sends {} more, the last after {last:?}", served.0.len());
            assert!(last <= WITHIN, "node {node}: {last:?}");
            assert_eq!(served.0.len() + shots.with(429), shots.0.len(), "{:?}", shots.statuses());
        }
        let asked = load.now();
        let raised = put(node, plan(1_000_000)).await;
        sleep(WITHIN * 2).await;
        for node in 0..3 {
            let served = load.so_far().only(|shot| shot.node == node && shot.status == 200 && shot.answered > asked);
            let first = served.0.iter().map(|shot| shot.answered.saturating_sub(raised)).min();
            println!("raised, turn {turn}: node {node} lets the first pass after {first:?}");
            assert!(first.is_some_and(|first| first <= WITHIN), "node {node}: {first:?}");
        }
    }
    let passed = load.stop().await;
    // Use is kept over all of it.
    let limits = cluster.admin(0).read(&format!("/tenants/{tenant}/limits")).await;
    let used = &limits["items"][0]["used"];
    let began = Instant::now();
    while cluster.admin(0).read(&format!("/tenants/{tenant}/limits")).await["items"][0]["used"]
        != json!(passed.with(200))
    {
        assert!(began.elapsed() < Duration::from_secs(5), "{used} used, and {} passed", passed.with(200));
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_that_is_lowered_and_raised_is_in_force_on_every_node_within_a_second() {
    let plan = |units: u32| {
        json!({"id": "changing", "name": "Changing", "limits": [
            {"name": "burst", "kind": "rate", "meter": "requests", "units": units, "per": "second", "burst": 20, "counted_by": "tenant"}]})
    };
    let database = Database::new().await;
    let cluster = Cluster::start(3, &Stores::with_valkey(&database), "").await;
    let (_, key) = cluster.key("changing", plan(100)["limits"].clone()).await;
    let load = Load::start(9, &Arc::new(Mutex::new(cluster.urls())), &key, 1, Duration::from_millis(40));
    for (node, units) in [(0, 20), (1, 100), (2, 10)] {
        sleep(Duration::from_secs(1)).await;
        let changed = cluster.admin(node).call(Method::PUT, "/plans/changing", plan(units).to_string()).await;
        assert!(changed.status.is_success(), "{}", changed.json());
        let from = load.now() + WITHIN;
        sleep(WITHIN + Duration::from_secs(3)).await;
        let passed = load.so_far().only(|shot| shot.sent >= from);
        let (above, served) = (Curve::new(f64::from(units), 20.0).passed_by(&passed), passed.with(200));
        println!("{units} a second: {:?}, {above:.1} above the curve", passed.statuses());
        assert!(above <= 0.0, "{units} a second: {above}");
        // Of three seconds.
        assert!(served >= usize::try_from(units * 2).unwrap(), "{units} a second: {served}");
        for node in 0..3 {
            assert!(passed.of_node(node).with(200) > 0, "{units} a second: nothing passes node {node}");
        }
    }
    load.stop().await;
}
