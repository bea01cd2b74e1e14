//! `usage-gate admin-token`: tokens that every node of a gate accepts, kept in its database.

use std::path::PathBuf;

use clap::Subcommand;
use usage_gate_core::clock::Clock;
use usage_gate_core::model::{AdminRole, AdminToken, TokenHash};

use super::say;
use crate::config;
use crate::node::{Books, random_hex};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a token and print it, this once; every node accepts it at once
    Create(Create),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// What it may do: everything, or only look
    #[arg(long, value_enum)]
    role: Role,
    /// What people call it, such as the program that uses it
    #[arg(long, value_name = "NAME", default_value = "")]
    name: String,
    /// The configuration of the gate
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data directory of a gate without a configuration
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Role {
    Full,
    Read,
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    let Command::Create(arguments) = command;
    let mut loaded = config::load(arguments.config.as_deref(), &config::overrides(std::env::vars_os()))?;
    if let Some(data_dir) = arguments.data_dir {
        loaded.overrule("server.data_dir", "--data-dir", |config| config.server.data_dir = data_dir);
    }
    let books = Books::open(&loaded, Clock::system()).await?;
    let token = format!("uga_{}", random_hex::<32>()?);
    let role = match arguments.role {
        Role::Full => AdminRole::Full,
        Role::Read => AdminRole::Read,
    };
    let created_at = Clock::system().wall();
    let kept = AdminToken { hash: TokenHash::of(&token), role, name: arguments.name, created_at };
    books.sessions.create_admin_token(&kept).await?;
    books.close().await?;
    Ok(say(token)?)
}
