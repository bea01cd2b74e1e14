//! Step 3: who presents this key. One immutable snapshot a credential, cached; the store is asked only on a miss.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use http::HeaderValue;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::snapshots::{Heard, Known, MOST_KEPT, Snapshots};
use crate::abuse::source_of;
use crate::clock::Monotonic;
use crate::feed::RecentChanges;
use crate::gate::GateCore;
use crate::lease::{Counter, CounterState, Counters, QuotaCounter, RateSpec};
use crate::model::{
    CountedBy, Environment, KeyId, Limit, LimitKind, MeterIndex, Meters, Per, Plan, Scope, TenantId, Timestamp, UserId,
    WhenExceeded,
};
use crate::period::bucket_start;
use crate::routes::{RouteIndex, Routes};
use crate::secret::{CredentialId, Pepper, PresentedKey};
use crate::store::{Changed, CounterId, LastUse, RateTerms, ResolvedKey, Subject};

/// The resolved identity of a request: key, user, tenant and plan, as one immutable snapshot.
#[derive(Debug)]
pub struct Caller {
    /// The key.
    pub key: KeyId,
    /// Live or test.
    pub environment: Environment,
    /// What the key may do.
    pub scopes: Box<[Scope]>,
    /// The tenant.
    pub tenant: TenantId,
    /// The key's user, if it has one.
    pub user: Option<UserId>,
    /// The plan that holds for the tenant.
    pub plan_id: Arc<str>,
    /// Its version.
    pub plan_version: u32,
    /// Ready-made values for the upstream.
    pub identity: IdentityHeaders,
    /// All that the store knows.
    pub source: Arc<ResolvedKey>,
    pub(crate) usable_until: Timestamp,
    pub(crate) plan: Arc<CompiledPlan>,
    /// One for each limit of the plan; `None` where the client's address decides.
    pub(crate) counters: Box<[Option<Arc<Counter>>]>,
    credential: CredentialId,
    /// Changes noted when its fill began to read.
    read_after: u64,
    /// Tag of the whole key, known once the stored hash has been matched.
    tag: OnceLock<u128>,
    tag_keys: (u64, u64),
    /// Minute in which use was last noted.
    used_minute: AtomicU64,
    /// The bucket that was asked for last: which quarter of an hour it was, and the bucket's start in seconds.
    bucket: AtomicU64,
}

/// Identity for the upstream, built once a snapshot.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the headers' names say it")]
pub struct IdentityHeaders {
    pub tenant: HeaderValue,
    pub user: Option<HeaderValue>,
    pub key: HeaderValue,
    pub plan: HeaderValue,
    pub scopes: HeaderValue,
    pub environment: HeaderValue,
}

impl Caller {
    /// Whether the presented key is the one this snapshot is of.
    ///
    /// The first time by the stored HMAC, afterwards by a keyed 128-bit SipHash tag of the whole key, which costs a tenth.
    pub(crate) fn holds(&self, presented: &PresentedKey<'_>, pepper: &Pepper) -> bool {
        let tag = siphash(self.tag_keys, presented.text());
        if let Some(known) = self.tag.get() {
            return *known == tag;
        }
        let stored = self.source.key.secrets.iter().find(|secret| secret.credential == self.credential);
        let matches = stored.is_some_and(|secret| pepper.matches(presented, &secret.hash));
        if matches {
            let _ = self.tag.set(tag);
        }
        matches
    }

    /// The bucket of the tenant's clock that an instant is in. The zone's rules are asked once a quarter of an hour, which no change of clocks divides.
    pub(crate) fn bucket(&self, at: Timestamp) -> Timestamp {
        let quarter = u32::try_from(at.as_seconds().div_euclid(900)).unwrap_or(0);
        // Relaxed: the word is whole, and whoever reads an older one asks the zone again.
        let known = self.bucket.load(Ordering::Relaxed);
        if known >> 32 == u64::from(quarter) && quarter != 0 {
            return Timestamp::from_seconds((known & u64::from(u32::MAX)).cast_signed());
        }
        let start = bucket_start(self.source.tenant.calendar.zone_at(at), at);
        if let Ok(seconds) = u32::try_from(start.as_seconds()) {
            self.bucket.store(u64::from(quarter) << 32 | u64::from(seconds), Ordering::Relaxed);
        }
        start
    }

