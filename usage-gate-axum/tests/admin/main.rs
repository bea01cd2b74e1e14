//! The admin API as its clients meet it.
#![expect(clippy::unwrap_used, reason = "helpers of tests are not test functions, and a failed unwrap fails the test")]

#[path = "../answer/mod.rs"]
mod answer;
mod requests;
mod stage;
mod usage;

use axum::body::Body;
use http::header::{ALLOW, AUTHORIZATION, WWW_AUTHENTICATE};
use http::{Method, Request};
use serde_json::{Value, json};
use stage::{PLAN, Stage, TOKEN};
use usage_gate_core::model::{AdminRole, AdminToken, TokenHash};

fn members(document: &Value) -> Vec<&str> {
    document.as_object().unwrap().keys().map(String::as_str).collect()
}

fn text<'a>(document: &'a Value, member: &str) -> &'a str {
    document[member].as_str().unwrap()
}

#[tokio::test]
async fn the_example_of_the_contract_is_taken_word_for_word() {
    let stage = Stage::new().await;
    let plan = stage.post_text("/admin/v1/plans", PLAN).await.is(201);
    assert_eq!(plan["version"], 1);
    assert_eq!(plan["prices"][0]["tiers"][1]["unit_price"], "0.0004");

    let tenant = r#"{"name":"Acme","plan":"starter","time_zone":"Asia/Tokyo","anchor_day":1}"#;
    let tenant = stage.post_text("/admin/v1/tenants", tenant).await.is(201);
    let mut expected = [
        "id",
        "external_id",
        "name",
        "status",
        "plan",
        "plan_version",
        "time_zone",
        "anchor_day",
        "period",
        "metadata",
        "created_at",
    ];
    expected.sort_unstable();
    assert!(expected.iter().all(|member| members(&tenant).contains(member)), "{tenant}");
    assert_eq!(tenant["period"], json!({"start": "2026-10-31T15:00:00Z", "end": "2026-11-30T15:00:00Z"}));
    assert!(text(&tenant, "id").starts_with("ten_"));

    let base = format!("/admin/v1/tenants/{}", text(&tenant, "id"));
    let user = r#"{"email":"ann@acme.test","name":"Ann","role":"owner"}"#;
    let user = stage.post_text(&format!("{base}/users"), user).await.is(201);

    let key =
        format!(r#"{{"name":"ci","user":"{}","environment":"live","scopes":["search:read"]}}"#, text(&user, "id"));
    let mut key = stage.post_text(&format!("{base}/keys"), &key).await.is(201);
    let shown_once = key.as_object_mut().unwrap().remove("key").unwrap();
    assert!(shown_once.as_str().unwrap().starts_with("ug_live_"));
    let mut expected = [
        "id",
        "tenant",
        "user",
        "user_name",
        "name",
        "environment",
        "scopes",
        "status",
        "hint",
        "last_used_at",
        "secrets",
        "allowed_addresses",
        "expires_at",
        "revoked_at",
        "created_at",
    ];
    expected.sort_unstable();
    assert!(expected.iter().all(|member| members(&key).contains(member)), "{key}");
    assert_eq!((text(&key, "user_name"), text(&key, "status")), ("Ann", "active"));
    for member in ["created_at", "expires_at", "hint", "last_used_at"] {
        assert!(members(&key["secrets"][0]).contains(&member), "{member}");
    }
    let read = stage.get(&format!("/admin/v1/keys/{}", text(&key, "id"))).await.is(200);
    assert_eq!(read, key, "the text is shown once");
}

#[tokio::test]
async fn a_token_of_the_store_does_what_its_role_says() {
    let stage = Stage::new().await;
    for (text, role) in [("looks-only-0123", AdminRole::Read), ("does-all-0123456", AdminRole::Full)] {
        let (hash, created_at) = (TokenHash::of(text), stage.gate.clock().wall());
        let token = AdminToken { hash, role, name: "test".to_owned(), created_at };
        stage.gate.sessions().unwrap().create_admin_token(&token).await.unwrap();
    }
    let send = async |token: &str, method: &str, body: &'static str| {
        let request =
            Request::builder().method(method).uri("/admin/v1/tenants").header("content-type", "application/json");
        let request = request.header("authorization", format!("Bearer {token}")).body(Body::from(body)).unwrap();
        stage.send(request).await
    };
    send("looks-only-0123", "GET", "").await.is(200);
    send("looks-only-0123", "POST", "{}").await.problem(403, "forbidden");
    send("does-all-0123456", "POST", "{}").await.problem(400, "invalid_request");
    send("nobody-knows-it-0", "GET", "").await.problem(401, "invalid_token");
}

