//! How long a gateway takes that was killed with requests behind its flusher: until it is ready, and until all of them are billed.
//!
//! ```text
//! cargo build --release -p usage-gate-proxy -p usage-gate-tests --bins
//! cargo run --release -p usage-gate-tests --example backlog [REQUESTS]
//! ```
//!
//! The aim, with 300,000: ready within 2 s, all billed within 10 s. The times are counted from the start of the process.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "it prints, and ends if it cannot go on")]

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use usage_gate_tests::crash::traffic::Mix;
use usage_gate_tests::crash::{HeldStore, Stage, TenantSetup};

#[tokio::main]
async fn main() {
    let requests = std::env::args().nth(1).map_or(300_000, |text| text.parse().unwrap());
    let unlimited = TenantSetup { name: "unlimited", limits: json!([]), weights: &[1, 1, 1] };
    let mut stage = Stage::start("", None, &[unlimited]).await;
    let held = HeldStore::hold(&stage.victim.data_dir.join("usage-gate.db"));
    let began = Instant::now();
    stage.client(1, 64, Mix::Small, Some(requests), 0);
    stage.clients_ended(Duration::from_secs(600)).await;
    let completed = stage.endings().iter().filter(|ending| ending.completed()).count();
    println!("{completed} of {requests} requests served in {:.1?}, none of them shipped", began.elapsed());
    stage.victim.kill().await;
    drop(held);

    stage.victim.start();
    let started = Instant::now();
    let ready = stage.victim.ready(Duration::from_secs(120)).await;
    println!("ready after {ready:.2?}");
    stage.shipped(u64::try_from(completed).unwrap(), Duration::from_secs(60)).await;
    println!("all billed after {:.2?}", started.elapsed());
}
