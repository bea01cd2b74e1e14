//! The stores of a configuration, open.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use usage_gate_core::UsageGateBuilder;
use usage_gate_core::clock::Clock;
use usage_gate_core::store::{
    AccountStore, KeyStore, PostgresStore, QuotaStore, RateStore, SessionStore, SqliteStore, StoreError,
    StoreErrorKind, UsageReader, UsageSink, ValkeyStore,
};

use crate::config::{Database, Loaded};

/// How long `serve` waits for servers before it starts without them.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where what must last is kept, by what is asked of it.
#[derive(Debug, Clone)]
pub(crate) struct Books {
    pub(crate) keys: Arc<dyn KeyStore>,
    pub(crate) quotas: Arc<dyn QuotaStore>,
    pub(crate) usage: Arc<dyn UsageSink>,
    pub(crate) accounts: Arc<dyn AccountStore>,
    pub(crate) sessions: Arc<dyn SessionStore>,
    pub(crate) reader: Arc<dyn UsageReader>,
    /// Where nodes share them, it is the authority of rates too, unless there is a Valkey.
    rates: Option<Arc<dyn RateStore>>,
    /// Where it is one file, which is whole after the last write.
    file: Option<SqliteStore>,
}

/// All stores of a node.
#[derive(Debug, Clone)]
pub(crate) struct OpenStores {
    pub(crate) books: Books,
    valkey: Option<ValkeyStore>,
}

impl OpenStores {
    /// Opens what `serve` needs, and brings the schema up to date if the configuration says so.
    pub(crate) async fn open(loaded: &Loaded, clock: Clock) -> anyhow::Result<Self> {
        let books = Books::open(loaded, clock).await?;
        let valkey = match &loaded.stores()?.valkey {
            Some(address) => {
                let options = ValkeyStore::options(address.reveal()).ledger(Arc::clone(&books.quotas));
                Some(options.open().await.context("store.valkey")?)
            }
            None => None,
        };
        Ok(Self { books, valkey })
    }

    /// The same for `serve`: a server that is away is waited for in the background. What is wrong for good, as far as it is found out at once, is an error all the same.
    pub(crate) async fn begin(loaded: &Loaded, clock: Clock) -> anyhow::Result<Self> {
        let stores = loaded.stores()?;
        let Database::Postgres(address) = &stores.database else { return Self::open(loaded, clock).await };
        let options = PostgresStore::options(address.reveal()).migrate(loaded.config.store.migrate);
        let postgres = options.open_lazily().context("store.postgres")?;
        let books = Books::postgres(postgres.clone());
        let valkey = match &stores.valkey {
            Some(address) => {
                let options = ValkeyStore::options(address.reveal()).ledger(Arc::clone(&books.quotas));
                Some(options.open_lazily().context("store.valkey")?)
            }
            None => None,
        };
        // Both at once: the start waits once.
        let (prepared, inspected) = tokio::join!(unless_away("PostgreSQL", postgres.prepare()), async {
            match &valkey {
                Some(valkey) => unless_away("Valkey", valkey.inspect()).await,
                None => Ok(()),
            }
        });
        prepared.context("store.postgres")?;
        inspected.context("store.valkey")?;
        Ok(Self { books, valkey })
    }

    /// Gives all of them to a gate.
    pub(crate) fn give_to(&self, gate: UsageGateBuilder) -> UsageGateBuilder {
        let books = &self.books;
        let gate = gate
            .keys(Arc::clone(&books.keys))
            .quotas(Arc::clone(&books.quotas))
            .usage(Arc::clone(&books.usage))
            .accounts(Arc::clone(&books.accounts))
            .sessions(Arc::clone(&books.sessions))
            .reader(Arc::clone(&books.reader));
        let gate = books.rates.iter().fold(gate, |gate, rates| gate.rates(Arc::clone(rates)));
        self.valkey.iter().fold(gate, |gate, valkey| gate.volatile_rates(Arc::new(valkey.clone())))
    }
}

/// Opens a store as far as its server answers within [`PATIENCE`].
async fn unless_away<T>(name: &str, opening: impl Future<Output = Result<T, StoreError>>) -> Result<(), StoreError> {
    let reason = match tokio::time::timeout(PATIENCE, opening).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(fault)) if fault.kind() == StoreErrorKind::Unavailable => format!("{:#}", anyhow::Error::new(fault)),
        Ok(Err(fault)) => return Err(fault),
        Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
    };
    tracing::warn!(reason, "{name} is away: starting without it, and asking again until it is there");
    Ok(())
}

impl Books {
    fn sqlite(store: SqliteStore) -> Self {
        Self { file: Some(store.clone()), ..Self::of(store) }
    }

    fn postgres(store: PostgresStore) -> Self {
        Self { rates: Some(Arc::new(store.clone())), ..Self::of(store) }
    }

    fn of<S>(store: S) -> Self
    where
        S: KeyStore + QuotaStore + UsageSink + AccountStore + SessionStore + UsageReader + Clone,
    {
        Self {
            keys: Arc::new(store.clone()),
            quotas: Arc::new(store.clone()),
            usage: Arc::new(store.clone()),
            accounts: Arc::new(store.clone()),
            sessions: Arc::new(store.clone()),
            reader: Arc::new(store),
            rates: None,
            file: None,
        }
    }

    /// Opens them, and brings the schema up to date if the configuration says so.
    pub(crate) async fn open(loaded: &Loaded, clock: Clock) -> anyhow::Result<Self> {
        match &loaded.stores()?.database {
            Database::Sqlite(path) => {
                let opened = SqliteStore::options(path).clock(clock).open().await;
                Ok(Self::sqlite(opened.with_context(|| format!("database {}", path.display()))?))
            }
            Database::Postgres(address) => {
                let options = PostgresStore::options(address.reveal()).migrate(loaded.config.store.migrate);
                Ok(Self::postgres(options.open().await.context("store.postgres")?))
            }
        }
    }

    /// Opens them for someone who only looks, beside a server or without.
    pub(crate) async fn look(loaded: &Loaded) -> anyhow::Result<Self> {
        match &loaded.stores()?.database {
            Database::Sqlite(path) => {
                let opened = SqliteStore::options(path).read_only().open().await;
                let shown = || format!("database {}: if it is elsewhere, name the --config", path.display());
                Ok(Self::sqlite(opened.with_context(shown)?))
            }
            Database::Postgres(address) => {
                let options = PostgresStore::options(address.reveal()).migrate(false);
                Ok(Self::postgres(options.open().await.context("store.postgres")?))
            }
        }
    }

    /// After the last write: a database of one file is one file.
    pub(crate) async fn close(&self) -> Result<(), StoreError> {
        match &self.file {
            Some(file) => file.checkpoint().await,
            None => Ok(()),
        }
    }
}