    fn is_touched_by(&self, changed: &Changed) -> bool {
        changed.touches(self.key, self.tenant)
    }

    /// The counter of the limit at `at`, for a client address if the limit asks for it.
    pub(crate) fn counter(&self, at: usize, client: Option<IpAddr>, counters: &Counters) -> Option<Arc<Counter>> {
        match self.counters.get(at)? {
            Some(counter) => Some(Arc::clone(counter)),
            None => {
                let limit = self.plan.limits.get(at)?;
                let address = client.map_or(IpAddr::from([0, 0, 0, 0]), source_of);
                Some(new_counter(&self.source, limit, Subject::Ip(address), counters))
            }
        }
    }
}

fn siphash(keys: (u64, u64), text: &[u8]) -> u128 {
    let mut hasher = SipHasher13::new_with_keys(keys.0, keys.1);
    hasher.write(text);
    hasher.finish128().as_u128()
}

/// A plan as requests use it.
#[derive(Debug)]
pub(crate) struct CompiledPlan {
    pub(crate) limits: Box<[CompiledLimit]>,
    live: Box<[RouteLimits]>,
    test: Box<[RouteLimits]>,
}

#[derive(Debug)]
pub(crate) struct CompiledLimit {
    pub(crate) limit: Arc<Limit>,
    pub(crate) name: Arc<str>,
    meter_name: Arc<str>,
    pub(crate) meter: MeterIndex,
    pub(crate) rate: RateSpec,
}

/// The limits that apply to one route.
#[derive(Debug)]
pub(crate) struct RouteLimits {
    pub(crate) applied: Box<[Applied]>,
    pub(crate) policy: Option<HeaderValue>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Applied {
    /// Place of the limit in the plan.
    pub(crate) at: usize,
    /// Units known at admission.
    pub(crate) units: Option<u64>,
}

impl CompiledPlan {
    pub(crate) fn new(plan: &Plan, routes: &Routes, meters: &Meters) -> Self {
        let limits: Box<[CompiledLimit]> =
            plan.limits.iter().filter_map(|limit| compile_limit(limit, meters)).collect();
        let by_route = |test: bool| routes.iter().map(|route| route_limits(&limits, route, test)).collect();
        Self { live: by_route(false), test: by_route(true), limits }
    }

