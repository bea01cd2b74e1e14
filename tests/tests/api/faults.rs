//! Bad input and broken neighbours: each has its code, nothing is lost, nothing panics.

use http::{Method, Request};
use serde_json::json;
use usage_gate_tests::{Answer, Client, Folder, Gateway, Setup, Upstream, run};

async fn stage(config: &str) -> (Upstream, Gateway, String, String) {
    let upstream = Upstream::start().await;
    let setup = Setup { config: config.to_owned(), upstream: Some(upstream.url.clone()) };
    let gateway = Gateway::start(setup).await;
    let limits = json!([{"name": "month", "kind": "quota", "units": 100, "per": "month"}]);
    let (tenant, key) = gateway.admin().tenant_with_key("p", limits, "UTC", &[]).await;
    (upstream, gateway, tenant, key)
}

#[track_caller]
fn check(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{}", answer.json());
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.json()["instance"], json!(answer.header("x-request-id")));
}

#[tokio::test]
async fn an_unknown_key_of_the_config_is_named_with_line_and_column() {
    let folder = Folder::new();
    let file = folder.path().join("bad.toml");
    std::fs::write(&file, "[server]\nlisten = \"127.0.0.1:0\"\nlistne = 1\n").unwrap();
    for command in ["check", "serve"] {
        let (status, _, error) = run(&[command, "--config", file.to_str().unwrap()]).await;
        assert_eq!(status, Some(1), "{error}");
        assert!(error.contains("bad.toml:3:1") && error.contains("listne"), "{error}");
    }
    let (status, _, error) = run(&["serve", "--no-such-option"]).await;
    assert_eq!(status, Some(2), "{error}");
}

#[tokio::test]
async fn what_is_not_built_yet_is_said() {
    let folder = Folder::new();
    let file = folder.path().join("later.toml");
    std::fs::write(&file, "[server]\nproxy_protocol = true\n").unwrap();
    let (status, _, error) = run(&["check", "--config", file.to_str().unwrap()]).await;
    assert_eq!(status, Some(1));
    assert!(error.contains("proxy_protocol") && error.contains("not built yet"), "{error}");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = Folder::new();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let (status, _, error) = run(&[
        "serve",
        "--upstream",
        "http://127.0.0.1:1",
        "--listen",
        &address,
        "--admin-listen",
        "127.0.0.1:0",
        "--data-dir",
        data,
    ])
    .await;
    assert_eq!(status, Some(1));
    assert!(error.contains(&address) && error.contains("--listen"), "{error}");
}

#[tokio::test]
async fn an_upstream_that_is_away_is_a_502_and_comes_back() {
    let upstream = Upstream::start().await;
    let url = upstream.url.clone();
    let gateway = Gateway::start(Setup { config: String::new(), upstream: Some(url.clone()) }).await;
    let limits = json!([{"name": "month", "kind": "quota", "units": 2, "per": "month"}]);
    let (tenant, key) = gateway.admin().tenant_with_key("p", limits, "UTC", &[]).await;
    let client = Client::new();
    assert_eq!(client.get(&format!("{}/x", gateway.url), &key).await.status, 200);
    drop(upstream);
    for _ in 0..5 {
        check(&client.get(&format!("{}/x", gateway.url), &key).await, 502, "upstream_unavailable");
    }
    let _upstream = Upstream::start_on(url.trim_start_matches("http://")).await;
    assert_eq!(client.get(&format!("{}/x", gateway.url), &key).await.status, 200, "a 502 took no quota");
    let usage = gateway.admin().usage(&tenant, "requests").await;
    assert_eq!(usage, [("billed".to_owned(), 2, 2), ("unbilled".to_owned(), 5, 5)]);
}