#[tokio::test]
async fn without_a_token_nothing_is_told() {
    let stage = Stage::new().await;
    let request = |authorization: Option<&str>| {
        let mut request = Request::get("/admin/v1/nothing");
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        request.body(Body::empty()).unwrap()
    };
    for authorization in [None] {
        let answer = stage.send(request(authorization)).await;
        answer.problem(401, "missing_token");
        assert!(answer.headers[WWW_AUTHENTICATE].to_str().unwrap().starts_with("Bearer"));
    }
    let answer = stage.send(request(Some("Bearer wrong"))).await;
    answer.problem(401, "invalid_token");
    assert!(answer.headers[WWW_AUTHENTICATE].to_str().unwrap().starts_with("Bearer"));
    stage.send(request(Some(&format!("bearer {TOKEN}")))).await.problem(404, "not_found");
}

#[tokio::test]
async fn unknown_paths_ids_and_methods_are_problems() {
    let stage = Stage::new().await;
    for path in [
        "/admin/v1/nothing",
        "/admin/v1/",
        "/admin/v1",
        "/admin/v1/tenants/ten_x",
        "/admin/v1/plans/none",
        "/admin/v1/keys/key_0000000000000000000000",
        "/admin/v1/users/%ff",
        "/admin/v1/tenants/x/nothing",
        "/admin/v1/tenants/ten_0000000000000000000000/keys",
    ] {
        let answer = stage.get(path).await;
        assert_eq!(answer.status, 404, "{path} {}", answer.text);
        answer.problem(404, "not_found");
    }
    let answer = stage.delete("/admin/v1/plans").await;
    answer.problem(405, "method_not_allowed");
    assert_eq!(answer.headers[ALLOW], "GET,HEAD,POST");
    let answer = stage.get("/admin/v1/keys/x/revoke").await;
    answer.problem(405, "method_not_allowed");
    assert_eq!(answer.headers[ALLOW], "POST");
}

#[tokio::test]
async fn a_bad_document_says_where_it_is_bad() {
    let stage = Stage::new().await;
    let plans = "/admin/v1/plans";
    let answer = stage.post_text(plans, "{\"id\":\n \"x\",,}").await;
    assert!(answer.problem(400, "invalid_request").is_empty());
    assert!(text(&answer.json, "detail").contains("line 2"), "{}", answer.text);

    let answer = stage.post_text(plans, " [\"x\", null]").await;
    assert_eq!(answer.problem(400, "invalid_request"), [""]);
    assert!(text(&answer.json, "detail").contains("must be a JSON object"), "{}", answer.text);

    let check = async |body: Value, expected: &[&str]| {
        let answer = stage.post(plans, body).await;
        assert_eq!(answer.problem(400, "invalid_request"), expected, "{}", answer.text);
    };
    check(json!({"id": 7}), &["/id"]).await;
    check(json!({"id": "x", "surprise": 1}), &["/surprise"]).await;
    check(json!({"id": "x", "limits": [{"unit": 1}]}), &["/limits/0/unit"]).await;
    check(json!({"id": "x", "limits": [{"kind": "quote"}]}), &["/limits/0/kind"]).await;
    check(json!({"id": "x", "prices": [{"amount": 0.1}]}), &["/prices/0/amount"]).await;
    check(
        json!({"id": "x", "name": "X", "limits": [{"name": "m", "kind": "quota", "meter": "requests", "units": 0, "per": "month"}]}),
        &["/limits/0/units"],
    )
    .await;
    check(json!([]), &[""]).await;
    check(json!({"id": "x", "limits": [["month", "quota"]]}), &["/limits/0"]).await;

    let answer = stage.request(Method::POST, plans, &[], &format!("\"{}\"", "x".repeat(256 * 1024))).await;
    answer.problem(413, "payload_too_large");
    let request =
        Request::post(plans).header(AUTHORIZATION, format!("Bearer {TOKEN}")).header("content-type", "text/plain");
    stage.send(request.body(Body::from(PLAN)).unwrap()).await.problem(400, "invalid_request");
    let request = Request::post(plans).header(AUTHORIZATION, format!("Bearer {TOKEN}"));
    stage.send(request.body(Body::from(PLAN)).unwrap()).await.is(201);
    let answer = stage.post_text(plans, PLAN).await;
    assert_eq!(answer.problem(409, "conflict"), ["/id"]);
}