    pub(crate) fn on_route(&self, route: RouteIndex, environment: Environment) -> Option<&RouteLimits> {
        match environment {
            Environment::Live => self.live.get(route.position()),
            Environment::Test => self.test.get(route.position()),
        }
    }
}

fn compile_limit(limit: &Limit, meters: &Meters) -> Option<CompiledLimit> {
    let Some(meter) = meters.index(&limit.meter) else {
        tracing::warn!(
            limit = limit.name,
            meter = limit.meter,
            "a limit is for a meter that is not declared: it is not enforced"
        );
        return None;
    };
    let seconds = limit.per.and_then(Per::seconds).unwrap_or(1);
    Some(CompiledLimit {
        name: limit.name.as_str().into(),
        meter_name: limit.meter.as_str().into(),
        meter,
        rate: RateSpec::new(limit.units, seconds, limit.burst),
        limit: Arc::new(limit.clone()),
    })
}

fn route_limits(limits: &[CompiledLimit], route: &crate::routes::CompiledRoute, test: bool) -> RouteLimits {
    let mut policy = String::new();
    let mut applied = Vec::new();
    for (at, compiled) in limits.iter().enumerate() {
        let limit = &compiled.limit;
        let named = limit.routes.as_ref().is_none_or(|routes| routes.iter().any(|name| **name == *route.name));
        let units = match limit.kind {
            LimitKind::Concurrency => Some(1),
            LimitKind::Rate | LimitKind::Quota => route.known_cost(compiled.meter),
        };
        // A test key takes no quota; a call that costs nothing is not limited.
        if !named || units == Some(0) || (test && limit.kind == LimitKind::Quota) {
            continue;
        }
        applied.push(Applied { at, units });
        let separator = if policy.is_empty() { "" } else { ", " };
        let _ = match limit.kind {
            LimitKind::Rate => {
                let seconds = limit.per.and_then(Per::seconds).unwrap_or(1);
                let window = limit.burst.saturating_mul(seconds).div_ceil(limit.units.max(1)).max(1);
                write!(policy, "{separator}\"{}\";q={};w={window}", limit.name, limit.burst)
            }
            LimitKind::Quota => {
                let window = limit.per.map_or(1, Per::longest_seconds);
                write!(policy, "{separator}\"{}\";q={};w={window}", limit.name, limit.units)
            }
            LimitKind::Concurrency => write!(policy, "{separator}\"{}\";q={}", limit.name, limit.units),
        };
    }
    let policy = if policy.is_empty() { None } else { HeaderValue::try_from(policy).ok() };
    RouteLimits { applied: applied.into(), policy }
}

/// Snapshots by credential, plans by version, and the counters they share.
pub(crate) struct CallerCache {
    callers: quick_cache::sync::Cache<CredentialId, Arc<Caller>>,
    plans: Mutex<HashMap<(String, u32), Weak<CompiledPlan>>>,
    recent: RecentChanges,
    tag_keys: (u64, u64),
    /// Secrets used since they were last written down.
    uses: Mutex<HashMap<CredentialId, Timestamp>>,
    /// What of it is kept on disk, once it is known whether the key store is there.
    disk: OnceLock<Snapshots>,
    /// Whether the key store failed last.
    pub(crate) away: AtomicBool,
    /// Whether that was something that an operator must mend.
    pub(crate) unusable: AtomicBool,
    /// Whether the key store was heard of, now or by an earlier process whose callers are known: before, nobody can be served.
    pub(crate) heard: AtomicBool,
}

pub(crate) enum Cached {
    Known(Arc<Caller>),
    /// The id is known, the secret is another.
    Wrong,
    Missing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FillError {
    Unknown,
    Away,
}

/// A request waits so long for its key to be looked up, in all; [`RecentChanges`] remembers longer.
const FILL_TIME: Duration = Duration::from_secs(2);
/// The same where it is known that the store is away.
const FILL_TIME_AWAY: Duration = Duration::from_millis(300);
/// Uses noted between two writes, at most.
const MOST_USES: usize = 65_536;

impl CallerCache {
    pub(crate) fn new(capacity: usize, tag_keys: (u64, u64)) -> Self {
        Self {
            callers: quick_cache::sync::Cache::new(capacity),
            plans: Mutex::default(),
            recent: RecentChanges::default(),
            tag_keys,
            uses: Mutex::default(),
            disk: OnceLock::new(),
            away: AtomicBool::new(false),
            unusable: AtomicBool::new(false),
            heard: AtomicBool::new(false),
        }
    }

    pub(crate) fn cached(&self, presented: &PresentedKey<'_>, pepper: &Pepper) -> Cached {
        match self.callers.get(&presented.credential()) {
            Some(caller) if caller.holds(presented, pepper) => Cached::Known(caller),
            Some(_) => Cached::Wrong,
            None => Cached::Missing,
        }
    }

    /// Asks the store; one question however many wait for the same key.
    pub(crate) async fn fill(
        &self,
        gate: &Arc<GateCore>,
        presented: &PresentedKey<'_>,
    ) -> Result<Arc<Caller>, FillError> {
        // Not of each question: after one that had no answer the next who waits asks anew, and the last would wait for all of them.
        let patience = if self.away.load(Ordering::Relaxed) { FILL_TIME_AWAY } else { FILL_TIME };
        tokio::time::timeout(patience, self.read(gate, presented)).await.unwrap_or_else(|_| {
            self.away.store(true, Ordering::Relaxed);
            Err(FillError::Away)
        })
    }

    async fn read(&self, gate: &Arc<GateCore>, presented: &PresentedKey<'_>) -> Result<Arc<Caller>, FillError> {
        let credential = presented.credential();
        // A change during the fill makes another necessary; changes faster than fills are told by an error, not served stale.
        for _ in 0..4 {
            let before = self.recent.count();
            let load = async {
                let resolve = async {
                    gate.pepper_rule.check().await?;
                    gate.keys.resolve(&credential).await
                };
                match resolve.await {
                    Ok(Some(resolved)) => Ok(Arc::new(self.snapshot(gate, credential, resolved, before))),
                    Ok(None) => Err(FillError::Unknown),
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "key store did not answer");
                        Err(FillError::Away)
                    }
                }
            };
            let filled = self.callers.get_or_insert_async(&credential, load).await;
            self.away.store(matches!(filled, Err(FillError::Away)), Ordering::Relaxed);
            let caller = filled?;
            // Once it is in the cache: who writes callers down looks there.
            self.disk.get().into_iter().for_each(|disk| disk.filled(credential));
            if !self.recent.any_after(caller.read_after, |changed| caller.is_touched_by(changed)) {
                return Ok(caller);
            }
            self.callers.remove(&credential);
        }
        Err(FillError::Away)
    }

