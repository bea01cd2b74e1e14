//! Days answer as hours do: random usage, random questions, calendars that change, and usage that was there before the days were.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{Folder, fresh};
use crate::clock::Clock;
use crate::conformance;
use crate::model::{
    Environment, KeyId, MeterIndex, Meters, Per, RequestId, StreamId, Tenant, TenantId, Timestamp, UserId,
};
use crate::period::{AnchorDay, Calendar, Period, Zone, bucket_start};
use crate::store::days::Part;
use crate::store::migrate::Migration;
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::reader::answer;
use crate::store::{
    AccountStore, AuditQuery, Batch, Change, Dimension, Measured, MemoryStore, Outcome, RefusalSum, UnitTotals,
    UsagePage, UsageQuery, UsageReader, UsageRecord, UsageSink, Window,
};
use crate::verify::{UnderWay, verify};

const ZONES: [&str; 5] = ["Asia/Tokyo", "UTC", "Asia/Kolkata", "Australia/Lord_Howe", "America/Santiago"];
const MINUTE: i64 = 60_000_000;
/// Ninety days in which clocks change in Lord Howe and Santiago.
const MINUTES: i64 = 90 * 24 * 60;

fn begin() -> Timestamp {
    "2026-08-20T00:00:00Z".parse().unwrap()
}

fn after(minutes: i64) -> Timestamp {
    begin().plus_micros(minutes * MINUTE)
}

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    /// The tenant is known from here on; before, its usage is in hours alone.
    Known,
    /// Usage of a key, at a minute.
    Used { minute: i64, key: usize, kind: u8 },
    /// A change of zone, told at a minute.
    Moved { minute: i64, zone: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Known),
        20 => (0..MINUTES, 0..3usize, 0..4u8).prop_map(|(minute, key, kind)| Step::Used { minute, key, kind }),
        1 => (0..MINUTES, 0..ZONES.len()).prop_map(|(minute, zone)| Step::Moved { minute, zone }),
    ]
}

/// Mostly in order, as time goes, with some that come late.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    (prop::collection::vec(step(), 1..60), any::<bool>()).prop_map(|(mut steps, known_at_once)| {
        steps.sort_by_key(|step| match step {
            Step::Known => 0,
            // A minute ending in 7 comes when it comes.
            Step::Used { minute, .. } if minute % 10 == 7 => MINUTES / 2,
            Step::Used { minute, .. } | Step::Moved { minute, .. } => *minute,
        });
        if !known_at_once {
            steps.rotate_left(1);
        }
        steps
    })
}

fn question() -> impl Strategy<Value = UsageQuery> {
    let dimensions = prop::collection::btree_set(prop::sample::select(Dimension::ALL.to_vec()), 0..4);
    let window = prop::option::of(prop::sample::select(vec![Window::Hour, Window::Day, Window::Day, Window::Month]));
    let instant = || prop_oneof![-1000..MINUTES + 1000, (0..90i64).prop_map(|day| day * 24 * 60 - 9 * 60)];
    let filters = (any::<bool>(), prop::option::of(0..3usize), any::<bool>(), any::<bool>());
    (dimensions, window, instant(), instant(), 0..ZONES.len(), filters).prop_map(
        |(group_by, window, one, other, zone, (tenant, key, meter, outcome))| UsageQuery {
            period: Period { start: after(one.min(other)), end: after(one.max(other) + 1) },
            zone: ZONES[zone].parse().unwrap(),
            window,
            group_by,
            tenant: tenant.then(|| TenantId::from_u128(1)),
            user: None,
            key: key.map(key_id),
            route: None,
            meter: meter.then(|| "requests".to_owned()),
            outcome: outcome.then(|| "billed".to_owned()),
            environment: None,
            skip: 0,
            size: 10_000,
        },
    )
}

fn key_id(number: usize) -> KeyId {
    KeyId::from_u128(100 + number as u128)
}

