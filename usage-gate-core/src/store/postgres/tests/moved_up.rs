//! A database of SQLite, moved: all of it, once, whenever it was killed; and nobody serves from half of it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use rusqlite::Connection;

use super::nodes::connect;
use super::{Database, PostgresStore};
use crate::clock::Clock;
use crate::conformance;
use crate::model::{Plan, StreamId, Tenant, TenantId, Timestamp};
use crate::period::{Calendar, Period};
use crate::store::day_walk::{self, question, steps};
use crate::store::move_up::{Kind, Most, TABLES};
use crate::store::{
    AccountStore, AuditQuery, Change, Changed, Comparison, KeyStore, MemoryStore, MoveState, MoveUp, PageRequest,
    PostgresOptions, RequestQuery, SqliteStore, StoreErrorKind, UsageReader, UsageSink, UserFilter,
};

/// A folder with a database of SQLite, removed in the end.
struct Source(PathBuf);

impl Source {
    /// With all that the suites leave in a store, and some that only older programs left.
    async fn filled() -> Self {
        let source = Self::empty();
        let store = source.open().await;
        conformance::usage::repeats_of_a_request_are_free_three_times(&store).await;
        conformance::requests::refusals_are_shown_with_the_limits_that_refused(&store).await;
        conformance::account(&store).await;
        let (_, tenant, user, _) = odd_account(&store).await;
        conformance::sessions::a_link_begins_a_session_for_its_user(&store).await;
        conformance::sessions::an_admin_token_is_known_by_its_hash_and_stays_as_it_is(&store).await;
        conformance::quotas::several_nodes_share_what_is_left(&store).await;
        conformance::quotas::leases_are_recalled_for_a_request_that_waits(&store).await;
        conformance::quotas::a2_what_was_not_used_goes_back(&store).await;
        conformance::quotas::a2_a_debt_is_booked_once_by_its_lease(&store).await;
        conformance::quotas::subjects_are_listed_fullest_first(&store).await;
        conformance::quotas::r3_an_incarnation_is_as_old_as_the_first_question(&store).await;
        store.pepper_fingerprint(7).await.unwrap();
        let who = conformance::usage::Who { tenant: tenant.id, user: Some(user), key: crate::model::KeyId::generate() };
        let records = (0..40).map(|hour| {
            conformance::usage::record(who, conformance::usage::midnight().plus_micros(hour * 3_600_000_000))
        });
        let batch = conformance::usage::batch(StreamId::generate(), 1, records.collect(), vec![]);
        store.accept(batch).await.unwrap();
        drop(store);
        let raw = source.raw();
        raw.execute_batch(
            "UPDATE node SET table_id = NULL WHERE life = (SELECT min(life) FROM node);
             INSERT INTO quota_before SELECT counter, period_start, 3 FROM quota_window LIMIT 2;
             UPDATE lease SET recalled = 1 WHERE lease_id = (SELECT lease_id FROM lease WHERE closed_at IS NULL LIMIT 1);
             INSERT INTO counter_use SELECT x'0102030405060708', 5, id, 9 FROM tenant LIMIT 1;",
        )
        .unwrap();
        source
    }

