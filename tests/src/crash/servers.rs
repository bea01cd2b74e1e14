//! The PostgreSQL and the Valkey of a run, which fall beside the gateway or in its place.

use std::fmt;
use std::path::PathBuf;

use super::random::Random;
use crate::Folder;
use crate::cluster::{OwnPostgres, OwnValkey};

/// Who falls together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fallen {
    /// The gateway.
    pub gateway: bool,
    /// PostgreSQL.
    pub postgres: bool,
    /// Valkey.
    pub valkey: bool,
}

impl Fallen {
    /// The gateway alone.
    pub const GATEWAY: Self = Self { gateway: true, postgres: false, valkey: false };

    /// Somebody: the gateway alone half of the time, a server alone or all of them otherwise. While the gateway starts it is the gateway, since it does not start
    /// without its servers.
    pub fn draw(random: &mut Random, starting: bool) -> Self {
        let all = [
            (Self::GATEWAY, 5),
            (Self { postgres: true, ..Self::default() }, 2),
            (Self { valkey: true, ..Self::default() }, 2),
            (Self { gateway: true, postgres: true, valkey: true }, 1),
        ];
        if starting { Self::GATEWAY } else { all[random.weighted(all.map(|(_, weight)| weight))].0 }
    }
}

/// How often each fell.
#[derive(Debug, Clone, Copy, Default)]
pub struct Falls {
    /// The gateway.
    pub gateway: u64,
    /// PostgreSQL.
    pub postgres: u64,
    /// Valkey.
    pub valkey: u64,
}

impl Falls {
    /// Counts one.
    pub fn add(&mut self, fallen: Fallen) {
        self.gateway += u64::from(fallen.gateway);
        self.postgres += u64::from(fallen.postgres);
        self.valkey += u64::from(fallen.valkey);
    }
}

impl fmt::Display for Falls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gateway {}, PostgreSQL {}, Valkey {}", self.gateway, self.postgres, self.valkey)
    }
}

/// Both servers. Ended when dropped.
#[derive(Debug)]
pub struct Servers {
    postgres: OwnPostgres,
    valkey: OwnValkey,
    secrets: Folder,
}

impl Servers {
    /// Starts them.
    ///
    /// # Panics
    /// If one is not installed, or does not start.
    pub async fn start() -> Self {
        let secrets = Folder::new();
        std::fs::write(secrets.path().join("pepper"), "a pepper of tests: 0123456789abcdef0123456789abcdef").unwrap();
        std::fs::write(secrets.path().join("token"), "uga_of-the-kill-test").unwrap();
        Self { postgres: OwnPostgres::start().await, valkey: OwnValkey::start().await, secrets }
    }

    /// What a gateway's configuration says of them, with the secrets that nodes share.
    #[must_use]
    pub fn config(&self) -> String {
        let (pepper, token) = (self.secrets.path().join("pepper"), self.token_file());
        format!(
            "[store]\npostgres = \"{}\"\nvalkey = \"{}\"\n[keys]\npepper_file = \"{}\"\n[admin]\ntoken_file = \"{}\"\n",
            self.postgres.url(),
            self.valkey.url(),
            pepper.display(),
            token.display()
        )
    }

    /// Where the admin token is.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.secrets.path().join("token")
    }

    /// `kill -9` of those that are to fall.
    ///
    /// # Panics
    /// If one cannot be killed.
    pub async fn kill(&mut self, fallen: Fallen) {
        if fallen.postgres {
            self.postgres.kill().await;
        }
        if fallen.valkey {
            self.valkey.kill().await;
        }
    }

    /// Starts those that fell: PostgreSQL on what it had committed, Valkey empty.
    ///
    /// # Panics
    /// If one does not start.
    pub async fn start_again(&mut self, fallen: Fallen) {
        if fallen.postgres {
            self.postgres.start_again().await;
        }
        if fallen.valkey {
            self.valkey.start_again().await;
        }
    }
}
