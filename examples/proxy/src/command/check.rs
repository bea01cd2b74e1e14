//! `usage-gate check`: everything that `serve` would complain about, and what the configuration promises, without serving.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, bail};
use usage_gate_core::model::{LimitKind, Plan, StoreAway};
use usage_gate_core::routes::Routes;
use usage_gate_core::store::{
    AccountStore, OLDEST_POSTGRES, PageRequest, PostgresReport, PostgresStore, SqliteStore, ValkeyReport, ValkeyStore,
};

use super::say;
use crate::config::{self, Database, Loaded, Stores};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only read: connect to no database and no Valkey
    #[arg(long)]
    offline: bool,
}

/// A clock that is off by more makes periods end at another time than people expect.
const MOST_AHEAD_MICROS: u64 = 1_000_000;

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let loaded = config::load(Some(&arguments.config), &config::overrides(std::env::vars_os()))?;
    let (meters, routes) = loaded.meters_and_routes()?;
    let routes = Routes::compile(routes, &meters)?;
    loaded.check_secrets()?;
    loaded.portal(loaded.config.server.listen)?;
    let stores = loaded.stores()?;
    let upstream = match &loaded.config.upstream.url {
        Some(url) => url.to_string(),
        None => "named on the command line".into(),
    };
    let mut found = Found::default();
    if !arguments.offline {
        found.look(&stores).await?;
        found.complain_of_routes(&routes.iter().map(|route| &*route.name).collect());
    }
    let (routes, meters) = (routes.iter().count(), meters.iter().count());
    say(format_args!("ok: {}: upstream {upstream}, {routes} routes, {meters} meters", arguments.config.display()))?;
    for line in found.stores.iter().chain(&promises(&loaded, &stores, &found.plans)) {
        say(line)?;
    }
    for warning in &found.warnings {
        say(format_args!("warning: {warning}"))?;
    }
    Ok(())
}

/// What the stores say.
#[derive(Debug, Default)]
struct Found {
    stores: Vec<String>,
    warnings: Vec<String>,
    plans: Vec<Plan>,
}

impl Found {
    async fn look(&mut self, stores: &Stores) -> anyhow::Result<()> {
        match &stores.database {
            // What is not there is made by the first start.
            Database::Sqlite(path) if !path.exists() => {
                self.stores.push(format!("database: {} will be made", path.display()))
            }
            Database::Sqlite(path) => {
                let store = SqliteStore::options(path).read_only().open().await;
                let store = store.with_context(|| format!("database {}", path.display()))?;
                self.stores.push(format!("database: {}", path.display()));
                self.plans = plans(&store).await?;
            }
            Database::Postgres(address) => {
                // Before the schema is asked for: it may not be there yet.
                let report = PostgresStore::look_at(address.reveal()).await.context("store.postgres")?;
                self.postgres(&report)?;
                match PostgresStore::options(address.reveal()).migrate(false).open().await {
                    Ok(store) => self.plans = plans(&store).await?,
                    Err(fault) => self.warnings.push(format!("postgres: {:#}", anyhow::Error::new(fault))),
                }
            }
        }
        if let Some(address) = &stores.valkey {
            let store = ValkeyStore::options(address.reveal()).open_lazily().context("store.valkey")?;
            self.valkey(&store.inspect().await.context("store.valkey")?);
        }
        Ok(())
    }

    fn postgres(&mut self, report: &PostgresReport) -> anyhow::Result<()> {
        let PostgresReport { version, role, .. } = report;
        if report.version_number < OLDEST_POSTGRES {
            bail!("store.postgres: it is PostgreSQL {version}, and must be {} or newer", OLDEST_POSTGRES / 10_000);
        }
        if report.is_replica {
            bail!("store.postgres: it is a replica, which takes no writes: name the primary");
        }
        self.stores.push(format!("postgres: PostgreSQL {version} as {role}, {}", clock(report.ahead_micros)));
        self.clocks("postgres", report.ahead_micros, report.uncertain_micros);
        if !report.may_create {
            self.warnings
                .push(format!("postgres: {role} may not make tables: migrations need another role, see store.migrate"));
        }
        if report.synchronous_commit == "off" {
            self.warnings.push(
                "postgres: synchronous_commit is off: a crash of the server may grant units of quotas twice".to_owned(),
            );
        }
        if !report.has_synchronous_standby {
            let failover = "postgres: no synchronous standby: after a failover, what was granted in the lost moment may be granted again";
            self.warnings.push(failover.to_owned());
        }
        Ok(())
    }