#[tokio::test]
async fn documents_that_cannot_be_used_are_answered_with_their_place() {
    let (_upstream, gateway, tenant, _) = stage("").await;
    let admin = gateway.admin();
    let broken = admin.call(Method::POST, "/plans", "{\"id\": \"a\",\n  \"name\": }").await;
    check(&broken, 400, "invalid_request");
    assert!(broken.json()["detail"].as_str().unwrap().contains("line 2, column 11"), "{}", broken.json());

    let cases = [
        (
            "/plans",
            json!({"id": "a", "name": "A", "limits": [{"name": "x", "kind": "rate", "units": "3", "per": "second"}]}),
            "/limits/0/units",
        ),
        (
            "/plans",
            json!({"id": "a", "name": "A", "limits": [{"name": "x", "kind": "rate", "units": 0, "per": "second"}]}),
            "/limits/0/units",
        ),
        ("/plans", json!({"id": "a", "name": "A", "limit": []}), "/limit"),
        (
            "/plans",
            json!({"id": "a", "name": "A", "prices": [{"meter": "requests", "model": "per_unit", "unit_price": 0.5}]}),
            "/prices/0/unit_price",
        ),
        ("/tenants", json!({"name": "A", "plan": "nowhere"}), "/plan"),
        ("/tenants", json!({"name": "A", "plan": "p", "time_zone": "Mars/Olympus"}), "/time_zone"),
        ("/tenants", json!({"name": "A", "plan": "p", "anchor_day": 32}), "/anchor_day"),
        ("/tenants", json!({"plan": "p"}), "/name"),
    ];
    for (path, document, pointer) in cases {
        let answer = admin.call(Method::POST, path, document.to_string()).await;
        check(&answer, 400, "invalid_request");
        assert_eq!(answer.json()["errors"][0]["pointer"], json!(pointer), "{document}: {}", answer.json());
    }
    check(&admin.call(Method::GET, "/tenants/ten_nobody", "").await, 404, "not_found");
    check(&admin.call(Method::GET, "/nowhere", "").await, 404, "not_found");
    let method = admin.call(Method::DELETE, "/plans", "").await;
    check(&method, 405, "method_not_allowed");
    assert!(method.header("allow").contains("POST"));
    check(&admin.call(Method::GET, &format!("/usage?tenant={tenant}&windo=day"), "").await, 400, "invalid_request");
    check(&admin.call(Method::GET, "/tenants?page_size=0", "").await, 400, "invalid_request");
    let external = json!({"name": "A", "plan": "p", "external_id": "x"});
    admin.create("/tenants", &external).await;
    check(&admin.call(Method::POST, "/tenants", external.to_string()).await, 409, "conflict");

    let client = Client::new();
    let url = format!("{}/admin/v1/tenants", gateway.admin_url);
    check(&client.get(&url, "").await, 401, "missing_token");
    let wrong = Request::get(&url).header("authorization", "Bearer wrong").body("").unwrap();
    check(&client.call(wrong).await, 401, "invalid_token");
}

#[tokio::test]
async fn the_same_post_twice_with_an_idempotency_key_is_done_once() {
    let (_upstream, gateway, _, _) = stage("").await;
    let token = std::fs::read_to_string(gateway.data_dir().join("admin-token")).unwrap();
    let client = Client::new();
    let post = |body: &'static str| {
        let request = Request::post(format!("{}/admin/v1/tenants", gateway.admin_url))
            .header("authorization", format!("Bearer {}", token.trim()))
            .header("idempotency-key", "once");
        request.body(body).unwrap()
    };
    let first = client.call(post(r#"{"name":"A","plan":"p"}"#)).await;
    let second = client.call(post(r#"{"name":"A","plan":"p"}"#)).await;
    assert_eq!((first.status.as_u16(), first.json()["id"].clone()), (201, second.json()["id"].clone()));
    check(&client.call(post(r#"{"name":"B","plan":"p"}"#)).await, 422, "idempotency_conflict");
    assert_eq!(gateway.admin().read("/tenants").await["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn requests_that_cannot_be_served_are_told_why_and_cost_nothing() {
    let config = "[[routes]]\nname = \"all\"\npath = \"/{*rest}\"\nmax_body = \"1KiB\"\n";
    let (upstream, gateway, tenant, key) = stage(config).await;
    let client = Client::new();
    let url = format!("{}/x", gateway.url);
    let with = |fields: Vec<(&'static str, String)>| {
        let request = fields.into_iter().fold(Request::get(&url), |request, (name, value)| request.header(name, value));
        request.body(Vec::new()).unwrap()
    };
    check(&client.call(with(vec![("x-key", key.clone())])).await, 401, "missing_key");
    check(&client.call(with(vec![("authorization", format!("Token {key}"))])).await, 401, "missing_key");
    let other = gateway.admin().create(&format!("/tenants/{tenant}/keys"), &json!({"name": "other"})).await;
    let other = other["key"].as_str().unwrap().to_owned();
    let both = vec![("x-api-key", key.clone()), ("authorization", format!("Bearer {other}"))];
    check(&client.call(with(both)).await, 400, "ambiguous_credentials");
    let large = Request::post(&url).header("x-api-key", &key).body(vec![0; 2_000]).unwrap();
    check(&client.call(large).await, 413, "payload_too_large");
    let head = vec![("x-api-key", key.clone()), ("x-long", "a".repeat(40_000))];
    check(&client.call(with(head)).await, 431, "headers_too_large");
    let twisted = Request::get(format!("{}/a/%2e%2e/b", gateway.url)).header("x-api-key", &key).body("").unwrap();
    assert_eq!(client.call(twisted).await.status, 200, "one rule for every path: any spelling passes");
    let before = upstream.count();
    assert_eq!(client.get(&url, &key).await.status, 200);
    assert_eq!(upstream.count(), before + 1);
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
    assert!(!gateway.log().contains(&key), "a key is never logged");
}
