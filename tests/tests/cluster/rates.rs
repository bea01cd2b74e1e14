//! Rates: what three gateways let through together.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;
use usage_gate_tests::cluster::{Cluster, Curve, Database, Load, Stores};

const CLIENTS: u64 = 16;

async fn keeps_the_curve(stores: &Stores) {
    let cluster = Cluster::start(3, stores, "").await;
    let urls = Arc::new(Mutex::new(cluster.urls()));
    for burst in [100_u32, 20] {
        let limit = json!([{"name": "burst", "kind": "rate", "meter": "requests", "units": 100, "per": "second", "burst": burst, "counted_by": "tenant"}]);
        let key = cluster.key(&format!("rate-{burst}"), limit).await.1;
        let load = Load::start(CLIENTS, &urls, &key, 1, Duration::from_millis(5));
        let seconds = 30.0;
        sleep(Duration::from_secs_f64(seconds)).await;
        let passed = load.stop().await;
        let (above, used) = (
            Curve::new(100.0, f64::from(burst)).passed_by(&passed),
            f64::from(u32::try_from(passed.with(200)).unwrap()),
        );
        let allowed = f64::from(burst) + 100.0 * seconds;
        println!(
            "burst {burst}: {:?}, {:.1} % of the curve, slowest {:?}",
            passed.statuses(),
            100.0 * used / allowed,
            passed.slowest()
        );
        assert!(above <= 0.0, "burst {burst}: an interval is {above} above the curve");
        assert!(used >= 0.95 * allowed, "burst {burst}: {used} of {allowed}");
        assert!(passed.statuses().keys().all(|status| [200, 429].contains(status)), "{:?}", passed.statuses());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_a_rate_on_postgres_and_valkey_keeps_its_curve_and_is_used() {
    let database = Database::new().await;
    keeps_the_curve(&Stores::with_valkey(&database)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_a_rate_on_postgres_alone_keeps_its_curve_and_is_used() {
    let database = Database::new().await;
    keeps_the_curve(&Stores::postgres(&database)).await;
}