#[tokio::test]
async fn a_list_is_walked_without_a_gap_while_it_grows() {
    let stage = Stage::new().await;
    let mut made = vec![stage.tenant().await];
    for number in 1..5 {
        made.push(stage.more_tenants(&format!("Tenant {number}")).await);
    }
    let mut found = Vec::new();
    let mut path = "/admin/v1/tenants?page_size=2".to_owned();
    loop {
        let page = stage.get(&path).await.is(200);
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        found.extend(items.iter().map(|tenant| text(tenant, "id").to_owned()));
        if found.len() == 2 {
            made.push(stage.more_tenants("Late").await);
        }
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/admin/v1/tenants?page_size=2&cursor={cursor}");
    }
    found.sort();
    made.sort();
    assert_eq!(found, made);

    let check = async |query: &str, expected: &[&str]| {
        let answer = stage.get(&format!("/admin/v1/tenants?{query}")).await;
        assert_eq!(answer.problem(400, "invalid_request"), expected, "{query}");
    };
    check("page_size=0", &["/page_size"]).await;
    check("page_size=201", &["/page_size"]).await;
    check("page_size=two", &["/page_size"]).await;
    check("cursor=ten_x", &["/cursor"]).await;
    check("surprise=1&page_size=1", &["/surprise"]).await;
    check("page_size=1&page_size=2", &["/page_size"]).await;
}

