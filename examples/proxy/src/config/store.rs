//! `[store]`: where what must last is kept, and what the nodes of one gate share.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use zeroize::Zeroizing;

use super::Config;
use super::load::{Faults, Loaded};

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Store {
    pub(crate) sqlite: Option<PathBuf>,
    pub(crate) postgres: Option<Secret>,
    pub(crate) postgres_file: Option<PathBuf>,
    valkey: Option<Secret>,
    valkey_file: Option<PathBuf>,
    /// Whether `serve` brings the schema up to date itself.
    pub(crate) migrate: bool,
}

impl Default for Store {
    fn default() -> Self {
        Self { sqlite: None, postgres: None, postgres_file: None, valkey: None, valkey_file: None, migrate: true }
    }
}

/// An address with a password in it: never shown, gone from memory with its last copy.
#[derive(Clone, Deserialize)]
#[serde(from = "String")]
pub(crate) struct Secret(Zeroizing<String>);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl Secret {
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where what must last is kept.
#[derive(Debug, Clone)]
pub(crate) enum Database {
    Sqlite(PathBuf),
    Postgres(Secret),
}

/// The stores of a configuration.
#[derive(Debug, Clone)]
pub(crate) struct Stores {
    pub(crate) database: Database,
    pub(crate) valkey: Option<Secret>,
}

impl Config {
    /// Whether the books are in PostgreSQL, which other nodes share.
    pub(crate) const fn is_shared(&self) -> bool {
        self.store.postgres.is_some() || self.store.postgres_file.is_some()
    }
}

impl Loaded {
    /// The stores, with the addresses that files hold.
    pub(crate) fn stores(&self) -> Result<Stores, Faults> {
        let Store { sqlite, postgres, postgres_file, valkey, valkey_file, .. } = &self.config.store;
        if sqlite.is_some() && self.config.is_shared() {
            let fault = "`store.sqlite` and `store.postgres` are both set: keep the one that is meant";
            return Err(self.about("store.postgres", fault).into());
        }
        let postgres = self.address("store.postgres", postgres.as_ref(), postgres_file.as_deref(), is_postgres)?;
        let valkey = self.address("store.valkey", valkey.as_ref(), valkey_file.as_deref(), is_valkey)?;
        let in_data_dir = || self.config.server.data_dir.join("usage-gate.db");
        let database = match postgres {
            Some(address) => Database::Postgres(address),
            None => Database::Sqlite(sqlite.clone().unwrap_or_else(in_data_dir)),
        };
        Ok(Stores { database, valkey })
    }

    fn address(
        &self,
        key: &str,
        given: Option<&Secret>,
        file: Option<&Path>,
        fault: fn(&str) -> Option<&'static str>,
    ) -> Result<Option<Secret>, Faults> {
        let (key, address) = match (given, file) {
            (Some(_), Some(_)) => {
                let both = format!("`{key}` and `{key}_file` are both set: keep the one that is meant");
                return Err(self.about(key, &both).into());
            }
            (Some(given), None) => (key.to_owned(), given.clone()),
            (None, Some(file)) => {
                let key = format!("{key}_file");
                let text = std::fs::read_to_string(file).map_err(|error| {
                    let fault =
                        format!("{} cannot be read: name a file that this user may read: {error}", file.display());
                    self.about(&key, &fault)
                })?;
                (key, Zeroizing::new(text).trim().to_owned().into())
            }
            (None, None) => return Ok(None),
        };
        match fault(address.reveal()) {
            // Without the address: it holds a password.
            Some(fault) => Err(self.about(&key, fault).into()),
            None => Ok(Some(address)),
        }
    }
}

fn is_postgres(address: &str) -> Option<&'static str> {
    let known = ["postgres://", "postgresql://"].iter().any(|scheme| address.starts_with(scheme));
    (!known).then_some("must be an address such as postgres://user:password@host:5432/database")
}

fn is_valkey(address: &str) -> Option<&'static str> {
    let known = ["redis://", "rediss://", "valkey://", "valkeys://"].iter().any(|scheme| address.starts_with(scheme));
    (!known).then_some("must be an address such as redis://:password@host:6379/0, or rediss://… for TLS")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_text;

    fn stores(text: &str) -> Result<Stores, String> {
        load_text("usage-gate.toml", text, &[]).unwrap().stores().map_err(|faults| faults.to_string())
    }

    #[test]
    fn without_anything_the_database_is_a_file_of_the_data_directory() {
        let found = stores("[server]\ndata_dir = \"d\"\n").unwrap();
        assert!(matches!(found.database, Database::Sqlite(path) if path == Path::new("d/usage-gate.db")));
    }

    #[test]
    fn what_cannot_be_meant_is_named_without_its_password() {
        for (text, expected) in [
            (
                "[store]\nsqlite = \"a\"\npostgres = \"postgres://u:secret@h/d\"\n",
                "usage-gate.toml:3:1: store.postgres: `store.sqlite`",
            ),
            (
                "[store]\npostgres = \"mysql://u:secret@h/d\"\n",
                "usage-gate.toml:2:1: store.postgres: must be an address such as postgres://",
            ),
            (
                "[store]\nvalkey = \"http://:secret@h\"\n",
                "usage-gate.toml:2:1: store.valkey: must be an address such as redis://",
            ),
            (
                "[store]\nvalkey = \"redis://:secret@h\"\nvalkey_file = \"v\"\n",
                "usage-gate.toml:2:1: store.valkey: `store.valkey` and `store.valkey_file`",
            ),
            (
                "[store]\npostgres_file = \"/no/such/file\"\n",
                "usage-gate.toml:2:1: store.postgres_file: /no/such/file cannot be read",
            ),
        ] {
            let fault = stores(text).unwrap_err();
            assert!(fault.starts_with(expected) && !fault.contains("secret"), "{fault}");
        }
    }

    #[test]
    fn with_postgres_the_pepper_is_the_operators() {
        let text = "[store]\npostgres = \"postgres://h/d\"\n";
        let fault = load_text("usage-gate.toml", text, &[]).unwrap().check_secrets().unwrap_err().to_string();
        assert!(fault.contains("keys.pepper_file: is missing") && fault.contains("openssl rand"), "{fault}");
    }

    #[test]
    fn an_address_is_shown_nowhere() {
        let found = stores("[store]\npostgres = \"postgres://u:secret@h/d\"\n").unwrap();
        assert!(!format!("{found:?}").contains("secret"));
        assert!(matches!(found.database, Database::Postgres(address) if address.reveal().contains("secret")));
    }
}
