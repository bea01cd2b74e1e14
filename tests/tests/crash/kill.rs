//! The kill test: `kill -9` under mixed load, again and again, then the comparison. On SQLite the gateway falls; on PostgreSQL and Valkey they do too, alone and
//! together with it.
//!
//! `USAGE_GATE_CRASH_KILLS` (100 on SQLite, 24 with servers) and `USAGE_GATE_CRASH_SEED` say how often and from which seed. Up to 100 kills a life lasts 0.15 to 1.2 s
//! once it is ready, so that the run takes less than two minutes; with more kills 0.2 to 2 s. One kill in ten comes 1 to 50 ms after
//! the last, as a rule in the middle of recovery; in one life of twenty the gateway is stopped for 300 ms where it is. A server stays away for up to a second.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;
use usage_gate_tests::crash::traffic::Mix;
use usage_gate_tests::crash::{Fallen, Falls, Ledger, Random, Servers, Stage, TenantSetup, oracle};

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

/// With limits whose authority is Valkey, which refuse now and then.
fn shared(mut limits: Value) -> Value {
    let more = [
        json!({"name": "burst", "kind": "rate", "units": 60, "per": "second", "burst": 30, "counted_by": "key"}),
        json!({"name": "open", "kind": "concurrency", "units": 6, "counted_by": "tenant"}),
    ];
    limits.as_array_mut().into_iter().for_each(|limits| limits.extend(more.clone()));
    limits
}

/// How long a life lasts once it is ready.
fn wait(random: &mut Random, kills: u64) -> Duration {
    Duration::from_millis(random.within(if kills > 100 { 200..2_000 } else { 150..1_200 }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_what_was_served_is_billed_once_whenever_the_gateway_is_killed() {
    billed_once_whoever_is_killed(100, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_what_was_served_is_billed_once_whenever_the_gateway_postgres_or_valkey_is_killed() {
    billed_once_whoever_is_killed(24, Some(Servers::start().await)).await;
}

async fn billed_once_whoever_is_killed(kills: u64, mut servers: Option<Servers>) {
    let kills = number("USAGE_GATE_CRASH_KILLS").unwrap_or(kills).max(1);
    let seed = number("USAGE_GATE_CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("USAGE_GATE_CRASH_SEED={seed} USAGE_GATE_CRASH_KILLS={kills}");
    let mut random = Random::new(seed);

    // One tenant has room for everything. The next is out of it long before the end, on a slow machine too, and its busiest key before the others. The last
    // may go on beyond it.
    let cap = 20 * kills;
    let roomy = limits(1_000_000_000, 500_000_000);
    let roomy = if servers.is_some() { shared(roomy) } else { roomy };
    let tenants = [
        TenantSetup { name: "roomy", limits: roomy, weights: &[4, 2] },
        TenantSetup { name: "capped", limits: limits(cap, cap / 2), weights: &[3, 1, 1] },
        TenantSetup { name: "beyond", limits: allowed(cap / 4, cap / 8), weights: &[1, 1] },
    ];
    let mut stage = match &servers {
        Some(servers) => Stage::start_on(servers, &tenants).await,
        None => Stage::start("", None, &tenants).await,
    };
    for _ in 0..CLIENTS {
        stage.client(random.seed(), TASKS, Mix::Everything, None, 10);
    }
    let (stop, stopped) = watch::channel(false);
    let [roomy, capped, beyond] = stage.tenants().try_into().expect("there are three");
    let watcher = tokio::spawn(watch_limits(stage.ledger(), vec![roomy, capped], stopped));

    let mut restarts = Vec::new();
    let mut falls = Falls::default();
    let mut starting = true;
    for _ in 0..kills {
        if random.one_in(10) {
            sleep(Duration::from_millis(random.within(1..50))).await;
        } else {
            if starting {
                restarts.push(stage.victim.ready(READY).await);
                starting = false;
            }
            if random.one_in(20) {
                stage.victim.pause(Duration::from_millis(300)).await;
            }
            sleep(wait(&mut random, kills)).await;
        }
        let fallen = if servers.is_some() { Fallen::draw(&mut random, starting) } else { Fallen::GATEWAY };
        falls.add(fallen);
        fall(fallen, &mut stage, &mut servers, &mut random).await;
        starting |= fallen.gateway;
    }
    if starting {
        restarts.push(stage.victim.ready(READY).await);
    }

    stage.stop_clients().await;
    stop.send(true).unwrap();
    let (looks, exceeded) = watcher.await.unwrap();
    let mut evidence = stage.evidence(falls.gateway).await;
    evidence.missing.extend(exceeded);
    for (_, _, standing) in evidence.standings.iter_mut().filter(|(tenant, ..)| *tenant == beyond) {
        assert!(standing.used > standing.limit, "it never went beyond: the run says nothing about debts: {standing:?}");
        standing.limit = u64::MAX;
    }
    let verdict = oracle::judge(&evidence);
    restarts.sort();
    println!("{verdict}");
    println!(
        "kills: {falls}; ready after a start: median {:?}, longest {:?}",
        restarts[restarts.len() / 2],
        restarts.last()
    );
    println!("limits looked at while it ran: {looks} times");
    assert!(verdict.faults.is_empty(), "USAGE_GATE_CRASH_SEED={seed}: {} faults, see above", verdict.faults.len());
    let answered = |code: &str| evidence.endings.iter().filter(|ending| ending.code == code).count();
    assert!(
        answered("quota_exceeded") > 0,
        "the capped tenant was never out of its quota: the run says nothing about it"
    );
    assert!(looks > 0, "no limit was looked at while the gateway ran");
    if servers.is_some() {
        assert!(answered("rate_limited") > 0, "no rate was ever used up: the run says nothing about Valkey's limits");
    }
}

/// Kills those, and starts them again.
async fn fall(fallen: Fallen, stage: &mut Stage, servers: &mut Option<Servers>, random: &mut Random) {
    if let Some(servers) = servers {
        servers.kill(fallen).await;
        if fallen != Fallen::GATEWAY {
            sleep(Duration::from_millis(random.within(0..1_000))).await;
        }
    }
    if fallen.gateway {
        stage.victim.kill().await;
    }
    // Before the gateway, which does not start without them.
    if let Some(servers) = servers {
        servers.start_again(fallen).await;
    }
    if fallen.gateway {
        stage.victim.start();
    }
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
