//! `usage-gate sample`: customers with weeks of use, to look at pages and to try things on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use usage_gate_core::clock::{Clock, ManualClock};
use usage_gate_core::model::Timestamp;

use super::say;
use crate::config::{self, Loaded};
use crate::node::{Opened, absolute};
use crate::sample::{self, Made, Order, Progress};

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("place").required(true).multiple(true).args(["data_dir", "config"]))]
pub(crate) struct Arguments {
    /// The data directory to fill: no server may run on it, and it must not have the sample yet
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    /// The configuration that names the database; by default one is written beside it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How many weeks of use, from 1 to 12
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=12))]
    weeks: u16,
    /// The same number makes the same use
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Make it as if it were this instant, such as 2026-11-24T05:32:00Z [default: now]
    #[arg(long, value_name = "INSTANT")]
    now: Option<Timestamp>,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let overrides = config::overrides(std::env::vars_os());
    let mut loaded = match &arguments.config {
        Some(path) => config::load(Some(path), &overrides)?,
        None => config::load_text("sample.toml", sample::CONFIG, &overrides)?,
    };
    if let Some(data_dir) = arguments.data_dir {
        loaded.overrule("server.data_dir", "--data-dir", |config| config.server.data_dir = data_dir);
    }
    let clock = arguments.now.map_or_else(Clock::system, |now| ManualClock::at(now).clock());
    sample::check(&loaded)?;
    loaded.check_secrets()?;
    let opened = Opened::open(&loaded, clock, Duration::ZERO).await?;
    let order = Order { weeks: arguments.weeks, seed: arguments.seed };
    let made = sample::make(&opened, order, &mut Progress::new("making the sample")).await?;
    opened.close().await?;
    let config = match arguments.config {
        Some(path) => path,
        None => write_config(&loaded)?,
    };
    Ok(tell(&made, order, &loaded, &config)?)
}

/// The configuration by which the sample is to be served, beside the database. One that is there is somebody's.
fn write_config(loaded: &Loaded) -> anyhow::Result<PathBuf> {
    let path = loaded.config.server.data_dir.join("sample.toml");
    if !path.exists() {
        std::fs::write(&path, sample::CONFIG).with_context(|| path.display().to_string())?;
    }
    Ok(path)
}

fn tell(made: &Made, order: Order, loaded: &Loaded, config: &Path) -> std::io::Result<()> {
    let data_dir = absolute(&loaded.config.server.data_dir);
    let (data_dir, config) = (data_dir.display(), absolute(config));
    let (calls, refusals) = (made.calls, made.refusals);
    let weeks = if order.weeks == 1 { "a week".to_owned() } else { format!("{} weeks", order.weeks) };
    say(format_args!("made {weeks} of use in {data_dir}: {calls} calls, {refusals} refused"))?;
    for customer in &made.customers {
        say(format_args!("  {} {}", customer.tenant, customer.name))?;
        for (id, name) in &customer.users {
            say(format_args!("    {id} {name}"))?;
        }
        say("    keys, shown this once:")?;
        for (name, text) in &customer.keys {
            say(format_args!("      {} {name}", text.as_str()))?;
        }
    }
    let program = super::program();
    say("next: serve it before an API, and make a link to its pages")?;
    say(format_args!(
        "  {program} serve --config {} --data-dir {data_dir} --upstream http://127.0.0.1:9000",
        config.display()
    ))?;
    let owner = made.customers.first().and_then(|customer| customer.users.first());
    if let Some((owner, _)) = owner {
        say(format_args!("  {program} user link {owner} --data-dir {data_dir}"))?;
    }
    Ok(())
}
