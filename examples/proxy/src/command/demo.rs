//! `usage-gate demo`: everything on one machine, to be looked at and thrown away.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use usage_gate_core::clock::Clock;

use super::client::AdminClient;
use super::serve::Stop;
use super::{demo_upstream, log, say};
use crate::config::{self, Config, HttpUrl, Loaded};
use crate::listen::install_metrics;
use crate::node::{Listeners, Node, Opened, absolute, random_hex};
use crate::sample::{self, Made, Order, Progress};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Keep the data here instead of throwing it away
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    log: log::Options,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    log::start(&arguments.log)?;
    let mut stop = Stop::new()?;
    let upstream = TcpListener::bind(("127.0.0.1", 0)).await.context("the demo's API")?;
    let url: HttpUrl = format!("http://{}", upstream.local_addr()?).parse()?;
    let api = tokio::spawn(async move { axum::serve(upstream, demo_upstream::router()).await });

    // Neither a file of one's own nor the environment: a demo is the same everywhere.
    let mut loaded = config::load_text("sample.toml", sample::CONFIG, &[])?;
    loaded.config.upstream.url = Some(url);
    loaded.config.server.drain = Duration::from_secs(3);
    let temporary = match arguments.data_dir {
        Some(data_dir) => {
            loaded.config.server.data_dir = data_dir;
            None
        }
        None => {
            let path = std::env::temp_dir().join(format!("usage-gate-demo-{}", random_hex::<6>()?));
            loaded.config.server.data_dir.clone_from(&path);
            Some(Temporary(path))
        }
    };

    let listeners = Listeners::bind_anywhere(&loaded.config).await?;
    let metrics = install_metrics()?;
    let made = make_sample(&loaded).await.context("the demo's customers")?;
    let node = Node::start(&loaded, listeners, metrics).await?;
    let token_file = node.token_file.clone().context("the demo has a token of its own")?;
    let admin = AdminClient::new(format!("http://{}", node.admin).parse()?, &token_file)?;
    let world = match made {
        Some(made) => World::of(&made)?,
        None => World::again(&admin).await.context("the demo's customers of last time")?,
    };
    let traffic = tokio::spawn(traffic(node.public.to_string(), world.keys.clone()));
    tell_moved(&node, &loaded.config)?;
    welcome(&node, &token_file, &world, &admin).await?;

    stop.wait().await;
    traffic.abort();
    let stopped = node.stop().await;
    api.abort();
    drop(temporary);
    stopped
}

/// Customers with weeks of use; `None` if they are there from the last time, with `--data-dir`.
async fn make_sample(loaded: &Loaded) -> anyhow::Result<Option<Made>> {
    let opened = Opened::open(loaded, Clock::system(), Duration::ZERO).await?;
    let made = match sample::found(&opened).await? {
        Some(_) => None,
        None => {
            let mut progress = Progress::new("making weeks of use");
            Some(sample::make(&opened, Order { weeks: WEEKS, seed: 1 }, &mut progress).await?)
        }
    };
    opened.close().await?;
    Ok(made)
}

/// A directory that is removed at the end, however that comes.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(fault) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%fault, path = %self.0.display(), "cannot remove the demo's data");
        }
    }
}

/// Nine and not eight: the month before this one is whole, whatever the day.
const WEEKS: u16 = 9;
/// Whose portal can be looked at, and what they may do in it.
const GUESTS: [(&str, &str); 2] = [("Ann Sato", "owner"), ("Chiyo Mori", "member")];
/// Keys with which the demo calls: the first is for the person who tries it, the second has a limit that is soon reached.
const KEYS: [&str; 5] = ["web-production", "website", "mobile-app", "partner-feed", "warehouse"];

/// The customers of the demo, as far as it speaks of them.
#[derive(Debug)]
struct World {
    tenant: String,
    /// In the order of [`GUESTS`].
    users: Vec<String>,
    /// Texts, in the order of [`KEYS`].
    keys: Vec<String>,
}

impl World {
    fn of(made: &Made) -> anyhow::Result<Self> {
        let tenant = made.customers.first().context("the sample has no customers")?.tenant.to_string();
        let user = |name| made.user(name).map(|id| id.to_string());
        let users: Option<_> = GUESTS.iter().map(|(name, _)| user(name)).collect();
        let keys: Option<_> = KEYS.iter().map(|name| made.key(name).map(ToOwned::to_owned)).collect();
        Ok(Self { tenant, users: users.context("users")?, keys: keys.context("keys")? })
    }

