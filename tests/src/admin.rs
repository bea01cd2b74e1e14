//! The admin API as an operator's backend uses it.

use http::{Method, Request};
use serde_json::{Value, json};

use crate::{Answer, Client};

/// A client with the admin token.
#[derive(Debug, Clone)]
pub struct Admin {
    client: Client,
    url: String,
    token: String,
}

impl Admin {
    /// A client of the API at `http://address`.
    #[must_use]
    pub fn new(client: Client, url: &str, token: &str) -> Self {
        Self { client, url: url.to_owned(), token: token.to_owned() }
    }

    /// Any call; `path` begins behind `/admin/v1`.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn call(&self, method: Method, path: &str, body: impl Into<String>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}/admin/v1{path}", self.url))
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(body.into())
            .unwrap();
        self.client.call(request).await
    }

    /// `POST` that must be well.
    ///
    /// # Panics
    /// If it is not.
    pub async fn create(&self, path: &str, document: &Value) -> Value {
        let answer = self.call(Method::POST, path, document.to_string()).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.json());
        answer.json()
    }

    /// `GET` that must be well.
    ///
    /// # Panics
    /// If it is not.
    pub async fn read(&self, path: &str) -> Value {
        let answer = self.call(Method::GET, path, "").await;
        assert!(answer.status.is_success(), "{path}: {}", answer.json());
        answer.json()
    }

    /// Makes a plan with these limits, a tenant on it in a time zone, and a key with these scopes: tenant id and key text.
    ///
    /// # Panics
    /// If it cannot.
    pub async fn tenant_with_key(&self, plan: &str, limits: Value, zone: &str, scopes: &[&str]) -> (String, String) {
        self.create("/plans", &json!({"id": plan, "name": plan, "limits": limits})).await;
        let tenant = self.create("/tenants", &json!({"name": plan, "plan": plan, "time_zone": zone})).await;
        let tenant = tenant["id"].as_str().unwrap().to_owned();
        let key = self.create(&format!("/tenants/{tenant}/keys"), &json!({"name": "test", "scopes": scopes})).await;
        (tenant, key["key"].as_str().unwrap().to_owned())
    }

    /// Units and calls of a meter by outcome, of a tenant's present month.
    ///
    /// # Panics
    /// If it cannot be read.
    pub async fn usage(&self, tenant: &str, meter: &str) -> Vec<(String, u64, u64)> {
        let usage = self.read(&format!("/usage?tenant={tenant}&meter={meter}&group_by=outcome")).await;
        let number = |item: &Value, member: &str| item[member].as_u64().unwrap();
        let items = usage["items"].as_array().unwrap().iter();
        items
            .map(|item| (item["outcome"].as_str().unwrap().to_owned(), number(item, "units"), number(item, "requests")))
            .collect()
    }
}
