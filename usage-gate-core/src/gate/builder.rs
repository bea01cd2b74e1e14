//! How a gate is put together.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderName};

use super::joining::Joining;
use super::pepper_rule::{OTHER_PEPPER, PepperRule};
use super::recovery::{Ground, Start};
use super::{CALLERS, GateCore, JournalConfig, Recording, SEATS, UsageGate, following, wall_offset};
use crate::admission::{CallerCache, Credentials, Guard};
use crate::clock::Clock;
use crate::flush::{Shipper, Turn};
use crate::journal::{Recorder, Refusals, Samples, Schema, Unrecorded};
use crate::lease::{Counters, LeaseDriver, LeaseQueue, RatesKept, TableError};
use crate::mapped::LockError;
use crate::metrics::{LeaseStore, Metrics};
use crate::model::{AddressRange, Meters, MetersError, StreamId};
use crate::rates::{RateDriver, RateDrivers};
use crate::routes::{Route, RouteError, Routes};
use crate::secret::{NoRandomness, Pepper};
use crate::store::{
    AccountStore, KeyStore, NodeIdentity, QuotaStore, RateStore, SessionStore, StoreError, UsageReader, UsageSink,
};

/// Bad credentials within a minute that are too many.
const BAD_CREDENTIALS: u16 = 20;
/// How long known keys are served while the key store is away.
const MAX_STALE: Duration = Duration::from_secs(3_600);
/// For how long they shut a source out at first.
const BLOCK_FOR: Duration = Duration::from_secs(60);

/// Puts a [`UsageGate`] together; [`build`](Self::build) says what is missing or wrong.
#[derive(Debug, Default)]
#[must_use]
pub struct UsageGateBuilder {
    keys: Option<Arc<dyn KeyStore>>,
    quotas: Option<Arc<dyn QuotaStore>>,
    usage: Option<Arc<dyn UsageSink>>,
    rates: Option<Arc<dyn RateStore>>,
    volatile_rates: Option<Arc<dyn RateStore>>,
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
    max_stale: Option<Duration>,
    seats: Option<usize>,
    data_dir: Option<PathBuf>,
    journal: JournalConfig,
    unmetered: bool,
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
    /// Keys in the store are hashed with another pepper.
    #[error("{OTHER_PEPPER}")]
    OtherPepper,
    /// Another process has the data directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The lease table in the data directory cannot be used.
    #[error(transparent)]
    LeaseTable(#[from] TableError),
    /// The journal cannot be used.
    #[error("journal: cannot {what}")]
    Journal {
        /// What could not be done.
        what: &'static str,
        /// The system's word.
        source: std::io::Error,
    },
    /// The journal may take too few bytes: it would be full as soon as it has begun.
    #[error("journal: retention_bytes is {given}, and must be at least {least}: three times segment_bytes")]
    RetentionBytes {
        /// What was given.
        given: u64,
        /// The least.
        least: u64,
    },
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] NoRandomness),
    /// What earlier processes left could not be finished because of a fault in this program.
    #[error("a fault in this program: see its log")]
    Panicked,
    /// A store cannot be used, or one on this machine did not answer.
    #[error("the store cannot be used at the start")]
    Store(#[from] StoreError),
}

impl BuildError {
    pub(super) fn journal(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Journal { what, source }
    }
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

    /// The authority of rates and of requests open at once, for several nodes that share them. Without it this process keeps them alone, in its own memory.
    ///
    /// What the nodes of one gate share is the same for all: give it to each, and each a [name](Self::node) of its own.
    pub fn rates(mut self, rates: Arc<dyn RateStore>) -> Self {
        self.rates = Some(rates);
        self
    }

