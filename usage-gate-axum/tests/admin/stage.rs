//! A gate over the memory store at a fixed instant, and its routers driven without a listener.

use std::sync::Arc;

use crate::answer::Answer;
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request};
use serde_json::{Value, json};
use tower::ServiceExt;
use usage_gate_axum::{AdminTokens, Caller, Cost, Portal, admin, health, portal};
use usage_gate_core::UsageGate;
use usage_gate_core::clock::ManualClock;
use usage_gate_core::routes::Route;
use usage_gate_core::secret::Pepper;
use usage_gate_core::store::MemoryStore;
use usage_gate_tower::UsageGateLayer;

pub(crate) const TOKEN: &str = "an-admin-token-of-the-tests";

pub(crate) struct Stage {
    pub(crate) gate: UsageGate,
    pub(crate) clock: ManualClock,
    router: Router,
}

async fn search(caller: Caller, cost: Cost) -> String {
    assert!(cost.set("rows", 40));
    caller.tenant.to_string()
}

async fn bare(_: Caller) {}

impl Stage {
    pub(crate) async fn new() -> Self {
        let clock = ManualClock::at("2026-11-24T12:00:00Z".parse().unwrap());
        let store = MemoryStore::new(clock.clock());
        let gate = UsageGate::builder()
            .store(store)
            .clock(clock.clock())
            .pepper(Pepper::new(&[7; 32]))
            .meter("rows")
            .route(Route::get("/v1/search").named("search").scope("search:read"))
            .build()
            .await
            .unwrap();
        let api = Router::new().route("/v1/search", get(search)).layer(UsageGateLayer::new(&gate));
        let options = Portal::new().public_url("https://api.example.com").unwrap();
        let router = Router::new()
            .merge(admin(&gate, AdminTokens::new(TOKEN).and_kept_in(Arc::clone(gate.sessions().unwrap())), &options))
            .merge(health(&gate))
            .merge(api)
            .route("/bare", get(bare))
            .merge(portal(&gate, &options));
        Self { gate, clock, router }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        Answer::read(response).await
    }

    /// A request with the token and headers of the caller's choice.
    pub(crate) async fn request(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(AUTHORIZATION, format!("Bearer {TOKEN}")).header(CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.request(Method::POST, path, &[], &body.to_string()).await
    }

    pub(crate) async fn post_text(&self, path: &str, body: &str) -> Answer {
        self.request(Method::POST, path, &[], body).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        self.request(Method::PATCH, path, &[], &body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.request(Method::PUT, path, &[], &body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.request(Method::DELETE, path, &[], "").await
    }

    /// A request of the API or of its self-service, with a key.
    ///
    /// A moment after what was managed before: a caller that changed in the very instant it is looked up is looked up again.
    pub(crate) async fn with_key(&self, path: &str, key: &str) -> Answer {
        self.clock.advance_millis(1);
        self.send(Request::get(path).header("x-api-key", key).body(Body::empty()).unwrap()).await
    }

    /// The plan of the contract's example, and a tenant on it.
    pub(crate) async fn tenant(&self) -> String {
        self.post_text("/admin/v1/plans", PLAN).await.is(201);
        self.more_tenants("Acme").await
    }

    pub(crate) async fn more_tenants(&self, name: &str) -> String {
        let made = self.post("/admin/v1/tenants", json!({"name": name, "plan": "starter"})).await.is(201);
        made["id"].as_str().unwrap().to_owned()
    }

    /// A key of a tenant: its document with its text.
    pub(crate) async fn key(&self, tenant: &str) -> Value {
        let wish = json!({"name": "ci", "scopes": ["search:read"]});
        self.post(&format!("/admin/v1/tenants/{tenant}/keys"), wish).await.is(201)
    }
}

/// Word for word from the contract.
pub(crate) const PLAN: &str = r#"{"id":"starter","name":"Starter","currency":"USD","limits":[
  {"name":"burst","kind":"rate","meter":"requests","units":10,"per":"second","burst":20,"counted_by":"key"},
  {"name":"month","kind":"quota","meter":"requests","units":1000,"per":"month","counted_by":"tenant","when_exceeded":"block"}],
  "prices":[{"meter":"requests","model":"graduated","tiers":[{"up_to":1000,"unit_price":"0"},{"up_to":null,"unit_price":"0.0004"}]}]}"#;
