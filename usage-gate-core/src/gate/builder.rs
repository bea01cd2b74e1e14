//! How a gate is put together.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderName};

use super::{CALLERS, GateCore, SEATS, UsageGate, wall_offset};
use crate::admission::{CallerCache, Credentials, Guard};
use crate::clock::Clock;
use crate::flush::{Flusher, Progress};
use crate::journal::{Recorder, Refusals};
use crate::kernel::KernelBoot;
use crate::lease::{Counters, LeaseDriver, LeaseQueue, LeaseTable, TableError};
use crate::mapped::Area;
use crate::metrics::Metrics;
use crate::model::{AddressRange, Meters, MetersError, StreamId};
use crate::routes::{Route, RouteError, Routes};
use crate::secret::{NoRandomness, Pepper};
use crate::store::{
    AccountStore, Changed, FeedPosition, KeyStore, NodeIdentity, QuotaStore, SessionStore, StoreError, StoreErrorKind,
    UsageReader, UsageSink,
};

/// Bad credentials within a minute that are too many.
const BAD_CREDENTIALS: u16 = 20;
/// For how long they shut a source out at first.
const BLOCK_FOR: Duration = Duration::from_secs(60);

/// Puts a [`UsageGate`] together; [`build`](Self::build) says what is missing or wrong.
#[derive(Debug, Default)]
#[must_use]
pub struct UsageGateBuilder {
    keys: Option<Arc<dyn KeyStore>>,
    quotas: Option<Arc<dyn QuotaStore>>,
    usage: Option<Arc<dyn UsageSink>>,
    accounts: Option<Arc<dyn AccountStore>>,
    sessions: Option<Arc<dyn SessionStore>>,
    reader: Option<Arc<dyn UsageReader>>,
    pepper: Option<Pepper>,
    pepper_file: Option<PathBuf>,
    routes: Vec<Route>,
    meters: Vec<String>,
    key_prefix: Option<String>,
    key_headers: Option<Vec<String>>,
    denied: Vec<AddressRange>,
    allowed: Vec<AddressRange>,
    bad_credentials: Option<u16>,
    block_for: Option<Duration>,
    node: Option<String>,
    clock: Clock,
    legacy_headers: bool,
    seats: Option<usize>,
}

