//! Two gates that share one store, as two nodes do: what one holds and the other needs.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what a test cannot go on without fails it")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use usage_gate_core::UsageGate;
use usage_gate_core::admission::{Admission, Admitted, Code, RequestHead};
use usage_gate_core::clock::Clock;
use usage_gate_core::management::{self, Apply, KeyDraft, LimitDraft, PlanDraft, TenantDraft};
use usage_gate_core::model::*;
use usage_gate_core::routes::Route;
use usage_gate_core::secret::Pepper;
use usage_gate_core::store::memory::MemoryStore;
use usage_gate_core::store::{RateAnswer, RateCall, RateStore, StoreError};

/// An authority of rates that can be away.
#[derive(Debug)]
struct Rates {
    inner: MemoryStore,
    away: AtomicBool,
    /// The name of a limit whose counters cannot be read.
    broken: Mutex<Option<&'static str>>,
}

#[async_trait::async_trait]
impl RateStore for Rates {
    async fn lease_rates(&self, call: &RateCall) -> Result<RateAnswer, StoreError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable("test", "switched off"));
        }
        let mut answer = self.inner.lease_rates(call).await?;
        let broken = *self.broken.lock().unwrap();
        let asked = call.rates.iter().map(|request| &request.counter);
        let asked = asked.chain(call.slots.iter().map(|request| &request.counter));
        let asked = asked.filter(|counter| Some(&*counter.limit) == broken);
        answer.broken = asked.map(|counter| (counter.clone(), "it is of another type".to_owned())).collect();
        Ok(answer)
    }
}

struct Nodes {
    gates: [UsageGate; 2],
    rates: Arc<Rates>,
    key: String,
}

impl Nodes {
    async fn new(limits: Vec<LimitDraft>) -> Self {
        let store = MemoryStore::new(Clock::system());
        let rates = Arc::new(Rates { inner: store.clone(), away: AtomicBool::new(false), broken: Mutex::default() });
        let build = async |name: &str| {
            let gate = UsageGate::builder().store(store.clone()).rates(rates.clone()).node(name);
            let gate = gate.pepper(Pepper::new(&[7; 32])).route(Route::any("/x").named("x"));
            gate.build().await.unwrap()
        };
        let gates = [build("a").await, build("b").await];
        management::create_plan(&gates[0], PlanDraft::new("plan", limits)).await.unwrap();
        let tenant = management::create_tenant(&gates[0], TenantDraft::new("Acme", "plan")).await.unwrap();
        let issued = management::create_key(&gates[0], tenant.id, KeyDraft::new("key")).await.unwrap();
        Self { gates, rates, key: issued.text.to_string() }
    }

    async fn admit(&self, node: usize) -> Result<Box<Admitted>, Code> {
        self.admit_by(&self.key, node).await
    }

    async fn admit_by(&self, key: &str, node: usize) -> Result<Box<Admitted>, Code> {
        let mut headers = http::HeaderMap::new();
        headers.insert("x-api-key", key.parse().unwrap());
        let method = http::Method::GET;
        let head = RequestHead {
            method: &method,
            path: "/x",
            headers: &headers,
            client: None,
            content_length: None,
            bounds: &[],
        };
        let admission = match self.gates[node].admit(&head) {
            Admission::Waiting(waiting) => waiting.finish().await,
            decided => decided,
        };
        match admission {
            Admission::Admitted(admitted) => Ok(admitted),
            Admission::Refused(refused) => Err(refused.refusal.code),
            other => panic!("{other:?}"),
        }
    }

    /// Admits on a node until it refuses: how many, and why.
    async fn admit_all(&self, node: usize) -> (usize, Code) {
        let mut admitted = 0;
        loop {
            match self.admit(node).await {
                Ok(_) => admitted += 1,
                Err(code) => return (admitted, code),
            }
        }
    }
}

