//! The configuration: a TOML file, then the environment, then the command line.
//!
//! Every key has its type here, so that a wrong value is found while the file is read, with its line and column. Keys of
//! the contract that a later version builds are taken out and judged in [`later`] before anything else is read.

mod duration;
mod env;
mod journal;
mod later;
mod load;
mod portal;
mod routes;
mod secrets;
mod size;
mod store;
mod url;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use serde::Deserialize;
use usage_gate_core::model::AddressRange;

pub(crate) use env::overrides;
pub(crate) use load::{Loaded, load, load_text};
pub(crate) use routes::RouteConfig;
pub(crate) use secrets::read_token;
pub(crate) use store::{Database, Secret, Stores};
pub(crate) use url::HttpUrl;
pub(crate) use value::ReservedPrefix;

/// All of it, with defaults filled in.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) server: Server,
    pub(crate) upstream: Upstream,
    pub(crate) store: store::Store,
    pub(crate) keys: Keys,
    portal: portal::PortalConfig,
    pub(crate) admin: Admin,
    pub(crate) journal: journal::JournalConfig,
    pub(crate) limits: Limits,
    pub(crate) abuse: Abuse,
    pub(crate) meters: BTreeMap<String, MeterConfig>,
    pub(crate) routes: Vec<RouteConfig>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Server {
    #[serde(deserialize_with = "value::address")]
    pub(crate) listen: SocketAddr,
    #[serde(deserialize_with = "value::address")]
    pub(crate) admin_listen: SocketAddr,
    pub(crate) data_dir: PathBuf,
    #[serde(deserialize_with = "value::optional")]
    pub(crate) public_url: Option<HttpUrl>,
    #[serde(deserialize_with = "value::parsed")]
    pub(crate) reserved_prefix: ReservedPrefix,
    #[serde(deserialize_with = "value::parsed_list")]
    pub(crate) trusted_proxies: Vec<AddressRange>,
    #[serde(deserialize_with = "value::node")]
    pub(crate) node: Option<String>,
    #[serde(deserialize_with = "value::optional")]
    pub(crate) client_ip_header: Option<HeaderName>,
    #[serde(deserialize_with = "duration::some")]
    pub(crate) drain_delay: Duration,
    #[serde(deserialize_with = "duration::some")]
    pub(crate) drain: Duration,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 8081)),
            data_dir: "./usage-gate-data".into(),
            public_url: None,
            reserved_prefix: ReservedPrefix::default(),
            trusted_proxies: Vec::new(),
            node: None,
            client_ip_header: None,
            drain_delay: Duration::ZERO,
            drain: Duration::from_secs(30),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Upstream {
    #[serde(deserialize_with = "value::optional")]
    pub(crate) url: Option<HttpUrl>,
    /// A list of one is a way to write `url`; [`later`] refuses longer ones.
    #[serde(deserialize_with = "value::parsed_list")]
    urls: Vec<HttpUrl>,
    #[serde(deserialize_with = "duration::or_none")]
    pub(crate) connect_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration::or_none")]
    pub(crate) head_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration::or_none")]
    pub(crate) idle_timeout: Option<Duration>,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            url: None,
            urls: Vec::new(),
            connect_timeout: Some(Duration::from_secs(2)),
            head_timeout: Some(Duration::from_secs(30)),
            idle_timeout: Some(Duration::from_secs(300)),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Keys {
    #[serde(deserialize_with = "value::parsed_list")]
    pub(crate) headers: Vec<HeaderName>,
    #[serde(deserialize_with = "value::key_prefix")]
    pub(crate) prefix: String,
    pub(crate) pepper_file: Option<PathBuf>,
    #[serde(deserialize_with = "duration::above_zero")]
    pub(crate) max_stale: Duration,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            headers: vec![HeaderName::from_static("x-api-key"), http::header::AUTHORIZATION],
            prefix: "ug".into(),
            pepper_file: None,
            max_stale: Duration::from_secs(3_600),
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Admin {
    pub(crate) token_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Limits {
    pub(crate) legacy_headers: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Abuse {
    #[serde(deserialize_with = "value::parsed_list")]
    pub(crate) allow: Vec<AddressRange>,
    #[serde(deserialize_with = "value::parsed_list")]
    pub(crate) deny: Vec<AddressRange>,
    /// A minute; 0 shuts nobody out.
    #[serde(deserialize_with = "value::count")]
    pub(crate) bad_credentials: u16,
    #[serde(deserialize_with = "duration::above_zero")]
    pub(crate) block: Duration,
}

impl Default for Abuse {
    fn default() -> Self {
        Self { allow: Vec::new(), deny: Vec::new(), bad_credentials: 20, block: Duration::from_secs(60) }
    }
}

/// A meter has nothing to say yet but its name.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MeterConfig {}

impl Config {
    pub(crate) fn pepper_file(&self) -> PathBuf {
        self.keys.pepper_file.clone().unwrap_or_else(|| self.server.data_dir.join("pepper"))
    }

    /// The file of the token that was named, or is made; none where nodes share their tokens by the database and no file was named.
    pub(crate) fn admin_token_file(&self) -> Option<PathBuf> {
        let ours = || (!self.is_shared()).then(|| self.server.data_dir.join("admin-token"));
        self.admin.token_file.clone().or_else(ours)
    }
}
