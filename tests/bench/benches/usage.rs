//! What a month's page asks, over a million hour rows of one tenant in SQLite. Printed at the end: each question in milliseconds, all of them
//! together, and the same by hours alone for scale.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and ends if it cannot go on")]

use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::Criterion;
use tokio::runtime::Runtime;
use usage_gate_core::management::{self, TenantDraft};
use usage_gate_core::model::{TenantId, Timestamp};
use usage_gate_core::period::{Period, Zone};
use usage_gate_core::store::sqlite::SqliteStore;
use usage_gate_core::store::{Dimension, UsageQuery, UsageReader, Window};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn questions(tenant: TenantId, zone: &Zone) -> [(&'static str, UsageQuery); 4] {
    let this = Period { start: at("2026-10-31T15:00:00Z"), end: at("2026-11-24T05:32:08Z") };
    let last = Period { start: at("2026-09-30T15:00:00Z"), end: at("2026-10-24T05:00:00Z") };
    let query = |period, window, group_by: &[Dimension]| UsageQuery {
        period,
        zone: zone.clone(),
        window,
        group_by: group_by.iter().copied().collect::<BTreeSet<_>>(),
        tenant: Some(tenant),
        user: None,
        key: None,
        route: None,
        meter: Some("requests".to_owned()),
        outcome: None,
        environment: None,
        skip: 0,
        size: 10_000,
    };
    [
        ("days of this month by key", query(this, Some(Window::Day), &[Dimension::Key])),
        ("days of last month by key, cut at this hour", query(last, Some(Window::Day), &[Dimension::Key])),
        ("reasons of refusals by key", query(this, None, &[Dimension::Key, Dimension::Outcome, Dimension::Limit])),
        ("this month by key", query(this, None, &[Dimension::Key])),
    ]
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures")]
fn asked(runtime: &Runtime, store: &SqliteStore, query: &UsageQuery) -> Duration {
    let began = Instant::now();
    black_box(runtime.block_on(store.usage(query)).unwrap());
    began.elapsed()
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let stage = runtime.block_on(usage_gate_bench::stage()).unwrap();
    let zone: Zone = "Asia/Tokyo".parse().unwrap();
    let mut draft = TenantDraft::new("Acme", "bench");
    draft.time_zone = Some("Asia/Tokyo".to_owned());
    let tenant = runtime.block_on(management::create_tenant(&stage.gate, draft)).unwrap().id;
    runtime.block_on(usage_gate_bench::million_rows(&stage.store, tenant, at("2026-11-24T05:32:08Z"))).unwrap();

    let mut criterion = Criterion::default().measurement_time(Duration::from_secs(3)).configure_from_args();
    let questions = questions(tenant, &zone);
    for (name, query) in &questions {
        criterion.bench_function(name, |b| b.iter(|| asked(&runtime, &stage.store, query)));
    }

    let mut together = 0.0;
    println!();
    for (name, query) in &questions {
        let days = median((0..25).map(|_| asked(&runtime, &stage.store, query)).collect());
        // A zone of the same clock that is not the tenant's: the same sums, from hours.
        let elsewhere = UsageQuery { zone: "Asia/Seoul".parse().unwrap(), ..query.clone() };
        let hours = median((0..3).map(|_| asked(&runtime, &stage.store, &elsewhere)).collect());
        println!("{name}: {days:.2} ms, by hours {hours:.0} ms");
        together += days;
    }
    println!("all four: {together:.2} ms");
    criterion.final_summary();
}
