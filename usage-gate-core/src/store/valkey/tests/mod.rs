//! What is Valkey's own: connections, incarnations, the bell. The server is that of `VALKEY_URL` (`tests/with-servers` starts one); a test that stops or restarts
//! a server starts its own.

mod server;

use std::time::Duration;

use super::ValkeyStore;
use crate::clock::ManualClock;
use crate::conformance::rates;
use crate::model::{Per, TenantId};
use crate::store::{
    CounterId, RateAnswer, RateCall, RateLeaseId, RateReport, RateRequest, RateStore, RateTerms, SlotRequest,
    StoreError, StoreErrorKind, Subject,
};
use server::Server;

const TERMS: RateTerms = RateTerms { units: 1, seconds: 1, burst: 20 };

fn counter() -> CounterId {
    CounterId {
        tenant: TenantId::generate(),
        subject: Subject::Tenant,
        limit: "burst".into(),
        meter: "requests".into(),
        per: Per::Second,
    }
}

fn request(counter: &CounterId, want: u64) -> RateRequest {
    RateRequest {
        counter: counter.clone(),
        terms: TERMS,
        spent: Vec::new(),
        returned: Vec::new(),
        lease: RateLeaseId::generate(),
        want,
    }
}

fn call(rates: Vec<RateRequest>, slots: Vec<SlotRequest>) -> RateCall {
    RateCall { node: "a".to_owned(), rates, slots }
}

async fn lease(store: &ValkeyStore, request: RateRequest) -> Result<RateAnswer, StoreError> {
    store.lease_rates(&call(vec![request], vec![])).await
}

/// A store of its own on the shared server.
async fn fresh() -> ValkeyStore {
    #[expect(clippy::disallowed_methods, reason = "who runs the tests says which server")]
    let url = std::env::var("VALKEY_URL").expect("VALKEY_URL: run this by tests/with-servers, or name a server");
    let namespace = format!("test-{:032x}", uuid::Uuid::now_v7().as_u128());
    ValkeyStore::options(&url).namespace(namespace).open().await.expect("the server of VALKEY_URL")
}

/// Old enough that what is not there was never used.
async fn grown() -> (ValkeyStore, ()) {
    let store = fresh().await;
    age(&store, 3_600).await;
    (store, ())
}

mod suite {
    crate::conformance::rate_store_tests!(super::grown().await);
}

#[tokio::test]
async fn it_agrees_with_the_bucket_through_incarnations() {
    let manual = ManualClock::at("2026-11-24T12:00:00Z".parse().unwrap());
    let server = Server::start().await;
    let store = ValkeyStore::options(&server.url()).clock(manual.clock()).open().await.unwrap();
    // An incarnation is known from the first look on.
    let hear_of_it = async || drop(store.inspect().await.unwrap());
    hear_of_it().await;
    // All but which nodes were heard of, which no incarnation changes.
    const EMPTY: &str = "for _, key in ipairs(redis.call('KEYS', '*{*')) do redis.call('DEL', key) end";
    let mut times = 0;
    rates::agrees_with_the_bucket_through_incarnations(&store, &manual, async || {
        server.command(&["DEBUG", "CHANGE-REPL-ID"]).await;
        times += 1;
        // Restarted empty, or taken over by a replica.
        if times % 2 == 0 {
            server.command(&["EVAL", EMPTY, "0"]).await;
        }
        hear_of_it().await;
    })
    .await;
}

#[tokio::test]
async fn what_a_dead_node_had_comes_back_when_its_lease_ends() {
    let manual = ManualClock::at("2026-11-24T12:00:00Z".parse().unwrap());
    let server = Server::start().await;
    let store = ValkeyStore::options(&server.url()).clock(manual.clock()).open().await.unwrap();
    age(&store, 3_600).await;
    rates::what_a_dead_node_had_comes_back_when_its_lease_ends(&store, &manual).await;
}

