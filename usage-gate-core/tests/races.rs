//! Requests, leases, flushes and changes that meet at a bad moment: stores that fail, hang or answer late, one step at a time.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what a test cannot go on without fails it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use usage_gate_core::UsageGate;
use usage_gate_core::admission::{Admission, Admitted, Code, End, LimitState, LimitView, RequestHead, Settlement};
use usage_gate_core::clock::ManualClock;
use usage_gate_core::management::{self, Apply, KeyDraft, LimitDraft, PlanDraft, TenantDraft};
use usage_gate_core::model::*;
use usage_gate_core::period::Period;
use usage_gate_core::routes::Route;
use usage_gate_core::secret::{CredentialId, Pepper};
use usage_gate_core::store::memory::MemoryStore;
use usage_gate_core::store::*;

/// Faults of a store, switched on and off.
#[derive(Debug, Default)]
struct Faults {
    sink_fails: AtomicBool,
    quotas_fail: AtomicBool,
    marks_fail: AtomicBool,
    /// Answers are held back until `go`, after the store has done its work.
    quotas_hang: AtomicBool,
    keys_hang: AtomicBool,
    quotas_slow: AtomicBool,
    /// Rings when an answer is held back.
    held: Notify,
    go: Notify,
    records: AtomicUsize,
}

#[derive(Debug)]
struct Faulty {
    inner: MemoryStore,
    faults: Arc<Faults>,
}

fn on(flag: &AtomicBool) -> bool {
    flag.load(Ordering::SeqCst)
}

fn set(flag: &AtomicBool, value: bool) {
    flag.store(value, Ordering::SeqCst);
}

impl Faults {
    async fn hold(&self, flag: &AtomicBool) {
        if on(flag) {
            let go = self.go.notified();
            self.held.notify_one();
            go.await;
        }
    }

    fn fail(flag: &AtomicBool) -> Result<(), StoreError> {
        if on(flag) { Err(StoreError::unavailable("test", "switched off")) } else { Ok(()) }
    }
}

#[async_trait::async_trait]
impl UsageSink for Faulty {
    async fn accept(&self, batch: Batch) -> Result<u64, StoreError> {
        Faults::fail(&self.faults.sink_fails)?;
        self.faults.records.fetch_add(batch.records.len(), Ordering::SeqCst);
        self.inner.accept(batch).await
    }

    async fn watermark(&self, stream: StreamId) -> Result<u64, StoreError> {
        self.inner.watermark(stream).await
    }
}

#[async_trait::async_trait]
impl QuotaStore for Faulty {
    fn promises(&self) -> QuotaPromises {
        self.inner.promises()
    }

    async fn register(&self, node: &NodeIdentity) -> Result<Vec<OpenLease>, StoreError> {
        self.inner.register(node).await
    }

    async fn lease(&self, call: &LeaseCall) -> Result<LeaseAnswer, StoreError> {
        Faults::fail(&self.faults.quotas_fail)?;
        if on(&self.faults.quotas_slow) {
            // As long as a database takes: others come and wait meanwhile.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let answer = self.inner.lease(call).await;
        if !call.requests.is_empty() {
            self.faults.hold(&self.faults.quotas_hang).await;
        }
        answer
    }

    async fn windows(&self, queries: &[WindowQuery]) -> Result<Vec<WindowState>, StoreError> {
        self.inner.windows(queries).await
    }

    async fn subjects(&self, template: &WindowQuery, most: usize) -> Result<Vec<(CounterId, WindowState)>, StoreError> {
        self.inner.subjects(template, most).await
    }
}

#[async_trait::async_trait]
impl KeyStore for Faulty {
    async fn resolve(&self, credential: &CredentialId) -> Result<Option<ResolvedKey>, StoreError> {
        let resolved = self.inner.resolve(credential).await;
        self.faults.hold(&self.faults.keys_hang).await;
        resolved
    }

    async fn changes(&self, position: FeedPosition) -> Result<Changes, StoreError> {
        self.inner.changes(position).await
    }

    async fn position(&self) -> Result<FeedPosition, StoreError> {
        self.inner.position().await
    }