fn limit(kind: LimitKind, units: u64, per: Option<Per>) -> LimitDraft {
    LimitDraft { per, counted_by: Some(CountedBy::Tenant), ..LimitDraft::new("limit", kind, units) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_what_one_node_holds_is_called_back_when_another_needs_it() {
    let nodes = Nodes::new(vec![limit(LimitKind::Quota, 100, Some(Per::Month))]).await;
    // It takes many more than it needs.
    nodes.admit(0).await.unwrap();
    let (admitted, code) = nodes.admit_all(1).await;
    assert_eq!((admitted, code), (99, Code::QuotaExceeded));
    assert_eq!(nodes.admit(0).await.err(), Some(Code::QuotaExceeded));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_nodes_that_compete_for_the_last_units_give_all_of_them_and_no_more() {
    let nodes = Nodes::new(vec![limit(LimitKind::Quota, 500, Some(Per::Month))]).await;
    let (one, other) = tokio::join!(nodes.admit_all(0), nodes.admit_all(1));
    // One may be refused while the other still holds some; then those are there for whoever asks.
    let (late_one, late_other) = (nodes.admit_all(0).await, nodes.admit_all(1).await);
    assert_eq!(one.0 + other.0 + late_one.0 + late_other.0, 500, "{one:?} {other:?} {late_one:?} {late_other:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_a_burst_is_shared() {
    let nodes = Nodes::new(vec![limit(LimitKind::Rate, 60, Some(Per::Hour))]).await;
    let (one, other) = tokio::join!(nodes.admit_all(0), nodes.admit_all(1));
    assert_eq!((one.1, other.1), (Code::RateLimited, Code::RateLimited));
    // What one has taken too much of goes back within a lease time.
    let mut all = one.0 + other.0;
    for _ in 0..40 {
        if all >= 60 {
            break;
        }
        tokio::time::timeout(Duration::from_millis(50), std::future::pending::<()>()).await.unwrap_err();
        all += nodes.admit_all(0).await.0 + nodes.admit_all(1).await.0;
    }
    // A minute brings one more.
    assert!((60..=61).contains(&all), "{all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_open_at_once_are_counted_over_both_nodes() {
    let nodes = Nodes::new(vec![limit(LimitKind::Concurrency, 3, None)]).await;
    let open = [nodes.admit(0).await.unwrap(), nodes.admit(0).await.unwrap()];
    let one = nodes.admit(1).await.unwrap();
    assert_eq!(nodes.admit(1).await.err(), Some(Code::ConcurrencyLimited));
    drop(open);
    for turn in 0.. {
        // The place goes back when the node has not needed it for a moment.
        if nodes.admit(1).await.is_ok() {
            break;
        }
        assert!(turn < 100, "places never come back");
        tokio::time::timeout(Duration::from_millis(50), std::future::pending::<()>()).await.unwrap_err();
    }
    drop(one);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_authority_of_rates_is_away_each_node_gives_its_part_or_refuses() {
    let mut refuse = limit(LimitKind::Rate, 60, Some(Per::Hour));
    (refuse.burst, refuse.store_away) = (Some(10), Some(StoreAway::Refuse));
    for (draft, passed, code) in [
        (LimitDraft { burst: Some(10), ..limit(LimitKind::Rate, 60, Some(Per::Hour)) }, 5, Code::RateLimited),
        (refuse, 0, Code::StoreUnavailable),
    ] {
        let nodes = Nodes::new(vec![draft]).await;
        // Both are heard of.
        let heard = [nodes.admit(0).await.is_ok(), nodes.admit(1).await.is_ok(), nodes.admit(0).await.is_ok()];
        assert_eq!(heard, [true; 3]);
        nodes.rates.away.store(true, Ordering::SeqCst);
        assert_eq!(nodes.admit_all(0).await, (passed, code));
        nodes.rates.away.store(false, Ordering::SeqCst);
        for turn in 0.. {
            match nodes.admit(0).await {
                Ok(_) | Err(Code::RateLimited) if turn > 0 => break,
                _ => assert!(turn < 100, "it does not heal"),
            }
            tokio::time::timeout(Duration::from_millis(50), std::future::pending::<()>()).await.unwrap_err();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_of_rates_that_is_back_is_found_though_no_request_needs_it() {
    for store_away in [StoreAway::Share, StoreAway::Refuse] {
        let draft = LimitDraft { store_away: Some(store_away), ..limit(LimitKind::Rate, 1_000, Some(Per::Second)) };
        let nodes = Nodes::new(vec![draft]).await;
        nodes.admit(0).await.unwrap();
        nodes.rates.away.store(true, Ordering::SeqCst);
        // Longer than any call is repeated whose answer was lost.
        let until = tokio::time::Instant::now() + Duration::from_millis(1_500);
        while tokio::time::Instant::now() < until {
            let _ = nodes.admit(0).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(nodes.gates[0].status().degraded.len(), 1, "{store_away:?}");
        nodes.rates.away.store(false, Ordering::SeqCst);
        for turn in 0.. {
            if nodes.gates[0].status().degraded.is_empty() {
                break;
            }
            assert!(turn < 100, "{store_away:?}: it does not heal");
            tokio::time::timeout(Duration::from_millis(50), std::future::pending::<()>()).await.unwrap_err();
        }
        nodes.admit(0).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_that_is_lowered_below_its_use_takes_back_what_both_nodes_hold() {
    let nodes = Nodes::new(vec![limit(LimitKind::Quota, 1_000, Some(Per::Month))]).await;
    // Each has leased sixteen.
    for node in [0, 0, 1, 1] {
        nodes.admit(node).await.unwrap();
    }
    let plan = PlanDraft::new("plan", vec![limit(LimitKind::Quota, 3, Some(Per::Month))]);
    management::replace_plan(&nodes.gates[0], plan, Apply::Now).await.unwrap();
    let mut admitted = 0;
    for _ in 0..50 {
        for node in 0..2 {
            admitted += u32::from(nodes.admit(node).await.is_ok());
        }
        tokio::time::timeout(Duration::from_millis(20), std::future::pending::<()>()).await.unwrap_err();
    }
    // A request that finds the new plan is served by what is there at that moment.
    assert!(admitted <= 8, "{admitted} of the 28 that both held");
    assert_eq!(
        (nodes.admit(0).await.err(), nodes.admit(1).await.err()),
        (Some(Code::QuotaExceeded), Some(Code::QuotaExceeded))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_that_cannot_be_read_is_alone_without_an_answer() {
    let per_second = |name: &str, kind, per| LimitDraft {
        per,
        counted_by: Some(CountedBy::Tenant),
        ..LimitDraft::new(name, kind, 1_000)
    };
    for kind in [LimitKind::Rate, LimitKind::Concurrency] {
        let per = (kind == LimitKind::Rate).then_some(Per::Second);
        let nodes = Nodes::new(vec![per_second("spoilt", kind, per)]).await;
        let gate = &nodes.gates[0];
        management::create_plan(gate, PlanDraft::new("other", vec![per_second("whole", kind, per)])).await.unwrap();
        let tenant = management::create_tenant(gate, TenantDraft::new("Initech", "other")).await.unwrap();
        let other = management::create_key(gate, tenant.id, KeyDraft::new("key")).await.unwrap().text.to_string();
        *nodes.rates.broken.lock().unwrap() = Some("spoilt");
        for _ in 0..20 {
            // Both are asked for at the same time, and in one call.
            let (spoilt, whole) = tokio::join!(nodes.admit(0), nodes.admit_by(&other, 0));
            assert_eq!(spoilt.err(), Some(Code::StoreUnavailable));
            drop(whole.unwrap());
        }
        assert!(gate.status().degraded.is_empty());
        *nodes.rates.broken.lock().unwrap() = None;
        let well = async {
            while nodes.admit(0).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), well).await.expect("it is served once it can be read");
    }
}