    /// The same from a running gate: texts of keys are kept nowhere, so the keys get new ones.
    async fn again(admin: &AdminClient) -> anyhow::Result<Self> {
        let (mut tenants, mut users, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for id in sample::TENANTS {
            let found = admin.get(&format!("/admin/v1/tenants?external_id={id}")).await?;
            let tenant = found.pointer("/items/0").with_context(|| format!("there is no tenant `{id}`"))?;
            let tenant = member(tenant, "id")?;
            users.extend(admin.list(&format!("/admin/v1/tenants/{tenant}/users")).await?);
            keys.extend(admin.list(&format!("/admin/v1/tenants/{tenant}/keys")).await?);
            tenants.push(tenant);
        }
        let mut world = Self { tenant: tenants.swap_remove(0), users: Vec::new(), keys: Vec::new() };
        for (name, _) in GUESTS {
            world.users.push(member(named(&users, name)?, "id")?);
        }
        for name in KEYS {
            let id = member(named(&keys, name)?, "id")?;
            let rotated = admin.post(&format!("/admin/v1/keys/{id}/rotate"), &json!({"overlap_seconds": 0})).await?;
            world.keys.push(member(&rotated, "key")?);
        }
        Ok(world)
    }
}

fn named<'a>(items: &'a [Value], name: &str) -> anyhow::Result<&'a Value> {
    let found = items.iter().find(|item| item.get("name").and_then(Value::as_str) == Some(name));
    found.with_context(|| format!("`{name}` is not there any more: use another --data-dir"))
}

fn member(document: &Value, name: &str) -> anyhow::Result<String> {
    let text = document.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
    text.with_context(|| format!("the admin API's answer has no `{name}`"))
}

/// A few requests a second with the customers' keys, so that there is something to see.
async fn traffic(public: String, keys: Vec<String>) {
    const PATHS: [&str; 5] =
        ["/v1/search?q=tea", "/v1/search?q=coffee", "/v1/search?q=cake", "/v1/feed", "/v1/items/7"];
    let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let mut every = tokio::time::interval(Duration::from_millis(400));
    for (path, key) in PATHS.iter().zip(&keys).cycle() {
        every.tick().await;
        let request = Request::get(format!("http://{public}{path}")).header("x-api-key", key).body(Empty::new());
        let Ok(request) = request else { return };
        // What comes of a request of the demo's is counted by the gate; nobody waits for it here.
        if let Ok(response) = client.request(request).await {
            let _ = response.into_body().collect().await;
        }
    }
}

/// A link that signs a user in to the portal, once.
async fn portal_link(admin: &AdminClient, user: &str) -> anyhow::Result<String> {
    member(&admin.post("/admin/v1/portal-sessions", &json!({"user": user})).await?, "url")
}

/// Says where the demo is, if that is not where a gate usually is.
fn tell_moved(node: &Node, config: &Config) -> anyhow::Result<()> {
    for (wanted, found, whose) in
        [(config.server.listen, node.public, "callers"), (config.server.admin_listen, node.admin, "operators")]
    {
        if wanted != found {
            say(format_args!("{wanted} is taken by another process: {whose} connect to {found} instead."))?;
        }
    }
    Ok(())
}

async fn welcome(node: &Node, token_file: &Path, world: &World, admin: &AdminClient) -> anyhow::Result<()> {
    let [key, small, ..] = &*world.keys else { bail!("the demo has no keys") };
    let tenant = &world.tenant;
    let Node { public, admin: address, .. } = node;
    let token = absolute(token_file);
    let token = token.display();
    let program = super::program();
    let options = format!("--admin-url http://{address} --token-file {token}");
    say(format_args!(
        "{WEEKS} weeks of Acme Robotics, as its people see them. Each link works once, within 15 minutes:"
    ))?;
    for ((name, role), user) in GUESTS.iter().zip(&world.users) {
        say(format_args!("  {}   {name}, {role}", portal_link(admin, user).await?))?;
    }
    say("Another one:")?;
    if let Some(user) = world.users.first() {
        say(format_args!("  {program} user link {user} {options}"))?;
    }
    say("\nA demo API runs behind the gate. A key of Acme's for it:")?;
    say(format_args!("  {key}"))?;
    say("\nCall the API, without and with the key:")?;
    say(format_args!("  curl -i 'http://{public}/v1/search?q=tea'"))?;
    say(format_args!("  curl -i -H 'x-api-key: {key}' 'http://{public}/v1/search?q=tea'"))?;
    say("\nSee what the upstream learns of the caller, and a stream:")?;
    say(format_args!("  curl -s -H 'x-api-key: {key}' http://{public}/v1/echo"))?;
    say(format_args!("  curl -sN -H 'x-api-key: {key}' http://{public}/v1/stream"))?;
    say("\nGo over the rate that Globex has, 5 requests a second with a burst of 10:")?;
    say(format_args!(
        "  for n in $(seq 20); do curl -s -o /dev/null -w '%{{http_code}} ' -H 'x-api-key: {small}' http://{public}/v1/items/$n; done; echo"
    ))?;
    say("\nSee the key's own limits and use:")?;
    say(format_args!("  curl -s -H 'x-api-key: {key}' http://{public}/usage-gate/v1/me"))?;
    say(format_args!("\nThe admin API is at http://{address}/admin/v1, its token in {token}:"))?;
    say(format_args!(
        "  curl -s -H \"Authorization: Bearer $(cat {token})\" 'http://{address}/admin/v1/usage?tenant={tenant}&group_by=key,outcome'"
    ))?;
    say(format_args!("  {program} key list --tenant {tenant} {options}"))?;
    say("\nCtrl-C ends it.")?;
    Ok(())
}
