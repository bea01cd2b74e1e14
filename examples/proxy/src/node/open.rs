//! What stands behind a gate: its directory, locked, its database, and the gate itself; served or not.

use std::time::Duration;

use anyhow::Context;
use usage_gate_core::UsageGate;
use usage_gate_core::clock::Clock;
use usage_gate_core::store::StoreError;

use super::data_dir::DataDir;
use super::stores::{Books, OpenStores};
use crate::config::Loaded;

/// A gate over its database.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) gate: UsageGate,
    pub(crate) books: Books,
    /// Holds the lock until the end.
    pub(super) data_dir: DataDir,
}

impl Opened {
    /// Opens the database of a configuration, and makes what is missing. Waits so long for another process that has the directory.
    pub(crate) async fn open(loaded: &Loaded, clock: Clock, patience: Duration) -> anyhow::Result<Self> {
        let data_dir = DataDir::open(&loaded.config.server.data_dir, patience)?;
        Self::on(data_dir, loaded, clock).await
    }

    /// The same for who has the directory already.
    pub(crate) async fn on(data_dir: DataDir, loaded: &Loaded, clock: Clock) -> anyhow::Result<Self> {
        loaded.meters_and_routes()?;
        Self::over(OpenStores::open(loaded, clock.clone()).await?, loaded, clock, data_dir).await
    }

    /// As [`open`](Self::open), for `serve`: without stores that are away, as long as they are.
    pub(super) async fn begin(loaded: &Loaded, clock: Clock, patience: Duration) -> anyhow::Result<Self> {
        loaded.meters_and_routes()?;
        let data_dir = DataDir::open(&loaded.config.server.data_dir, patience)?;
        Self::over(OpenStores::begin(loaded, clock.clone()).await?, loaded, clock, data_dir).await
    }

    async fn over(stores: OpenStores, loaded: &Loaded, clock: Clock, data_dir: DataDir) -> anyhow::Result<Self> {
        let (_, routes) = loaded.meters_and_routes()?;
        let config = &loaded.config;
        let name = match &config.server.node {
            Some(name) => name.clone(),
            None => data_dir.node_id()?,
        };
        let gate = stores
            .give_to(UsageGate::builder())
            .clock(clock)
            .pepper_file(config.pepper_file())
            .node(name)
            .data_dir(&config.server.data_dir)
            .journal(config.journal.to_gate())
            .max_stale(config.keys.max_stale)
            .key_prefix(&*config.keys.prefix)
            .key_headers(config.keys.headers.iter().map(http::HeaderName::as_str))
            .legacy_headers(config.limits.legacy_headers)
            .deny(config.abuse.deny.iter().copied())
            // A proxy stands for the client where it does not name one: it must not be shut out for who is behind it.
            .allow(config.abuse.allow.iter().chain(&config.server.trusted_proxies).copied())
            .bad_credentials(config.abuse.bad_credentials)
            .block_for(config.abuse.block)
            .routes(routes);
        let gate = config.meters.keys().fold(gate, |gate, meter| gate.meter(meter));
        let gate = gate.build().await.context("gate")?;
        Ok(Self { gate, books: stores.books, data_dir })
    }

    /// Ends it without having served. The directory stays locked as long as what is given lives.
    pub(crate) async fn close(self) -> anyhow::Result<DataDir> {
        end(&self.gate, &self.books).await.context("the gate could not be closed")?;
        Ok(self.data_dir)
    }
}

/// The last steps: leases go back, usage is shipped, and the database is one file.
pub(super) async fn end(gate: &UsageGate, books: &Books) -> Result<(), StoreError> {
    let drained = gate.drain().await;
    // Who stops it to copy the folder may forget the log. It is read at the next start all the same.
    if let Err(fault) = books.close().await {
        tracing::info!(fault = &fault as &dyn std::error::Error, "the database keeps a log beside it: copy both");
    }
    drained
}