    /// Drops what a change touches, here and on disk.
    pub(crate) fn apply(&self, changed: &Changed, now: Monotonic) {
        match self.disk.get() {
            Some(disk) => disk.apply(changed, || self.forget(changed, now)),
            None => self.forget(changed, now),
        }
    }

    /// Drops everybody because nothing was heard of changes for too long. It is no change: what is on disk is as old, and judged by that.
    pub(crate) fn expire(&self, now: Monotonic) {
        self.forget(&Changed::All, now);
    }

    fn forget(&self, changed: &Changed, now: Monotonic) {
        // Noted first, removed second: see `feed`.
        self.recent.note(changed, now);
        self.callers.retain(|_, caller| !caller.is_touched_by(changed));
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, plan| plan.strong_count() > 0);
    }

    /// From now on what is known is kept on disk too. To be called once, before anybody is served.
    pub(crate) fn keep_on(&self, disk: Snapshots) {
        // A second one would be of the same folder.
        let _ = self.disk.set(disk);
    }

    /// Knows what an earlier process knew. Everything but the store's word is made anew.
    pub(crate) fn adopt(&self, gate: &GateCore, callers: Vec<(CredentialId, ResolvedKey)>) {
        let before = self.recent.count();
        for (credential, resolved) in callers {
            self.callers.insert(credential, Arc::new(self.snapshot(gate, credential, resolved, before)));
        }
    }

    /// Brings the disk up to date: who is known, if `whole`, else who is new. Says whether all who are known were written. Blocks.
    pub(crate) fn keep(&self, whole: bool) -> bool {
        let Some(disk) = self.disk.get() else { return false };
        disk.sync();
        let kept = whole && disk.keep(|| self.known(self.callers.iter().map(|(_, caller)| caller)));
        disk.add(|new| self.known(new.iter().filter_map(|credential| self.callers.peek(credential))));
        kept
    }

    /// The feed has answered, and what it said is applied.
    pub(crate) fn heard_of(&self, heard: Heard) {
        self.heard.store(true, Ordering::Relaxed);
        self.disk.get().into_iter().for_each(|disk| disk.heard(heard));
    }

    /// Of callers that were taken from the cache those that no change has touched which was applied before.
    fn known(&self, callers: impl Iterator<Item = Arc<Caller>>) -> Vec<Known> {
        let latest = self.recent.latest();
        // A fill that came too late is in the cache until it has looked at the changes itself.
        let known = callers.filter(|caller| !latest.any_after(caller.read_after, caller.key, caller.tenant));
        known.map(|caller| (caller.credential, Arc::clone(&caller.source))).take(MOST_KEPT).collect()
    }

    fn compiled(&self, plan: &Plan, gate: &GateCore) -> Arc<CompiledPlan> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let known = plans.entry((plan.id.clone(), plan.version)).or_default();
        if let Some(compiled) = known.upgrade() {
            return compiled;
        }
        let compiled = Arc::new(CompiledPlan::new(plan, &gate.routes, &gate.meters));
        *known = Arc::downgrade(&compiled);
        compiled
    }

    fn snapshot(&self, gate: &GateCore, credential: CredentialId, resolved: ResolvedKey, read_after: u64) -> Caller {
        let plan = self.compiled(&resolved.plan, gate);
        let counters = plan.limits.iter().map(|limit| {
            let subject = match limit.limit.counted_by {
                CountedBy::Tenant => Subject::Tenant,
                CountedBy::User => Subject::User(resolved.key.user),
                CountedBy::Key => Subject::Key(resolved.key.id),
                CountedBy::Ip => return None,
            };
            Some(new_counter(&resolved, limit, subject, &gate.counters))
        });
        let counters: Box<[Option<Arc<Counter>>]> = counters.collect();
        for counter in counters.iter().flatten() {
            // What was leased under a higher cap goes back at once, and not with the next tick.
            if matches!(&counter.state, CounterState::Quota(quota) if quota.has_recalled()) {
                gate.queue.ask_for(counter);
            }
        }
        let secret_end =
            resolved.key.secrets.iter().find(|secret| secret.credential == credential).and_then(|s| s.expires_at);
        let usable_until = [resolved.key.expires_at, secret_end].into_iter().flatten().min();
        Caller {
            key: resolved.key.id,
            environment: resolved.key.environment,
            scopes: resolved.key.scopes.clone().into(),
            tenant: resolved.tenant.id,
            user: resolved.key.user,
            plan_id: resolved.plan.id.as_str().into(),
            plan_version: resolved.plan.version,
            identity: identity(&resolved),
            usable_until: usable_until.unwrap_or(Timestamp::from_micros(i64::MAX)),
            plan,
            counters,
            credential,
            read_after,
            tag: OnceLock::new(),
            tag_keys: self.tag_keys,
            used_minute: AtomicU64::new(0),
            bucket: AtomicU64::new(0),
            source: Arc::new(resolved),
        }
    }

    /// Notes that a secret was used, at most once a minute each.
    pub(crate) fn note_use(&self, caller: &Caller, at: Timestamp) {
        let minute = u64::try_from(at.as_micros() / 60_000_000).unwrap_or(0);
        // Relaxed: noting twice does no harm.
        if caller.used_minute.load(Ordering::Relaxed) == minute {
            return;
        }
        caller.used_minute.store(minute, Ordering::Relaxed);
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        if uses.len() < MOST_USES {
            uses.insert(caller.credential, at);
        }
    }

    pub(crate) fn take_uses(&self) -> Vec<LastUse> {
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *uses).into_iter().map(|(credential, at)| LastUse { credential, at }).collect()
    }
}