/// Why a gate cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Something necessary was not given.
    #[error("{0} is missing: call UsageGateBuilder::{1}")]
    Missing(&'static str, &'static str),
    /// A route cannot be used.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// A meter cannot be used.
    #[error(transparent)]
    Meters(#[from] MetersError),
    /// The prefix of keys is malformed.
    #[error("key prefix `{0}`: 1 to 16 of a-z, A-Z and 0-9")]
    KeyPrefix(String),
    /// A header in which keys are to be looked for is malformed, or there is none.
    #[error("key header `{0}`: not a header name")]
    KeyHeader(String),
    /// Guessers are to be shut out for no time at all.
    #[error("block_for must be above zero: set bad_credentials to 0 to shut nobody out")]
    BlockFor,
    /// The number of seats is 0.
    #[error("max_seats must be at least 1")]
    Seats,
    /// The pepper's file cannot be read or made.
    #[error("pepper file {path}: {reason}")]
    PepperFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        reason: &'static str,
        /// The system's word.
        source: Option<std::io::Error>,
    },
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] NoRandomness),
    /// The table of leases is not this node's, or cannot be opened.
    #[error(transparent)]
    LeaseTable(#[from] TableError),
    /// A store did not answer.
    #[error("the store cannot be used at the start")]
    Store(#[from] StoreError),
}

impl UsageGateBuilder {
    /// One store for everything.
    pub fn store<S>(self, store: S) -> Self
    where
        S: KeyStore + QuotaStore + UsageSink + AccountStore + SessionStore + UsageReader + Clone,
    {
        self.keys(Arc::new(store.clone()))
            .quotas(Arc::new(store.clone()))
            .usage(Arc::new(store.clone()))
            .accounts(Arc::new(store.clone()))
            .sessions(Arc::new(store.clone()))
            .reader(Arc::new(store))
    }

    /// Who resolves keys.
    pub fn keys(mut self, keys: Arc<dyn KeyStore>) -> Self {
        self.keys = Some(keys);
        self
    }

    /// The authority of quotas.
    pub fn quotas(mut self, quotas: Arc<dyn QuotaStore>) -> Self {
        self.quotas = Some(quotas);
        self
    }

    /// Where usage ends up.
    pub fn usage(mut self, usage: Arc<dyn UsageSink>) -> Self {
        self.usage = Some(usage);
        self
    }

    /// Management of accounts; without it there is no admin API.
    pub fn accounts(mut self, accounts: Arc<dyn AccountStore>) -> Self {
        self.accounts = Some(accounts);
        self
    }

    /// Portal links and sessions; without it users sign in by the host's own login only.
    pub fn sessions(mut self, sessions: Arc<dyn SessionStore>) -> Self {
        self.sessions = Some(sessions);
        self
    }

    /// Where dashboards read usage.
    pub fn reader(mut self, reader: Arc<dyn UsageReader>) -> Self {
        self.reader = Some(reader);
        self
    }

    /// The server's secret for keys.
    pub fn pepper(mut self, pepper: Pepper) -> Self {
        self.pepper = Some(pepper);
        self
    }

    /// A file with the server's secret for keys; made, readable by its owner only, if it is not there.
    ///
    /// Keep it, and keep a copy apart from the database's: without it no key works.
    pub fn pepper_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.pepper_file = Some(path.into());
        self
    }

    /// Adds a route. Without any, one route `default` takes every path.
    pub fn route(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }

    /// Adds routes.
    pub fn routes(mut self, routes: impl IntoIterator<Item = Route>) -> Self {
        self.routes.extend(routes);
        self
    }

    /// Declares a meter beyond the built-in ones.
    pub fn meter(mut self, name: impl Into<String>) -> Self {
        self.meters.push(name.into());
        self
    }

    /// What keys begin with; default `ug`.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = Some(prefix.into());
        self
    }

    /// Headers in which keys are looked for; default `x-api-key` and `authorization` (as bearer token).
    pub fn key_headers<I>(mut self, headers: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.key_headers = Some(headers.into_iter().map(Into::into).collect());
        self
    }

    /// Refuses every request from these addresses, on public routes too. It wins over [`allow`](Self::allow).
    pub fn deny(mut self, addresses: impl IntoIterator<Item = AddressRange>) -> Self {
        self.denied.extend(addresses);
        self
    }

    /// Never shuts these addresses out for bad credentials, and does not count any: for many clients behind one address, and for
    /// proxies that may stand where a client's address is not known.
    pub fn allow(mut self, addresses: impl IntoIterator<Item = AddressRange>) -> Self {
        self.allowed.extend(addresses);
        self
    }

    /// Bad credentials within a minute from one source (an IPv4 address, an IPv6 /64) that are too many; default 20, 0 for never.
    ///
    /// Whatever the source sends is then refused for a while, so the gate must know the client's address and not that of a proxy of yours: see
    /// [`RequestHead::client`](crate::admission::RequestHead::client).
    pub const fn bad_credentials(mut self, a_minute: u16) -> Self {
        self.bad_credentials = Some(a_minute);
        self
    }

    /// For how long such a source is shut out; default a minute. Each time within an hour of the last it is twice as long, up to a quarter of
    /// an hour.
    pub const fn block_for(mut self, time: Duration) -> Self {
        self.block_for = Some(time);
        self
    }

    /// The node's name, the same through restarts; default `node`.
    pub fn node(mut self, name: impl Into<String>) -> Self {
        self.node = Some(name.into());
        self
    }

    /// Where time comes from.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Whether answers also carry the older `x-ratelimit-*` headers.
    pub const fn legacy_headers(mut self, yes: bool) -> Self {
        self.legacy_headers = yes;
        self
    }

    /// Requests in flight and records not yet shipped, at most; beyond it requests get 503 `journal_unavailable`.
    pub const fn max_seats(mut self, seats: usize) -> Self {
        self.seats = Some(seats);
        self
    }

    /// Builds the gate, announces this process life to the quota store and starts the background tasks on the current Tokio runtime.
    ///
    /// # Errors
    /// [`BuildError`] says which value is missing or wrong.
    pub async fn build(self) -> Result<UsageGate, BuildError> {
        let keys = self.keys.ok_or(BuildError::Missing("a key store", "store or keys"))?;
        let quotas = self.quotas.ok_or(BuildError::Missing("a quota store", "store or quotas"))?;
        let sink = self.usage.ok_or(BuildError::Missing("a usage sink", "store or usage"))?;
        let pepper = match (self.pepper, self.pepper_file) {
            (Some(pepper), _) => pepper,
            (None, Some(path)) => super::pepper_file::read_or_make(&path)?,
            (None, None) => return Err(BuildError::Missing("a pepper", "pepper_file or pepper")),
        };
        let prefix = self.key_prefix.unwrap_or_else(|| "ug".to_owned());
        if prefix.is_empty() || prefix.len() > 16 || !prefix.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(BuildError::KeyPrefix(prefix));
        }
        let credentials = Credentials { headers: key_headers(self.key_headers)?, prefix: prefix.into() };
        let seats = self.seats.unwrap_or(SEATS);
        if seats == 0 {
            return Err(BuildError::Seats);
        }
        let block_for = self.block_for.unwrap_or(BLOCK_FOR);
        if block_for.is_zero() {
            return Err(BuildError::BlockFor);
        }
        let bad_credentials = self.bad_credentials.unwrap_or(BAD_CREDENTIALS);
        let guard = Guard::new(&self.denied, &self.allowed, bad_credentials, block_for)?;
        let meters = Meters::new(&self.meters)?;
        let routes = Arc::new(Routes::compile(self.routes, &meters)?);
        let (node, boot) = (self.node.unwrap_or_else(|| "node".to_owned()), StreamId::generate());
        let (table, found) = LeaseTable::open(&Area::memory(), &node, boot, KernelBoot::current())?;
        let node = NodeIdentity { node, boot, table: table.id() };
        let open = quotas.register(&node).await?;
        let position = keys.position().await?;

        let metrics = Arc::new(Metrics::new(&routes));
        let counters = Arc::new(Counters::default());
        let queue = Arc::new(LeaseQueue::default());
        let recorder = Arc::new(Recorder::new(seats));
        let refusals = Arc::new(Refusals::default());
        let leases = Arc::new(LeaseDriver {
            store: Arc::clone(&quotas),
            node: node.clone(),
            table,
            clock: self.clock.clone(),
            counters: Arc::clone(&counters),
            queue: Arc::clone(&queue),
            metrics: Arc::clone(&metrics),
            away: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            turn: tokio::sync::Mutex::new(None),
        });
        leases.take_over(&open, found).await?;
        let flusher = Arc::new(Flusher {
            sink,
            stream: node.boot,
            clock: self.clock.clone(),
            recorder: Arc::clone(&recorder),
            refusals: Arc::clone(&refusals),
            routes: Arc::clone(&routes),
            meters: meters.clone(),
            metrics: Arc::clone(&metrics),
            away: AtomicBool::new(false),
            progress: tokio::sync::Mutex::new(Progress::default()),
        });
        let core = Arc::new(GateCore {
            wall_offset: AtomicI64::new(wall_offset(&self.clock)),
            clock: self.clock,
            routes,
            meters,
            pepper,
            credentials,
            guard,
            callers: CallerCache::new(CALLERS, tag_keys()?),
            counters,
            queue,
            leases,
            recorder,
            refusals,
            metrics,
            keys,
            quotas,
            accounts: self.accounts,
            sessions: self.sessions,
            reader: self.reader,
            flusher,
            draining: AtomicBool::new(false),
            drain_told: AtomicBool::new(false),
            legacy_headers: self.legacy_headers,
            tasks: Mutex::default(),
        });
        start_tasks(&core, position);
        Ok(UsageGate { core })
    }
}