fn batch(first: u64, at: Timestamp, bucket: Timestamp, key: usize, kind: u8) -> Batch {
    let (tenant, user) = (TenantId::from_u128(1), (key > 0).then(|| UserId::from_u128(key as u128)));
    let (mut records, mut refusals) = (Vec::new(), Vec::new());
    if kind == 3 {
        refusals.push(RefusalSum {
            sequence: first,
            tenant,
            user,
            key: key_id(key),
            environment: Environment::Live,
            route: "".into(),
            code: "rate_limited".into(),
            limit: Some("burst".into()),
            requests: 5,
            bucket,
        });
    } else {
        let mut units = UnitTotals::default();
        units.set(MeterIndex::REQUESTS, 2);
        units.set(MeterIndex::BYTES_OUT, u64::from(kind) * 100);
        records.push(UsageRecord {
            sequence: first,
            request: RequestId::generate(),
            at,
            tenant,
            user,
            key: key_id(key),
            environment: if kind == 2 { Environment::Test } else { Environment::Live },
            route: if kind == 1 { "items" } else { "search" }.into(),
            status: 200,
            outcome: if kind == 2 { Outcome::Test } else { Outcome::Billed },
            units,
            measured: Measured::Exact,
            bucket,
            quotas: Vec::new(),
            retry: None,
        });
    }
    let (stream, meters) = (StreamId::from_u128(1), Meters::default());
    Batch { stream, segment: 1, first, last: first, through: at, meters, records, refusals, samples: Vec::new() }
}

/// Plays the steps into both stores, with buckets as the flusher computes them.
async fn play(steps: &[Step], sqlite: &SqliteStore, memory: &MemoryStore) {
    let plan = conformance::plan("p");
    sqlite.create_plan(&plan).await.unwrap();
    let mut calendar = Calendar::new(ZONES[0].parse().unwrap(), AnchorDay::FIRST);
    let (mut known, mut first) = (false, 1);
    for step in steps {
        match step {
            Step::Known if known => {}
            Step::Known => {
                let id = TenantId::from_u128(1);
                let tenant = Tenant { id, calendar: calendar.clone(), ..conformance::tenant(&plan) };
                sqlite.create_tenant(&tenant).await.unwrap();
                known = true;
            }
            Step::Moved { minute, zone } => {
                calendar = calendar.changed(ZONES[*zone].parse().unwrap(), AnchorDay::FIRST, after(*minute));
                let to = calendar.clone();
                let change = Change::new(move |tenant: &mut Tenant| {
                    tenant.calendar = to.clone();
                    Ok(())
                });
                sqlite.change_tenant(TenantId::from_u128(1), &change).await.unwrap();
            }
            Step::Used { minute, key, kind } => {
                let at = after(*minute);
                let batch = batch(first, at, bucket_start(calendar.zone_at(at), at), *key, *kind);
                first += 1;
                sqlite.accept(batch.clone()).await.unwrap();
                memory.accept(batch).await.unwrap();
            }
        }
    }
}

async fn by_hours(store: &SqliteStore, query: &UsageQuery) -> UsagePage {
    let query = query.clone();
    store.read("test", move |connection| answer(connection, &query, &[Part::Hours(query.period)])).await.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn days_answer_as_hours_and_as_memory_do(steps in steps(), questions in prop::collection::vec(question(), 40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (sqlite, _folder) = fresh().await;
            let memory = MemoryStore::new(Clock::system());
            play(&steps, &sqlite, &memory).await;
            for query in &questions {
                let expected = memory.usage(query).await.unwrap();
                prop_assert_eq!(&sqlite.usage(query).await.unwrap(), &expected, "by days: {:?}", query);
                prop_assert_eq!(&by_hours(&sqlite, query).await, &expected, "by hours: {:?}", query);
            }
            Ok(())
        })?;
    }
}

