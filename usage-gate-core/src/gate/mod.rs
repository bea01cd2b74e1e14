//! The gate: the one place that joins stores, and where the steps of a request are linked.

mod builder;
mod following;
mod joining;
mod journal_config;
mod pepper_file;
mod pepper_rule;
mod recovery;
mod tasks;

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use http::header::HeaderName;
use tokio::sync::Semaphore;

use crate::admission::{
    Admission, Caller, CallerCache, Code, Credentials, Guard, LimitState, LimitView, Refusal, Refused, RequestHead,
};
use crate::clock::{Clock, Monotonic};
use crate::flush::Shipper;
use crate::journal::{Recorder, Refusals, Samples, Unrecorded};
use crate::lease::{Counters, LeaseDriver, LeaseQueue};
use crate::metrics::Metrics;
use crate::model::{Meters, Plan, Tenant, Timestamp};
use crate::rates::RateDrivers;
use crate::routes::Routes;
use crate::secret::Pepper;
use crate::store::{AccountStore, Changed, KeyStore, QuotaStore, SessionStore, StoreError, UsageReader};

pub use builder::{BuildError, UsageGateBuilder};
pub(crate) use journal_config::Recording;
pub use journal_config::{JournalConfig, WhenFull};
pub(crate) use pepper_rule::PepperRule;
#[cfg(test)]
pub(crate) use recovery::{Ground, Start};

/// Requests in flight of one process, at most.
const SEATS: usize = 65_536;
/// Answers that are read on after their client has left, at most, and for how long.
const BACKGROUND: u32 = 64;
const BACKGROUND_TIME: Duration = Duration::from_secs(60);
/// How long a drain waits for those.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// Cached callers, at most.
const CALLERS: usize = 1_000_000;

/// A gate: identity, limits and metering for the requests of one API. Cheap to clone.
///
/// ```
/// # use usage_gate_core::{UsageGate, routes::Route, clock::Clock, model::Meters, secret::Pepper, store::memory::MemoryStore};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let gate = UsageGate::builder()
///     .store(MemoryStore::new(Clock::system()))
///     .pepper(Pepper::new(&*Pepper::generate_bytes()?))
///     .route(Route::get("/v1/search").named("search").scope("search:read").cost(5))
///     .build()
///     .await?;
/// # gate.drain().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct UsageGate {
    core: Arc<GateCore>,
}

/// What the steps of a request read.
pub(crate) struct GateCore {
    pub(crate) clock: Clock,
    /// Wall clock less monotonic clock, in microseconds: one clock read a request instead of two.
    wall_offset: AtomicI64,
    pub(crate) routes: Arc<Routes>,
    pub(crate) meters: Meters,
    pub(crate) pepper: Pepper,
    pub(crate) pepper_rule: Arc<PepperRule>,
    pub(crate) credentials: Credentials,
    pub(crate) guard: Guard,
    pub(crate) callers: CallerCache,
    pub(crate) counters: Arc<Counters>,
    pub(crate) queue: Arc<LeaseQueue>,
    pub(crate) leases: Arc<LeaseDriver>,
    /// Where other nodes share the rates.
    pub(crate) rates: Option<RateDrivers>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) samples: Arc<Samples>,
    pub(crate) unrecorded: Arc<Unrecorded>,
    pub(crate) recording: Recording,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) keys: Arc<dyn KeyStore>,
    pub(crate) quotas: Arc<dyn QuotaStore>,
    pub(crate) accounts: Option<Arc<dyn AccountStore>>,
    sessions: Option<Arc<dyn SessionStore>>,
    reader: Option<Arc<dyn UsageReader>>,
    shipper: Arc<Shipper>,
    /// Leases went back: nothing is admitted any more.
    draining: AtomicBool,
    /// Balancers are told to look away; requests are still served.
    drain_told: AtomicBool,
    /// Nanoseconds for which known keys are served while the feed of changes is away.
    pub(crate) max_stale: u64,
    legacy_headers: bool,
    /// Room for work that goes on after its client has left.
    background: Arc<Semaphore>,
    tasks: Mutex<Vec<tokio::task::AbortHandle>>,
}

impl Drop for GateCore {
    fn drop(&mut self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            task.abort();
        }
        self.recorder.journal.end_syncs();
    }
}

impl fmt::Debug for GateCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GateCore").field("node", &self.leases.node).finish_non_exhaustive()
    }
}

