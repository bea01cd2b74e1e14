//! The stores of a configuration, open.

use std::sync::Arc;

use anyhow::Context;
use usage_gate_core::UsageGateBuilder;
use usage_gate_core::clock::Clock;
use usage_gate_core::store::{
    AccountStore, KeyStore, PostgresStore, QuotaStore, RateStore, SessionStore, SqliteStore, StoreError, UsageReader,
    UsageSink, ValkeyStore,
};

use crate::config::{Database, Loaded};

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
