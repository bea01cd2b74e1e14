//! `usage-gate migrate`: brings the schema of a configuration's database up to date, for operators who do not want `serve` to; or moves a database of SQLite.

use std::path::{Path, PathBuf};

use usage_gate_core::clock::Clock;

use super::{move_up, say};
use crate::config;
use crate::node::Books;

#[derive(Debug, clap::Args)]
#[command(override_usage = move_up::USAGE, after_help = move_up::HELP)]
pub(crate) struct Arguments {
    /// The configuration of the gate whose schema is brought up to date
    #[arg(long, value_name = "FILE", required_unless_present = "from", conflicts_with = "from")]
    config: Option<PathBuf>,
    #[command(flatten)]
    moving: move_up::Moving,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.config {
        Some(config) => bring_up_to_date(&config).await,
        None => move_up::run(arguments.moving).await,
    }
}

async fn bring_up_to_date(config: &Path) -> anyhow::Result<()> {
    let mut loaded = config::load(Some(config), &config::overrides(std::env::vars_os()))?;
    // That is what was asked for, whatever `serve` may do.
    loaded.config.store.migrate = true;
    let books = Books::open(&loaded, Clock::system()).await?;
    books.close().await?;
    Ok(say("the schema is up to date")?)
}