    async fn mark_used(&self, uses: &[LastUse]) -> Result<(), StoreError> {
        Faults::fail(&self.faults.marks_fail)?;
        self.inner.mark_used(uses).await
    }
}

struct Stage {
    gate: UsageGate,
    store: MemoryStore,
    faults: Arc<Faults>,
    key: String,
    key_id: KeyId,
    tenant: Tenant,
    plan: Plan,
    clock: ManualClock,
}

fn limit(kind: LimitKind, meter: &str, units: u64, per: Option<Per>) -> LimitDraft {
    let counted_by = Some(CountedBy::Tenant);
    LimitDraft { meter: Some(meter.into()), per, counted_by, ..LimitDraft::new("limit", kind, units) }
}

impl Stage {
    async fn new(limits: Vec<LimitDraft>) -> Arc<Self> {
        let clock = ManualClock::at("2026-11-10T23:00:00Z".parse().unwrap());
        let store = MemoryStore::new(clock.clock());
        let faults = Arc::new(Faults::default());
        let faulty = Arc::new(Faulty { inner: store.clone(), faults: Arc::clone(&faults) });
        let gate = UsageGate::builder()
            .accounts(Arc::new(store.clone()))
            .reader(Arc::new(store.clone()))
            .keys(faulty.clone())
            .quotas(faulty.clone())
            .usage(faulty)
            .clock(clock.clock())
            .pepper(Pepper::new(&[7; 32]))
            .meter("rows")
            .route(Route::any("/x").named("x"))
            .route(Route::any("/costly").named("costly").cost(3))
            .build()
            .await
            .unwrap();
        let plan = management::create_plan(&gate, PlanDraft::new("plan", limits)).await.unwrap();
        let tenant = management::create_tenant(&gate, TenantDraft::new("Acme", "plan")).await.unwrap();
        let issued = management::create_key(&gate, tenant.id, KeyDraft::new("key")).await.unwrap();
        let (key, key_id) = (issued.text.to_string(), issued.key.id);
        Arc::new(Self { gate, store, faults, key, key_id, tenant, plan, clock })
    }

    async fn admit(&self) -> Result<Box<Admitted>, Code> {
        self.admit_to("/x").await
    }

    async fn admit_to(&self, path: &str) -> Result<Box<Admitted>, Code> {
        self.admit_with(path, &[]).await
    }

    async fn admit_with(&self, path: &str, bounds: &[(MeterIndex, u64)]) -> Result<Box<Admitted>, Code> {
        let mut headers = http::HeaderMap::new();
        headers.insert("x-api-key", self.key.parse().unwrap());
        let method = http::Method::GET;
        let head = RequestHead { method: &method, path, headers: &headers, client: None, content_length: None, bounds };
        let admission = match self.gate.admit(&head) {
            Admission::Waiting(waiting) => waiting.finish().await,
            decided => decided,
        };
        match admission {
            Admission::Admitted(admitted) => Ok(admitted),
            Admission::Refused(refused) => Err(refused.refusal.code),
            other => panic!("{other:?}"),
        }
    }

    /// Requests that are all in flight together.
    async fn admit_many(&self, requests: usize) -> Vec<Box<Admitted>> {
        let mut held = Vec::with_capacity(requests);
        for _ in 0..requests {
            held.push(self.admit().await.unwrap());
        }
        held
    }

    /// Admits in a task of its own.
    fn admit_beside(self: &Arc<Self>) -> tokio::task::JoinHandle<Result<(), Code>> {
        let stage = Arc::clone(self);
        tokio::spawn(async move { stage.admit().await.map(|_| ()) })
    }

    async fn state(&self) -> LimitState {
        let states = self.gate.limit_states(&self.tenant, &self.plan, LimitView::default()).await;
        states.unwrap().remove(0)
    }

