//! Two customers with users of every role and keys, and browsers that are signed in.

use crate::answer::Answer;
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::header::{COOKIE, SET_COOKIE};
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;
use usage_gate_axum::{AdminTokens, Portal, admin, layer, portal};
use usage_gate_core::UsageGate;
use usage_gate_core::clock::ManualClock;
use usage_gate_core::management::{
    KeyDraft, LimitDraft, PlanDraft, TenantDraft, UserDraft, create_key, create_plan, create_tenant, create_user,
};
use usage_gate_core::model::{CountedBy, KeyId, LimitKind, Per, Role, TenantId, UserId};
use usage_gate_core::routes::Route;
use usage_gate_core::secret::Pepper;
use usage_gate_core::store::MemoryStore;

pub(crate) const TOKEN: &str = "an-admin-token-of-the-tests";
pub(crate) const ORIGIN: &str = "https://api.example.com";
pub(crate) const ROLES: [Role; 4] = [Role::Owner, Role::Admin, Role::Member, Role::Viewer];

pub(crate) struct Stage {
    pub(crate) gate: UsageGate,
    pub(crate) clock: ManualClock,
    /// The customer whose users are signed in.
    pub(crate) acme: TenantId,
    /// A user of each role, in the order of [`ROLES`].
    pub(crate) users: [UserId; 4],
    /// Another member of the same customer.
    pub(crate) colleague: UserId,
    /// Another customer, and a user of theirs.
    pub(crate) globex: TenantId,
    pub(crate) stranger: UserId,
    router: Router,
}

/// What browsers look at.
impl Answer {
    /// The `name=value` of a cookie that it sets.
    pub(crate) fn cookie(&self) -> String {
        let cookie = self.headers[SET_COOKIE].to_str().unwrap();
        cookie.split(';').next().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

/// A browser, or none for a client without cookies.
#[derive(Debug, Clone, Default)]
pub(crate) struct Browser(pub(crate) String);

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(Portal::new().public_url(ORIGIN).unwrap().name("Northwind API")).await
    }

    pub(crate) async fn with(options: Portal) -> Self {
        let clock = ManualClock::at("2026-11-24T12:00:00Z".parse().unwrap());
        let gate = UsageGate::builder()
            .store(MemoryStore::new(clock.clock()))
            .clock(clock.clock())
            .pepper(Pepper::new(&[7; 32]))
            .route(Route::get("/v1/search").named("search").scope("search:read"))
            .route(Route::get("/v1/items").named("items").scope("items:read"))
            .build()
            .await
            .unwrap();
        let each = LimitDraft {
            per: Some(Per::Month),
            counted_by: Some(CountedBy::Key),
            ..LimitDraft::new("each", LimitKind::Quota, 100)
        };
        let month = LimitDraft { per: Some(Per::Month), ..LimitDraft::new("month", LimitKind::Quota, 1_000) };
        create_plan(&gate, PlanDraft::new("starter", vec![month, each])).await.unwrap();
        let acme = create_tenant(&gate, TenantDraft::new("Acme", "starter")).await.unwrap().id;
        let globex = create_tenant(&gate, TenantDraft::new("Globex", "starter")).await.unwrap().id;
        let mut users = Vec::new();
        for role in ROLES {
            users.push(user(&gate, acme, role.as_str(), role).await);
        }
        let colleague = user(&gate, acme, "colleague", Role::Member).await;
        let stranger = user(&gate, globex, "stranger", Role::Owner).await;
        let router = Router::new()
            .route("/v1/search", get(|| async { "found" }))
            .layer(layer(&gate))
            .merge(admin(&gate, AdminTokens::new(TOKEN), &options))
            .merge(portal(&gate, &options));
        Self { gate, clock, acme, users: users.try_into().unwrap(), colleague, globex, stranger, router }
    }

    pub(crate) fn user(&self, role: Role) -> UserId {
        self.users[ROLES.iter().position(|known| *known == role).unwrap()]
    }

    /// A key made by the operator.
    pub(crate) async fn key(&self, tenant: TenantId, user: Option<UserId>, name: &str) -> KeyId {
        self.key_with_text(tenant, user, name).await.0
    }

    pub(crate) async fn key_with_text(&self, tenant: TenantId, user: Option<UserId>, name: &str) -> (KeyId, String) {
        let draft = KeyDraft { user, scopes: vec!["search:read".into()], ..KeyDraft::new(name) };
        let issued = create_key(&self.gate, tenant, draft).await.unwrap();
        (issued.key.id, issued.text.to_string())
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        Answer::read(response).await
    }

    /// A call of the API, a moment after what was managed before.
    pub(crate) async fn with_key(&self, key: &str) -> Answer {
        self.clock.advance_millis(1);
        self.send(Request::get("/v1/search").header("x-api-key", key).body(Body::empty()).unwrap()).await
    }

    /// A call of the admin API.
    pub(crate) async fn operator(&self, method: Method, path: &str, body: Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder().method(method).uri(format!("/admin/v1{path}"));
        self.send(request.header("authorization", format!("Bearer {TOKEN}")).body(body.into()).unwrap()).await
    }

    /// The path of a link for a user.
    pub(crate) async fn link(&self, user: UserId) -> String {
        let asked = json!({"user": user, "return_url": "https://app.example.com/account"});
        let made = self.operator(Method::POST, "/portal-sessions", asked).await.is(201);
        made["url"].as_str().unwrap().strip_prefix(ORIGIN).unwrap().to_owned()
    }

    /// A browser in which a user is signed in.
    pub(crate) async fn sign_in(&self, user: UserId) -> Browser {
        let answer = self.visit(&Browser::default(), &self.link(user).await).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text);
        Browser(answer.cookie())
    }

    pub(crate) async fn sign_in_as(&self, role: Role) -> Browser {
        self.sign_in(self.user(role)).await
    }

    /// Opens a page as people do.
    pub(crate) async fn visit(&self, browser: &Browser, path: &str) -> Answer {
        self.request(browser, Method::GET, path, &[], "").await
    }

    /// A call of the self-service API from a page of ours; `path` begins behind the prefix.
    pub(crate) async fn call(&self, browser: &Browser, method: &str, path: &str, body: &str) -> Answer {
        let same_origin = [("sec-fetch-site", "same-origin"), ("content-type", "application/json")];
        self.request(browser, method.parse().unwrap(), &format!("/usage-gate{path}"), &same_origin, body).await
    }

    pub(crate) async fn get(&self, browser: &Browser, path: &str) -> Answer {
        self.call(browser, "GET", path, "").await
    }

    pub(crate) async fn post(&self, browser: &Browser, path: &str, body: Value) -> Answer {
        self.call(browser, "POST", path, &body.to_string()).await
    }

    pub(crate) async fn request(
        &self,
        browser: &Browser,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "api.example.com");
        if !browser.0.is_empty() {
            request = request.header(COOKIE, &browser.0);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }
}

async fn user(gate: &UsageGate, tenant: TenantId, name: &str, role: Role) -> UserId {
    let draft = UserDraft {
        external_id: None,
        email: format!("{name}@example.test"),
        name: Some(name.to_owned()),
        role: Some(role),
    };
    create_user(gate, tenant, draft).await.unwrap().id
}