    /// A faster authority for the same, which may forget: a [`ValkeyStore`](crate::store::ValkeyStore). Rates whose bucket takes longer than a minute to fill stay
    /// with [`rates`](Self::rates), if that is given, since what they grant is worth more than a restart.
    pub fn volatile_rates(mut self, rates: Arc<dyn RateStore>) -> Self {
        self.volatile_rates = Some(rates);
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

    /// How long known keys are served while the key store is away; default an hour. A key that is revoked meanwhile works for so long on a node that cannot hear of it; after that
    /// nobody is served until the store is back.
    pub const fn max_stale(mut self, time: Duration) -> Self {
        self.max_stale = Some(time);
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

    /// A directory of this node's own, in which usage that is not in the sink yet, requests in flight and leases survive the end of the process, however
    /// it comes. It must survive restarts, and be on a local file system.
    ///
    /// Without it all of that is in memory: a crash loses it.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// How usage is kept until it is in the sink, and after.
    pub fn journal(mut self, config: JournalConfig) -> Self {
        self.journal = config;
        self
    }

    /// Limits only: no usage is recorded, for hosts that count it themselves. There is nothing to bill and nothing to
    /// [verify](crate::verify) then.
    pub const fn unmetered(mut self) -> Self {
        self.unmetered = true;
        self
    }

    /// Requests in flight, at most; beyond it requests get 503 `journal_unavailable`.
    pub const fn max_seats(mut self, seats: usize) -> Self {
        self.seats = Some(seats);
        self
    }

    /// Builds the gate, announces this process life to the quota store and starts the background tasks on the current Tokio runtime.
    ///
    /// A store that is away, and does not lie [on this machine](KeyStore::is_local), is no error: after some two seconds the gate is there all the same, and tells its stores as soon as
    /// they answer. Until then it serves the keys that an earlier process knew on the same data directory, for [`max_stale`](Self::max_stale) at most, and the leases that this one left.
    ///
    /// # Errors
    /// [`BuildError`] says which value is missing or wrong.
    pub async fn build(self) -> Result<UsageGate, BuildError> {
        let keys = self.keys.ok_or(BuildError::Missing("a key store", "store or keys"))?;
        let quotas = self.quotas.ok_or(BuildError::Missing("a quota store", "store or quotas"))?;
        let sink = self.usage.ok_or(BuildError::Missing("a usage sink", "store or usage"))?;
        let has_durable_rates = self.rates.is_some();
        let rates = self.rates.or_else(|| self.volatile_rates.clone());
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
        self.journal.check(self.data_dir.is_none())?;
        let stream = StreamId::generate();
        let node_name = self.node.unwrap_or_else(|| "node".to_owned());
        let recording = if self.unmetered { Recording::Off } else { Recording::Records(self.journal.when_full) };
        let start = Start {
            node: node_name.clone(),
            stream,
            seats,
            schema: Schema::new(&node_name, meters.clone(), routes.iter().map(|route| Arc::clone(&route.name))),
            now: self.clock.wall(),
        };
        // What lies beside the store, or in this process, is gone with it and no help.
        let known_callers = self.data_dir.clone().filter(|_| !keys.is_local());
        let (data_dir, journal) = (self.data_dir, self.journal);
        let ground = tokio::task::spawn_blocking(move || start.run(data_dir, &journal)).await;
        let Ground { journal, seats, table, found, earlier } = ground.map_err(|_| BuildError::Panicked)??;
        let node = NodeIdentity { node: node_name, boot: stream, table: table.id() };
        let pepper_rule = Arc::new(PepperRule::new(Arc::clone(&keys), pepper.fingerprint()));
        let metrics = Arc::new(Metrics::new(&routes));
        let kept = match (&rates, &self.volatile_rates) {
            (None, _) => RatesKept::Here,
            (Some(_), Some(_)) if has_durable_rates => RatesKept::SharedByTwo,
            (Some(_), _) => RatesKept::Shared,
        };
        let counters = Arc::new(Counters::new(kept));
        let queue = Arc::new(LeaseQueue::closed());
        let recorder = Arc::new(Recorder::new(journal, seats));
        let refusals = Arc::new(Refusals::default());
        let samples = Arc::new(Samples::default());
        let unrecorded = Arc::new(Unrecorded::default());
        let leases = Arc::new(LeaseDriver {
            store: Arc::clone(&quotas),
            node: node.clone(),
            table,
            clock: self.clock.clone(),
            counters: Arc::clone(&counters),
            queue: Arc::clone(&queue),
            metrics: Arc::clone(&metrics),
            shared: rates.is_some(),
            away: AtomicBool::new(false),
            asked_at: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            turn: tokio::sync::Mutex::new(None),
        });
        let rates = rates.map(|durable| {
            let driver = |store, label| {
                let (node, clock) = (node.node.clone(), self.clock.clone());
                Arc::new(RateDriver::new(store, node, clock, Arc::clone(&metrics), label))
            };
            match self.volatile_rates {
                Some(volatile) => RateDrivers {
                    fast: driver(volatile, LeaseStore::VolatileRates),
                    slow: has_durable_rates.then(|| driver(durable, LeaseStore::Rates)),
                },
                None => RateDrivers { fast: driver(durable, LeaseStore::Rates), slow: None },
            }
        });
        let had = earlier.iter().map(|stream| (stream.id, stream.acked())).collect();
        let shipper = Arc::new(Shipper {
            sink,
            clock: self.clock.clone(),
            recorder: Arc::clone(&recorder),
            refusals: Arc::clone(&refusals),
            samples: Arc::clone(&samples),
            unrecorded: Arc::clone(&unrecorded),
            metrics: Arc::clone(&metrics),
            away: AtomicBool::new(false),
            turn: tokio::sync::Mutex::new(Turn::new(earlier, stream)),
        });
        let core = Arc::new(GateCore {
            wall_offset: AtomicI64::new(wall_offset(&self.clock)),
            clock: self.clock,
            routes,
            meters,
            pepper,
            pepper_rule,
            credentials,
            guard,
            callers: CallerCache::new(CALLERS, tag_keys()?),
            counters,
            queue,
            leases,
            rates,
            recorder,
            refusals,
            samples,
            unrecorded,
            recording,
            metrics,
            keys,
            quotas,
            accounts: self.accounts,
            sessions: self.sessions,
            reader: self.reader,
            shipper,
            draining: AtomicBool::new(false),
            drain_told: AtomicBool::new(false),
            legacy_headers: self.legacy_headers,
            max_stale: u64::try_from(self.max_stale.unwrap_or(MAX_STALE).as_nanos()).unwrap_or(u64::MAX),
            background: Arc::new(tokio::sync::Semaphore::new(super::BACKGROUND as usize)),
            tasks: Mutex::default(),
        });
        let mut joining = Joining::new(&core, found, had);
        // Meanwhile: whether the authorities of rates are away is known before anybody is served.
        let rates = core.rates.iter().flat_map(RateDrivers::all).map(Arc::clone);
        let looks: tokio::task::JoinSet<()> = rates.map(|driver| async move { driver.look().await }).collect();
        let joined = joining.at_the_start().await?;
        looks.join_all().await;
        match joined {
            Some(position) => {
                let following = following::begin(&core, known_callers, position).await;
                super::tasks::start(&core, following);
            }
            None => {
                joining.spend_on();
                let following = following::go_on(&core, known_callers).await;
                super::tasks::start(&core, following);
                super::joining::start(&core, joining);
            }
        }
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
