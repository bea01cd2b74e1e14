//! `usage-gate migrate`: brings the schema of a configuration's database up to date, for operators who do not want `serve` to.

use std::path::PathBuf;

use usage_gate_core::clock::Clock;

use super::say;
use crate::config;
use crate::node::Books;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration of the gate
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut loaded = config::load(Some(&arguments.config), &config::overrides(std::env::vars_os()))?;
    // That is what was asked for, whatever `serve` may do.
    loaded.config.store.migrate = true;
    let books = Books::open(&loaded, Clock::system()).await?;
    books.close().await?;
    Ok(say("the schema is up to date")?)
}
