//! The example of the contract word for word, and what a caller sees.

use http::{Method, Request};
use serde_json::json;
use usage_gate_tests::{Client, Gateway, Setup, Upstream};

const PLAN: &str = r#"{"id":"starter","name":"Starter","currency":"USD","limits":[
  {"name":"burst","kind":"rate","meter":"requests","units":10,"per":"second","burst":20,"counted_by":"key"},
  {"name":"month","kind":"quota","meter":"requests","units":1000,"per":"month","counted_by":"tenant","when_exceeded":"block"}],
  "prices":[{"meter":"requests","model":"graduated","tiers":[{"up_to":1000,"unit_price":"0"},{"up_to":null,"unit_price":"0.0004"}]}]}"#;

async fn stage(config: &str) -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let setup = Setup { config: config.to_owned(), upstream: Some(upstream.url.clone()) };
    let gateway = Gateway::start(setup).await;
    (upstream, gateway)
}

#[tokio::test]
async fn the_example_of_the_contract_word_for_word() {
    let (upstream, gateway) = stage("").await;
    let admin = gateway.admin();
    let plan = admin.call(Method::POST, "/plans", PLAN).await;
    assert_eq!((plan.status.as_u16(), plan.json()["version"].as_u64()), (201, Some(1)));

    let tenant = admin
        .call(Method::POST, "/tenants", r#"{"name":"Acme","plan":"starter","time_zone":"Asia/Tokyo","anchor_day":1}"#)
        .await;
    assert_eq!(tenant.status, 201);
    let tenant = tenant.json()["id"].as_str().unwrap().to_owned();
    assert!(tenant.starts_with("ten_"));

    let user = r#"{"email":"ann@acme.test","name":"Ann","role":"owner"}"#;
    let user = admin.call(Method::POST, &format!("/tenants/{tenant}/users"), user).await;
    assert_eq!(user.status, 201);
    let user = user.json()["id"].as_str().unwrap().to_owned();

    let key = json!({"name": "ci", "user": user, "environment": "live", "scopes": ["search:read"]}).to_string();
    let key = admin.call(Method::POST, &format!("/tenants/{tenant}/keys"), key).await;
    assert_eq!(key.status, 201);
    let key = key.json();
    let text = key["key"].as_str().unwrap().to_owned();
    assert!(text.starts_with("ug_live_"));
    let read = admin.read(&format!("/keys/{}", key["id"].as_str().unwrap())).await;
    assert_eq!(read.get("key"), None, "shown once");
    assert_eq!((read["status"].as_str(), read["user_name"].as_str()), (Some("active"), Some("Ann")));

    let client = Client::new();
    let url = format!("{}/v1/search?q=hello", gateway.url);
    let missing = client.get(&url, "").await;
    assert_eq!((missing.status.as_u16(), missing.code().as_str()), (401, "missing_key"));
    assert!(missing.headers.contains_key("www-authenticate"));

    let request = Request::get(&url)
        .header("x-api-key", &text)
        .header("x-usage-gate-tenant", "ten_forged")
        .header("x_usage_gate_scopes", "everything")
        .header("connection", "x-private")
        .header("x-private", "hop");
    let served = client.call(request.body("").unwrap()).await;
    assert_eq!(served.status, 200);
    let saw = served.json();
    assert_eq!(saw["x-usage-gate-tenant"], json!(tenant));
    assert_eq!(saw["x-usage-gate-user"], json!(user));
    assert_eq!(saw["x-usage-gate-key"], key["id"]);
    assert_eq!((&saw["x-usage-gate-plan"], &saw["x-usage-gate-environment"]), (&json!("starter"), &json!("live")));
    assert_eq!(saw["x-usage-gate-scopes"], json!("search:read"));
    assert_eq!(saw["x-request-id"], json!(served.header("x-request-id")));
    for absent in ["x-api-key", "x_usage_gate_scopes", "x-private"] {
        assert_eq!(saw.get(absent), None, "{absent}");
    }
    assert_eq!(upstream.count(), 1);

    let mut refused = None;
    for _ in 0..60 {
        let answer = client.get(&url, &text).await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.unwrap();
    assert_eq!(refused.code(), "rate_limited");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    let document = refused.json();
    assert_eq!(document["type"], json!("https://iana.org/assignments/http-problem-types#quota-exceeded"));
    assert_eq!(document["violated-policies"], json!(["burst"]));
    let state = &document["violated"][0];
    assert_eq!(
        (&state["name"], &state["kind"], &state["limit"], &state["period"]),
        (&json!("burst"), &json!("rate"), &json!(20), &json!(null))
    );
    assert_eq!(state["subject"], key["id"]);
}

#[tokio::test]
async fn a_made_up_key_costs_no_store_call() {
    let (upstream, gateway) = stage("").await;
    let client = Client::new();
    let made_up = "ug_live_0123456789ABCDEFG_0123456789ABCDEFGHIJKLMNOPQRSTUVzzzzzz";
    let lookups = || async {
        let metrics = client.get(&format!("{}/metrics", gateway.admin_url), "").await;
        let text = String::from_utf8(metrics.body.to_vec()).unwrap();
        let lines =
            text.lines().filter(|line| line.starts_with("usage_gate_key_lookups_total") && !line.contains("\"hit\""));
        lines.map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    let before = lookups().await;
    // One more, and the source is shut out: that is `guard.rs`'s.
    for _ in 0..20 {
        let answer = client.get(&format!("{}/x", gateway.url), made_up).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "invalid_key"));
    }
    assert_eq!(lookups().await, before);
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_key_without_the_routes_scope_is_refused() {
    let config = r#"
        [[routes]]
        name = "search"
        path = "/v1/search"
        scopes = ["search:read"]
        [[routes]]
        name = "open"
        path = "/open"
        auth = "none"
    "#;
    let (_upstream, gateway) = stage(config).await;
    let (_, key) = gateway.admin().tenant_with_key("p", json!([]), "UTC", &["items:read"]).await;
    let client = Client::new();
    let answer = client.get(&format!("{}/v1/search", gateway.url), &key).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "insufficient_scope"));
    assert_eq!(client.get(&format!("{}/open", gateway.url), "").await.status, 200);
    let answer = client.get(&format!("{}/elsewhere", gateway.url), &key).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "route_not_found"));
    // Another server may read this as the public path, so that the wrong rule would have judged it.
    let answer = client.get(&format!("{}/v1/%2e%2e/open", gateway.url), &key).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "invalid_request"));
}

