//! Days answer as hours do: random usage, random questions, calendars that change; and two nodes that begin a zone at once.

use proptest::prelude::*;

use super::{Database, fresh};
use crate::clock::Clock;
use crate::model::StreamId;
use crate::model::{TenantId, Timestamp};
use crate::period::{AnchorDay, Calendar, bucket_start};
use crate::store::day_walk::{self, Step, after, batch, month, question, steps};
use crate::store::days::Part;
use crate::store::postgres::PostgresStore;
use crate::store::postgres::reader::{answer, snapshot};
use crate::store::postgres::value::Id;
use crate::store::{Batch, MemoryStore, UsagePage, UsageQuery, UsageReader, UsageSink};
use tokio_postgres::types::Type;

/// Keeps the tenant with a calendar.
pub(super) async fn keep(store: &PostgresStore, id: TenantId, calendar: &Calendar) {
    let (zone, anchor) = (calendar.zone.name(), i16::from(calendar.anchor.get()));
    let next = calendar.next.as_ref();
    let (next_zone, next_anchor) = (next.map(|next| next.0.name()), next.map(|next| i16::from(next.1.get())));
    let (next_at, since) = (next.map(|next| next.2.as_micros()), calendar.since.map(Timestamp::as_micros));
    let client = store.client("test").await.unwrap();
    client.batch_execute("INSERT INTO plan VALUES ('p', 1, '{}') ON CONFLICT DO NOTHING").await.unwrap();
    client
        .execute_typed(
            "INSERT INTO tenant (id, name, status, plan, plan_version, zone, anchor, next_zone, next_anchor, next_at, since, metadata, created_at)
             VALUES ($1, '', 'active', 'p', 1, $2, $3, $4, $5, $6, $7, '{}', 0)
             ON CONFLICT (id) DO UPDATE SET zone = $2, anchor = $3, next_zone = $4, next_anchor = $5, next_at = $6, since = $7",
            &[
                (&Id(id.as_u128()), Type::UUID),
                (&zone, Type::TEXT),
                (&anchor, Type::INT2),
                (&next_zone, Type::TEXT),
                (&next_anchor, Type::INT2),
                (&next_at, Type::INT8),
                (&since, Type::INT8),
            ],
        )
        .await
        .unwrap();
}

async fn play(steps: &[Step], store: &PostgresStore, memory: &MemoryStore) {
    day_walk::play(steps, store, memory, async |id, calendar: &Calendar| keep(store, id, calendar).await).await;
}

async fn by_hours(store: &PostgresStore, query: &UsageQuery) -> UsagePage {
    let parts = [Part::Hours(query.period)];
    let meters = query.meter.clone().map(|meter| vec![meter]);
    let through = store.usage(query).await.unwrap().complete_through;
    let mut client = store.client("test").await.unwrap();
    let step = snapshot(&mut client).await.unwrap();
    answer(&step, query, &parts, meters.as_deref(), through).await.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn days_answer_as_hours_and_as_memory_do(steps in steps(), questions in prop::collection::vec(question(), 40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (store, _database) = fresh().await;
            let memory = MemoryStore::new(Clock::system());
            play(&steps, &store, &memory).await;
            for query in &questions {
                let expected = memory.usage(query).await.unwrap();
                prop_assert_eq!(&store.usage(query).await.unwrap(), &expected, "by days: {:?}", query);
                prop_assert_eq!(&by_hours(&store, query).await, &expected, "by hours: {:?}", query);
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_month_of_a_known_tenant_is_read_from_days() {
    let (store, _database) = fresh().await;
    let memory = MemoryStore::new(Clock::system());
    let used = |minute| Step::Used { minute, key: 1, kind: 0 };
    play(&[Step::Known, used(20 * 24 * 60), used(20 * 24 * 60 + 90)], &store, &memory).await;
    store.client("test").await.unwrap().batch_execute("DELETE FROM rollup_hour").await.unwrap();
    let query = month(TenantId::from_u128(1));
    assert_eq!(store.usage(&query).await.unwrap(), memory.usage(&query).await.unwrap());
}

/// Six nodes ship usage around a change of zone, each with some hours of its own and some that others have too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b4_days_are_whole_if_nodes_begin_a_zone_at_once() {
    let database = Database::new().await;
    let store = PostgresStore::options(&database.url()).connections(8).open().await.unwrap();
    let (tenant, before): (_, Calendar) =
        (TenantId::from_u128(1), Calendar::new("UTC".parse().unwrap(), AnchorDay::FIRST));
    keep(&store, tenant, &before).await;
    // Days of the old zone end with this month's end, days of the new one begin there.
    let calendar = before.changed("Asia/Tokyo".parse().unwrap(), AnchorDay::FIRST, after(0));
    let turn = calendar.next.as_ref().unwrap().2;
    let memory = MemoryStore::new(Clock::system());
    let mut nodes = tokio::task::JoinSet::new();
    for node in 0..6u32 {
        let mut batches = Vec::new();
        for hour in -6..6 {
            let at = turn.plus_micros((hour * 60 + i64::from(node)) * 60_000_000);
            let one = batch(1, at, bucket_start(calendar.zone_at(at), at), 1, 0);
            let stream = StreamId::from_u128(u128::from(node) + 10);
            let place = u64::try_from(hour + 7).unwrap();
            let mut records = one.records;
            records[0].sequence = place;
            batches.push(Batch { stream, first: place, last: place, records, ..one });
        }
        for batch in &batches {
            memory.accept(batch.clone()).await.unwrap();
        }
        let (store, calendar) = (store.clone(), calendar.clone());
        nodes.spawn(async move {
            for (at, batch) in batches.into_iter().enumerate() {
                // The change is told while usage comes in.
                if at == 3 {
                    keep(&store, tenant, &calendar).await;
                }
                store.accept(batch).await.unwrap();
            }
        });
    }
    while let Some(done) = nodes.join_next().await {
        done.unwrap();
    }
    let client = store.client("test").await.unwrap();
    let zones = client.query("SELECT zone FROM rollup_day_zone ORDER BY since", &[]).await.unwrap();
    assert_eq!(zones.iter().map(|row| row.get::<_, &str>(0)).collect::<Vec<_>>(), ["UTC", "Asia/Tokyo"]);
    drop(client);
    for zone in ["UTC", "Asia/Tokyo"] {
        let query = UsageQuery {
            zone: zone.parse().unwrap(),
            period: crate::period::Period {
                start: turn.plus_micros(-30 * 3_600_000_000),
                end: turn.plus_micros(30 * 3_600_000_000),
            },
            ..month(tenant)
        };
        let expected = memory.usage(&query).await.unwrap().items;
        assert_eq!(store.usage(&query).await.unwrap().items, expected, "by days of {zone}");
        assert_eq!(by_hours(&store, &query).await.items, expected, "by hours of {zone}");
    }
}
