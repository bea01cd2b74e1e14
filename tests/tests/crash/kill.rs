//! The kill test: `kill -9` of the gateway under mixed load, again and again, then the comparison.
//!
//! `USAGE_GATE_CRASH_KILLS` (100) and `USAGE_GATE_CRASH_SEED` say how often and from which seed. Up to 100 kills a life lasts 0.15 to 1.2 s once
//! it is ready, so that the run takes less than two minutes; with more kills 0.2 to 2 s. One kill in ten comes 1 to 50 ms after
//! the start, in the middle of recovery; in one life of twenty the gateway is stopped for 300 ms where it is.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;
use usage_gate_tests::crash::traffic::Mix;
use usage_gate_tests::crash::{Ledger, Random, Stage, TenantSetup, oracle};

/// Client processes, and requests that each has open at once.
const CLIENTS: u64 = 2;
const TASKS: u64 = 8;
/// Ready again after a kill: the bound that fails the test. How long it took is printed.
const READY: Duration = Duration::from_secs(20);

fn number(name: &str) -> Option<u64> {
    let text = std::env::var_os(name)?;
    Some(text.to_str().and_then(|text| text.parse().ok()).expect("a number"))
}

/// Limits by tenant and by key, over the same day.
fn limits(tenant: u64, key: u64) -> Value {
    json!([
        {"name": "day", "kind": "quota", "units": tenant, "per": "day", "counted_by": "tenant"},
        {"name": "key-day", "kind": "quota", "units": key, "per": "day", "counted_by": "key"},
    ])
}

/// The same, and requests go on when they are exceeded: every life begins with units that were spent before it had a lease.
fn allowed(tenant: u64, key: u64) -> Value {
    let mut limits = limits(tenant, key);
    for limit in limits.as_array_mut().into_iter().flatten() {
        limit["when_exceeded"] = "allow".into();
    }
    limits
}

/// How long a life lasts once it is ready.
fn wait(random: &mut Random, kills: u64) -> Duration {
    Duration::from_millis(random.within(if kills > 100 { 200..2_000 } else { 150..1_200 }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_what_was_served_is_billed_once_whenever_the_gateway_is_killed() {
    let kills = number("USAGE_GATE_CRASH_KILLS").unwrap_or(100).max(1);
    let seed = number("USAGE_GATE_CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("USAGE_GATE_CRASH_SEED={seed} USAGE_GATE_CRASH_KILLS={kills}");
    let mut random = Random::new(seed);

    // One tenant has room for everything. The next is out of it long before the end, on a slow machine too, and its busiest key before the others. The last
    // may go on beyond it.
    let cap = 20 * kills;
    let tenants = [
        TenantSetup { name: "roomy", limits: limits(1_000_000_000, 500_000_000), weights: &[4, 2] },
        TenantSetup { name: "capped", limits: limits(cap, cap / 2), weights: &[3, 1, 1] },
        TenantSetup { name: "beyond", limits: allowed(cap / 4, cap / 8), weights: &[1, 1] },
    ];
    let mut stage = Stage::start("", None, &tenants).await;
    for _ in 0..CLIENTS {
        stage.client(random.seed(), TASKS, Mix::Everything, None, 10);
    }
    let (stop, stopped) = watch::channel(false);
    let [roomy, capped, beyond] = stage.tenants().try_into().expect("there are three");
    let watcher = tokio::spawn(watch_limits(stage.ledger(), vec![roomy, capped], stopped));

    let mut restarts = Vec::new();
    for _ in 0..kills {
        if random.one_in(10) {
            sleep(Duration::from_millis(random.within(1..50))).await;
        } else {
            restarts.push(stage.victim.ready(READY).await);
            if random.one_in(20) {
                stage.victim.pause(Duration::from_millis(300)).await;
            }
            sleep(wait(&mut random, kills)).await;
        }
        stage.victim.kill().await;
        stage.victim.start();
    }
    restarts.push(stage.victim.ready(READY).await);

    stage.stop_clients().await;
    stop.send(true).unwrap();
    let (looks, exceeded) = watcher.await.unwrap();
    let mut evidence = stage.evidence(kills).await;
    evidence.missing.extend(exceeded);
    for (_, _, standing) in evidence.standings.iter_mut().filter(|(tenant, ..)| *tenant == beyond) {
        assert!(standing.used > standing.limit, "it never went beyond: the run says nothing about debts: {standing:?}");
        standing.limit = u64::MAX;
    }
    let verdict = oracle::judge(&evidence);
    restarts.sort();
    println!("{verdict}");
    println!(
        "kills {kills}; ready after a start: median {:?}, longest {:?}",
        restarts[restarts.len() / 2],
        restarts.last()
    );
    println!("limits looked at while it ran: {looks} times");
    assert!(verdict.faults.is_empty(), "USAGE_GATE_CRASH_SEED={seed}: {} faults, see above", verdict.faults.len());
    let out_of_it = evidence.endings.iter().filter(|ending| ending.code == "quota_exceeded").count();
    assert!(out_of_it > 0, "the capped tenant was never out of its quota: the run says nothing about it");
    assert!(looks > 0, "no limit was looked at while the gateway ran");
}

/// Looks at every tenant's limits again and again: how often it could, and where one was exceeded.
async fn watch_limits(ledger: Ledger, tenants: Vec<String>, mut stopped: watch::Receiver<bool>) -> (u64, Vec<String>) {
    let mut looks = 0;
    let mut exceeded = Vec::new();
    while !*stopped.borrow_and_update() {
        for tenant in &tenants {
            // While the gateway is down there is nothing to see.
            for standing in ledger.standings(tenant, None).await.unwrap_or_default() {
                looks += 1;
                if standing.used + standing.reserved > standing.limit {
                    exceeded.push(format!("exceeded while it ran: {tenant} {standing:?}"));
                }
            }
        }
        let _ = tokio::time::timeout(Duration::from_millis(100), stopped.changed()).await;
    }
    (looks, exceeded)
}
