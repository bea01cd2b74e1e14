//! A small search service as people have it, and the gate around it.
//!
//! What the gate adds is marked `// gate`: keys, scopes, limits and metering for `/v1`, an admin API on a listener of its own.
//!
//! ```sh
//! cargo run -p axum-saas -- --admin-token a-long-random-token
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;

use axum::extract::Query;
use axum::routing::get;
use axum::{Json, Router};
use clap::Parser;
use serde_json::{Value, json};
use usage_gate_axum::{AdminTokens, Caller, Cost, Portal};
use usage_gate_core::UsageGate;
use usage_gate_core::routes::Route;
use usage_gate_core::store::sqlite::SqliteStore;

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

    let portal = Portal::new().public_url(format!("http://{}", options.listen))?; // gate
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
