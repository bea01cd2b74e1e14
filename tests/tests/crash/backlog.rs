//! Killed with a great many requests behind the flusher: all of them are billed after the next start.
//!
//! How fast is measured by the example `backlog`, with more of them.

use std::time::Duration;

use serde_json::json;
use usage_gate_tests::crash::traffic::Mix;
use usage_gate_tests::crash::{HeldStore, Stage, TenantSetup, oracle};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b3_requests_behind_the_flusher_outlive_a_kill() {
    const REQUESTS: u64 = 20_000;
    let unlimited = TenantSetup { name: "unlimited", limits: json!([]), weights: &[1] };
    let mut stage = Stage::start("", None, &[unlimited]).await;
    // Nothing is shipped from here on: the store's lock is ours.
    let held = HeldStore::hold(&stage.victim.data_dir.join("usage-gate.db"));
    stage.client(1, 32, Mix::Small, Some(REQUESTS), 0);
    stage.clients_ended(Duration::from_secs(120)).await;
    stage.victim.kill().await;
    drop(held);
    stage.victim.start();
    stage.victim.ready(Duration::from_secs(20)).await;

    // No request was open when it was killed, so there is no gap to allow for.
    let mut evidence = stage.evidence(0).await;
    evidence.in_flight = 0;
    let verdict = oracle::judge(&evidence);
    println!("{verdict}");
    assert!(verdict.faults.is_empty(), "{} faults, see above", verdict.faults.len());
    let completed = evidence.endings.iter().filter(|ending| ending.completed()).count();
    assert_eq!(u64::try_from(completed).unwrap(), REQUESTS);
}
