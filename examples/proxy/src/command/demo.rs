//! `usage-gate demo`: everything on one machine, to be looked at and thrown away.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::client::AdminClient;
use super::serve::Stop;
use super::{demo_upstream, log, say};
use crate::config::{self, HttpUrl};
use crate::listen::install_metrics;
use crate::node::{Listeners, Node, absolute, random_hex};

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

    // Neither a file nor the environment: a demo is the same everywhere.
    let mut loaded = config::load(None, &[])?;
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
    let node = Node::start(&loaded, listeners, install_metrics()?).await?;
    let admin = AdminClient::new(format!("http://{}", node.admin).parse()?, &node.token_file)?;
    let world = World::make(&admin).await.context("the demo's tenants")?;
    let traffic = tokio::spawn(traffic(node.public.to_string(), world.others.clone()));
    welcome(&node, &world)?;

    stop.wait().await;
    traffic.abort();
    let stopped = node.stop().await;
    api.abort();
    drop(temporary);
    stopped
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

/// The customers of the demo.
#[derive(Debug)]
struct World {
    tenant: String,
    /// For the person who tries it.
    key: String,
    /// For the traffic.
    others: Vec<String>,
}

impl World {
    async fn make(admin: &AdminClient) -> anyhow::Result<Self> {
        let suffix = random_hex::<3>()?;
        ensure_plan(
            admin,
            &json!({"id":"starter","name":"Starter","currency":"USD","limits":[
            {"name":"burst","kind":"rate","meter":"requests","units":5,"per":"second","burst":10,"counted_by":"key"},
            {"name":"month","kind":"quota","meter":"requests","units":20_000,"per":"month","counted_by":"tenant"}]}),
        )
        .await?;
        ensure_plan(
            admin,
            &json!({"id":"pro","name":"Pro","currency":"USD","limits":[
            {"name":"burst","kind":"rate","meter":"requests","units":50,"per":"second","burst":100,"counted_by":"key"},
            {"name":"month","kind":"quota","meter":"requests","units":1_000_000,"per":"month","counted_by":"tenant"}]}),
        )
        .await?;
        let acme = tenant(admin, "Acme", "starter", "Asia/Tokyo", &suffix).await?;
        let globex = tenant(admin, "Globex", "pro", "Europe/Berlin", &suffix).await?;
        let ann = user(admin, &acme, "Ann", "owner").await?;
        let bob = user(admin, &acme, "Bob", "member").await?;
        let cleo = user(admin, &globex, "Cleo", "owner").await?;
        Ok(Self {
            key: key(admin, &acme, "try me", &ann).await?,
            others: vec![
                key(admin, &acme, "nightly report", &bob).await?,
                key(admin, &globex, "website", &cleo).await?,
                key(admin, &globex, "mobile app", &cleo).await?,
            ],
            tenant: acme,
        })
    }
}

/// With `--data-dir` the plan may be there from the last time.
async fn ensure_plan(admin: &AdminClient, plan: &Value) -> anyhow::Result<()> {
    let known = admin.list("/admin/v1/plans").await?;
    if !known.iter().any(|other| other.get("id") == plan.get("id")) {
        admin.post("/admin/v1/plans", plan).await?;
    }
    Ok(())
}

async fn tenant(admin: &AdminClient, name: &str, plan: &str, zone: &str, suffix: &str) -> anyhow::Result<String> {
    let external_id = format!("{}-{suffix}", name.to_ascii_lowercase());
    let document = json!({"name": name, "plan": plan, "time_zone": zone, "external_id": external_id});
    member(&admin.post("/admin/v1/tenants", &document).await?, "id")
}

async fn user(admin: &AdminClient, tenant: &str, name: &str, role: &str) -> anyhow::Result<String> {
    let email = format!("{}@example.test", name.to_ascii_lowercase());
    let document = json!({"email": email, "name": name, "role": role});
    member(&admin.post(&format!("/admin/v1/tenants/{tenant}/users"), &document).await?, "id")
}

async fn key(admin: &AdminClient, tenant: &str, name: &str, user: &str) -> anyhow::Result<String> {
    let document = json!({"name": name, "user": user});
    member(&admin.post(&format!("/admin/v1/tenants/{tenant}/keys"), &document).await?, "key")
}

fn member(document: &Value, name: &str) -> anyhow::Result<String> {
    let text = document.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
    text.with_context(|| format!("the admin API's answer has no `{name}`"))
}

/// A few requests a second from the other keys, so that there is something to see.
async fn traffic(public: String, keys: Vec<String>) {
    const PATHS: [&str; 4] = ["/v1/search?q=tea", "/v1/items/7", "/v1/search?q=coffee", "/v1/items/missing"];
    let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let mut every = tokio::time::interval(Duration::from_millis(400));
    for (path, key) in PATHS.iter().cycle().zip(keys.iter().cycle()) {
        every.tick().await;
        let request = Request::get(format!("http://{public}{path}")).header("x-api-key", key).body(Empty::new());
        let Ok(request) = request else { return };
        // What comes of a request of the demo's is counted by the gate; nobody waits for it here.
        if let Ok(response) = client.request(request).await {
            let _ = response.into_body().collect().await;
        }
    }
}

fn welcome(node: &Node, world: &World) -> std::io::Result<()> {
    let World { tenant, key, .. } = world;
    let Node { public, admin, .. } = node;
    let token = absolute(&node.token_file);
    let token = token.display();
    say("A demo API runs behind the gate. Its key, for the tenant Acme:")?;
    say(format_args!("  {key}"))?;
    say("\nCall the API, without and with the key:")?;
    say(format_args!("  curl -i 'http://{public}/v1/search?q=tea'"))?;
    say(format_args!("  curl -i -H 'x-api-key: {key}' 'http://{public}/v1/search?q=tea'"))?;
    say("\nSee what the upstream learns of the caller, and a stream:")?;
    say(format_args!("  curl -s -H 'x-api-key: {key}' http://{public}/v1/echo"))?;
    say(format_args!("  curl -sN -H 'x-api-key: {key}' http://{public}/v1/stream"))?;
    say("\nGo over the limit of 10 at once:")?;
    say(format_args!(
        "  for n in $(seq 20); do curl -s -o /dev/null -w '%{{http_code}} ' -H 'x-api-key: {key}' http://{public}/v1/items/$n; done; echo"
    ))?;
    say("\nSee the key's own limits and use:")?;
    say(format_args!("  curl -s -H 'x-api-key: {key}' http://{public}/usage-gate/v1/me"))?;
    say(format_args!("\nThe admin API is at http://{admin}/admin/v1, its token in {token}:"))?;
    say(format_args!(
        "  curl -s -H \"Authorization: Bearer $(cat {token})\" 'http://{admin}/admin/v1/usage?tenant={tenant}&group_by=key,outcome'"
    ))?;
    let program = super::program();
    say(format_args!("  {program} key list --tenant {tenant} --admin-url http://{admin} --token-file {token}"))?;
    say("\nCtrl-C ends it.")
}
