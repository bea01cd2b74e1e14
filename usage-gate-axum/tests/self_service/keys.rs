//! Keys that users make for themselves: scopes, names, and calls that are repeated.

use http::Method;
use serde_json::{Value, json};
use usage_gate_core::model::Role;

use crate::stage::Stage;

#[tokio::test]
async fn a_key_is_made_used_for_nothing_else_and_rotated_and_revoked() {
    let stage = Stage::new().await;
    let browser = stage.sign_in_as(Role::Member).await;
    let wish = json!({"name": "laptop", "scopes": ["search:read"], "environment": "test"});
    let made = stage.post(&browser, "/v1/keys", wish).await.is(201);
    assert_eq!(made["user"], json!(stage.user(Role::Member)));
    assert!(made["key"].as_str().unwrap().starts_with("ug_test_"));
    let path = format!("/v1/keys/{}", made["id"].as_str().unwrap());
    let read = stage.get(&browser, &path).await.is(200);
    assert!(read.get("key").is_none(), "shown once");
    let rotated = stage.post(&browser, &format!("{path}/rotate"), json!({"overlap_seconds": 60})).await.is(200);
    assert_ne!(rotated["key"], made["key"]);
    let revoked = stage.call(&browser, "POST", &format!("{path}/revoke"), "").await.is(200);
    assert_eq!(revoked["status"], "revoked");
    let refused = stage.call(&browser, "PATCH", &path, r#"{"name":"again"}"#).await;
    refused.problem(400, "invalid_request");
}

#[tokio::test]
async fn without_a_word_in_the_plan_users_give_the_scopes_of_the_routes() {
    let stage = Stage::new().await;
    let browser = stage.sign_in_as(Role::Owner).await;
    let wish = |scopes: Value| json!({"name": "k", "scopes": scopes});
    stage.post(&browser, "/v1/keys", wish(json!(["search:read", "items:read"]))).await.is(201);
    for scope in ["search:*", "*", "admin:write", "search:write"] {
        let answer = stage.post(&browser, "/v1/keys", wish(json!(["search:read", scope]))).await;
        assert_eq!(answer.problem(400, "invalid_request"), ["/scopes/1"], "{scope}");
        assert!(answer.text.contains("use one of items:read, search:read"), "{}", answer.text);
    }
    assert_eq!(
        stage.post(&browser, "/v1/keys", wish(json!(["no scope"]))).await.problem(400, "invalid_request"),
        ["/scopes/0"]
    );
}

#[tokio::test]
async fn a_plan_says_which_scopes_its_users_give() {
    let stage = Stage::new().await;
    let plan = json!({"name": "Starter", "scopes": ["search:*"], "limits": []});
    let plan = stage.operator(Method::PUT, "/plans/starter", plan).await.is(200);
    assert_eq!(plan["scopes"], json!(["search:*"]));
    let browser = stage.sign_in_as(Role::Admin).await;
    let session = stage.get(&browser, "/v1/session").await.is(200);
    assert_eq!(session["grantable_scopes"], json!(["search:*"]));
    let made = stage.post(&browser, "/v1/keys", json!({"name": "k", "scopes": ["search:write"]})).await.is(201);
    let path = format!("/v1/keys/{}", made["id"].as_str().unwrap());
    let answer = stage.call(&browser, "PATCH", &path, r#"{"scopes":["items:read"]}"#).await;
    assert_eq!(answer.problem(400, "invalid_request"), ["/scopes/0"]);
    stage.call(&browser, "PATCH", &path, r#"{"scopes":["search:*"]}"#).await.is(200);
    // Each wrong one is told with what there is: that must not be done as often as somebody likes.
    let many = json!({"name": "k", "scopes": vec!["items:read"; 10_000]});
    let answer = stage.post(&browser, "/v1/keys", many).await;
    assert_eq!(answer.problem(400, "invalid_request"), ["/scopes"]);
    // Operators are not bound by it.
    let operator = json!({"scopes": ["admin:everything"]});
    stage.operator(Method::PATCH, &path.replace("/v1", ""), operator).await.is(200);
    // What an operator gave stays when something else is changed.
    let kept = stage.call(&browser, "PATCH", &path, r#"{"name":"renamed"}"#).await.is(200);
    assert_eq!(kept["scopes"], json!(["admin:everything"]));

    let none = json!({"name": "Starter", "scopes": [], "limits": []});
    stage.operator(Method::PUT, "/plans/starter", none).await.is(200);
    let answer = stage.post(&browser, "/v1/keys", json!({"name": "k", "scopes": ["search:read"]})).await;
    assert_eq!(answer.problem(400, "invalid_request"), ["/scopes/0"]);
    let bad = json!({"name": "Starter", "scopes": ["sea*"], "limits": []});
    let answer = stage.operator(Method::PUT, "/plans/starter", bad).await;
    assert_eq!(answer.problem(400, "invalid_request"), ["/scopes/0"]);
}

#[tokio::test]
async fn names_are_kept_as_they_are_or_refused_with_the_limit() {
    let stage = Stage::new().await;
    let browser = stage.sign_in_as(Role::Member).await;
    let long = "a".repeat(10_000);
    for (name, limit) in [(long.as_str(), "200 characters"), ("", "empty"), ("   ", "empty"), ("a\nb", "control")] {
        let answer = stage.post(&browser, "/v1/keys", json!({"name": name})).await;
        assert_eq!(answer.problem(400, "invalid_request"), ["/name"]);
        assert!(answer.text.contains(limit), "{}", answer.text);
    }
    for name in ["<script>alert(1)</script>", "مفتاح الإنتاج", "\u{202e}gnissim", "🔑🇯🇵", "'; DROP TABLE user; --"]
    {
        let made = stage.post(&browser, "/v1/keys", json!({"name": name})).await;
        assert_eq!(made.header("content-type"), "application/json");
        assert_eq!(made.is(201)["name"], name);
    }
}

#[tokio::test]
async fn a_repeated_call_is_done_once_and_only_for_its_user() {
    let stage = Stage::new().await;
    let (ann, ben) = (stage.sign_in_as(Role::Owner).await, stage.sign_in_as(Role::Member).await);
    let same = [("idempotency-key", "same"), ("sec-fetch-site", "same-origin")];
    let call = |browser, body| stage.request(browser, Method::POST, "/usage-gate/v1/keys", &same, body);
    let body = r#"{"name":"once"}"#;
    let first = call(&ann, body).await.is(201);
    assert_eq!(call(&ann, body).await.is(201), first);
    let other = call(&ben, body).await.is(201);
    assert_ne!(other["id"], first["id"], "another user's call is another call");
    assert_eq!(other["user"], json!(stage.user(Role::Member)));
    call(&ann, r#"{"name":"twice"}"#).await.problem(422, "idempotency_conflict");
    // The same user in another browser makes the same call.
    let elsewhere = stage.sign_in_as(Role::Owner).await;
    assert_eq!(call(&elsewhere, body).await.is(201), first);
    // An operator's call of that name has nothing to do with it.
    let answer = stage.operator(Method::GET, &format!("/tenants/{}/keys", stage.acme), Value::Null).await.is(200);
    assert_eq!(answer["items"].as_array().unwrap().len(), 2);
}
