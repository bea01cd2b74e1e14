//! How fast usage is taken into SQLite: rollups by hour and day, what was taken of quotas, digest, request log and watermark, synced, in batches
//! as the flusher makes them when it is behind. Printed at the end: records a second.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and ends if it cannot go on")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use tokio::runtime::Runtime;
use usage_gate_core::management::{self, TenantDraft};
use usage_gate_core::model::{
    Environment, KeyId, MeterIndex, Meters, RequestId, StreamId, TenantId, Timestamp, UserId,
};
use usage_gate_core::store::{
    Batch, CounterTag, Measured, Outcome, QuotaUse, RefusalSum, UnitTotals, UsageRecord, UsageSink,
};

const RECORDS: usize = 32_768;
const TENANTS: usize = 100;
const KEYS: usize = 3;
const ROUTES: [&str; 3] = ["search", "items", "exports"];
const HOUR: i64 = 3_600_000_000;

struct Holder {
    tenant: TenantId,
    user: UserId,
    key: KeyId,
    counter: CounterTag,
}

fn holders(tenants: &[TenantId]) -> Vec<Holder> {
    let holder = |tenant: &TenantId| Holder {
        tenant: *tenant,
        user: UserId::generate(),
        key: KeyId::generate(),
        counter: CounterTag::of_text(&format!("{tenant}/month/requests/month/tenant")),
    };
    tenants.iter().flat_map(|tenant| (0..KEYS).map(|_| holder(tenant)).collect::<Vec<_>>()).collect()
}

/// Requests of two hours, in the order in which they ended; one in ten is not billed, and each key was refused on a route.
fn batch(stream: StreamId, first: u64, begin: Timestamp, holders: &[Holder]) -> Batch {
    let routes = ROUTES.map(Arc::<str>::from);
    let bucket = |at: Timestamp| Timestamp::from_micros(at.as_micros().div_euclid(HOUR) * HOUR);
    let mut records = Vec::with_capacity(RECORDS);
    let mut number = 0_u64;
    while records.len() < RECORDS {
        // A step through keys and routes that visits all of them in no simple order.
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let pick = |count: usize, shift: u32| usize::try_from(mixed >> shift).unwrap() % count;
        let holder = &holders[pick(holders.len(), 0)];
        let at = begin.plus_micros(i64::try_from(number).unwrap() * 2 * HOUR / i64::try_from(RECORDS).unwrap());
        let mut units = UnitTotals::default();
        units.set(MeterIndex::REQUESTS, 1);
        units.set(MeterIndex::BYTES_IN, mixed % 1_000);
        units.set(MeterIndex::BYTES_OUT, 200 + mixed % 10_000);
        units.set(MeterIndex::DURATION_MS, 1 + mixed % 300);
        records.push(UsageRecord {
            sequence: 0,
            request: RequestId::generate(),
            at,
            tenant: holder.tenant,
            user: Some(holder.user),
            key: holder.key,
            environment: Environment::Live,
            route: Arc::clone(&routes[pick(ROUTES.len(), 9)]),
            status: 200,
            outcome: if number.is_multiple_of(10) { Outcome::Unbilled } else { Outcome::Billed },
            units,
            measured: Measured::Exact,
            bucket: bucket(at),
            quotas: vec![QuotaUse { lease: number, counter: holder.counter, period: bucket(begin), units: 1 }],
            retry: None,
        });
        number += 1;
    }
    let refusal = |holder: &Holder| RefusalSum {
        sequence: 0,
        tenant: holder.tenant,
        user: Some(holder.user),
        key: holder.key,
        environment: Environment::Live,
        route: Arc::clone(&routes[0]),
        code: "rate_limited".into(),
        limit: Some("burst".into()),
        requests: 40,
        bucket: bucket(begin),
    };
    let refusals = holders.iter().map(refusal).collect();
    let mut batch = Batch::numbered(stream, first, begin.plus_micros(2 * HOUR), Meters::default(), records, refusals);
    // Segments of some hundred thousand records.
    batch.segment = 1 + batch.first / 400_000;
    batch
}

struct Shipping<'s> {
    runtime: &'s Runtime,
    store: &'s dyn UsageSink,
    stream: StreamId,
    first: u64,
    begin: Timestamp,
    holders: Vec<Holder>,
}

impl Shipping<'_> {
    /// Ships so many batches; only the sink is timed.
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures")]
    fn ship(&mut self, batches: u64) -> Duration {
        let mut spent = Duration::ZERO;
        for number in 0..batches {
            let batch = batch(self.stream, self.first, self.begin, &self.holders);
            // Ten batches to an hour: rows are new in the first, and grow in the others.
            self.begin = self.begin.plus_micros(if number % 10 == 9 { HOUR } else { 0 });
            self.first = batch.last + 1;
            let began = Instant::now();
            self.runtime.block_on(self.store.accept(batch)).unwrap();
            spent += began.elapsed();
        }
        spent
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stage = runtime.block_on(usage_gate_bench::stage()).unwrap();
    let tenants: Vec<TenantId> = (0..TENANTS)
        .map(|number| TenantDraft::new(format!("Tenant {number}"), "bench"))
        .map(|draft| runtime.block_on(management::create_tenant(&stage.gate, draft)).unwrap().id)
        .collect();
    let mut shipping = Shipping {
        runtime: &runtime,
        store: &stage.store,
        stream: StreamId::generate(),
        first: 1,
        begin: "2026-11-24T04:00:00Z".parse().unwrap(),
        holders: holders(&tenants),
    };
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let mut group = criterion.benchmark_group("flush");
    group.throughput(Throughput::Elements(u64::try_from(RECORDS).unwrap()));
    group.bench_function("a batch of 32,768 records of 100 tenants into SQLite", |b| {
        b.iter_custom(|batches| shipping.ship(batches));
    });
    group.finish();
    const BATCHES: u64 = 30;
    let spent = shipping.ship(BATCHES);
    let records = f64::from(u32::try_from(BATCHES).unwrap() * u32::try_from(RECORDS).unwrap());
    println!("\n{:.0} records a second, with the request log and digests", records / spent.as_secs_f64());
    criterion.final_summary();
}
