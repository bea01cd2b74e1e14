//! The commands, a file each.

mod admin_token;
mod check;
mod client;
mod demo;
mod demo_upstream;
mod journal;
mod key;
mod log;
mod migrate;
mod move_up;
mod open_files;
mod sample;
mod serve;
mod table;
mod tenant;
mod user;
mod verify;

use std::fmt::Display;
use std::io::{self, Write};

use anyhow::Context;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve an API through the gate
    Serve(serve::Arguments),
    /// Try it: an API, tenants, keys and traffic on this machine, gone afterwards
    Demo(demo::Arguments),
    /// Make customers with weeks of use in a data directory that is not served
    Sample(sample::Arguments),
    /// Check a configuration without serving
    Check(check::Arguments),
    /// Bring the schema of the database up to date, or move a database of SQLite to PostgreSQL
    Migrate(migrate::Arguments),
    /// Compare the books with what was recorded; exit 1 if they differ. Only reads; may run beside `serve`
    Verify(verify::Arguments),
    /// Look into what this node recorded
    #[command(subcommand)]
    Journal(journal::Command),
    /// Make tokens for the admin API
    #[command(subcommand, name = "admin-token")]
    AdminToken(admin_token::Command),
    /// Make and list tenants
    #[command(subcommand)]
    Tenant(tenant::Command),
    /// Add and list users, make links to the portal
    #[command(subcommand)]
    User(user::Command),
    /// Make and list API keys
    #[command(subcommand)]
    Key(key::Command),
}

/// What cannot be meant by a command line: exit 2.
#[derive(Debug)]
pub(crate) struct WrongUsage(String);

impl Display for WrongUsage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongUsage {}

/// Runs one to its end.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    // These need no threads; the others wait for the network.
    match command {
        Command::Journal(command) => journal::run(command),
        command => run_waiting(command),
    }
}

fn run_waiting(command: Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(async {
        match command {
            Command::Serve(arguments) => Box::pin(serve::run(arguments)).await,
            Command::Demo(arguments) => Box::pin(demo::run(arguments)).await,
            Command::Sample(arguments) => Box::pin(sample::run(arguments)).await,
            Command::Migrate(arguments) => Box::pin(migrate::run(arguments)).await,
            Command::Verify(arguments) => Box::pin(verify::run(arguments)).await,
            Command::Check(arguments) => Box::pin(check::run(arguments)).await,
            Command::Journal(command) => journal::run(command),
            Command::AdminToken(command) => admin_token::run(command).await,
            Command::Tenant(command) => tenant::run(command).await,
            Command::User(command) => user::run(command).await,
            Command::Key(command) => key::run(command).await,
        }
    })
}

/// Prints lines for whoever called us. An error here is theirs: they closed the pipe.
fn say(text: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// This program as it was called, so that commands that we print can be pasted where we were started.
fn program() -> String {
    std::env::args_os().next().map_or_else(|| "usage-gate".to_owned(), |path| path.to_string_lossy().into_owned())
}
