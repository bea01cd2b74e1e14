//! A walk through every page of the portal, in every state that looks different: with weeks of use, on the first day, refused, suspended, not
//! signed in. Tests and pictures are made on the same walk, so that a page that is added here is in both.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::browser::Target;
use crate::{Admin, Browser, Client, Folder, Gateway, Setup, Upstream, run};

/// Weeks of use: enough for the period before the present one to be whole.
const WEEKS: u16 = 9;

/// A page as it is shown at a point of the walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// A name for files and messages.
    pub name: &'static str,
    /// The status that the page was answered with.
    pub status: u16,
}

/// A gateway with customers, ready to be walked through.
#[derive(Debug)]
pub struct Tour {
    gateway: Gateway,
    admin: Admin,
    _upstream: Upstream,
    /// The customer with the most to see, and people of it by role.
    tenant: String,
    people: Vec<(String, String)>,
    /// Users of customers with nothing yet, with all used up, and stopped.
    first_day: String,
    refused: String,
    suspended: String,
}

impl Tour {
    /// Makes the customers and starts the gateway.
    ///
    /// # Panics
    /// If it does not come up.
    pub async fn start() -> Self {
        let upstream = Upstream::start().await;
        let gateway = sample(&upstream.url).await;
        let admin = gateway.admin();
        let tenant = id(&admin.read("/tenants?external_id=acme-robotics").await["items"][0]);
        let people = admin.read(&format!("/tenants/{tenant}/users")).await;
        let people = people["items"].as_array().unwrap().iter();
        let people = people.map(|user| (user["role"].as_str().unwrap().to_owned(), id(user))).collect();

        let limits = json!([{"name": "month", "kind": "quota", "meter": "requests", "units": 2, "per": "month"}]);
        admin.create("/plans", &json!({"id": "trial", "name": "Trial", "limits": limits})).await;
        let (_, first_day) = customer(&admin, "Initech").await;
        let (full, refused) = customer(&admin, "Stark Labs").await;
        let key = json!({"name": "first-try", "user": refused, "scopes": ["search:read"]});
        let key = admin.create(&format!("/tenants/{full}/keys"), &key).await;
        for _ in 0..3 {
            Client::new().get(&format!("{}/v1/search", gateway.url), key["key"].as_str().unwrap()).await;
        }
        let (stopped, suspended) = customer(&admin, "Wayne Data").await;
        admin.create(&format!("/tenants/{stopped}/suspend"), &json!({})).await;
        Self { gateway, admin, _upstream: upstream, tenant, people, first_day, refused, suspended }
    }

    /// The gateway's admin API.
    #[must_use]
    pub const fn admin(&self) -> &Admin {
        &self.admin
    }

    /// The customer with the most to see.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Walks through all pages and calls `look` at each.
    ///
    /// # Panics
    /// If a page is not there.
    pub async fn walk(&self, browser: &Browser, mut look: impl AsyncFnMut(Stop)) {
        let used = self.sign_in(browser, self.person("owner")).await;
        let mut at = async |name, status| look(Stop { name, status }).await;
        let open = async |path: &str| browser.open(&self.page(path)).await;

        at("month", 200).await;
        browser.click(".who summary").await;
        at("menu", 200).await;
        open("/month?meter=output_tokens&by=route").await;
        at("month-by-route", 200).await;
        open("/month?by=outcome").await;
        browser.click(".more > summary").await;
        at("month-by-outcome", 200).await;
        browser.click(".pager [rel=prev]").await;
        at("month-before", 200).await;

        open("/keys").await;
        at("keys", 200).await;
        let key = browser.evaluate("document.querySelector('.keys li').id").await;
        let key = key.as_str().unwrap();
        browser.click(format!("[id=\"{key}\"] .acts .bad").as_str()).await;
        browser.see(".keys .panel").await;
        at("revoke-in-row", 200).await;
        for (name, act) in [("edit", "edit"), ("rotate", "rotate"), ("revoke", "revoke")] {
            open(&format!("/keys/{key}/{act}")).await;
            at(name, 200).await;
        }
        open("/keys").await;
        browser.fill(".form [name=name]", "staging").await;
        browser.click(".form .primary").await;
        browser.see("#secret").await;
        at("secret", 200).await;
        browser.reload().await;
        browser.see(".note").await;
        at("sent-again", 409).await;
        open("/keys").await;
        // A browser would not let so long a name be sent.
        let send =
            "(() => { const field = document.querySelector('.form [name=name]'); field.removeAttribute('maxlength');
            field.value = 'x'.repeat(300); field.form.requestSubmit() })()";
        browser.evaluate(send).await;
        browser.see(".form [role=alert]").await;
        at("faults", 400).await;
        open("/nothing").await;
        at("not-found", 404).await;

        self.sign_in(browser, self.person("member")).await;
        at("month-of-member", 200).await;
        self.sign_in(browser, self.person("viewer")).await;
        open("/keys").await;
        at("keys-of-viewer", 200).await;
        open(&format!("/keys/{key}/edit")).await;
        at("forbidden", 403).await;
        self.sign_in(browser, &self.first_day).await;
        at("month-first-day", 200).await;
        open("/keys").await;
        at("keys-first-day", 200).await;
        self.sign_in(browser, &self.refused).await;
        browser.see("#live .note").await;
        at("month-refused", 200).await;
        self.sign_in(browser, &self.suspended).await;
        at("month-suspended", 200).await;
        browser.click(".who summary").await;
        browser.click(".who button").await;
        browser.see("main .message").await;
        at("signed-out", 200).await;
        open("/month").await;
        at("ended", 401).await;
        browser.open(&used).await;
        at("link-used", 401).await;
    }

    fn page(&self, path: &str) -> String {
        format!("{}/usage-gate{path}", self.gateway.url)
    }

    fn person(&self, role: &str) -> &str {
        self.people.iter().find(|(known, _)| known == role).map(|(_, id)| id).unwrap()
    }

    /// Opens a link for the user; the link.
    async fn sign_in(&self, browser: &Browser, user: &str) -> String {
        let link = self.admin.create("/portal-sessions", &json!({"user": user})).await;
        let link = link["url"].as_str().unwrap().to_owned();
        browser.open(&link).await;
        browser.see(Target::Css("#use")).await;
        link
    }
}

/// A gateway that knows the customers of `usage-gate sample`.
async fn sample(upstream: &str) -> Gateway {
    let folder = Folder::new();
    let data = folder.path().join("data");
    let arguments = ["sample", "--data-dir", &data.display().to_string(), "--weeks", &WEEKS.to_string()];
    let (status, _, error) = run(&arguments).await;
    assert_eq!(status, Some(0), "{error}");
    let config = std::fs::read_to_string(data.join("sample.toml")).unwrap();
    Gateway::start_in(Arc::new(folder), Setup { config, upstream: Some(upstream.to_owned()) }).await
}

/// A customer on the trial plan with an owner: the ids of both.
async fn customer(admin: &Admin, name: &str) -> (String, String) {
    let tenant = id(&admin.create("/tenants", &json!({"name": name, "plan": "trial"})).await);
    let user = json!({"email": "owner@example.com", "name": "Eve Stone", "role": "owner"});
    let user = id(&admin.create(&format!("/tenants/{tenant}/users"), &user).await);
    (tenant, user)
}

fn id(document: &Value) -> String {
    document["id"].as_str().unwrap().to_owned()
}
