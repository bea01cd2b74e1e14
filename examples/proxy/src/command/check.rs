//! `usage-gate check`: everything that `serve` would complain about, without serving.

use std::path::PathBuf;

use usage_gate_core::routes::Routes;

use crate::config;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let loaded = config::load(Some(&arguments.config), &config::overrides(std::env::vars_os()))?;
    let (meters, routes) = loaded.meters_and_routes()?;
    let routes = Routes::compile(routes, &meters)?;
    loaded.check_secrets()?;
    loaded.portal(loaded.config.server.listen)?;
    let upstream = match &loaded.config.upstream.url {
        Some(url) => url.to_string(),
        None => "named on the command line".into(),
    };
    let (routes, meters) = (routes.iter().count(), meters.iter().count());
    super::say(format_args!(
        "ok: {}: upstream {upstream}, {routes} routes, {meters} meters",
        arguments.config.display()
    ))?;
    Ok(())
}