fn key_headers(names: Option<Vec<String>>) -> Result<Box<[HeaderName]>, BuildError> {
    let Some(names) = names else {
        return Ok([HeaderName::from_static("x-api-key"), AUTHORIZATION].into());
    };
    if names.is_empty() {
        return Err(BuildError::KeyHeader(String::new()));
    }
    names.into_iter().map(|name| HeaderName::try_from(&name).map_err(|_| BuildError::KeyHeader(name))).collect()
}

fn tag_keys() -> Result<(u64, u64), NoRandomness> {
    let mut halves = [[0u8; 8]; 2];
    for half in &mut halves {
        getrandom::fill(half).map_err(|_| NoRandomness)?;
    }
    Ok((u64::from_le_bytes(halves[0]), u64::from_le_bytes(halves[1])))
}

/// Starts what runs beside requests. Tasks hold the gate weakly where they can live longer than it, and end with it.
fn start_tasks(core: &Arc<GateCore>, position: FeedPosition) {
    let leases = Arc::clone(&core.leases);
    let flusher = Arc::clone(&core.flusher);
    let tasks = [
        tokio::spawn(async move { leases.run().await }),
        tokio::spawn(async move { flusher.run().await }),
        tokio::spawn(follow_changes(Arc::downgrade(core), position)),
        tokio::spawn(keep_house(Arc::downgrade(core))),
    ];
    let mut handles = core.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    handles.extend(tasks.iter().map(tokio::task::JoinHandle::abort_handle));
}