#[tokio::test]
async fn a_repeated_post_is_answered_once() {
    let stage = Stage::new().await;
    let tenant = stage.tenant().await;
    let path = format!("/admin/v1/tenants/{tenant}/keys");
    let send =
        async |key: &str, body: &str| stage.request(Method::POST, &path, &[("idempotency-key", key)], body).await;
    let first = send("a", r#"{"name":"ci"}"#).await.is(201);
    let again = send("a", r#"{"name":"ci"}"#).await;
    assert_eq!(again.is(201), first, "the same key, its text included");
    send("a", r#"{"name":"cd"}"#).await.problem(422, "idempotency_conflict");
    assert_ne!(send("b", r#"{"name":"ci"}"#).await.is(201)["id"], first["id"]);
    assert_eq!(stage.get(&path).await.is(200)["items"].as_array().unwrap().len(), 2);

    let refused = send("c", "{}").await;
    assert_eq!(refused.problem(400, "invalid_request"), ["/name"]);
    let again = send("c", "{}").await;
    assert_eq!(again.problem(400, "invalid_request"), ["/name"], "a refusal is a last word too");
    assert_ne!(again.headers["x-request-id"], refused.headers["x-request-id"]);
    send("", "{}").await.problem(400, "invalid_request");
    stage.clock.advance_millis(24 * 3_600_000);
    assert_ne!(send("a", r#"{"name":"ci"}"#).await.is(201)["id"], first["id"]);
}

#[tokio::test]
async fn a_plan_gets_versions_and_tenants_move() {
    let stage = Stage::new().await;
    let tenant = format!("/admin/v1/tenants/{}", stage.tenant().await);
    let mut plan: Value = serde_json::from_str(PLAN).unwrap();
    plan["apply"] = json!("new_only");
    assert_eq!(stage.put("/admin/v1/plans/starter", plan.clone()).await.is(200)["version"], 2);
    assert_eq!(stage.get(&tenant).await.is(200)["plan_version"], 1);
    plan.as_object_mut().unwrap().remove("apply");
    assert_eq!(stage.put("/admin/v1/plans/starter", plan.clone()).await.is(200)["version"], 3);
    assert_eq!(stage.get(&tenant).await.is(200)["plan_version"], 3);

    plan["apply"] = json!("next_period");
    plan["id"] = json!("other");
    let answer = stage.put("/admin/v1/plans/starter", plan.clone()).await;
    assert!(answer.problem(400, "invalid_request").contains(&"/id".to_owned()), "{}", answer.text);
    plan["id"] = json!("starter");
    let answer = stage.put("/admin/v1/plans/starter", plan.clone()).await;
    assert_eq!(answer.problem(400, "invalid_request"), ["/apply"]);
    plan["id"] = json!("other");
    plan["apply"] = json!("now");
    stage.put("/admin/v1/plans/other", plan).await.problem(404, "not_found");

    // What is read can be sent back.
    let mut read = stage.get("/admin/v1/plans/starter").await.is(200);
    for member in ["version", "created_at"] {
        read.as_object_mut().unwrap().remove(member);
    }
    stage.put("/admin/v1/plans/starter", read).await.is(200);
}

#[tokio::test]
async fn a_tenant_changes_member_by_member() {
    let stage = Stage::new().await;
    let id = stage.tenant().await;
    let path = format!("/admin/v1/tenants/{id}");
    let changed = stage.patch(&path, json!({"external_id": "acme-1", "metadata": {"crm": [1, 2]}})).await.is(200);
    assert_eq!((text(&changed, "name"), &changed["metadata"]["crm"][1]), ("Acme", &json!(2)));
    let found = stage.get("/admin/v1/tenants?external_id=acme-1").await.is(200);
    assert_eq!(found["items"][0]["id"], *id);
    let other = json!({"name": "Other", "plan": "starter", "external_id": "acme-1"});
    assert_eq!(stage.post("/admin/v1/tenants", other).await.problem(409, "conflict"), ["/external_id"]);
    assert_eq!(stage.patch(&path, json!({"external_id": null})).await.is(200)["external_id"], Value::Null);
    assert_eq!(stage.patch(&path, json!({"name": null})).await.problem(400, "invalid_request"), ["/name"]);
    let answer = stage.patch(&path, json!({"plan": "gold"})).await;
    assert_eq!(answer.problem(400, "invalid_request"), ["/plan"]);
    let answer = stage.patch(&path, json!({"name": " ", "anchor_day": 0})).await;
    assert_eq!(answer.problem(400, "invalid_request"), ["/name", "/anchor_day"]);

    stage.patch(&path, json!({"time_zone": "Asia/Tokyo"})).await.is(200);
    let changed = stage.patch(&path, json!({"anchor_day": 15})).await.is(200);
    assert_eq!(changed["period"]["end"], "2026-12-01T00:00:00Z", "this period stays as it is");
    stage.clock.set_wall("2026-12-01T00:00:00Z".parse().unwrap());
    let later = stage.get(&path).await.is(200);
    assert_eq!((text(&later, "time_zone"), &later["anchor_day"]), ("Asia/Tokyo", &json!(15)));
}

#[tokio::test]
async fn a_suspended_tenant_is_refused_at_once_and_served_again() {
    let stage = Stage::new().await;
    let tenant = stage.tenant().await;
    let key = stage.key(&tenant).await;
    let key = text(&key, "key");
    assert_eq!(stage.with_key("/v1/search", key).await.text, tenant);
    for _ in 0..2 {
        let suspended = stage.post(&format!("/admin/v1/tenants/{tenant}/suspend"), json!({})).await.is(200);
        assert_eq!(text(&suspended, "status"), "suspended");
    }
    stage.with_key("/v1/search", key).await.problem(403, "tenant_suspended");
    stage.post_text(&format!("/admin/v1/tenants/{tenant}/resume"), "").await.is(200);
    assert_eq!(stage.with_key("/v1/search", key).await.status, 200);
    assert_eq!(stage.delete(&format!("/admin/v1/tenants/{tenant}")).await.status, 204);
    assert_eq!(stage.with_key("/v1/search", key).await.status, 401);
    stage.get(&format!("/admin/v1/tenants/{tenant}")).await.problem(404, "not_found");
}

#[tokio::test]
async fn users_change_and_take_their_keys_with_them() {
    let stage = Stage::new().await;
    let base = format!("/admin/v1/tenants/{}", stage.tenant().await);
    let users = format!("{base}/users");
    let user = stage.post(&users, json!({"email": "ann@acme.test", "name": "Ann"})).await.is(201);
    assert_eq!(text(&user, "role"), "member");
    assert_eq!(stage.post(&users, json!({"email": "ANN@acme.test"})).await.problem(409, "conflict"), ["/email"]);
    assert_eq!(
        stage.post(&users, json!({"email": "ann", "role": "boss"})).await.problem(400, "invalid_request"),
        ["/role"]
    );
    let path = format!("/admin/v1/users/{}", text(&user, "id"));
    assert_eq!(stage.patch(&path, json!({"role": "admin"})).await.is(200)["role"], "admin");

    let key = stage.post(&format!("{base}/keys"), json!({"name": "own", "user": user["id"]})).await.is(201);
    let found = stage.get(&format!("{base}/keys?user={}", text(&user, "id"))).await.is(200);
    assert_eq!(found["items"][0]["user_name"], "Ann");
    let stranger = stage.more_tenants("Other").await;
    let wish = json!({"name": "foreign", "user": user["id"]});
    let answer = stage.post(&format!("/admin/v1/tenants/{stranger}/keys"), wish).await;
    assert_eq!(answer.problem(400, "invalid_request"), ["/user"]);

    assert_eq!(stage.delete(&path).await.status, 204);
    let key = stage.get(&format!("/admin/v1/keys/{}", text(&key, "id"))).await.is(200);
    assert_eq!((text(&key, "status"), &key["user_name"]), ("revoked", &Value::Null));
}

#[tokio::test]
async fn a_key_is_changed_rotated_and_revoked_for_good() {
    let stage = Stage::new().await;
    let tenant = stage.tenant().await;
    let made = stage.key(&tenant).await;
    let path = format!("/admin/v1/keys/{}", text(&made, "id"));
    let old = text(&made, "key");

    let changed = json!({"name": "deploy", "expires_at": "2026-12-24T12:00:00Z", "allowed_addresses": ["10.0.0.0/8"]});
    let changed = stage.patch(&path, changed).await.is(200);
    assert_eq!(text(&changed, "expires_at"), "2026-12-24T12:00:00Z");
    stage.with_key("/v1/search", old).await.problem(403, "address_not_allowed");
    let answer = stage.patch(&path, json!({"expires_at": "2026-11-24T12:00:00Z", "scopes": ["a b"]})).await;
    assert_eq!(answer.problem(400, "invalid_request"), ["/scopes/0", "/expires_at"]);
    let changed = stage.patch(&path, json!({"expires_at": null, "allowed_addresses": []})).await.is(200);
    assert_eq!(changed["expires_at"], Value::Null);

    let rotated = stage.post(&format!("{path}/rotate"), json!({"overlap_seconds": 60})).await.is(200);
    let new = text(&rotated, "key");
    assert_eq!((&rotated["id"], rotated["secrets"].as_array().unwrap().len()), (&made["id"], 2));
    assert_eq!(&text(&rotated["secrets"][1], "expires_at")[..19], "2026-11-24T12:01:00");
    for key in [old, new] {
        assert_eq!(stage.with_key("/v1/search", key).await.status, 200);
    }
    stage.clock.advance_millis(60_000);
    stage.with_key("/v1/search", old).await.problem(401, "expired_key");
    assert_eq!(stage.with_key("/v1/search", new).await.status, 200);

    let revoked = stage.post(&format!("{path}/revoke"), json!({"reason": "left"})).await.is(200);
    stage.clock.advance_millis(1_000);
    assert_eq!(stage.post_text(&format!("{path}/revoke"), "").await.is(200)["revoked_at"], revoked["revoked_at"]);
    assert_eq!(stage.delete(&path).await.is(200)["status"], "revoked");
    stage.with_key("/v1/search", new).await.problem(401, "revoked_key");
    for answer in
        [stage.post(&format!("{path}/rotate"), json!({})).await, stage.patch(&path, json!({"name": "x"})).await]
    {
        assert!([400, 409].contains(&answer.status.as_u16()), "{}", answer.text);
    }
    let listed = stage.get(&format!("/admin/v1/tenants/{tenant}/keys")).await;
    assert!(!listed.text.contains(new) && !listed.text.contains(old));
}
