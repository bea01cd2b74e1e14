//! Gates that start while their database is away: what they serve, what they do not, and how it heals. The server is stopped in earnest.

use std::path::PathBuf;
use std::time::Duration;

use super::server::Server;
use crate::UsageGate;
use crate::admission::snapshots::Snapshots;
use crate::admission::{Admission, Code, RequestHead};
use crate::clock::Clock;
use crate::management::{self, KeyDraft, LimitDraft, PlanDraft, TenantDraft};
use crate::model::{CountedBy, KeyId, LimitKind, Per, StoreAway};
use crate::routes::Route;
use crate::secret::Pepper;
use crate::store::{KeyStore, PostgresStore, StoreErrorKind};

const PEPPER: &[u8] = &[7; 32];
const QUOTA: usize = 300;

/// A node's data directory, gone afterwards, and where its database is.
struct Stage {
    server: Server,
    data: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let data = std::env::temp_dir().join(format!("usage-gate-cold-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&data).unwrap();
        Self { server: Server::new(), data }
    }

    async fn gate(&self) -> UsageGate {
        self.gate_with(PEPPER, Duration::from_secs(3_600)).await
    }

    fn store(&self) -> PostgresStore {
        let options = PostgresStore::options(&self.server.url("127.0.0.1")).call_timeout(Duration::from_secs(10));
        options.open_lazily().unwrap()
    }

    async fn gate_with(&self, pepper: &[u8], max_stale: Duration) -> UsageGate {
        let store = self.store();
        let gate = UsageGate::builder().store(store.clone()).rates(std::sync::Arc::new(store)).node("a");
        let gate = gate.data_dir(&self.data).pepper(Pepper::new(pepper)).max_stale(max_stale);
        gate.route(Route::any("/x").named("x")).build().await.unwrap()
    }

    /// Waits until the next start would know all of these. Changes of their own making come back by the feed, and may have them looked up more than once.
    async fn until_kept(&self, gate: &UsageGate, keys: &[(KeyId, &str)]) {
        let position = self.store().position().await.unwrap();
        let (pepper, hour) = (Pepper::new(PEPPER).fingerprint(), Duration::from_secs(3_600));
        eventually("they are kept", async || {
            for (_, key) in keys {
                gate.authenticate(&headers(key), None).await.unwrap();
            }
            let known = Snapshots::read(&self.data, pepper, Clock::system().wall(), hour);
            known.is_some_and(|known| {
                let kept = |id: &KeyId| known.callers.iter().any(|(_, resolved)| resolved.key.id == *id);
                known.heard.position >= position && keys.iter().all(|(id, _)| kept(id))
            })
        })
        .await;
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

async fn eventually(what: &str, mut happens: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !happens().await {
            // Nobody tells of it.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("{what}: never"));
}

fn headers(key: &str) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    headers.insert("x-api-key", key.parse().unwrap());
    headers
}

/// What comes of a request, which is settled.
async fn ask(gate: &UsageGate, key: &str) -> Result<(), Code> {
    let headers = headers(key);
    let method = http::Method::GET;
    let head =
        RequestHead { method: &method, path: "/x", headers: &headers, client: None, content_length: None, bounds: &[] };
    let admission = match gate.admit(&head) {
        Admission::Waiting(waiting) => waiting.finish().await,
        decided => decided,
    };
    match admission {
        Admission::Admitted(admitted) => {
            drop(admitted);
            Ok(())
        }
        Admission::Refused(refused) => Err(refused.refusal.code),
        other => panic!("{other:?}"),
    }
}

/// How many pass until one does not, and why it does not.
async fn ask_all(gate: &UsageGate, key: &str) -> (usize, Code) {
    let mut passed = 0;
    loop {
        match ask(gate, key).await {
            Ok(()) => passed += 1,
            Err(code) => return (passed, code),
        }
    }
}

async fn new_key(gate: &UsageGate, plan: &str, limits: Vec<LimitDraft>) -> (KeyId, String) {
    management::create_plan(gate, PlanDraft::new(plan, limits)).await.unwrap();
    let tenant = management::create_tenant(gate, TenantDraft::new(plan, plan)).await.unwrap();
    let issued = management::create_key(gate, tenant.id, KeyDraft::new("key")).await.unwrap();
    (issued.key.id, issued.text.to_string())
}

fn quota(units: usize) -> LimitDraft {
    LimitDraft {
        per: Some(Per::Month),
        counted_by: Some(CountedBy::Tenant),
        ..LimitDraft::new("month", LimitKind::Quota, u64::try_from(units).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_without_the_database_serves_who_was_known_from_what_was_leased() {
    let mut stage = Stage::new();
    stage.server.start().await;
    let gate = stage.gate().await;
    let (id, key) = new_key(&gate, "quota", vec![quota(QUOTA)]).await;
    let (revoked_id, revoked) = new_key(&gate, "revoked", vec![quota(QUOTA)]).await;
    let (_, unknown) = new_key(&gate, "unknown", vec![]).await;
    let mut rate = LimitDraft::new("rate", LimitKind::Rate, 60);
    (rate.per, rate.burst) = (Some(Per::Hour), Some(4));
    let refuse = LimitDraft { store_away: Some(StoreAway::Refuse), ..rate.clone() };
    let (shared_id, shared) = new_key(&gate, "rate", vec![rate]).await;
    let (refusing_id, refusing) = new_key(&gate, "refuse", vec![refuse]).await;
    for key in [&key, &revoked, &shared, &refusing] {
        assert_eq!(ask(&gate, key).await, Ok(()));
    }
    let passed = 1;
    let kept = [(id, &*key), (revoked_id, &revoked), (shared_id, &shared), (refusing_id, &refusing)];
    stage.until_kept(&gate, &kept).await;
    management::revoke_key(&gate, revoked_id, None).await.unwrap();
    stage.server.stop();
    // As a kill leaves it: nothing goes back.
    drop(gate);

    let began = tokio::time::Instant::now();
    let gate = stage.gate().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let status = gate.status();
    assert_eq!((status.ready, status.loading, status.degraded), (true, false, vec!["postgres"]));
    let (leased, code) = ask_all(&gate, &key).await;
    assert!(leased > 0 && passed + leased < QUOTA, "{leased}");
    assert_eq!(code, Code::StoreUnavailable, "nothing is given on trust");
    assert_eq!(ask(&gate, &unknown).await, Err(Code::StoreUnavailable));
    assert_eq!(ask(&gate, &revoked).await, Err(Code::StoreUnavailable), "what was revoked does not come back");
    assert_eq!(ask_all(&gate, &shared).await, (4, Code::RateLimited), "there was one node");
    assert_eq!(ask(&gate, &refusing).await, Err(Code::StoreUnavailable));
    drop(gate);

    // Killed once more, and the database comes back while it runs.
    let gate = stage.gate().await;
    assert_eq!(ask(&gate, &key).await, Err(Code::StoreUnavailable), "it is spent");
    stage.server.start().await;
    eventually("it heals", async || gate.status().degraded.is_empty()).await;
    assert_eq!(ask(&gate, &unknown).await, Ok(()));
    assert_eq!(ask(&gate, &revoked).await, Err(Code::RevokedKey));
    let (rest, code) = ask_all(&gate, &key).await;
    assert_eq!((passed + leased + rest, code), (QUOTA, Code::QuotaExceeded));
    gate.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_without_the_database_serves_nobody_and_heals() {
    let mut stage = Stage::new();
    let gate = stage.gate().await;
    let status = gate.status();
    assert_eq!((status.ready, status.loading, status.degraded), (false, true, vec!["postgres"]));
    let pepper = Pepper::new(PEPPER);
    let made_elsewhere = pepper.issue("ug", crate::model::Environment::Live).unwrap();
    assert_eq!(ask(&gate, &made_elsewhere.text).await, Err(Code::StoreUnavailable));
    assert_eq!(ask(&gate, "ug_live_no").await, Err(Code::InvalidKey), "what is no key at all is told so");
    stage.server.start().await;
    eventually("it heals", async || gate.status().ready && gate.status().degraded.is_empty()).await;
    assert_eq!(ask(&gate, &made_elsewhere.text).await, Err(Code::InvalidKey), "now it is known that there is none");
    let (_, key) = new_key(&gate, "quota", vec![quota(10)]).await;
    assert_eq!(ask_all(&gate, &key).await, (10, Code::QuotaExceeded));
    gate.drain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_served_longer_than_max_stale_since_changes_were_heard_of() {
    let mut stage = Stage::new();
    stage.server.start().await;
    let gate = stage.gate().await;
    let (id, key) = new_key(&gate, "free", vec![]).await;
    assert_eq!(ask(&gate, &key).await, Ok(()));
    stage.until_kept(&gate, &[(id, &key)]).await;
    stage.server.stop();
    drop(gate);
    let stale = Duration::from_secs(8);
    let gate = stage.gate_with(PEPPER, stale).await;
    let known = ask(&gate, &key).await;
    eventually("it is forgotten", async || ask(&gate, &key).await == Err(Code::StoreUnavailable)).await;
    // A slow machine may have taken all that time to start.
    assert!([Ok(()), Err(Code::StoreUnavailable)].contains(&known), "{known:?}");
    drop(gate);
    let gate = stage.gate_with(PEPPER, stale).await;
    assert!(gate.status().loading, "nor by another process");
    assert_eq!(ask(&gate, &key).await, Err(Code::StoreUnavailable));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_pepper_that_is_found_out_late_serves_nobody_and_makes_no_key() {
    let mut stage = Stage::new();
    stage.server.start().await;
    let gate = stage.gate().await;
    let (_, key) = new_key(&gate, "quota", vec![quota(10)]).await;
    let tenant = management::create_tenant(&gate, TenantDraft::new("other", "quota")).await.unwrap();
    gate.drain().await.unwrap();
    drop(gate);
    stage.server.stop();
    let gate = stage.gate_with(&[8; 32], Duration::from_secs(3_600)).await;
    stage.server.start().await;
    eventually("it is found out", async || gate.status().unusable == ["postgres"]).await;
    let status = gate.status();
    assert_eq!((status.ready, status.degraded), (false, vec!["postgres"]));
    assert_eq!(ask(&gate, &key).await, Err(Code::StoreUnavailable), "a good key is not called a bad one");
    let refused = management::create_key(&gate, tenant.id, KeyDraft::new("key")).await.unwrap_err();
    assert!(matches!(refused, crate::ManagementError::Store(fault) if fault.kind() == StoreErrorKind::Unusable));
}

#[tokio::test]
async fn what_could_not_be_done_at_the_start_is_done_before_anything_else() {
    let mut server = Server::new();
    let url = server.url("127.0.0.1");
    let patient = || PostgresStore::options(&url).call_timeout(Duration::from_secs(10));
    let (store, careful) = (patient().open_lazily().unwrap(), patient().migrate(false).open_lazily().unwrap());
    assert_eq!(store.prepare().await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    server.start().await;
    // It may not bring the schema up to date, and works once somebody has.
    let fault = KeyStore::position(&careful).await.unwrap_err();
    assert_eq!(fault.kind(), StoreErrorKind::Unusable);
    assert!(std::error::Error::source(&fault).unwrap().to_string().contains("earlier version"));
    let (one, two) = tokio::join!(KeyStore::position(&store), KeyStore::position(&store));
    assert_eq!((one.unwrap().0, two.unwrap().0), (0, 0));
    assert_eq!(KeyStore::position(&careful).await.unwrap().0, 0);
}
