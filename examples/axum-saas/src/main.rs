//! A small search service as people have it, and the gate around it.
//!
//! What the gate adds is marked `// gate`: keys, scopes, limits and metering for `/v1`, an admin API on a listener of its own, and a portal
//! in which whoever is signed in to the service manages their keys.
//!
//! ```sh
//! cargo run -p axum-saas -- --admin-token a-long-random-token
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;

use axum::extract::Query;
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
    let admin = usage_gate_axum::admin(&gate, AdminTokens::new(&options.admin_token), &portal);

    let listener = tokio::net::TcpListener::bind(options.listen).await?;
    let admin_listener = tokio::net::TcpListener::bind(options.admin_listen).await?;
    let admin_server = tokio::spawn(axum::serve(admin_listener, admin).into_future());
    axum::serve(listener, app).with_graceful_shutdown(stopped()).await?;
    admin_server.abort();
    gate.drain().await?; // gate: leases go back, usage is shipped
    Ok(())
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