impl std::fmt::Debug for CallerCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallerCache").field("callers", &self.callers.len()).finish_non_exhaustive()
    }
}

fn new_counter(
    resolved: &ResolvedKey,
    compiled: &CompiledLimit,
    subject: Subject,
    counters: &Counters,
) -> Arc<Counter> {
    let limit = &compiled.limit;
    let id = CounterId {
        tenant: resolved.tenant.id,
        subject,
        limit: Arc::clone(&compiled.name),
        meter: Arc::clone(&compiled.meter_name),
        per: limit.per.unwrap_or(Per::Second),
    };
    let terms = || crate::lease::QuotaTerms {
        calendar: resolved.tenant.calendar.clone(),
        cap: limit.units,
        // The feed's position and not the plan's version: it grows too when a tenant moves to another plan.
        cap_version: u32::try_from(resolved.position.0).unwrap_or(u32::MAX),
        beyond_cap: limit.when_exceeded == WhenExceeded::Allow,
    };
    let counter = counters.counter(limit.kind, id, || match limit.kind {
        LimitKind::Rate => counters.rate(rate_terms(limit)),
        LimitKind::Concurrency => counters.slots(limit.units),
        LimitKind::Quota => CounterState::Quota(QuotaCounter::new(terms())),
    });
    match &counter.state {
        CounterState::Quota(quota) => quota.set_terms(terms()),
        CounterState::SharedRate(rate) => rate.set_terms(rate_terms(limit)),
        CounterState::SharedSlots(slots) => slots.set_limit(limit.units),
        CounterState::Rate(_) | CounterState::Open(_) => {}
    }
    counter
}

fn rate_terms(limit: &Limit) -> RateTerms {
    RateTerms { units: limit.units, seconds: limit.per.and_then(Per::seconds).unwrap_or(1), burst: limit.burst }
}

fn identity(resolved: &ResolvedKey) -> IdentityHeaders {
    // Ids, scopes and plan ids are ASCII by their own rules; a value that is not would be empty, never absent or another's.
    let value = |text: String| HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
    let scopes: Vec<&str> = resolved.key.scopes.iter().map(Scope::as_str).collect();
    IdentityHeaders {
        tenant: value(resolved.tenant.id.to_string()),
        user: resolved.key.user.map(|user| value(user.to_string())),
        key: value(resolved.key.id.to_string()),
        plan: value(resolved.plan.id.clone()),
        scopes: value(scopes.join(" ")),
        environment: HeaderValue::from_static(resolved.key.environment.as_str()),
    }
}