impl fmt::Debug for UsageGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UsageGate").field("node", &self.core.leases.node).finish_non_exhaustive()
    }
}

/// Whether a gate can serve.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GateStatus {
    /// Requests are served.
    pub ready: bool,
    /// It is going away.
    pub draining: bool,
    /// Nobody can be served yet: the key store was away since the start, and nothing is known from before.
    pub loading: bool,
    /// Stores that did not answer last, by [`KeyStore::backend`](crate::store::KeyStore::backend). Requests that need none of them are served.
    pub degraded: Vec<&'static str>,
    /// Those of them that an operator must mend: the log says what is wrong.
    pub unusable: Vec<&'static str>,
}

/// Numbers of a gate, for tests and operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct GateNumbers {
    /// Calls to the quota store since the start.
    pub lease_calls: u64,
    /// Seats taken: requests in flight.
    pub seats: usize,
    /// Seats there are.
    pub capacity: usize,
    /// Records of this process that are not shipped.
    pub unshipped: u64,
    /// Bytes of the journal.
    pub journal_bytes: u64,
}

impl GateCore {
    pub(crate) fn wall_at(&self, now: Monotonic) -> Timestamp {
        let micros = i64::try_from(now.0 / 1_000).unwrap_or(i64::MAX);
        // Relaxed: a second-old offset is as good.
        Timestamp::from_micros(micros.saturating_add(self.wall_offset.load(Ordering::Relaxed)))
    }

    fn refresh_wall_offset(&self) {
        let offset = wall_offset(&self.clock);
        self.wall_offset.store(offset, Ordering::Relaxed);
    }

    /// A draining gate still serves until the listener closes; it refuses once its leases went back.
    pub(crate) fn draining_refusal(&self) -> Option<Refusal> {
        self.draining.load(Ordering::Relaxed).then(|| {
            Refusal::new(Code::Draining, "this node is shutting down: ask again, another will answer").retry_after(1)
        })
    }
}

fn wall_offset(clock: &Clock) -> i64 {
    let monotonic = i64::try_from(clock.monotonic().0 / 1_000).unwrap_or(i64::MAX);
    clock.wall().as_micros().saturating_sub(monotonic)
}

impl UsageGate {
    /// Begins a gate.
    pub fn builder() -> UsageGateBuilder {
        UsageGateBuilder::default()
    }

    /// Steps 1 to 5 of a request; see [`admission`](crate::admission).
    #[must_use]
    pub fn admit(&self, request: &RequestHead<'_>) -> Admission {
        self.core.admit(request)
    }

    /// Steps 1 to 4 of a request, as far as they need no store: the refusal that is certain before anything more is read of it. Spends nothing.
    ///
    /// `None` is no permission: [`admit`](Self::admit) decides.
    #[must_use]
    pub fn check_caller(&self, request: &RequestHead<'_>) -> Option<Box<Refused>> {
        self.core.check_caller(request)
    }

