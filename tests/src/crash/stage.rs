//! Everything of one run: the counting upstream, the gateway, its tenants, the clients, and the evidence at the end.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use usage_gate_core::clock::Clock;

use super::actor::Actor;
use super::event::{Ending, Sight, read};
use super::ledger_view::{Ledger, journal, verify};
use super::oracle::Evidence;
use super::servers::Servers;
use super::traffic::{Account, Mix, Orders};
use super::victim::Victim;
use crate::{Admin, Client, Folder};

/// A start takes no longer, even on a machine that does something else.
const READY: Duration = Duration::from_secs(20);

/// A tenant of a run.
#[derive(Debug, Clone)]
pub struct TenantSetup {
    /// The name of its plan, and its own.
    pub name: &'static str,
    /// The limits of its plan.
    pub limits: Value,
    /// Its keys: how often each is used.
    pub weights: &'static [u64],
}

/// A zone in which it is noon or so, and its date: no run crosses the end of a quota's day.
#[derive(Debug, Clone)]
pub struct Day {
    /// The zone's name.
    pub zone: String,
    /// Today, there.
    pub date: String,
}

impl Day {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let now = Clock::system().wall();
        let hour = now.as_seconds().rem_euclid(86_400) / 3_600;
        let ahead = 12 - hour;
        let there = now.plus_micros(ahead * 3_600_000_000).to_string();
        // Zones of this family are named for how far they are behind.
        let zone = if ahead == 0 { "Etc/GMT".to_owned() } else { format!("Etc/GMT{:+}", -ahead) };
        Self { zone, date: there[..10].to_owned() }
    }
}

/// One run.
#[derive(Debug)]
pub struct Stage {
    /// The gateway.
    pub victim: Victim,
    /// All keys.
    pub accounts: Vec<Account>,
    /// The day on which all of it happens.
    pub day: Day,
    /// Its configuration.
    pub config: PathBuf,
    folder: Folder,
    clients: Vec<Actor>,
    in_flight: u64,
    _upstream: Actor,
}

impl Stage {
    /// Starts upstream and gateway, and makes the tenants. `data_dir` is elsewhere than in the run's own folder, if it is given.
    ///
    /// # Panics
    /// If something does not come up.
    pub async fn start(config: &str, data_dir: Option<PathBuf>, tenants: &[TenantSetup]) -> Self {
        Self::start_with(config, data_dir, None, tenants).await
    }

    /// The same on PostgreSQL and Valkey.
    ///
    /// # Panics
    /// If something does not come up.
    pub async fn start_on(servers: &Servers, tenants: &[TenantSetup]) -> Self {
        Self::start_with(&servers.config(), None, Some(servers.token_file()), tenants).await
    }

    async fn start_with(
        config: &str,
        data_dir: Option<PathBuf>,
        token_file: Option<PathBuf>,
        tenants: &[TenantSetup],
    ) -> Self {
        let folder = Folder::new();
        let file = folder.path().join("usage-gate.toml");
        std::fs::write(&file, config).unwrap();
        let (upstream, url) = Actor::upstream(&folder.path().join("upstream.jsonl")).await;
        let data_dir = data_dir.unwrap_or_else(|| folder.path().join("data"));
        let mut victim = Victim::new(file.clone(), data_dir, &url);
        if let Some(token_file) = token_file {
            victim.token_file = token_file;
        }
        victim.start();
        victim.ready(READY).await;
        let mut stage = Self {
            victim,
            accounts: Vec::new(),
            day: Day::now(),
            config: file,
            folder,
            clients: Vec::new(),
            in_flight: 0,
            _upstream: upstream,
        };
        for tenant in tenants {
            stage.add(tenant).await;
        }
        stage
    }

    async fn add(&mut self, setup: &TenantSetup) {
        let admin = Admin::new(Client::new(), &format!("http://{}", self.victim.admin), &self.victim.token());
        let name = setup.name;
        admin.create("/plans", &json!({"id": name, "name": name, "limits": setup.limits})).await;
        let tenant = json!({"name": name, "plan": name, "time_zone": self.day.zone});
        let tenant = admin.create("/tenants", &tenant).await["id"].as_str().unwrap().to_owned();
        for (at, weight) in setup.weights.iter().enumerate() {
            let key = admin.create(&format!("/tenants/{tenant}/keys"), &json!({"name": format!("{name}-{at}")})).await;
            self.accounts.push(Account {
                tenant: tenant.clone(),
                key: key["id"].as_str().unwrap().to_owned(),
                secret: key["key"].as_str().unwrap().to_owned(),
                weight: *weight,
            });
        }
    }