/// How long known keys are served while the feed of changes is away: an hour.
const MAX_STALE_NANOS: u64 = 3_600 * 1_000_000_000;

/// C: applies changes of the key store's feed.
async fn follow_changes(core: std::sync::Weak<GateCore>, mut position: FeedPosition) {
    let mut away_since = None;
    loop {
        let Some(keys) = core.upgrade().map(|core| Arc::clone(&core.keys)) else { return };
        let changes = keys.changes(position).await;
        let Some(core) = core.upgrade() else { return };
        match changes {
            Ok(changes) => {
                away_since = None;
                core.callers.away.store(false, std::sync::atomic::Ordering::Relaxed);
                for changed in &changes.items {
                    core.callers.apply(changed, core.clock.monotonic());
                }
                position = changes.position.max(position);
            }
            Err(error) => {
                let fatal = error.kind() == StoreErrorKind::Unusable;
                tracing::warn!(error = &error as &dyn std::error::Error, fatal, "the feed of changes did not answer");
                core.callers.away.store(true, std::sync::atomic::Ordering::Relaxed);
                // The position stays, so the next answer has what was missed, and known keys are served meanwhile; but not for ever.
                let now = core.clock.monotonic();
                if now.nanos_since(*away_since.get_or_insert(now)) > MAX_STALE_NANOS {
                    core.callers.apply(&Changed::All, now);
                }
                drop(core);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Once a second: the wall clock's offset, last uses, gauges.
async fn keep_house(core: std::sync::Weak<GateCore>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        let Some(core) = core.upgrade() else { return };
        core.refresh_wall_offset();
        core.metrics.gauges(core.recorder.seats().taken(), core.recorder.unshipped());
        let uses = core.callers.take_uses();
        if !uses.is_empty()
            && let Err(error) = core.keys.mark_used(&uses).await
        {
            // Only a hint for people: the next use is noted again.
            tracing::warn!(error = &error as &dyn std::error::Error, "last uses were not written");
        }
    }
}
