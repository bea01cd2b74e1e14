//! A running gate: its directory, its store, its listeners, and its end.

mod data_dir;
mod free_plan;
mod open;
mod stores;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use usage_gate_axum::AdminTokens;
use usage_gate_core::UsageGate;
use usage_gate_core::clock::Clock;

use crate::config::{self, Config, HttpUrl, Loaded};
use crate::listen::public::Public;
use crate::listen::{Drain, admin, bind};
pub(crate) use data_dir::{DataDir, random_hex};
pub(crate) use open::Opened;
pub(crate) use stores::Books;

/// What a process needs to end after `server.drain`: leases go back, usage is shipped.
const LAST_STEPS: Duration = Duration::from_secs(5);

/// What is bound before anything else is made: a taken port is the most common fault of a start.
#[derive(Debug)]
pub(crate) struct Listeners {
    public: TcpListener,
    admin: TcpListener,
}

impl Listeners {
    pub(crate) async fn bind(config: &Config) -> anyhow::Result<Self> {
        let server = &config.server;
        Ok(Self {
            public: bind(server.listen, "server.listen", "--listen").await?,
            admin: bind(server.admin_listen, "server.admin_listen", "--admin-listen").await?,
        })
    }

    /// The same, elsewhere on loopback if a port is taken: for the demo only.
    pub(crate) async fn bind_anywhere(config: &Config) -> anyhow::Result<Self> {
        async fn near(address: SocketAddr, key: &str, option: &str) -> anyhow::Result<TcpListener> {
            match bind(address, key, option).await {
                Ok(listener) => Ok(listener),
                Err(_) => bind(SocketAddr::new(address.ip(), 0), key, option).await,
            }
        }
        let server = &config.server;
        Ok(Self {
            public: near(server.listen, "server.listen", "--listen").await?,
            admin: near(server.admin_listen, "server.admin_listen", "--admin-listen").await?,
        })
    }
}

/// A gate that serves.
#[derive(Debug)]
pub(crate) struct Node {
    gate: UsageGate,
    books: Books,
    config: Config,
    drain: Drain,
    upkeep: JoinHandle<()>,
    /// Under way as long as the store is away.
    first_plan: Option<JoinHandle<()>>,
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) token_file: Option<PathBuf>,
    /// Holds the lock until the end.
    _data_dir: DataDir,
}

impl Node {
    pub(crate) async fn start(
        loaded: &Loaded,
        listeners: Listeners,
        metrics: PrometheusHandle,
    ) -> anyhow::Result<Self> {
        let config = loaded.config.clone();
        let Opened { gate, books, data_dir } = {
            // The process before us may still be finishing requests.
            let patience = config.server.drain_delay + config.server.drain + LAST_STEPS;
            Opened::begin(loaded, Clock::system(), patience).await?
        };
        let token_file = config.admin_token_file();
        let mut tokens = AdminTokens::kept_in(Arc::clone(&books.sessions));
        if let Some(token_file) = &token_file {
            if config.admin.token_file.is_none() {
                data_dir::make_token(token_file)?;
            }
            let token = config::read_token(token_file);
            let token = token.map_err(|fault| anyhow!(loaded.about("admin.token_file", &fault)))?;
            tokens = AdminTokens::new(token).and_kept_in(Arc::clone(&books.sessions));
        }
        let first_plan = free_plan::begin(&gate).await.context("the first plan")?;

        let addresses = (listeners.public.local_addr()?, listeners.admin.local_addr()?);
        let portal = loaded.portal(addresses.0)?;
        let public = Public::new(&config, &gate, &portal)?;
        let router = admin::router(&gate, tokens, &portal, metrics.clone());
        let drain = Drain::default();
        drain.spawn({
            let (config, drain) = (config.clone(), drain.clone());
            async move { public.run(&config, listeners.public, drain).await }
        });
        drain.spawn(admin::run(router, listeners.admin, drain.clone()));
        let upkeep = tokio::spawn(admin::keep_up(metrics));
        Ok(Self {
            gate,
            books,
            config,
            drain,
            upkeep,
            first_plan,
            public: addresses.0,
            admin: addresses.1,
            token_file,
            _data_dir: data_dir,
        })
    }

    /// Goes away: not ready, still accepting for `drain_delay`, then finishing for `drain`, then gone.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.gate.start_draining();
        tokio::time::sleep(self.config.server.drain_delay).await;
        let cut_off = self.drain.run(self.config.server.drain).await;
        if cut_off > 0 {
            tracing::warn!(connections = cut_off, "cut off what did not finish within server.drain");
        }
        self.upkeep.abort();
        self.first_plan.iter().for_each(JoinHandle::abort);
        open::end(&self.gate, &self.books).await.context("the last usage could not be written")
    }
}

/// Says so if nobody answers at the upstream; it may come up later.
pub(crate) async fn warn_if_unreachable(upstream: &HttpUrl) {
    let authority = upstream.authority();
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let connect = TcpStream::connect((host, authority.port_u16().unwrap_or(80)));
    let fault = match tokio::time::timeout(std::time::Duration::from_secs(2), connect).await {
        Ok(Ok(_)) => return,
        Ok(Err(fault)) => fault.to_string(),
        Err(_) => "no answer within 2 s".into(),
    };
    tracing::warn!(upstream = %upstream, reason = fault, "the upstream cannot be reached now; serving anyway");
}

/// A path for people, absolute so that it can be pasted anywhere.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}