fn month(tenant: TenantId) -> UsageQuery {
    let zone: Zone = "Asia/Tokyo".parse().unwrap();
    let period = Calendar::new(zone.clone(), AnchorDay::FIRST).period(Per::Month, after(20 * 24 * 60));
    UsageQuery {
        period,
        zone,
        window: Some(Window::Day),
        group_by: BTreeSet::from([Dimension::Key]),
        tenant: Some(tenant),
        user: None,
        key: None,
        route: None,
        meter: Some("requests".to_owned()),
        outcome: None,
        environment: None,
        skip: 0,
        size: 100,
    }
}

#[tokio::test]
async fn a_month_of_a_known_tenant_is_read_from_days() {
    let (sqlite, _folder) = fresh().await;
    let memory = MemoryStore::new(Clock::system());
    let used = |minute| Step::Used { minute, key: 1, kind: 0 };
    play(&[Step::Known, used(20 * 24 * 60), used(20 * 24 * 60 + 90)], &sqlite, &memory).await;
    sqlite.write("test", |connection| Ok(connection.execute("DELETE FROM rollup_hour", [])?)).await.unwrap();
    let query = month(TenantId::from_u128(1));
    assert_eq!(sqlite.usage(&query).await.unwrap(), memory.usage(&query).await.unwrap());
}

#[tokio::test]
async fn a_database_without_days_is_migrated_and_read() {
    let folder = Folder::new();
    let (tenant, key) = (TenantId::from_u128(1), key_id(1));
    let raw = rusqlite::Connection::open(folder.file()).unwrap();
    let first = Migration { version: 1, name: "first", sql: include_str!("../migrations/0001_first.sql") };
    raw.execute_batch(first.sql).unwrap();
    raw.execute_batch("CREATE TABLE schema_migration (version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL) STRICT")
        .unwrap();
    raw.execute("INSERT INTO schema_migration VALUES (1, 'first', ?1)", [first.checksum()]).unwrap();
    for hour in 0..48 {
        raw.execute(
            "INSERT INTO rollup VALUES (?1, ?2, x'', ?3, 'live', 'search', 'requests', 'billed', '', 2, 1)",
            (tenant.as_u128().to_be_bytes(), after(20 * 24 * 60 + hour * 60).as_micros(), key.as_u128().to_be_bytes()),
        )
        .unwrap();
    }
    drop(raw);
    let store = SqliteStore::open(folder.file()).await.unwrap();
    let units = |page: UsagePage| page.items.iter().map(|item| item.units).collect::<Vec<_>>();
    assert_eq!(units(store.usage(&month(tenant)).await.unwrap()), [30, 48, 18]);
    let plan = conformance::plan("p");
    store.create_plan(&plan).await.unwrap();
    let calendar = Calendar::new("Asia/Tokyo".parse().unwrap(), AnchorDay::FIRST);
    store.create_tenant(&Tenant { id: tenant, calendar, ..conformance::tenant(&plan) }).await.unwrap();
    // In an hour that was there, in the next one, and a day later.
    for (number, hour) in [(1, 47), (2, 48), (3, 72)] {
        let at = after(20 * 24 * 60 + hour * 60);
        store.accept(batch(number, at, at, 1, 0)).await.unwrap();
    }
    let query = UsageQuery { group_by: BTreeSet::new(), ..month(tenant) };
    assert_eq!(units(store.usage(&query).await.unwrap()), [30, 48, 22, 2]);
    assert_eq!(store.usage(&query).await.unwrap(), by_hours(&store, &query).await);
    // B8: what was there before is the base of what is proved.
    let audited = AuditQuery { period: query.period, tenant: None };
    let audit = store.audit(&audited).await.unwrap();
    let report = verify(&audited, &audit, &BTreeSet::new(), [], |_| UnderWay::default());
    assert!(report.ok, "{:?}", report.differences);
    assert_eq!(report.source.digest.iter().map(|name| name.stream.as_u128()).collect::<Vec<_>>(), [0, 1]);
}
