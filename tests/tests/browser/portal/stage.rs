//! A gateway as a process with an upstream behind it, tenants and people that an operator made, and their way into a browser.

use http::Request;
use serde_json::{Value, json};
use usage_gate_tests::browser::{Cookie, Target};
use usage_gate_tests::{Admin, Answer, Browser, Client, Gateway, Setup, Upstream};

/// Every route asks for the scope; `items` is there to be limited apart from `search`.
const CONFIG: &str = r#"
    [portal]
    name = "Northwind API"
    example = "/v1/search?q=hello"
    [[routes]]
    name = "search"
    path = "/v1/search"
    scopes = ["search:read"]
    [[routes]]
    name = "items"
    path = "/v1/items"
    scopes = ["items:read"]
"#;

pub(crate) const SESSION: &str = "ug_session";

/// A running gateway and those who talk to it.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) gateway: Gateway,
    pub(crate) admin: Admin,
    pub(crate) client: Client,
    _upstream: Upstream,
}

impl Stage {
    pub(crate) async fn start() -> Self {
        let upstream = Upstream::start().await;
        let setup = Setup { config: CONFIG.into(), upstream: Some(upstream.url.clone()) };
        let gateway = Gateway::start(setup).await;
        Self { admin: gateway.admin(), gateway, client: Client::new(), _upstream: upstream }
    }

    /// The address of a page, by its path under the prefix.
    pub(crate) fn page(&self, path: &str) -> String {
        format!("{}/usage-gate{path}", self.gateway.url)
    }

    /// A tenant, on a plan with these limits and the tenant's name in lower case as its own.
    pub(crate) async fn tenant(&self, name: &str, limits: Value) -> String {
        let plan = name.to_lowercase();
        self.admin.create("/plans", &json!({"id": plan, "name": name, "limits": limits})).await;
        id(&self.admin.create("/tenants", &json!({"name": name, "plan": plan})).await)
    }

    pub(crate) async fn user(&self, tenant: &str, name: &str, role: &str) -> String {
        let email = format!("{}@example.com", name.to_lowercase());
        let user = json!({"email": email, "name": name, "role": role});
        id(&self.admin.create(&format!("/tenants/{tenant}/users"), &user).await)
    }

    /// A key with both scopes: its id and its text.
    pub(crate) async fn key(&self, tenant: &str, user: &str, name: &str) -> (String, String) {
        let draft = json!({"name": name, "user": user, "scopes": ["search:read", "items:read"]});
        let key = self.admin.create(&format!("/tenants/{tenant}/keys"), &draft).await;
        (id(&key), key["key"].as_str().unwrap().to_owned())
    }

    /// A link into the portal, as a host's backend asks for one.
    pub(crate) async fn link(&self, user: &str) -> String {
        let link = self.admin.create("/portal-sessions", &json!({"user": user})).await;
        link["url"].as_str().unwrap().to_owned()
    }

    /// Opens a fresh link in the browser.
    pub(crate) async fn sign_in(&self, browser: &Browser, user: &str) {
        browser.open(&self.link(user).await).await;
        assert_eq!(browser.url().await, self.page("/month"));
    }

    /// A call of the API.
    pub(crate) async fn call(&self, path: &str, key: &str) -> Answer {
        self.client.get(&format!("{}{path}", self.gateway.url), key).await
    }

    /// Names and states of a tenant's keys, as the operator sees them.
    pub(crate) async fn keys(&self, tenant: &str) -> Vec<(String, String)> {
        let keys = self.admin.read(&format!("/tenants/{tenant}/keys")).await;
        let word = |key: &Value, member: &str| key[member].as_str().unwrap().to_owned();
        keys["items"].as_array().unwrap().iter().map(|key| (word(key, "name"), word(key, "status"))).collect()
    }

    /// A page or a document as somebody gets it who has the cookie and no browser.
    pub(crate) async fn with_cookie(&self, path: &str, cookie: &Cookie) -> Answer {
        let request = Request::get(self.page(path)).header("cookie", format!("{}={}", cookie.name, cookie.value));
        self.client.call(request.body("").unwrap()).await
    }
}

/// The session's cookie in a browser.
pub(crate) async fn session_cookie(browser: &Browser) -> Cookie {
    browser.cookies().await.into_iter().find(|cookie| cookie.name == SESSION).unwrap()
}

/// Makes a key with both scopes on the page of keys; its text.
pub(crate) async fn create(browser: &Browser, name: &str) -> String {
    browser.fill(Target::Role("textbox", "Name"), name).await;
    browser.click(Target::Role("checkbox", "search:read")).await;
    browser.click(Target::Role("checkbox", "items:read")).await;
    browser.click(Target::Role("button", "Create key")).await;
    browser.text("#key-text").await
}

fn id(document: &Value) -> String {
    document["id"].as_str().unwrap().to_owned()
}
