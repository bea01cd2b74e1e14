//! Stores that go away under load, by every way in which networks let them: what is served meanwhile, and that everything is as before afterwards, by itself.
//!
//! `USAGE_GATE_OUTAGE_SECONDS=60` makes the outages as long as those of the table in docs/outages.md, which is what these tests print.

mod callers;
mod verdict;
mod world;

use std::time::Duration;

use usage_gate_tests::cluster::Fault;

use world::{Case, Reach};

const BOTH: Reach = Reach { postgres: true, valkey: true };
const POSTGRES: Reach = Reach { postgres: true, valkey: false };
const VALKEY: Reach = Reach { postgres: false, valkey: true };

/// Runs them side by side, each with servers and gateways of its own.
async fn check(cases: Vec<Case>) {
    let runs: Vec<_> = cases.into_iter().map(|case| tokio::spawn(world::run(case))).collect();
    let mut faults = Vec::new();
    for run in runs {
        let seen = run.await.unwrap();
        let (rows, found) = verdict::judge(&seen);
        println!("{rows}");
        faults.extend(found);
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_valkey_quotas_go_on_and_rates_do_as_their_policy_says() {
    check(vec![
        Case::new("Valkey refuses connections", Fault::Cut).away([VALKEY; 3]),
        Case::new("Valkey's answers are lost", Fault::HalfOpen).away([VALKEY; 3]),
        Case::new("Valkey is a black hole", Fault::BlackHole).away([VALKEY; 3]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_known_keys_spend_what_is_leased_and_rates_go_on() {
    check(vec![
        Case::new("PostgreSQL refuses connections", Fault::Cut).away([POSTGRES; 3]),
        Case::new("PostgreSQL's answers are lost", Fault::HalfOpen).away([POSTGRES; 3]),
        Case::new("PostgreSQL is a black hole", Fault::BlackHole).away([POSTGRES; 3]),
        Case::new("PostgreSQL, alone, is a black hole", Fault::BlackHole).away([POSTGRES; 3]).without_valkey(),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_either_known_keys_are_served_by_what_is_leased_and_by_policy() {
    check(vec![
        Case::new("both refuse connections", Fault::Cut).away([BOTH; 3]),
        Case::new("both are black holes", Fault::BlackHole).away([BOTH; 3]),
        Case::new("both refuse connections, and a node is killed and starts", Fault::Cut)
            .away([BOTH; 3])
            .with_a_restart(),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_does_as_its_policy_says_and_the_others_do_not_notice() {
    let first = [BOTH, Reach::default(), Reach::default()];
    check(vec![
        Case::new("one of three nodes is refused by both", Fault::Cut).away(first),
        Case::new("one of three nodes finds both a black hole", Fault::BlackHole).away(first),
        Case::new("both answer 100 ms later", Fault::Delay(Duration::from_millis(50))).away([BOTH; 3]),
    ])
    .await;
}
