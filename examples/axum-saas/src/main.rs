//! A small search service as people have it, and the gate around it.
//!
//! What the gate adds is marked `// gate`: keys, scopes, limits and metering for `/v1`, an admin API on a listener of its own, and a portal
//! in which whoever is signed in to the service manages their keys.
//!
//! ```sh
//! cargo run -p axum-saas -- --admin-token a-long-random-token
//! ```

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use axum::extract::Query;
use axum::http::StatusCode;
use axum::http::header::COOKIE;
use axum::http::request::Parts;
use axum::routing::get;
use axum::{Json, Router};
use clap::Parser;
use serde_json::{Value, json};
use usage_gate_axum::{AdminTokens, Caller, Cost, Identity, Portal};
use usage_gate_core::UsageGate;
use usage_gate_core::model::UserId;
use usage_gate_core::routes::Route;
use usage_gate_core::store::sqlite::SqliteStore;
use usage_gate_core::store::{PageRequest, UserFilter};

/// A search service behind UsageGate.
#[derive(Debug, Parser)]
struct Options {
    /// Where the service listens.
    #[arg(long, default_value = "127.0.0.1:3000")]
    listen: SocketAddr,
    /// Where the admin API listens.
    #[arg(long, default_value = "127.0.0.1:3001")]
    admin_listen: SocketAddr,
    /// Folder of the database and the pepper.
    #[arg(long, default_value = "./axum-saas-data")]
    data_dir: PathBuf,
    /// The token that opens the admin API.
    #[arg(long)]
    admin_token: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    std::fs::create_dir_all(&options.data_dir)?;

    let store = SqliteStore::open(options.data_dir.join("usage-gate.db")).await?; // gate
    let gate = UsageGate::builder() // gate
        .store(store) // gate
        .pepper_file(options.data_dir.join("pepper")) // gate
        .data_dir(&options.data_dir) // gate
        .meter("rows") // gate
        .route(Route::get("/v1/search").named("search").scope("search:read")) // gate
        .build() // gate
        .await?; // gate

    let portal = Portal::new() // gate
        .public_url(format!("http://{}", options.listen))? // gate
        .name("Search service") // gate
        .example("/v1/search?q=tea")? // gate
        .identity(ToyLogin(gate.clone())); // gate
    let app = Router::new()
        .route("/v1/search", get(search))
        .layer(usage_gate_axum::layer(&gate)) // gate
        .merge(usage_gate_axum::portal(&gate, &portal)) // gate
        .into_make_service_with_connect_info::<SocketAddr>();
    // On the operators' listener: the token opens `/admin/v1`, health is open to whoever watches over the process.
    let admin = usage_gate_axum::admin(&gate, AdminTokens::new(&options.admin_token), &portal) // gate
        .merge(usage_gate_axum::health(&gate)) // gate
        .fallback(|| async { StatusCode::NOT_FOUND });

    let listener = tokio::net::TcpListener::bind(options.listen).await?;
    let admin_listener = tokio::net::TcpListener::bind(options.admin_listen).await?;
    welcome(&options)?;
    let admin_server = tokio::spawn(axum::serve(admin_listener, admin).into_future());
    axum::serve(listener, app).with_graceful_shutdown(stopped()).await?;
    admin_server.abort();
    gate.drain().await?; // gate: leases go back, usage is shipped
    Ok(())
}

/// Where everything is, and what to do before a call can succeed.
fn welcome(options: &Options) -> std::io::Result<()> {
    let Options { listen, admin_listen, .. } = options;
    // The token itself is not printed: it would stay in whatever keeps our output.
    let post = format!("curl -s -H \"authorization: Bearer $token\" http://{admin_listen}/admin/v1");
    let plan = r#"{"id":"free","name":"Free","limits":[{"name":"rows","kind":"quota","meter":"rows","units":1000,"per":"day"}]}"#;
    let scopes = r#"{"name":"first","scopes":["search:read"]}"#;
    let user = r#"{"email":"ann@acme.test","role":"owner","external_id":"ann"}"#;
    write!(
        std::io::stdout().lock(),
        r#"the service  http://{listen}
the admin API  http://{admin_listen}/admin/v1   (needs the token of --admin-token)
health  http://{admin_listen}/healthz and /readyz   (open)

With the admin token in $token, make a plan, then a tenant on it:
  {post}/plans -d '{plan}'
  {post}/tenants -d '{{"name":"Acme","plan":"free"}}'
With the tenant's `id` in $tenant, make a key:
  {post}/tenants/$tenant/keys -d '{scopes}'
With its `key` in $key, call the service:
  curl -s -H "x-api-key: $key" 'http://{listen}/v1/search?q=tea'
Make a user that the service knows as ann. Its toy login believes a cookie, and the portal believes it:
  {post}/tenants/$tenant/users -d '{user}'
  curl -s -b saas_user=ann http://{listen}/usage-gate/v1/session
In a browser, set the cookie saas_user=ann for http://{listen} and open http://{listen}/usage-gate/
"#
    )
}

/// The handler knows who calls, and says what the call cost.
async fn search(caller: Caller, cost: Cost, Query(query): Query<Value>) -> Json<Value> {
    let rows: Vec<String> = (1..=40).map(|row| format!("result {row}")).collect();
    cost.set("rows", 40);
    Json(json!({"for": caller.tenant, "query": query["q"], "rows": rows}))
}

/// The service's own login, so that its users need no link into the portal.
///
/// A toy: it believes a cookie that anybody can set. A real one looks up a session of the service's.
struct ToyLogin(UsageGate);

#[async_trait::async_trait]
impl Identity for ToyLogin {
    async fn user(&self, request: &Parts) -> Option<UserId> {
        let cookies = request.headers.get(COOKIE)?.to_str().ok()?;
        let name = cookies.split("; ").find_map(|cookie| cookie.strip_prefix("saas_user="))?;
        // The service knows its users by its own ids, which the gate keeps beside its own.
        let filter = UserFilter { tenant: None, external_id: Some(name.to_owned()) };
        let users = self.0.accounts()?.users(&filter, &PageRequest { after: None, size: 1 }).await.ok()?;
        users.items.first().map(|user| user.id)
    }
}

async fn stopped() {
    let interrupted = tokio::signal::ctrl_c();
    let terminated = async {
        if let Ok(mut signal) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            signal.recv().await;
        }
    };
    tokio::select! {
        _ = interrupted => {}
        () = terminated => {}
    }
}
