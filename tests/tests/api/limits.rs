//! Limits are exact: by what clients get, and by what the upstream saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use usage_gate_tests::{Client, Gateway, Setup, Upstream};

const COSTLY: &str = r#"
    [[routes]]
    name = "cheap"
    path = "/cheap"
    [[routes]]
    name = "costly"
    path = "/costly"
    cost = 3
"#;

/// 64 clients call until each is refused; how many calls were answered 200.
async fn exhaust(url: String, key: String) -> usize {
    let client = Client::new();
    let clients: Vec<_> = (0..64)
        .map(|_| {
            let (client, url, key) = (client.clone(), url.clone(), key.clone());
            tokio::spawn(async move {
                let mut served = 0;
                // Refused five times in a row: a refusal is final, the period has far to go.
                let mut refused = 0;
                while refused < 5 {
                    let answer = client.get(&url, &key).await;
                    match answer.status.as_u16() {
                        200 => served += 1,
                        429 => {
                            assert_eq!(answer.code(), "quota_exceeded");
                            refused += 1;
                        }
                        other => panic!("{other}: {}", answer.json()),
                    }
                }
                served
            })
        })
        .collect();
    let mut total = 0;
    for client in clients {
        total += client.await.unwrap();
    }
    total
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_a_quota_of_1000_admits_exactly_1000_in_20_runs() {
    let upstream = Upstream::start().await;
    let setup = Setup { config: COSTLY.into(), upstream: Some(upstream.url.clone()) };
    let gateway = Gateway::start(setup).await;
    let admin = gateway.admin();
    let limits = json!([{"name": "month", "kind": "quota", "units": 1000, "per": "month"}]);
    for run in 0..20 {
        let (tenant, key) = admin.tenant_with_key(&format!("run-{run}"), limits.clone(), "UTC", &[]).await;
        let before = upstream.count();
        assert_eq!(exhaust(format!("{}/cheap", gateway.url), key).await, 1000, "run {run}");
        assert_eq!(upstream.count() - before, 1000, "run {run}");
        let state = &admin.read(&format!("/tenants/{tenant}/limits")).await["items"][0];
        assert_eq!((state["used"].as_u64(), state["remaining"].as_u64()), (Some(1000), Some(0)), "run {run}: {state}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_a_route_that_costs_3_is_admitted_333_times() {
    let upstream = Upstream::start().await;
    let setup = Setup { config: COSTLY.into(), upstream: Some(upstream.url.clone()) };
    let gateway = Gateway::start(setup).await;
    let limits = json!([{"name": "month", "kind": "quota", "units": 1000, "per": "month"}]);
    for run in 0..3 {
        let (_, key) = gateway.admin().tenant_with_key(&format!("run-{run}"), limits.clone(), "UTC", &[]).await;
        assert_eq!(exhaust(format!("{}/costly", gateway.url), key.clone()).await, 333, "run {run}");
        // The unit that is left is there for a cheaper route.
        assert_eq!(exhaust(format!("{}/cheap", gateway.url), key).await, 1, "run {run}");
    }
}

#[tokio::test]
async fn the_1001st_call_is_told_when_the_month_ends_in_tokyo() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Setup { config: String::new(), upstream: Some(upstream.url.clone()) }).await;
    let limits = json!([{"name": "month", "kind": "quota", "units": 1000, "per": "month"}]);
    let (_, key) = gateway.admin().tenant_with_key("p", limits, "Asia/Tokyo", &[]).await;
    let client = Client::new();
    let url = format!("{}/x", gateway.url);
    for call in 0..1000 {
        let answer = client.get(&url, &key).await;
        assert_eq!(answer.status, 200, "call {call}: {}", answer.json());
    }
    let refused = client.get(&url, &key).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (429, "quota_exceeded"));
    let tokyo = jiff::Timestamp::now().in_tz("Asia/Tokyo").unwrap();
    let end = tokyo.first_of_month().unwrap().checked_add(jiff::Span::new().months(1)).unwrap().start_of_day().unwrap();
    let state = &refused.json()["violated"][0];
    assert_eq!(state["resets_at"], json!(end.timestamp().to_string()));
    assert_eq!((&state["used"], &state["remaining"], &state["over"]), (&json!(1000), &json!(0), &json!(0)));
    let retry: i64 = refused.header("retry-after").parse().unwrap();
    let until = end.timestamp().as_second() - jiff::Timestamp::now().as_second();
    assert!((until - 2..=until + 2).contains(&retry), "{retry} {until}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_keeps_its_curve_in_every_interval() {
    const RATE: f64 = 50.0;
    const BURST: f64 = 50.0;
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Setup { config: String::new(), upstream: Some(upstream.url.clone()) }).await;
    let limits = json!([{"name": "rate", "kind": "rate", "units": 50, "per": "second", "burst": 50}]);
    let (_, key) = gateway.admin().tenant_with_key("p", limits, "UTC", &[]).await;
    let client = Client::new();
    let began = Instant::now();
    let sent = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (client, url, key, sent) =
                (client.clone(), format!("{}/x", gateway.url), key.clone(), Arc::clone(&sent));
            tokio::spawn(async move {
                let mut passed = Vec::new();
                while began.elapsed() < Duration::from_secs(10) {
                    let from = began.elapsed().as_secs_f64();
                    sent.fetch_add(1, Ordering::Relaxed);
                    if client.get(&url, &key).await.status == 200 {
                        passed.push((from, began.elapsed().as_secs_f64()));
                    }
                }
                passed
            })
        })
        .collect();
    let mut passed = Vec::new();
    for caller in callers {
        passed.extend(caller.await.unwrap());
    }
    // Only requests sent at or after s and answered by e are certain to have passed in [s, e].
    let mut starts: Vec<f64> = passed.iter().map(|(from, _)| *from).collect();
    starts.sort_by(f64::total_cmp);
    for s in starts {
        let mut ends: Vec<f64> = passed.iter().filter(|(from, _)| *from >= s).map(|(_, to)| *to).collect();
        ends.sort_by(f64::total_cmp);
        let mut certain = 0.0;
        for e in ends {
            certain += 1.0;
            let allowed = BURST + RATE * (e - s);
            assert!(certain <= allowed + 1e-6, "{certain} in [{s}, {e}], {allowed} allowed");
        }
    }
    assert!(passed.len() >= 500, "the rate is used: {} of {} passed", passed.len(), sent.load(Ordering::Relaxed));
}
