//! Days answer as hours do: random usage, random questions, calendars that change, and usage that was there before the days were.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{Folder, fresh};
use crate::clock::Clock;
use crate::conformance;
use crate::model::{Tenant, TenantId};
use crate::period::{AnchorDay, Calendar};
use crate::store::day_walk::{self, Step, after, batch, key_id, month, question, steps};
use crate::store::days::Part;
use crate::store::migrate::Migration;
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::reader::answer;
use crate::store::{AccountStore, AuditQuery, Change, MemoryStore, UsagePage, UsageQuery, UsageReader, UsageSink};
use crate::verify::{UnderWay, verify};

/// Keeps the tenant with a calendar.
async fn keep(store: &SqliteStore, id: TenantId, calendar: &Calendar) {
    if store.tenant(id).await.unwrap().is_none() {
        let plan = conformance::plan("p");
        store.create_plan(&plan).await.unwrap();
        let tenant = Tenant { id, calendar: calendar.clone(), ..conformance::tenant(&plan) };
        store.create_tenant(&tenant).await.unwrap();
    } else {
        let to = calendar.clone();
        let change = Change::new(move |tenant: &mut Tenant| {
            tenant.calendar = to.clone();
            Ok(())
        });
        store.change_tenant(id, &change).await.unwrap();
    }
}

async fn play(steps: &[Step], sqlite: &SqliteStore, memory: &MemoryStore) {
    day_walk::play(steps, sqlite, memory, async |id, calendar: &Calendar| keep(sqlite, id, calendar).await).await;
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