    fn empty() -> Self {
        let path = std::env::temp_dir().join(format!("usage-gate-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("usage-gate.db")
    }

    async fn open(&self) -> SqliteStore {
        SqliteStore::open(self.file()).await.unwrap()
    }

    async fn look(&self) -> SqliteStore {
        SqliteStore::options(self.file()).read_only().open().await.unwrap()
    }

    fn raw(&self) -> Connection {
        Connection::open(self.file()).unwrap()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // What remains of a failed removal is the system's to clean.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Texts that quoting could spoil, and what is absent, ended or taken back.
async fn odd_account(store: &SqliteStore) -> (Plan, Tenant, crate::model::UserId, crate::model::Key) {
    let plan = Plan { name: "日本 \"quoted\", {braced} \\ and NULL".to_owned(), ..conformance::plan("odd") };
    store.create_plan(&plan).await.unwrap();
    store.replace_plan(&Plan { version: 2, ..plan.clone() }, true).await.unwrap();
    let tenant = Tenant { external_id: Some("a,b;'c".to_owned()), name: String::new(), ..conformance::tenant(&plan) };
    store.create_tenant(&tenant).await.unwrap();
    let user = conformance::user(&tenant, "ÄDA@example.com");
    store.create_user(&user).await.unwrap();
    let gone = conformance::user(&tenant, "gone@example.com");
    store.create_user(&gone).await.unwrap();
    store.delete_user(gone.id, conformance::instant()).await.unwrap();
    let key = crate::model::Key {
        scopes: vec!["a:read".parse().unwrap(), "b:*".parse().unwrap()],
        allowed_addresses: vec![],
        expires_at: None,
        revoked_at: Some(conformance::instant()),
        revoke_reason: Some("it's \"leaked\"\n".to_owned()),
        secrets: vec![conformance::secret(1), conformance::secret(2)],
        ..conformance::key(&tenant, None)
    };
    store.create_key(&key).await.unwrap();
    (plan, tenant, user.id, key)
}

fn to(database: &Database) -> PostgresOptions {
    PostgresStore::options(&database.url()).connections(2)
}

/// Moves all that is left to move.
async fn go_on(source: &Source, database: &Database) -> Comparison {
    let mut moving = MoveUp::begin(source.file(), to(database)).await.unwrap();
    while moving.step().await.unwrap().is_some() {}
    assert_eq!(moving.rows_there(), moving.rows());
    let comparison = moving.compare(|_| {}).await.unwrap();
    moving.finish(&comparison).await.unwrap();
    comparison
}

/// A key to the last field; hashes show themselves to nobody by accident.
fn shown(key: &crate::model::Key) -> (String, Vec<[u8; 32]>) {
    (format!("{key:?}"), key.secrets.iter().map(|secret| secret.hash.0).collect())
}

/// Both answer the same to whatever a gate, its pages and its commands ask.
async fn assert_same(source: &Source, database: &Database) {
    let (ours, theirs) = (source.look().await, to(database).open().await.unwrap());
    let page = PageRequest { after: None, size: 1_000 };
    assert_eq!(ours.plans(&page).await.unwrap().items, theirs.plans(&page).await.unwrap().items);
    let tenants = ours.tenants(None, &page).await.unwrap().items;
    assert_eq!(tenants, theirs.tenants(None, &page).await.unwrap().items);
    let users = async |store: &dyn AccountStore| store.users(&UserFilter::default(), &page).await.unwrap().items;
    assert_eq!(users(&ours).await, users(&theirs).await);
    for tenant in &tenants {
        let keys = ours.keys(tenant.id, None, &page).await.unwrap().items;
        let moved = theirs.keys(tenant.id, None, &page).await.unwrap().items;
        assert_eq!(keys.iter().map(shown).collect::<Vec<_>>(), moved.iter().map(shown).collect::<Vec<_>>());
        for secret in keys.iter().flat_map(|key| &key.secrets) {
            let found = theirs.resolve(&secret.credential).await.unwrap().unwrap();
            assert_eq!(shown(&found.key), shown(&ours.resolve(&secret.credential).await.unwrap().unwrap().key));
        }
    }
    let ever = Period { start: Timestamp::from_micros(0), end: Timestamp::from_micros(i64::MAX) };
    let everything = AuditQuery { period: ever, tenant: None };
    let (mut before, mut after) = (ours.audit(&everything).await.unwrap(), theirs.audit(&everything).await.unwrap());
    for audit in [&mut before, &mut after] {
        audit
            .counters
            .sort_by(|one, other| (&one.counter, one.period_start).cmp(&(&other.counter, other.period_start)));
    }
    for counter in &mut before.counters {
        // From before there were records: there it is called what nobody knows.
        counter.written_off += std::mem::take(&mut counter.unrecorded);
    }
    assert_eq!(before, after);
    let log = RequestQuery { size: 1_000, ..RequestQuery::default() };
    assert_eq!(ours.requests(&log).await.unwrap(), theirs.requests(&log).await.unwrap());
    // That of another pepper is refused by whoever asks.
    assert_eq!(theirs.pepper_fingerprint(8).await.unwrap(), 7);
}

#[tokio::test]
async fn all_of_it_is_moved_and_used_on() {
    let (source, database) = (Source::filled().await, Database::new().await);
    assert_eq!(MoveUp::state(source.file(), to(&database)).await.unwrap(), MoveState::NotBegun);
    let feed = source.look().await.position().await.unwrap();
    let comparison = go_on(&source, &database).await;
    assert!(comparison.is_equal());
    for table in &TABLES {
        let line = comparison.lines.iter().find(|line| line.what == table.what).unwrap();
        assert!(line.source > 0, "{} has nothing to compare", table.name);
    }
    assert_same(&source, &database).await;
    assert!(matches!(MoveUp::state(source.file(), to(&database)).await.unwrap(), MoveState::Done(_)));
    let fault = MoveUp::begin(source.file(), to(&database)).await.unwrap_err();
    assert_eq!(fault.kind(), StoreErrorKind::Unusable, "nothing is added to what is done");

    let store = to(&database).open().await.unwrap();
    let changes = store.changes(feed).await.unwrap();
    assert_eq!((changes.items, changes.position.0), (vec![Changed::All], feed.0 + 1));
    // It takes more in: a number that the database draws itself is none that came.
    let more = vec![conformance::usage::record(conformance::usage::who(true), conformance::usage::midnight())];
    store.accept(conformance::usage::batch(StreamId::generate(), 1, more, vec![])).await.unwrap();
    conformance::quotas::a2_what_was_not_used_goes_back(&store).await;
}

#[tokio::test]
async fn killed_after_every_batch_nothing_is_lost_or_counted_twice() {
    let (source, database) = (Source::filled().await, Database::new().await);
    let mut killed = 0;
    loop {
        // Another process each time.
        let mut moving =
            MoveUp::begin(source.file(), to(&database)).await.unwrap().at_most(Most { rows: 9, bytes: 1 << 20 });
        if moving.step().await.unwrap().is_none() {
            break;
        }
        killed += 1;
        let fault = to(&database).open().await.unwrap_err();
        assert!(told(&fault).contains("migrate --from"), "a half of it is served: {}", told(&fault));
    }
    assert!(killed > TABLES.len(), "{killed}");
    go_on(&source, &database).await;
    assert_same(&source, &database).await;
}

#[tokio::test]
async fn killed_in_the_middle_of_a_batch_nothing_is_lost_or_counted_twice() {
    let (source, database) = (Source::filled().await, Database::new().await);
    let mut time = Duration::from_micros(100);
    loop {
        // Longer each time, so that it comes through in the end.
        time = time * 5 / 4;
        let mut moving =
            MoveUp::begin(source.file(), to(&database)).await.unwrap().at_most(Most { rows: 30, bytes: 300 });
        let all = async { while moving.step().await.unwrap().is_some() {} };
        if tokio::time::timeout(time, all).await.is_ok() {
            break;
        }
    }
    go_on(&source, &database).await;
    assert_same(&source, &database).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn random_usage_answers_as_before(steps in steps(), questions in prop::collection::vec(question(), 20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (source, database) = (Source::empty(), Database::new().await);
            let store = source.open().await;
            let memory = MemoryStore::new(Clock::system());
            day_walk::play(&steps, &store, &memory, async |id, calendar: &Calendar| keep(&store, id, calendar).await).await;
            drop(store);
            go_on(&source, &database).await;
            let moved = to(&database).open().await.unwrap();
            for query in &questions {
                prop_assert_eq!(moved.usage(query).await.unwrap(), memory.usage(query).await.unwrap(), "{:?}", query);
            }
            Ok(())
        })?;
    }
}

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

#[tokio::test]
async fn every_difference_is_found_and_the_new_database_stays_closed() {
    let (source, database) = (Source::filled().await, Database::new().await);
    let mut moving = MoveUp::begin(source.file(), to(&database)).await.unwrap();
    while moving.step().await.unwrap().is_some() {}
    database
        .run(
            "UPDATE secret SET hash = decode(repeat('00', 32), 'hex') WHERE position = 0;
             DELETE FROM stream WHERE stream = (SELECT stream FROM stream LIMIT 1);
             INSERT INTO admin_token VALUES (decode(repeat('00', 32), 'hex'), 'full', 'mine', 0);
             UPDATE rollup_hour SET units = units + 1;",
        )
        .await;
    let comparison = moving.compare(|_| {}).await.unwrap();
    let wrong: BTreeSet<&str> =
        comparison.lines.iter().filter(|line| !line.is_equal()).map(|line| &*line.what).collect();
    for what in [
        "secrets of keys, hashed",
        "journals, and how far they are in",
        "tokens of operators, hashed",
        "usage by the hour",
        "units of requests, billed",
    ] {
        assert!(wrong.contains(what), "{what}: {wrong:?}");
    }
    assert!(!wrong.contains("usage by the day") && !wrong.contains("plans"), "{wrong:?}");
    assert_eq!(moving.finish(&comparison).await.unwrap_err().kind(), StoreErrorKind::Unusable);
    assert_eq!(to(&database).open().await.unwrap_err().kind(), StoreErrorKind::Unusable);
}

fn told(fault: &crate::store::StoreError) -> String {
    format!("{fault}: {}", std::error::Error::source(fault).map(ToString::to_string).unwrap_or_default())
}

#[tokio::test]
async fn a_database_is_filled_by_one_move_and_only_if_it_is_empty() {
    let (source, database) = (Source::filled().await, Database::new().await);
    let served = to(&database).open().await.unwrap();
    conformance::account(&served).await;
    let fault = MoveUp::state(source.file(), to(&database)).await.unwrap_err();
    assert!(told(&fault).contains("it is not empty: there are plans"), "{}", told(&fault));
    assert!(MoveUp::begin(source.file(), to(&database)).await.is_err());
    source.open().await;

    // Begun, taken back, and served from again.
    let other = Database::new().await;
    let mut moving = MoveUp::begin(source.file(), to(&other)).await.unwrap();
    moving.step().await.unwrap();
    let fault = SqliteStore::open(source.file()).await.unwrap_err();
    assert!(told(&fault).contains("--take-back"), "{}", told(&fault));
    MoveUp::take_back(source.file()).await.unwrap();
    source.open().await;
    let fault = moving.step().await;
    assert!(fault.is_ok(), "the mark of the target is still its own");
    let fault = MoveUp::begin(source.file(), to(&other)).await.unwrap_err();
    assert!(told(&fault).contains("name an empty one"), "{}", told(&fault));
    // An empty one is filled, and what the first move still has under way goes nowhere else.
    let third = Database::new().await;
    go_on(&source, &third).await;
    assert_same(&source, &third).await;
    assert!(matches!(MoveUp::state(source.file(), to(&third)).await, Ok(MoveState::Done(_))));
    // All of it is there, and may be served from: it goes to no other.
    let fault = MoveUp::begin(source.file(), to(&Database::new().await)).await.unwrap_err();
    assert!(told(&fault).contains("was moved to another one"), "{}", told(&fault));
}

#[tokio::test]
async fn a_text_that_postgresql_cannot_hold_is_named() {
    let (source, database) = (Source::filled().await, Database::new().await);
    source.raw().execute("UPDATE tenant SET name = 'a' || char(0)", []).unwrap();
    let mut moving = MoveUp::begin(source.file(), to(&database)).await.unwrap();
    let fault = loop {
        match moving.step().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it was moved"),
            Err(fault) => break fault,
        }
    };
    assert!(told(&fault).contains("tenants: one has the character U+0000 in its name"), "{}", told(&fault));
}

/// A column or a table that a later version adds to one of both is to be moved too, or named here with the reason.
#[tokio::test]
async fn every_table_and_column_of_both_is_moved() {
    let (source, database) = (Source::empty(), Database::new().await);
    source.open().await;
    drop(to(&database).open().await.unwrap());

    let raw = source.raw();
    let not_moved = [
        "schema_migration",
        "sqlite_sequence",
        // Whoever has cached something is told that everything changed.
        "change",
        // Becomes a part of `written_off`.
        "quota_before",
    ];
    let mut tables = raw.prepare("SELECT name FROM sqlite_master WHERE type = 'table'").unwrap();
    let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    for table in tables.iter().filter(|table| !not_moved.contains(&&***table)) {
        let moved: BTreeSet<&str> = TABLES
            .iter()
            .filter(|moved| moved.source == table && moved.only.is_none())
            .flat_map(|moved| moved.columns.iter().map(|column| column.source))
            .collect();
        let mut columns = raw.prepare(&format!("SELECT name FROM pragma_table_info('{table}')")).unwrap();
        for column in columns.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap) {
            // `recalled` has a table of its own there.
            let apart = table == "lease" && column == "recalled";
            assert!(apart || moved.iter().any(|moved| moved.contains(&*column)), "SQLite: {table}.{column}");
        }
    }

    let client = connect(&database).await;
    let rows = client
        .query(
            "SELECT table_name::text, column_name::text, data_type::text FROM information_schema.columns
             WHERE table_schema = 'public' AND table_name NOT SIMILAR TO 'rollup_(hour|day)_[0-9]+_[0-9]+'",
            &[],
        )
        .await
        .unwrap();
    let not_moved = ["schema_migration", "change", "rate_bucket", "open_slots", "rate_node"];
    for row in &rows {
        let (table, column, kind): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        if not_moved.contains(&&*table) || (&*table, &*column) == ("pepper", "one") {
            continue;
        }
        let moved = TABLES.iter().find(|moved| moved.name == table);
        let moved = moved.and_then(|moved| moved.columns.iter().find(|moved| moved.name == column));
        let expected = match moved.map(|moved| moved.kind) {
            Some(Kind::Id) => &["uuid"][..],
            Some(Kind::Int) => &["bigint", "integer", "smallint"],
            Some(Kind::Text) => &["text"],
            Some(Kind::Bytes) => &["bytea"],
            Some(Kind::Texts) => &["ARRAY"],
            None => &[],
        };
        assert!(expected.contains(&&*kind), "PostgreSQL: {table}.{column} is {kind}");
    }
}