#[tokio::test]
async fn revocation_and_suspension_are_in_force_at_once() {
    let (_upstream, gateway) = stage("").await;
    let admin = gateway.admin();
    let (tenant, key) = admin.tenant_with_key("p", json!([]), "UTC", &[]).await;
    let client = Client::new();
    let url = format!("{}/x", gateway.url);
    assert_eq!(client.get(&url, &key).await.status, 200);
    admin.create(&format!("/tenants/{tenant}/suspend"), &json!({})).await;
    assert_eq!(client.get(&url, &key).await.code(), "tenant_suspended");
    admin.create(&format!("/tenants/{tenant}/resume"), &json!({})).await;
    assert_eq!(client.get(&url, &key).await.status, 200);
    let id = admin.read(&format!("/tenants/{tenant}/keys")).await["items"][0]["id"].as_str().unwrap().to_owned();
    let rotated = admin.create(&format!("/keys/{id}/rotate"), &json!({"overlap_seconds": 60})).await;
    let second = rotated["key"].as_str().unwrap();
    assert_eq!(
        (client.get(&url, &key).await.status.as_u16(), client.get(&url, second).await.status.as_u16()),
        (200, 200)
    );
    admin.create(&format!("/keys/{id}/revoke"), &json!({"reason": "test"})).await;
    for text in [&key, second] {
        assert_eq!(client.get(&url, text).await.code(), "revoked_key");
    }
}

#[tokio::test]
async fn me_tells_the_holder_of_a_key_and_is_not_metered() {
    let (upstream, gateway) = stage("").await;
    let limits = json!([{"name": "month", "kind": "quota", "units": 10, "per": "month"}]);
    let (tenant, key) = gateway.admin().tenant_with_key("p", limits, "Asia/Tokyo", &[]).await;
    let client = Client::new();
    assert_eq!(client.get(&format!("{}/x", gateway.url), &key).await.status, 200);
    for _ in 0..3 {
        let me = client.get(&format!("{}/usage-gate/v1/me", gateway.url), &key).await;
        assert_eq!(me.status, 200);
        let me = me.json();
        assert_eq!((&me["tenant"]["id"], &me["plan"]["id"]), (&json!(tenant), &json!("p")));
        assert_eq!(
            (&me["limits"][0]["used"], &me["limits"][0]["remaining"]),
            (&json!(1), &json!(10 - 1 - me["limits"][0]["reserved"].as_u64().unwrap()))
        );
    }
    assert_eq!(client.get(&format!("{}/usage-gate/v1/me", gateway.url), "").await.code(), "missing_key");
    assert_eq!(upstream.count(), 1);
}
