//! What a month's page asks, over a million hour rows of one tenant in SQLite: sixty days of eighteen keys on four routes, served
//! and unbilled with the four meters that every request has, and refused for two reasons. Printed at the end: each question in milliseconds, all of them together, and the same by hours alone for scale.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and ends if it cannot go on")]

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::Criterion;
use tokio::runtime::Runtime;
use usage_gate_core::management::{self, TenantDraft};
use usage_gate_core::model::{
    Environment, KeyId, MeterIndex, Meters, RequestId, StreamId, TenantId, Timestamp, UserId,
};
use usage_gate_core::period::{Period, Zone};
use usage_gate_core::store::sqlite::SqliteStore;
use usage_gate_core::store::{
    Batch, Dimension, Outcome, RefusalSum, UnitTotals, UsageQuery, UsageReader, UsageRecord, UsageSink, Window,
};

const HOUR: i64 = 3_600_000_000;
const HOURS: i64 = 60 * 24;
const KEYS: usize = 18;
const ROUTES: [&str; 4] = ["search", "items", "exports", "feed"];

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// An hour of usage: each key on each route, billed and unbilled, and refused for two reasons: ten rows.
fn hour(stream: StreamId, first: u64, tenant: TenantId, holders: &[(KeyId, UserId)], bucket: Timestamp) -> Batch {
    let (mut records, mut refusals) = (Vec::new(), Vec::new());
    let routes = ROUTES.map(Arc::<str>::from);
    for (key, user) in holders {
        for route in &routes {
            for outcome in [Outcome::Billed, Outcome::Unbilled] {
                let mut units = UnitTotals::default();
                units.set(MeterIndex::REQUESTS, 1);
                units.set(MeterIndex::BYTES_IN, 90);
                units.set(MeterIndex::BYTES_OUT, 700);
                units.set(MeterIndex::DURATION_MS, 12);
                records.push(UsageRecord {
                    request: RequestId::generate(),
                    at: bucket,
                    tenant,
                    user: Some(*user),
                    key: *key,
                    environment: Environment::Live,
                    route: Arc::clone(route),
                    status: 200,
                    outcome,
                    units,
                    bucket,
                });
            }
            for (code, limit) in [("rate_limited", "burst"), ("quota_exceeded", "exports")] {
                refusals.push(RefusalSum {
                    tenant,
                    user: Some(*user),
                    key: *key,
                    environment: Environment::Live,
                    route: Arc::clone(route),
                    code,
                    limit: Some(limit.into()),
                    requests: 3,
                    bucket,
                });
            }
        }
    }
    let count = u64::try_from(records.len() + refusals.len()).unwrap();
    let through = bucket.plus_micros(HOUR);
    Batch { stream, first, last: first + count - 1, through, meters: Meters::default(), records, refusals }
}

async fn fill(store: &SqliteStore, tenant: TenantId, now: Timestamp) {
    let holders: Vec<_> = (0..KEYS).map(|_| (KeyId::generate(), UserId::generate())).collect();
    let last = now.as_micros().div_euclid(HOUR) * HOUR;
    let (stream, mut first) = (StreamId::generate(), 1);
    for back in (0..HOURS).rev() {
        let batch = hour(stream, first, tenant, &holders, Timestamp::from_micros(last - back * HOUR));
        first = batch.last + 1;
        store.accept(&batch).await.unwrap();
    }
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
    runtime.block_on(fill(&stage.store, tenant, at("2026-11-24T05:32:08Z")));

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
