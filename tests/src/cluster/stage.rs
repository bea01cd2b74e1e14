//! Gateways that share their stores.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::servers::{Database, shared_valkey};
use crate::{Admin, Client, Folder, Gateway, Setup, Upstream};

/// Where the gateways keep things.
#[derive(Debug, Clone)]
pub struct Stores {
    /// The database's address.
    pub postgres: String,
    /// The Valkey's, if there is one.
    pub valkey: Option<String>,
}

impl Stores {
    /// A database of the shared server, alone.
    #[must_use]
    pub fn postgres(database: &Database) -> Self {
        Self { postgres: database.url(), valkey: None }
    }

    /// The same with the shared Valkey.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn with_valkey(database: &Database) -> Self {
        Self { postgres: database.url(), valkey: Some(shared_valkey()) }
    }
}

/// Gateways on the same stores, in front of one upstream.
#[derive(Debug)]
pub struct Cluster {
    /// Each with a data directory of its own.
    pub gateways: Vec<Gateway>,
    /// Behind all of them.
    pub upstream: Upstream,
    configs: Vec<String>,
    folders: Vec<Arc<Folder>>,
    _secrets: Folder,
}

/// The token that all of them accept.
const TOKEN: &str = "uga_of-the-cluster-of-a-test";

impl Cluster {
    /// Starts so many; `more` is further configuration.
    ///
    /// # Panics
    /// If one does not come up.
    pub async fn start(nodes: usize, stores: &Stores, more: &str) -> Self {
        Self::start_each(&vec![stores.clone(); nodes], more).await
    }

    /// Starts one for each of these ways to the stores; `more` is further configuration.
    ///
    /// # Panics
    /// If one does not come up.
    pub async fn start_each(stores: &[Stores], more: &str) -> Self {
        let secrets = Folder::new();
        let write = |name: &str, text: &str| {
            let path = secrets.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let pepper = write("pepper", "a pepper of tests: 0123456789abcdef0123456789abcdef");
        let token = write("token", TOKEN);
        let config = |(node, stores): (usize, &Stores)| {
            let postgres = write(&format!("postgres-{node}"), &stores.postgres);
            let valkey = stores.valkey.as_ref().map(|valkey| format!("valkey = \"{valkey}\"\n"));
            let valkey = valkey.unwrap_or_default();
            format!(
                "[store]\npostgres_file = \"{postgres}\"\n{valkey}[keys]\npepper_file = \"{pepper}\"\n[admin]\ntoken_file = \"{token}\"\n{more}"
            )
        };
        let configs: Vec<String> = stores.iter().enumerate().map(config).collect();
        let upstream = Upstream::start().await;
        let folders: Vec<Arc<Folder>> = stores.iter().map(|_| Arc::new(Folder::new())).collect();
        let mut cluster = Self { gateways: Vec::new(), upstream, configs, folders, _secrets: secrets };
        for node in 0..stores.len() {
            let gateway = cluster.gateway(node).await;
            cluster.gateways.push(gateway);
        }
        cluster
    }

    async fn gateway(&self, node: usize) -> Gateway {
        let setup = Setup { config: self.configs[node].clone(), upstream: Some(self.upstream.url.clone()) };
        Gateway::start_in(Arc::clone(&self.folders[node]), setup).await
    }

    /// As `kill -9`.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub async fn kill(&mut self, node: usize) {
        self.gateways[node].kill().await;
    }

    /// Starts one again on its data, after it was killed.
    ///
    /// # Panics
    /// If it does not come up.
    pub async fn start_again(&mut self, node: usize) {
        self.gateways[node] = self.gateway(node).await;
    }

    /// The configuration file of one.
    #[must_use]
    pub fn config_file(&self, node: usize) -> PathBuf {
        self.folders[node].path().join("usage-gate.toml")
    }

    /// A client of the admin API of one, with any token.
    #[must_use]
    pub fn admin_with(&self, node: usize, token: &str) -> Admin {
        Admin::new(Client::new(), &self.gateways[node].admin_url, token)
    }

    /// A client of the admin API of one.
    #[must_use]
    pub fn admin(&self, node: usize) -> Admin {
        self.admin_with(node, TOKEN)
    }

    /// Makes a tenant with these limits, and a key of it.
    ///
    /// # Panics
    /// If it cannot.
    pub async fn key(&self, plan: &str, limits: Value) -> (String, String) {
        self.admin(0).tenant_with_key(plan, limits, "UTC", &[]).await
    }

    /// Where clients find each.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.gateways.iter().map(|gateway| gateway.url.clone()).collect()
    }
}