#[tokio::test]
async fn what_is_lent_is_not_lent_again_and_a_repeat_gets_the_same() {
    let (store, counter) = (fresh().await, counter());
    // Old enough that what is not there was never used.
    age(&store, 3_600).await;
    let first = request(&counter, 15);
    assert_eq!(lease(&store, first.clone()).await.unwrap().rates[0].units, 15);
    assert_eq!(lease(&store, first).await.unwrap().rates[0].units, 15);
    let second = lease(&store, request(&counter, 15)).await.unwrap();
    assert_eq!((second.rates[0].units, second.active_nodes), (5, 1));
    assert_eq!(second.rates[0].state.outstanding, 20);
}

#[tokio::test]
async fn what_is_returned_is_there_for_others() {
    let (store, counter) = (fresh().await, counter());
    age(&store, 3_600).await;
    let first = request(&counter, 20);
    lease(&store, first.clone()).await.unwrap();
    let mut second = request(&counter, 20);
    second.returned.push(RateReport { lease: first.lease, spent: 3 });
    let grant = lease(&store, second).await.unwrap().rates[0];
    assert_eq!(grant.units, 17);
}

/// As if the server had been known for so many seconds.
async fn age(store: &ValkeyStore, seconds: u64) {
    // The first call of all makes the incarnation known.
    lease(store, request(&counter(), 1)).await.unwrap();
    store.inner.incarnations.grow_older(Duration::from_secs(seconds));
}

#[tokio::test]
async fn r3_a_server_that_starts_anew_lends_nothing_before_what_it_forgot_is_dead() {
    let mut server = Server::start().await;
    let store = ValkeyStore::options(&server.url()).open().await.unwrap();
    age(&store, 3_600).await;
    let counter = counter();
    assert_eq!(lease(&store, request(&counter, 20)).await.unwrap().rates[0].units, 20);
    server.restart().await;
    let after = lease(&store, request(&counter, 20)).await.unwrap().rates[0];
    assert_eq!((after.units, after.state.level), (0, 0), "another would have its own burst");
}

#[tokio::test]
async fn a_call_fails_in_time_while_the_server_is_away_and_succeeds_by_itself_afterwards() {
    let mut server = Server::start().await;
    let store = ValkeyStore::options(&server.url()).call_timeout(Duration::from_millis(500)).open().await.unwrap();
    let counter = counter();
    lease(&store, request(&counter, 1)).await.unwrap();
    server.stop();
    let away = lease(&store, request(&counter, 1)).await.unwrap_err();
    assert_eq!(away.kind(), StoreErrorKind::Unavailable);
    server.start_again().await;
    lease(&store, request(&counter, 1)).await.unwrap();

    // One that takes connections and says nothing.
    server.freeze();
    let silent = lease(&store, request(&counter, 1)).await.unwrap_err();
    assert_eq!(silent.kind(), StoreErrorKind::Unavailable);
    server.thaw();
    lease(&store, request(&counter, 1)).await.unwrap();
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_loaded_again() {
    let server = Server::start().await;
    let store = ValkeyStore::options(&server.url()).open().await.unwrap();
    let counter = counter();
    lease(&store, request(&counter, 1)).await.unwrap();
    server.command(&["SCRIPT", "FLUSH"]).await;
    lease(&store, request(&counter, 1)).await.unwrap();
}

#[tokio::test]
async fn a_server_that_may_delete_counters_or_hides_its_incarnation_is_refused() {
    let server = Server::start().await;
    server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    let refused = ValkeyStore::options(&server.url()).open().await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Unusable);
    assert!(std::error::Error::source(&refused).unwrap().to_string().contains("noeviction"));
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    server.command(&["ACL", "SETUSER", "default", "-info"]).await;
    let refused = ValkeyStore::options(&server.url()).open().await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Unusable);
    assert!(std::error::Error::source(&refused).unwrap().to_string().contains("INFO"));
}

