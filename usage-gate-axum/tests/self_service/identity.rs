//! The host's own login in place of links.

use axum::http::request::Parts;
use serde_json::json;
use usage_gate_axum::{Identity, Portal};
use usage_gate_core::model::{Role, UserId};

use crate::stage::{Browser, ORIGIN, Stage};

/// A host whose session is a user's id in a header: only a test believes a header.
struct Login;

#[async_trait::async_trait]
impl Identity for Login {
    async fn user(&self, request: &Parts) -> Option<UserId> {
        request.headers.get("x-test-user")?.to_str().ok()?.parse().ok()
    }
}

#[tokio::test]
async fn who_is_signed_in_to_the_host_is_signed_in() {
    let stage = Stage::with(Portal::new().public_url(ORIGIN).unwrap().identity(Login)).await;
    let nobody = Browser::default();
    let ask = async |browser: &Browser, user: &str| {
        let headers = [("x-test-user", user)];
        stage.request(browser, http::Method::GET, "/usage-gate/v1/session", &headers, "").await
    };
    let viewer = stage.user(Role::Viewer).to_string();
    let session = ask(&nobody, &viewer).await.is(200);
    assert_eq!((&session["role"], &session["return_url"]), (&json!("viewer"), &json!(null)));
    // The host's word goes before our cookie; without one the cookie counts.
    let owner = stage.sign_in_as(Role::Owner).await;
    assert_eq!(ask(&owner, &viewer).await.is(200)["role"], "viewer");
    assert_eq!(ask(&owner, "nobody").await.is(200)["role"], "owner");
    ask(&nobody, "nobody").await.problem(401, "missing_token");
    ask(&nobody, &UserId::generate().to_string()).await.problem(401, "invalid_token");
    // A session of ours is ended on its pages; the host's login is the host's to end.
    for (browser, user, ours) in [(&nobody, &*viewer, false), (&owner, "nobody", true)] {
        let headers = [("x-test-user", user), ("accept", "text/html")];
        let page = stage.request(browser, http::Method::GET, "/usage-gate/month", &headers, "").await;
        assert_eq!((page.status.as_u16(), page.text.contains("/usage-gate/sign-out")), (200, ours));
    }
    // Another site's page cannot use the host's login either.
    let headers = [("x-test-user", viewer.as_str()), ("sec-fetch-site", "cross-site")];
    let answer = stage.request(&nobody, http::Method::POST, "/usage-gate/v1/session", &headers, "{}").await;
    answer.problem(403, "forbidden");
}