    /// The limit's state, once it is as wanted.
    async fn state_becomes(&self, wanted: impl Fn(&LimitState) -> bool) -> LimitState {
        let mut last = None;
        for _ in 0..50 {
            let state = self.state().await;
            if wanted(&state) {
                return state;
            }
            last = Some(state);
            // The driver's second is real time.
            tokio::time::timeout(Duration::from_millis(100), std::future::pending::<()>()).await.unwrap_err();
        }
        panic!("the limit never became as wanted: {last:?}");
    }
}

fn end(admitted: Box<Admitted>, status: u16, stated: &[(MeterIndex, u64)]) {
    admitted.settle(&Settlement {
        status: Some(status),
        end: End::Completed,
        bytes_in: 0,
        bytes_out: 0,
        stated,
        measured: Measured::Exact,
        retry: None,
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_after_a_failed_one_ships_everything() {
    let stage = Stage::new(Vec::new()).await;
    set(&stage.faults.sink_fails, true);
    end(stage.admit().await.unwrap(), 200, &[]);
    assert!(stage.gate.ship().await.is_err());
    for _ in 0..5 {
        end(stage.admit().await.unwrap(), 200, &[]);
    }
    set(&stage.faults.sink_fails, false);
    stage.gate.drain().await.unwrap();
    assert_eq!((stage.faults.records.load(Ordering::SeqCst), stage.gate.numbers().unshipped), (6, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_in_the_middle_of_a_lease_call_loses_no_units() {
    let stage = Stage::new(vec![limit(LimitKind::Quota, "requests", 1_000, Some(Per::Month))]).await;
    set(&stage.faults.quotas_hang, true);
    let waiting = stage.admit_beside();
    stage.faults.held.notified().await;
    set(&stage.faults.quotas_hang, false);
    stage.gate.drain().await.unwrap();
    assert!(matches!(waiting.await.unwrap(), Err(Code::Draining | Code::StoreUnavailable)));
    let state = stage.state().await;
    assert_eq!((state.used, state.reserved), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_up_while_limits_are_read_takes_no_call_along() {
    let stage = Stage::new(vec![limit(LimitKind::Quota, "requests", 1_000, Some(Per::Month))]).await;
    set(&stage.faults.quotas_fail, true);
    assert_eq!(stage.admit().await.err(), Some(Code::StoreUnavailable));
    set(&stage.faults.quotas_hang, true);
    set(&stage.faults.quotas_fail, false);
    // Whoever repeats the call, the reader's future is dropped while it is under way.
    let read = tokio::time::timeout(Duration::from_millis(300), stage.state()).await;
    assert!(read.is_err());
    set(&stage.faults.quotas_hang, false);
    stage.faults.go.notify_waiters();
    stage.gate.drain().await.unwrap();
    let state = stage.state().await;
    assert_eq!((state.used, state.reserved), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_requests_in_flight_give_back_is_there_for_others() {
    let stage = Stage::new(vec![limit(LimitKind::Quota, "requests", 10, Some(Per::Day))]).await;
    let held = stage.admit_many(10).await;
    stage.clock.advance_millis(1_100);
    assert_eq!(stage.admit().await.err(), Some(Code::QuotaExceeded));
    for admitted in held {
        end(admitted, 500, &[]);
    }
    stage.clock.advance_millis(1_100);
    assert_eq!(stage.admit().await.err(), None, "nothing was billed: all 10 units are there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a4_late_cost_is_booked_in_its_own_period() {
    let stage = Stage::new(vec![limit(LimitKind::Quota, "rows", 10, Some(Per::Day))]).await;
    let rows = stage.gate.meters().index("rows").unwrap();
    let held = stage.admit_many(10).await;
    stage.clock.advance_millis(1_100);
    assert_eq!(stage.admit().await.err(), Some(Code::QuotaExceeded));
    for admitted in held {
        end(admitted, 200, &[(rows, 50)]);
    }
    let state = stage.state_becomes(|state| state.used == 500).await;
    assert_eq!(state.over(), 490);
    // An hour later it is another day.
    stage.clock.advance_millis(3_700_000);
    end(stage.admit().await.unwrap(), 200, &[(rows, 3)]);
    stage.state_becomes(|state| state.used == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_debt_that_was_not_billed_is_undone() {
    let mut allowed = limit(LimitKind::Quota, "requests", 1_000, Some(Per::Day));
    allowed.when_exceeded = Some(WhenExceeded::Allow);
    let stage = Stage::new(vec![allowed]).await;
    set(&stage.faults.quotas_fail, true);
    for _ in 0..20 {
        end(stage.admit().await.unwrap(), 500, &[]);
    }
    end(stage.admit().await.unwrap(), 200, &[]);
    set(&stage.faults.quotas_fail, false);
    stage.state_becomes(|state| state.used == 1).await;
    stage.gate.drain().await.unwrap();
    assert_eq!(stage.state().await.used, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b9_what_is_spent_without_leases_is_counted_once() {
    let mut allowed = limit(LimitKind::Quota, "rows", 100, Some(Per::Day));
    allowed.when_exceeded = Some(WhenExceeded::Allow);
    let stage = Stage::new(vec![allowed]).await;
    let rows = stage.gate.meters().index("rows").unwrap();
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let stage = Arc::clone(&stage);
            tokio::spawn(async move {
                for n in 0..1_000_u64 {
                    let admitted = stage.admit().await.unwrap();
                    // While others settle, and the driver tells what is owed.
                    tokio::task::yield_now().await;
                    let status = if n % 3 == 0 { 500 } else { 200 };
                    end(admitted, status, &[(rows, n % 7)]);
                }
            })
        })
        .collect();
    let mut away = false;
    while !callers.iter().all(tokio::task::JoinHandle::is_finished) {
        away = !away;
        set(&stage.faults.quotas_fail, away);
        tokio::task::yield_now().await;
    }
    set(&stage.faults.quotas_fail, false);
    stage.gate.drain().await.unwrap();
    let period = Period { start: Timestamp::from_micros(0), end: Timestamp::from_micros(i64::MAX) };
    let audit = stage.store.audit(&AuditQuery { period, tenant: None }).await.unwrap();
    let [counter] = &audit.counters[..] else { panic!("{:?}", audit.counters) };
    assert_eq!(i64::try_from(counter.used()), Ok(counter.recorded));
    assert_eq!(counter.granted, counter.used());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b9_a_stream_that_outlives_many_leases_is_counted_once() {
    let stage = Stage::new(vec![limit(LimitKind::Quota, "rows", 1_000_000, Some(Per::Day))]).await;
    let rows = stage.gate.meters().index("rows").unwrap();
    let mut stream = stage.admit().await.unwrap();
    for n in 1..20_u64 {
        // Somebody needs more than is left here: the lease goes back, with what the stream holds of it.
        end(stage.admit_with("/x", &[(rows, 1_000 * n)]).await.unwrap(), 500, &[]);
        assert!(stream.extend(rows, 10 * n));
    }
    end(stream, 200, &[(rows, 190)]);
    stage.gate.drain().await.unwrap();
    let period = Period { start: Timestamp::from_micros(0), end: Timestamp::from_micros(i64::MAX) };
    let audit = stage.store.audit(&AuditQuery { period, tenant: None }).await.unwrap();
    let [counter] = &audit.counters[..] else { panic!("{:?}", audit.counters) };
    assert_eq!((counter.recorded, counter.used()), (190, 190), "{counter:?}");
    let forfeited = audit.rollups.keys().filter(|row| &*row.outcome == "forfeited").count();
    assert_eq!(forfeited, 0, "what is cited apart is not shown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fill_that_is_joined_late_serves_nothing_stale() {
    let stage = Stage::new(Vec::new()).await;
    set(&stage.faults.keys_hang, true);
    let first = stage.admit_beside();
    stage.faults.held.notified().await;
    management::revoke_key(&stage.gate, stage.key_id, None).await.unwrap();
    let second = stage.admit_beside();
    // The second has no way to tell that it waits; give it the processor until it does.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    set(&stage.faults.keys_hang, false);
    stage.faults.go.notify_waiters();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (Err(Code::RevokedKey), Err(Code::RevokedKey)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_with_a_key_that_cannot_be_read_are_refused_together_and_not_one_after_another() {
    let stage = Stage::new(Vec::new()).await;
    set(&stage.faults.keys_hang, true);
    let began = tokio::time::Instant::now();
    let waiting: Vec<_> = (0..5).map(|_| stage.admit_beside()).collect();
    for request in waiting {
        assert_eq!(request.await.unwrap(), Err(Code::StoreUnavailable));
    }
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    set(&stage.faults.keys_hang, false);
    stage.faults.go.notify_waiters();
    stage.admit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_of_quotas_that_is_back_is_found_though_no_request_needs_it() {
    let stage = Stage::new(vec![limit(LimitKind::Quota, "requests", 100, Some(Per::Month))]).await;
    set(&stage.faults.quotas_fail, true);
    assert_eq!(stage.admit().await.err(), Some(Code::StoreUnavailable));
    assert!(!stage.gate.status().degraded.is_empty());
    set(&stage.faults.quotas_fail, false);
    for turn in 0.. {
        if stage.gate.status().degraded.is_empty() {
            break;
        }
        assert!(turn < 100, "it does not heal");
        tokio::time::timeout(Duration::from_millis(50), std::future::pending::<()>()).await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_changes_its_kind_begins_anew() {
    let stage = Stage::new(vec![limit(LimitKind::Concurrency, "requests", 5, None)]).await;
    let open = stage.admit().await.unwrap();
    let plan = PlanDraft::new("plan", vec![limit(LimitKind::Rate, "requests", 5, Some(Per::Second))]);
    management::replace_plan(&stage.gate, plan, Apply::Now).await.unwrap();
    drop(open);
    let mut passed = 0;
    for _ in 0..100 {
        if let Ok(admitted) = stage.admit().await {
            end(admitted, 200, &[]);
            passed += 1;
        }
    }
    assert_eq!(passed, 5, "a rate of 5 a second, at one instant");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_node_is_no_reason_to_refuse() {
    let stage = Stage::new(vec![limit(LimitKind::Quota, "requests", 40, Some(Per::Day))]).await;
    let other = NodeIdentity { node: "other".into(), boot: StreamId::generate(), table: TableId::generate() };
    stage.store.register(&other).await.unwrap();
    let counter = CounterId {
        tenant: stage.tenant.id,
        subject: Subject::Tenant,
        limit: "limit".into(),
        meter: "requests".into(),
        per: Per::Day,
    };
    let request = LeaseRequest {
        lease: LeaseId::generate(),
        counter,
        calendar: stage.tenant.calendar.clone(),
        cap: 40,
        cap_version: 0,
        want: 1,
        beyond_cap: false,
        early: false,
        needed: 0,
    };
    let call = LeaseCall { requests: vec![request], ..LeaseCall::new(&other) };
    stage.store.lease(&call).await.unwrap();
    let _held = stage.admit_many(39).await;
    assert_eq!(stage.admit().await.err(), Some(Code::QuotaExceeded));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ships_usage_though_last_uses_cannot_be_written() {
    let stage = Stage::new(Vec::new()).await;
    end(stage.admit().await.unwrap(), 200, &[]);
    set(&stage.faults.marks_fail, true);
    stage.gate.drain().await.unwrap();
    assert_eq!((stage.faults.records.load(Ordering::SeqCst), stage.gate.numbers().unshipped), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_rate_with_a_large_burst_is_a_limit() {
    let mut slow = limit(LimitKind::Rate, "rows", 1, Some(Per::Hour));
    slow.burst = Some(400_000);
    let stage = Stage::new(vec![slow]).await;
    let rows = stage.gate.meters().index("rows").unwrap();
    end(stage.admit().await.unwrap(), 200, &[(rows, 900_000)]);
    assert_eq!(stage.admit().await.err(), Some(Code::RateLimited));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_and_too_small_is_told_to_all_who_wait() {
    for _ in 0..10 {
        let stage = Stage::new(vec![limit(LimitKind::Quota, "requests", 100, Some(Per::Month))]).await;
        set(&stage.faults.quotas_slow, true);
        let callers: Vec<_> = (0..64)
            .map(|_| {
                let stage = Arc::clone(&stage);
                tokio::spawn(async move {
                    let (mut passed, mut refused) = (0, Vec::new());
                    // On and on, as clients do: some come while others wait for an answer.
                    while refused.len() < 200 {
                        match stage.admit_to("/costly").await {
                            Ok(admitted) => {
                                end(admitted, 200, &[]);
                                passed += 1;
                            }
                            Err(code) => refused.push(code),
                        }
                        tokio::task::yield_now().await;
                    }
                    (passed, refused)
                })
            })
            .collect();
        let mut total = 0;
        for caller in callers {
            let (passed, refused) = caller.await.unwrap();
            assert!(refused.iter().all(|code| *code == Code::QuotaExceeded), "{refused:?}");
            total += passed;
        }
        assert_eq!(total, 33, "of 100 units, 3 a call");
        end(stage.admit().await.unwrap(), 200, &[]);
        assert_eq!(stage.admit().await.err(), Some(Code::QuotaExceeded));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overdraft_goes_as_far_as_its_owner_says_and_is_booked() {
    let mut overdrawn = limit(LimitKind::Quota, "requests", 1_000, Some(Per::Day));
    overdrawn.store_away = Some(StoreAway::Overdraft(5));
    let stage = Stage::new(vec![overdrawn]).await;
    // Once with nothing leased, once with a lease that is spent.
    for turn in 1..=2 {
        set(&stage.faults.quotas_fail, true);
        let mut passed = 0;
        while let Ok(admitted) = stage.admit().await {
            end(admitted, 200, &[]);
            passed += 1;
            assert!(passed <= 1_000);
        }
        let held = passed - 5;
        assert!(turn > 1 || held == 0, "{held} more than the overdraft");
        assert_eq!(stage.admit().await.err(), Some(Code::StoreUnavailable));
        set(&stage.faults.quotas_fail, false);
        let used = stage.state().await.used;
        stage.state_becomes(|state| state.used >= used.max(5)).await;
        end(stage.admit().await.unwrap(), 200, &[]);
    }
}