#[tokio::test]
async fn a_server_of_a_cluster_is_refused() {
    // It writes down which servers it knows.
    let folder = std::env::temp_dir().join(format!("usage-gate-valkey-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir_all(&folder).unwrap();
    let options = ["--cluster-enabled", "yes", "--dir", folder.to_str().unwrap()].map(str::to_owned);
    let server = Server::start_with(options.to_vec()).await;
    let refused = ValkeyStore::options(&server.url()).open().await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Unusable);
    assert!(std::error::Error::source(&refused).unwrap().to_string().contains("cluster"));
    drop(server);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_wrong_password_is_not_repeated_for_ever() {
    let server = Server::start().await;
    server.command(&["CONFIG", "SET", "requirepass", "right"]).await;
    let refused = ValkeyStore::options(&server.url()).open().await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Unusable);
    let url = server.url().replace("redis://", "redis://:right@");
    let store = ValkeyStore::options(&url).open().await.unwrap();
    assert!(!format!("{store:?}").contains("right"));
}

#[tokio::test]
async fn the_bell_is_heard_by_all_and_rings_by_itself_after_a_reconnect() {
    let mut server = Server::start().await;
    let here = ValkeyStore::options(&server.url()).open().await.unwrap();
    let there = ValkeyStore::options(&server.url()).open().await.unwrap();
    let mut heard = there.rung().unwrap();
    // The first is that of the beginning.
    heard.changed().await.unwrap();
    here.ring().await.unwrap();
    heard.changed().await.unwrap();
    there.ring().await.unwrap();
    heard.changed().await.unwrap();

    server.restart().await;
    // Word may have been lost meanwhile.
    heard.changed().await.unwrap();
}

#[tokio::test]
async fn places_are_shared_and_come_back_when_they_are_given_up() {
    let (store, counter) = (fresh().await, counter());
    age(&store, 3_600).await;
    let mut sequence = 0;
    let mut ask = async |node: &str, keep, more| {
        sequence += 1;
        let slots = vec![SlotRequest { counter: counter.clone(), sequence, limit: 5, keep, more }];
        let call = RateCall { node: node.to_owned(), rates: vec![], slots };
        store.lease_rates(&call).await.unwrap().slots[0].slots
    };
    assert_eq!(ask("a", 0, 3).await, 3);
    assert_eq!(ask("b", 0, 3).await, 2);
    assert_eq!(ask("b", 2, 1).await, 2);
    assert_eq!(ask("a", 1, 0).await, 1);
    assert_eq!(ask("b", 2, 5).await, 4);
}

#[tokio::test]
async fn a_key_that_somebody_else_has_written_leaves_its_counter_alone_without_an_answer() {
    let store = fresh().await;
    age(&store, 3_600).await;
    let (spoilt, whole) = (counter(), counter());
    let slots =
        |counter: &CounterId, sequence| SlotRequest { counter: counter.clone(), sequence, limit: 3, keep: 0, more: 2 };
    let keys = ["rate", "open"].map(|kind| format!("{}:{kind}:{{{:016x}}}", store.inner.namespace, spoilt.tag().0));
    let mut write = redis::pipe();
    for key in &keys {
        write.cmd("SET").arg(key).arg("mine");
    }
    store.inner.connection.run("write", &write).await.unwrap();
    for round in 1..=3 {
        let rates = vec![request(&spoilt, 2), request(&whole, 2)];
        let answer = store.lease_rates(&call(rates, vec![slots(&spoilt, round), slots(&whole, round)])).await.unwrap();
        assert_eq!((answer.rates[1].units, answer.slots[1].slots), (2, 2), "{answer:?}");
        assert_eq!(answer.broken.iter().map(|(broken, _)| broken).collect::<Vec<_>>(), [&spoilt; 2]);
        assert_eq!((answer.rates[0].units, answer.slots[0].slots), (0, 0));
    }
    let mut remove = redis::pipe();
    for key in &keys {
        remove.cmd("DEL").arg(key);
    }
    store.inner.connection.run("remove", &remove).await.unwrap();
    let answer = lease(&store, request(&spoilt, 2)).await.unwrap();
    assert_eq!((answer.rates[0].units, answer.broken), (2, vec![]));
}
