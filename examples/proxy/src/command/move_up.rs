//! `usage-gate migrate --from sqlite:… --to postgres://…`: from one node on SQLite to what several nodes can share.
//!
//! The gate is stopped before. What its journal has is brought into SQLite, as the start of a gate does it; then everything is copied and compared. Killed at any
//! instant, the same command goes on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use usage_gate_core::clock::Clock;
use usage_gate_core::secret::Pepper;
use usage_gate_core::store::{Comparison, MoveState, MoveUp, PostgresStore};

use super::{WrongUsage, log, say, table};
use crate::config::{self, Database, Loaded, Secret};
use crate::node::{DataDir, Opened, absolute};
use crate::sample::Progress;

pub(super) const USAGE: &str = "usage-gate migrate --config <FILE>
       usage-gate migrate --from <sqlite:PATH> <--to <postgres://…>|--to-file <FILE>|--take-back> [OPTIONS]";

pub(super) const HELP: &str = "From one node on SQLite to what several can share:
  1. Stop the gate, and make an empty database: CREATE DATABASE gate OWNER gate
  2. usage-gate migrate --from sqlite:usage-gate-data/usage-gate.db --to-file postgres.url
  3. Serve from PostgreSQL, with what the command says in the end

Killed or cut off, the same command goes on where it stopped, and counts nothing twice. Until all of it has come and was compared, nobody serves
from the new database. Nobody serves from the old one any more either: --take-back gives the move up.

Exit 0 done and equal, 1 failed or not equal, 2 wrong usage.";

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("target").args(["to", "to_file", "take_back"]))]
#[command(next_help_heading = "Moving from SQLite to PostgreSQL")]
pub(super) struct Moving {
    /// The database to move, such as sqlite:usage-gate-data/usage-gate.db
    #[arg(long, value_name = "sqlite:PATH", value_parser = source, requires = "target")]
    from: Option<PathBuf>,
    /// The empty database that it is moved to. Others on this machine can read an address with a password here: --to-file keeps it from them
    #[arg(long, value_name = "postgres://…", requires = "from")]
    to: Option<String>,
    /// A file with that address
    #[arg(long, value_name = "FILE", requires = "from")]
    to_file: Option<PathBuf>,
    /// Give a move up: the SQLite database may be served from again, and what was moved is of no more use
    #[arg(long, requires = "from")]
    take_back: bool,
    /// The data directory of the gate, with its journal [default: where the SQLite database is]
    #[arg(long, value_name = "DIRECTORY", requires = "from")]
    data_dir: Option<PathBuf>,
    /// The pepper, if the gate's configuration has a keys.pepper_file [default: the data directory's]
    #[arg(long, value_name = "FILE", requires = "from")]
    pepper_file: Option<PathBuf>,
}

/// The path of an address of SQLite.
fn source(text: &str) -> Result<PathBuf, &'static str> {
    match text.strip_prefix("sqlite:") {
        Some(path) if !path.is_empty() => Ok(path.into()),
        _ => Err("must be sqlite: and the path of the database, such as sqlite:usage-gate-data/usage-gate.db"),
    }
}

pub(super) async fn run(arguments: Moving) -> anyhow::Result<()> {
    let Some(path) = arguments.from.clone() else {
        bail!(WrongUsage("--from is missing: name the database".to_owned()))
    };
    if !path.is_file() {
        let path = path.display();
        bail!(WrongUsage(format!(
            "--from: {path} is not there: name the file of the database, such as sqlite:usage-gate-data/usage-gate.db"
        )));
    }
    log::start(&log::Options::warnings())?;
    let mut loaded = gate(&arguments, &path)?;
    let data_dir = loaded.config.server.data_dir.clone();
    if arguments.take_back {
        let _held = DataDir::open(&data_dir, Duration::ZERO)?;
        MoveUp::take_back(&path).await?;
        return Ok(say(format_args!("{} may be served from again", path.display()))?);
    }
    let pepper_file = loaded.config.pepper_file();
    if Pepper::read(&pepper_file)?.is_none() {
        let file = pepper_file.display();
        bail!(WrongUsage(format!(
            "{file} is not there: name the gate's pepper with --pepper-file, without it no key works"
        )));
    }
    let address = address(&arguments)?;
    let target = PostgresStore::options(address.reveal());

    let state = MoveUp::state(&path, target.clone()).await.context("cannot move")?;
    if let MoveState::Done(at) = state {
        say(format_args!("all of {} was moved at {at}: there is nothing left to do", path.display()))?;
        return Ok(tell(&arguments, &loaded)?);
    }
    let mut held = DataDir::open(&data_dir, Duration::ZERO)?;
    if state == MoveState::NotBegun {
        // The one whose leases are in the directory, whatever its configuration calls it.
        loaded.config.server.node = MoveUp::node_of(&path, data_dir.join("journal")).await.context("--from")?;
        held = drain(held, &loaded).await?;
        say(format_args!("drained the journal in {}", data_dir.display()))?;
    } else {
        say("going on with a move that was begun")?;
    }
    let moved = MoveUp::begin(&path, target).await.context("cannot move")?;
    let comparison =
        copy(moved).await.context("the move is not at its end: the same command again goes on from there")?;
    drop(held);
    print(&comparison)?;
    if !comparison.is_equal() {
        bail!("the databases are not equal: the new one stays closed. Begin again with an empty one");
    }
    say(format_args!("moved all of {}: both databases are equal", path.display()))?;
    Ok(tell(&arguments, &loaded)?)
}

