//! A gate with two tenants, people of every role, and the portal, driven without a listener or a browser.

use std::collections::BTreeMap;
use std::io::Read;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::header::{ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use tower::ServiceExt;
use usage_gate_axum::{Portal, portal};
use usage_gate_core::UsageGate;
use usage_gate_core::clock::ManualClock;
use usage_gate_core::management::{self, KeyDraft, LimitDraft, PlanDraft, TenantDraft, UserDraft};
use usage_gate_core::model::{CountedBy, Key, LimitKind, Per, Role, Tenant, User};
use usage_gate_core::routes::Route;
use usage_gate_core::secret::Pepper;
use usage_gate_core::store::MemoryStore;
use usage_gate_tower::UsageGateLayer;

pub(crate) struct Stage {
    pub(crate) gate: UsageGate,
    pub(crate) store: MemoryStore,
    pub(crate) clock: ManualClock,
    pub(crate) people: BTreeMap<&'static str, User>,
    /// Of the member.
    pub(crate) own: (Key, String),
    /// Of the owner.
    pub(crate) other: (Key, String),
    pub(crate) foreign: (Key, String),
    router: Router,
}

/// An answer, read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    /// As it went over the wire.
    pub(crate) length: usize,
}

impl Answer {
    /// Asserts the status.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }

    pub(crate) fn header(&self, name: impl http::header::AsHeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub(crate) const ROLES: [&str; 4] = ["owner", "admin", "member", "viewer"];

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::named("Acme").await
    }

    pub(crate) async fn named(name: &str) -> Self {
        let clock = ManualClock::at("2026-11-24T05:32:08Z".parse().unwrap());
        let store = MemoryStore::new(clock.clock());
        let gate = UsageGate::builder()
            .store(store.clone())
            .clock(clock.clock())
            .pepper(Pepper::new(&[7; 32]))
            .route(Route::get("/v1/search").named("search").scope("search:read"))
            .build()
            .await
            .unwrap();
        let mut month = LimitDraft::new("month", LimitKind::Quota, 1_000);
        (month.per, month.counted_by) = (Some(Per::Month), Some(CountedBy::Tenant));
        management::create_plan(&gate, PlanDraft::new("starter", vec![month])).await.unwrap();
        let (tenant, people) = tenant(&gate, name).await;
        let (stranger, strangers) = self::tenant(&gate, "Globex").await;
        let own = key(&gate, &tenant, &people["member"], "of the member").await;
        let other = key(&gate, &tenant, &people["owner"], "of the owner").await;
        let foreign = key(&gate, &stranger, &strangers["owner"], "of a stranger").await;

        let options = Portal::new().public_url("https://api.example.com").unwrap().name("Northwind API");
        let options = options.example("/v1/search?q=hello").unwrap();
        let router = Router::new()
            .route("/v1/search", get(|| async { "found" }))
            .layer(UsageGateLayer::new(&gate))
            .merge(portal(&gate, &options));
        // A caller that changed in the very instant it is looked up is looked up again.
        clock.advance_millis(1);
        Self { gate, store, clock, people, own, other, foreign, router }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = if parts.headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip") {
            let mut text = String::new();
            flate2::read::GzDecoder::new(&*bytes).read_to_string(&mut text).unwrap();
            text
        } else {
            String::from_utf8(bytes.to_vec()).unwrap()
        };
        Answer { status: parts.status, headers: parts.headers, text, length: bytes.len() }
    }

    /// Opens a link as somebody: the cookie of the session.
    pub(crate) async fn enter(&self, role: &str) -> String {
        let link = management::create_portal_link(&self.gate, self.people[role].id, None).await.unwrap();
        let path = format!("/usage-gate/enter/{}", link.token.as_str());
        let answer = self.send(Request::get(path).body(Body::empty()).unwrap()).await.is(303);
        assert_eq!(answer.header(LOCATION), "/usage-gate/");
        answer.header(SET_COOKIE).split(';').next().unwrap().to_owned()
    }

    /// A browser's request; a body is a form of this origin.
    pub(crate) async fn browse(
        &self,
        method: &str,
        path: &str,
        cookie: &str,
        headers: &[(&str, &str)],
        form: &str,
    ) -> Answer {
        let method: Method = method.parse().unwrap();
        let mut request = Request::builder().method(&method).uri(format!("/usage-gate{path}"));
        request = request.header(ACCEPT, "text/html").header(COOKIE, cookie);
        if method == Method::POST {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            request = request.header("sec-fetch-site", "same-origin").header("origin", "https://api.example.com");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(form.to_owned())).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str, cookie: &str) -> Answer {
        self.browse("GET", path, cookie, &[], "").await
    }

    pub(crate) async fn get_in(&self, language: &str, path: &str, cookie: &str) -> Answer {
        self.browse("GET", path, cookie, &[(ACCEPT_LANGUAGE.as_str(), language)], "").await
    }

    pub(crate) async fn get_small(&self, path: &str, cookie: &str) -> Answer {
        self.browse("GET", path, cookie, &[(ACCEPT_ENCODING.as_str(), "gzip")], "").await
    }

    pub(crate) async fn post(&self, path: &str, cookie: &str, form: &str) -> Answer {
        self.browse("POST", path, cookie, &[], form).await
    }

    /// Calls the API.
    pub(crate) async fn call(&self, key: &str) -> u16 {
        let request = Request::get("/v1/search").header("x-api-key", key).body(Body::empty()).unwrap();
        self.send(request).await.status.as_u16()
    }
}

async fn tenant(gate: &UsageGate, name: &str) -> (Tenant, BTreeMap<&'static str, User>) {
    let mut draft = TenantDraft::new(name, "starter");
    draft.time_zone = Some("Asia/Tokyo".into());
    let tenant = management::create_tenant(gate, draft).await.unwrap();
    let mut people = BTreeMap::new();
    for (role, name) in ROLES.into_iter().zip([Role::Owner, Role::Admin, Role::Member, Role::Viewer]) {
        let draft = UserDraft {
            external_id: None,
            email: format!("{role}@example.test"),
            name: Some(role.to_owned()),
            role: Some(name),
        };
        people.insert(role, management::create_user(gate, tenant.id, draft).await.unwrap());
    }
    (tenant, people)
}

async fn key(gate: &UsageGate, tenant: &Tenant, user: &User, name: &str) -> (Key, String) {
    let mut draft = KeyDraft::new(name);
    (draft.user, draft.scopes) = (Some(user.id), vec!["search:read".into()]);
    let issued = management::create_key(gate, tenant.id, draft).await.unwrap();
    (issued.key, issued.text.to_string())
}