    fn valkey(&mut self, report: &ValkeyReport) {
        let policy = report.maxmemory_policy.as_deref().unwrap_or("a maxmemory-policy that may not be asked");
        self.stores.push(format!("valkey: {}, {policy}, {}", report.version, clock(report.ahead_micros)));
        self.clocks("valkey", report.ahead_micros, report.uncertain_micros);
        if report.maxmemory_policy.is_none() {
            self.warnings.push("valkey: see to it that its maxmemory-policy is noeviction".to_owned());
        }
    }

    fn clocks(&mut self, name: &str, ahead: i64, uncertain: u64) {
        if ahead.unsigned_abs().saturating_sub(uncertain) > MOST_AHEAD_MICROS {
            self.warnings.push(format!("{name}: its clock and this machine's differ: {}", clock(ahead)));
        }
    }

    fn complain_of_routes(&mut self, routes: &BTreeSet<&str>) {
        for plan in &self.plans {
            for limit in &plan.limits {
                let named = limit.routes.iter().flatten().filter(|name| !routes.contains(&***name));
                let complaints = named.map(|name| {
                    format!("plan {}: limit {} is for a route {name}, and no route is called so", plan.id, limit.name)
                });
                self.warnings.extend(complaints);
            }
        }
    }
}

fn clock(ahead: i64) -> String {
    let side = if ahead < 0 { "behind" } else { "ahead" };
    let millis = ahead.unsigned_abs() / 1_000;
    format!("clock {millis}.{} ms {side}", ahead.unsigned_abs() % 1_000 / 100)
}

async fn plans(store: &dyn AccountStore) -> anyhow::Result<Vec<Plan>> {
    let mut plans = Vec::new();
    let mut page = PageRequest { after: None, size: 200 };
    loop {
        let found = store.plans(&page).await?;
        page.after = found.items.last().map(|plan| plan.id.clone());
        plans.extend(found.items);
        if !found.more {
            return Ok(plans);
        }
    }
}

/// What this configuration keeps, in plain words.
fn promises(loaded: &Loaded, stores: &Stores, plans: &[Plan]) -> Vec<String> {
    let shared = loaded.config.is_shared();
    let mut lines = vec!["what it promises:".to_owned()];
    lines.push(if shared {
        "  quotas: exact over all nodes; PostgreSQL debits each unit before it is spent".to_owned()
    } else {
        "  quotas: exact; one node".to_owned()
    });
    lines.push(match (&stores.valkey, shared) {
        (Some(_), _) => "  rates, requests open at once: exact over all nodes, by Valkey; rates that take over a minute to refill by the database".to_owned(),
        (None, true) => "  rates, requests open at once: exact over all nodes, by PostgreSQL, which syncs each answer to disk".to_owned(),
        (None, false) => "  rates, requests open at once: exact, in this node's memory; a restart may give one extra burst".to_owned(),
    });
    if shared {
        let stale = loaded.config.keys.max_stale.as_secs();
        lines.push(format!("  a revoked key: refused on every node within a second; within {stale} s on a node that cannot reach PostgreSQL"));
    }
    lines.push("  usage: counted once, through the end of any process".to_owned());
    for plan in plans {
        for limit in &plan.limits {
            let name = format!("  plan {}, limit {}", plan.id, limit.name);
            match limit.store_away {
                StoreAway::Overdraft(most) => lines
                    .push(format!("{name}: bounded while the store is away: at most N x {most} units more on N nodes")),
                StoreAway::Share if limit.kind != LimitKind::Quota && (shared || stores.valkey.is_some()) => {
                    lines.push(format!("{name}: while the store is away each node gives its part; at most one burst more at each change"));
                }
                _ => {}
            }
        }
    }
    lines
}