/// The configuration of a gate on the database that is moved, as far as it has to be known to finish its journal.
fn gate(arguments: &Moving, path: &Path) -> anyhow::Result<Loaded> {
    let beside = || path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let data_dir = arguments.data_dir.clone().unwrap_or_else(|| beside().to_owned());
    if !data_dir.join("journal").is_dir() {
        let data_dir = data_dir.display();
        let fault = format!("{data_dir} has no journal: name the data directory of the gate with --data-dir");
        bail!(WrongUsage(fault));
    }
    let mut loaded = config::load(None, &[])?;
    loaded.overrule("server.data_dir", "--data-dir", |config| config.server.data_dir = data_dir);
    loaded.overrule("store.sqlite", "--from", |config| config.store.sqlite = Some(path.to_owned()));
    loaded.overrule("keys.pepper_file", "--pepper-file", |config| {
        config.keys.pepper_file.clone_from(&arguments.pepper_file)
    });
    loaded.config.journal.keep_all();
    Ok(loaded)
}

/// Where to: the address, of the command line or of a file.
fn address(arguments: &Moving) -> anyhow::Result<Secret> {
    let mut loaded = config::load(None, &[])?;
    let (to, to_file) = (arguments.to.clone(), arguments.to_file.clone());
    loaded.overrule("store.postgres", "--to", |config| config.store.postgres = to.map(Secret::from));
    loaded.overrule("store.postgres_file", "--to-file", |config| config.store.postgres_file = to_file);
    match loaded.stores().map_err(|faults| WrongUsage(faults.to_string()))?.database {
        Database::Postgres(address) => Ok(address),
        Database::Sqlite(_) => bail!(WrongUsage("--to is missing: name the new database".to_owned())),
    }
}

/// Finishes what the gate has left: seats get their records, leases go back, and all of the journal goes into the database.
async fn drain(data_dir: DataDir, loaded: &Loaded) -> anyhow::Result<DataDir> {
    let opened = Opened::on(data_dir, loaded, Clock::system()).await.context("the journal cannot be drained")?;
    opened.close().await.context("the journal is not drained: the same command again goes on")
}

async fn copy(mut moving: MoveUp) -> anyhow::Result<Comparison> {
    let mut progress = Progress::new("moving");
    progress.begin(moving.rows());
    progress.advance(moving.rows_there());
    while let Some(moved) = moving.step().await? {
        progress.advance(moved.rows);
    }
    progress.end();
    let mut progress = Progress::new("comparing");
    progress.begin(moving.rows());
    let comparison = moving.compare(|rows| progress.advance(rows)).await?;
    progress.end();
    if comparison.is_equal() {
        moving.finish(&comparison).await?;
    }
    Ok(comparison)
}

/// What both have; what neither has is left out.
fn print(comparison: &Comparison) -> std::io::Result<()> {
    let lines = comparison.lines.iter().filter(|line| line.source > 0 || line.target > 0);
    let rows: Vec<Value> = lines
        .map(|line| {
            let verdict = if line.is_equal() { "equal".to_owned() } else { format!("NOT equal: {} rows differ", line.different) };
            json!({"what": line.what, "source": line.source.to_string(), "target": line.target.to_string(), "verdict": verdict})
        })
        .collect();
    table::print(&rows, false, &[("COMPARED", "what"), ("SQLITE", "source"), ("POSTGRESQL", "target"), ("", "verdict")])
}

/// What the gate's configuration has to say from now on. A secret is named by its file.
fn tell(arguments: &Moving, loaded: &Loaded) -> std::io::Result<()> {
    let config = &loaded.config;
    say("next: serve from PostgreSQL, with this in the configuration:")?;
    say("  [store]")?;
    match &arguments.to_file {
        Some(file) => say(format_args!("  postgres_file = \"{}\"", absolute(file).display()))?,
        None => say("  postgres = \"…\"   # the address that you gave as --to, or a file with it: postgres_file")?,
    }
    say("  [keys]")?;
    let pepper = absolute(&config.pepper_file());
    say(format_args!(
        "  pepper_file = \"{}\"   # every node needs this file: without it no key works",
        pepper.display()
    ))?;
    let token = config.server.data_dir.join("admin-token");
    if token.is_file() {
        say("  [admin]")?;
        say(format_args!("  token_file = \"{}\"", absolute(&token).display()))?;
    }
    say(format_args!(
        "the first node may go on in {}; others have a directory of their own",
        absolute(&config.server.data_dir).display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_sqlite_is_a_path() {
        assert_eq!(source("sqlite:a/b.db"), Ok("a/b.db".into()));
        for text in ["", "sqlite:", "a/b.db", "postgres://h/d"] {
            assert!(source(text).unwrap_err().contains("sqlite:usage-gate-data/usage-gate.db"));
        }
    }
}