    /// Runs what goes on after a request's client has left; it is dropped after 60 seconds.
    ///
    /// `false`, with the work dropped, if 64 others run already, or outside a Tokio runtime.
    pub fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) -> bool {
        let room = Arc::clone(&self.core.background).try_acquire_owned();
        let (Ok(room), Ok(runtime)) = (room, tokio::runtime::Handle::try_current()) else { return false };
        runtime.spawn(async move {
            // What did not end in time settles itself when it is dropped.
            let _ = tokio::time::timeout(BACKGROUND_TIME, work).await;
            drop(room);
        });
        true
    }

    /// Who presents a key, if it can be used; for pages that show the caller itself. Takes no units.
    ///
    /// # Errors
    /// The [`Refusal`] that a request with this key would get.
    pub async fn authenticate(&self, headers: &HeaderMap, client: Option<IpAddr>) -> Result<Arc<Caller>, Refusal> {
        self.core.authenticate(headers, client).await
    }

    /// Whether this address is shut out now: on the deny list, or in the penalty box for guessers. For doors of a host's own, such as a login;
    /// [`admit`](Self::admit) and [`authenticate`](Self::authenticate) ask it themselves.
    ///
    /// ```
    /// # use usage_gate_core::{UsageGate, admission::Code, clock::Clock, secret::Pepper, store::memory::MemoryStore};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let builder = UsageGate::builder().store(MemoryStore::new(Clock::system())).pepper(Pepper::new(&[7; 32]));
    /// let gate = builder.bad_credentials(2).build().await?;
    /// let client = Some("192.0.2.7".parse()?);
    /// gate.check_source(client).unwrap();
    /// gate.note_bad_credential(client);
    /// gate.note_bad_credential(client);
    /// let refusal = gate.check_source(client).unwrap_err();
    /// assert_eq!((refusal.code, refusal.retry_after), (Code::AbuseBlocked, Some(60)));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The [`Refusal`] to answer with: `abuse_blocked`, with the seconds until the source is released if it will be.
    pub fn check_source(&self, client: Option<IpAddr>) -> Result<(), Refusal> {
        self.core.check_source(client, self.core.clock.monotonic()).map_or(Ok(()), Err)
    }

    /// Counts a credential that was made up: one that nobody ever had, not one that was forgotten, expired or revoked. After too many in a
    /// minute the source (an IPv4 address, an IPv6 /64) is shut out; see [`check_source`](Self::check_source).
    ///
    /// Keys are counted by [`admit`](Self::admit) and [`authenticate`](Self::authenticate) themselves.
    pub fn note_bad_credential(&self, client: Option<IpAddr>) {
        self.core.note_bad_credential(client, self.core.clock.monotonic());
    }

    /// How the limits of a tenant stand, exact to this moment for what this node knows.
    ///
    /// # Errors
    /// [`StoreError`] if the quota or account store does not answer.
    pub async fn limit_states(
        &self,
        tenant: &Tenant,
        plan: &Plan,
        view: LimitView,
    ) -> Result<Vec<LimitState>, StoreError> {
        self.core.limit_states(tenant, plan, view).await
    }

    /// Drops what is cached of something that changed, at once: to be called after the change is stored and before it is answered. Other nodes are told, where there is a
    /// [`RateStore`](crate::store::RateStore) with a bell, beside what the key store tells them.
    pub fn changed(&self, changed: &Changed) {
        self.core.callers.apply(changed, self.core.clock.monotonic());
        if let (Some(rates), Ok(runtime)) = (&self.core.rates, tokio::runtime::Handle::try_current()) {
            let bell = Arc::clone(&rates.fast);
            drop(runtime.spawn(async move { bell.ring().await }));
        }
    }

    /// Ships usage and reports leases now, so that reads are fresh.
    ///
    /// # Errors
    /// [`StoreError`] if a store does not answer; nothing is lost, it is shipped later.
    pub async fn ship(&self) -> Result<(), StoreError> {
        self.core.shipper.flush().await?;
        self.core.leases.report().await
    }

    /// From here on [`status`](Self::status) is not ready, while requests are still served.
    pub fn start_draining(&self) {
        self.core.drain_told.store(true, Ordering::Release);
    }

    /// Gives leases back, ships usage and stops the background tasks. Requests are refused with `draining` from here on.
    /// May be called again if it failed.
    ///
    /// # Errors
    /// [`StoreError`] if a store does not answer.
    pub async fn drain(&self) -> Result<(), StoreError> {
        self.core.drain_told.store(true, Ordering::Release);
        self.core.draining.store(true, Ordering::Release);
        let tasks = std::mem::take(&mut *self.core.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            task.abort();
        }
        // What they use is to be among what is given back and shipped; those that take longer are for the next start.
        let all = self.core.background.acquire_many(BACKGROUND);
        if tokio::time::timeout(DRAIN_TIME, all).await.is_err() {
            tracing::warn!(
                "answers are still read whose clients have left: they are recorded, and shipped at the next start"
            );
        }
        let given_back = self.core.leases.give_back().await;
        let uses = self.core.callers.take_uses();
        if !uses.is_empty()
            && let Err(error) = self.core.keys.mark_used(&uses).await
        {
            // A hint for people is no reason to keep usage back.
            tracing::warn!(error = &error as &dyn std::error::Error, "last uses were not written");
        }
        let core = Arc::clone(&self.core);
        // For a restart that does not find the key store. What cannot be written is logged there.
        let _ = tokio::task::spawn_blocking(move || core.callers.keep(true)).await;
        let journal = Arc::clone(&self.core.recorder.journal);
        // Nobody does it any more: and shipping may take longer than the process is given.
        let _ = tokio::task::spawn_blocking(move || journal.sum()).await;
        let shipped = self.core.shipper.flush().await;
        let (journal, seals) = (Arc::clone(&self.core.recorder.journal), shipped.is_ok());
        let sealed = tokio::task::spawn_blocking(move || {
            if seals {
                return journal.seal();
            }
            journal.sum();
            Ok(false)
        });
        // Not sealed, for a request that is still under way or a disk that fails, is no loss: the next start does it.
        if let Ok(Err(error)) = sealed.await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the journal could not be sealed");
        }
        shipped?;
        given_back
    }

    /// Whether it can serve.
    #[must_use]
    pub fn status(&self) -> GateStatus {
        let core = &self.core;
        let now = core.clock.monotonic();
        let of_books = [
            (core.keys.backend(), core.callers.away.load(Ordering::Relaxed)),
            (core.quotas.backend(), core.leases.is_away(now)),
            (core.shipper.sink.backend(), core.shipper.away.load(Ordering::Relaxed)),
        ];
        let of_rates =
            core.rates.iter().flat_map(RateDrivers::all).map(|driver| (driver.backend(), driver.is_away(now)));
        let away = of_books.into_iter().chain(of_rates).filter(|(_, away)| *away);
        // One store may be asked for several things.
        let mut degraded: Vec<_> = away.map(|(backend, _)| backend).collect();
        degraded.sort_unstable();
        degraded.dedup();
        let unusable_keys = core.callers.unusable.load(Ordering::Relaxed).then(|| core.keys.backend());
        let drivers = core.rates.iter().flat_map(RateDrivers::all);
        let unusable_rates = drivers.filter(|driver| driver.is_unusable()).map(|driver| driver.backend());
        let mut unusable: Vec<_> = unusable_keys.into_iter().chain(unusable_rates).collect();
        unusable.sort_unstable();
        unusable.dedup();
        let loading = !core.callers.heard.load(Ordering::Relaxed);
        let draining = core.draining.load(Ordering::Relaxed) || core.drain_told.load(Ordering::Relaxed);
        let seats = &core.recorder.seats;
        let room = seats.taken() < seats.capacity() && core.recorder.journal.has_room();
        GateStatus {
            ready: !draining && !loading && (room || core.recording != Recording::Records(WhenFull::Refuse)),
            draining,
            loading,
            degraded,
            unusable,
        }
    }

    /// Numbers for tests and operators.
    #[must_use]
    pub fn numbers(&self) -> GateNumbers {
        GateNumbers {
            lease_calls: self.core.leases.calls.load(Ordering::Relaxed),
            seats: self.core.recorder.seats.taken(),
            capacity: self.core.recorder.seats.capacity(),
            unshipped: self.core.recorder.unshipped(),
            journal_bytes: self.core.recorder.journal.size().0,
        }
    }

    /// Its clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.core.clock
    }

    /// Its meters.
    #[must_use]
    pub fn meters(&self) -> &Meters {
        &self.core.meters
    }

    /// Its routes.
    #[must_use]
    pub fn routes(&self) -> &Routes {
        &self.core.routes
    }

    /// Checks that keys in the store are made with the pepper of this gate, if the store was away when that was to be found out.
    ///
    /// # Errors
    /// [`StoreError`] if they are not, or the store does not answer.
    pub(crate) async fn check_pepper(&self) -> Result<(), StoreError> {
        self.core.pepper_rule.check().await
    }

    /// Its pepper.
    #[must_use]
    pub fn pepper(&self) -> &Pepper {
        &self.core.pepper
    }

    /// What its keys begin with.
    #[must_use]
    pub fn key_prefix(&self) -> &str {
        &self.core.credentials.prefix
    }

    /// Headers in which keys are looked for.
    #[must_use]
    pub fn key_headers(&self) -> &[HeaderName] {
        &self.core.credentials.headers
    }

    /// Whether answers also carry `x-ratelimit-*`.
    #[must_use]
    pub fn legacy_headers(&self) -> bool {
        self.core.legacy_headers
    }

    /// Management of accounts, if a store for them was given.
    #[must_use]
    pub fn accounts(&self) -> Option<&Arc<dyn AccountStore>> {
        self.core.accounts.as_ref()
    }

    /// Portal links and sessions, if a store for them was given.
    #[must_use]
    pub fn sessions(&self) -> Option<&Arc<dyn SessionStore>> {
        self.core.sessions.as_ref()
    }

    /// Usage as dashboards read it, if a store for that was given.
    #[must_use]
    pub fn reader(&self) -> Option<&Arc<dyn UsageReader>> {
        self.core.reader.as_ref()
    }

    /// Counts units that a handler or upstream stated for a meter that is not declared.
    pub fn note_undeclared_meter(&self) {
        self.core.metrics.undeclared_meter();
    }
}