    /// Tenants by the order in which they were made.
    #[must_use]
    pub fn tenants(&self) -> Vec<String> {
        let mut tenants: Vec<String> = self.accounts.iter().map(|account| account.tenant.clone()).collect();
        tenants.dedup();
        tenants
    }

    /// The admin API, as far as it answers.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        Ledger::new(self.victim.admin, &self.victim.token())
    }

    /// Starts a recording client.
    pub fn client(&mut self, seed: u64, tasks: u64, mix: Mix, requests: Option<u64>, pause_ms: u64) {
        let events = self.folder.path().join(format!("client-{}.jsonl", self.clients.len()));
        self.in_flight += tasks;
        self.clients.push(Actor::client(&Orders {
            address: self.victim.public,
            events,
            seed,
            tasks,
            mix,
            requests,
            pause_ms,
            accounts: self.accounts.clone(),
        }));
    }

    /// Waits until the clients have sent what they were told to.
    ///
    /// # Panics
    /// If that takes longer.
    pub async fn clients_ended(&mut self, time: Duration) {
        for client in &mut self.clients {
            client.ended(time).await;
        }
    }

    /// Lets the clients finish what they have begun.
    ///
    /// # Panics
    /// If they do not.
    pub async fn stop_clients(&mut self) {
        for client in &mut self.clients {
            client.close();
        }
        self.clients_ended(Duration::from_secs(60)).await;
    }

    /// What the clients wrote down so far.
    ///
    /// # Panics
    /// If it cannot be read.
    #[must_use]
    pub fn endings(&self) -> Vec<Ending> {
        let file = |at| self.folder.path().join(format!("client-{at}.jsonl"));
        (0..self.clients.len()).flat_map(|at| read::<Ending>(&file(at))).collect()
    }

    /// Ends the gateway in peace, reads its files, and starts it once more to ask it.
    ///
    /// # Panics
    /// If it does not end well or come up again.
    pub async fn evidence(&mut self, kills: u64) -> Evidence {
        let status = self.victim.stop().await;
        assert!(status.success(), "{status}\n{}", self.victim.log_tail());
        let mut evidence = Evidence {
            seen: read::<Sight>(&self.folder.path().join("upstream.jsonl")),
            endings: self.endings(),
            kills,
            in_flight: self.in_flight,
            ..Evidence::default()
        };
        let missing = &mut evidence.missing;
        evidence.records = kept(journal(&self.victim.data_dir).await, missing).0;
        kept(verify(&self.victim.data_dir, &self.config, &self.day.date).await, missing);
        self.victim.start();
        self.victim.ready(READY).await;
        let ledger = self.ledger();
        evidence.logged = kept(ledger.request_log().await, missing);
        for tenant in self.tenants() {
            evidence.sums.insert(tenant.clone(), kept(ledger.sums(&tenant).await, missing));
            for standing in kept(ledger.standings(&tenant, None).await, missing) {
                if standing.counted_by == "tenant" {
                    evidence.standings.push((tenant.clone(), None, standing));
                }
            }
        }
        for account in &self.accounts {
            for standing in kept(ledger.standings(&account.tenant, Some(&account.key)).await, missing) {
                if standing.counted_by == "key" {
                    evidence.standings.push((account.tenant.clone(), Some(account.key.clone()), standing));
                }
            }
        }
        // `verify` runs beside `serve`, and says the same.
        kept(verify(&self.victim.data_dir, &self.config, &self.day.date).await, missing);
        let panics = self.victim.logged("panicked");
        if !panics.is_empty() {
            missing.push(format!("the gateway panicked: {panics:?}"));
        }
        evidence
    }

    /// Waits until the usage API says as many billed requests as this: how long that took.
    ///
    /// # Panics
    /// If it does not come to that in time.
    pub async fn shipped(&self, billed: u64, time: Duration) -> Duration {
        let began = Instant::now();
        let ledger = self.ledger();
        loop {
            let mut told = 0;
            for tenant in self.tenants() {
                let sums = ledger.sums(&tenant).await.unwrap_or_default();
                told += ["billed", "aborted"]
                    .iter()
                    .filter_map(|outcome| sums.get(*outcome))
                    .map(|sum| sum.requests)
                    .sum::<u64>();
            }
            if told >= billed {
                return began.elapsed();
            }
            assert!(began.elapsed() < time, "{told} of {billed} requests are billed\n{}", self.victim.log_tail());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What was had; nothing, and a fault, if it was not.
fn kept<T: Default>(result: Result<T, String>, missing: &mut Vec<String>) -> T {
    result.unwrap_or_else(|fault| {
        missing.push(fault);
        T::default()
    })
}
