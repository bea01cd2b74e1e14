//! `usage-gate serve`: from a configuration to a gate that serves, until it is told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use super::{log, open_files, say};
use crate::config::{self, HttpUrl, Loaded};
use crate::listen::install_metrics;
use crate::node::{Listeners, Node, absolute, warn_if_unreachable};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration file; the options here go before what it says
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The API to serve, such as http://127.0.0.1:9000
    #[arg(long, value_name = "URL")]
    upstream: Option<HttpUrl>,
    /// Where callers connect
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Where operators connect
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
    /// Where database, pepper and admin token are kept
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    log: log::Options,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    log::start(&arguments.log)?;
    open_files::raise_limit();
    let loaded = load(arguments)?;
    // Before anything is bound or made: what is wrong here is wrong before the first request.
    loaded.meters_and_routes()?;
    loaded.check_secrets()?;
    loaded.portal(loaded.config.server.listen)?;
    let upstream = loaded.config.upstream.url.clone();
    let upstream = upstream.context("no upstream: give --upstream URL, or upstream.url in the config")?;

    let mut stop = Stop::new()?;
    let listeners = Listeners::bind(&loaded.config).await?;
    let node = Node::start(&loaded, listeners, install_metrics()?).await?;
    welcome(&node, &loaded, &upstream)?;
    warn_if_unreachable(&upstream).await;
    stop.wait().await;
    tracing::info!("stopping: finishing open requests");
    node.stop().await?;
    tracing::info!("stopped");
    Ok(())
}

fn load(arguments: Arguments) -> anyhow::Result<Loaded> {
    let mut loaded = config::load(arguments.config.as_deref(), &config::overrides(std::env::vars_os()))?;
    if let Some(upstream) = arguments.upstream {
        loaded.overrule("upstream.url", "--upstream", |config| config.upstream.url = Some(upstream));
    }
    if let Some(listen) = arguments.listen {
        loaded.overrule("server.listen", "--listen", |config| config.server.listen = listen);
    }
    if let Some(admin_listen) = arguments.admin_listen {
        loaded.overrule("server.admin_listen", "--admin-listen", |config| config.server.admin_listen = admin_listen);
    }
    if let Some(data_dir) = arguments.data_dir {
        loaded.overrule("server.data_dir", "--data-dir", |config| config.server.data_dir = data_dir);
    }
    Ok(loaded)
}

fn welcome(node: &Node, loaded: &Loaded, upstream: &HttpUrl) -> std::io::Result<()> {
    let Node { public, admin, .. } = node;
    let server = &loaded.config.server;
    let here = server.public_url.as_ref().map_or_else(|| format!("http://{public}"), ToString::to_string);
    say(format_args!("usage-gate {} serves {upstream}", env!("CARGO_PKG_VERSION")))?;
    say(format_args!("  API          {here}"))?;
    let program = super::program();
    let Some(token_file) = &node.token_file else {
        say(format_args!(
            "  admin        http://{admin}/admin/v1   (tokens: {program} admin-token create --role full --config …)"
        ))?;
        return Ok(());
    };
    let token_file = absolute(token_file);
    let token_file = token_file.display();
    say(format_args!("  admin        http://{admin}/admin/v1   (token in {token_file})"))?;
    say("next: make a tenant, then a key for it")?;
    let options = format!("--admin-url http://{admin} --token-file {token_file}");
    say(format_args!("  {program} tenant create --name Acme --plan free {options}"))?;
    say(format_args!("  {program} key create --tenant ten_… --name first {options}"))
}

/// The signals that end a process.
#[derive(Debug)]
pub(super) struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Stop {
    pub(super) fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    pub(super) async fn wait(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                // Left to the system it would end the process, and every request in it.
                _ = self.hang_up.recv() => tracing::warn!("SIGHUP: a reload is not built yet in this version; restart instead"),
            }
        }
    }
}
