//! What was used and how limits stand, as operators and holders of keys see it.

use http::Method;
use serde_json::{Value, json};

use crate::stage::Stage;

fn text<'a>(document: &'a Value, member: &str) -> &'a str {
    document[member].as_str().unwrap()
}

#[tokio::test]
async fn usage_is_fresh_and_split_as_asked() {
    let stage = Stage::new().await;
    let tenant = stage.tenant().await;
    let key = stage.key(&tenant).await;
    for _ in 0..3 {
        assert_eq!(stage.with_key("/v1/search", text(&key, "key")).await.status, 200);
    }
    let path = format!("/admin/v1/usage?tenant={tenant}&meter=requests&group_by=key,outcome");
    let usage = stage.get(&path).await.is(200);
    assert_eq!(
        usage["items"],
        json!([{"start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z", "meter": "requests", "units": 3,
            "requests": 3, "key": key["id"], "outcome": "billed"}])
    );
    assert_eq!((text(&usage, "from"), text(&usage, "time_zone")), ("2026-11-01T00:00:00Z", "UTC"));
    assert_eq!((&usage["next_cursor"], &text(&usage, "as_of")[..19]), (&Value::Null, "2026-11-24T12:00:00"));
    assert!(usage.as_object().unwrap().contains_key("complete_through"));

    let path = format!("/admin/v1/usage?tenant={tenant}&window=day&time_zone=Asia/Tokyo&meter=rows&group_by=user");
    let usage = stage.get(&path).await.is(200);
    assert_eq!((text(&usage["items"][0], "start"), &usage["items"][0]["units"]), ("2026-11-23T15:00:00Z", &json!(120)));
    assert_eq!(usage["items"][0]["user"], Value::Null);

    let csv = stage.get("/admin/v1/usage?format=csv&meter=requests&group_by=outcome,route").await;
    assert_eq!(csv.headers["content-type"], "text/csv; charset=utf-8");
    assert_eq!(
        csv.text,
        "start,end,meter,units,requests,route,outcome\r\n\
         2026-11-01T00:00:00Z,2026-12-01T00:00:00Z,requests,3,3,search,billed\r\n"
    );

    let first = stage.get("/admin/v1/usage?page_size=1").await.is(200);
    let next = format!("/admin/v1/usage?page_size=1&cursor={}", text(&first, "next_cursor"));
    assert_ne!(stage.get(&next).await.is(200)["items"][0]["meter"], first["items"][0]["meter"]);
}

#[tokio::test]
async fn a_question_that_cannot_be_answered_says_why() {
    let stage = Stage::new().await;
    let check = async |query: &str, expected: &[&str]| {
        let answer = stage.get(&format!("/admin/v1/usage?{query}")).await;
        let mut found = answer.problem(400, "invalid_request");
        found.sort();
        assert_eq!(found, expected, "{query}");
    };
    let answer = stage.get("/admin/v1/usage?from=2026-11-02T00:00:00Z&to=2026-11-01T00:00:00Z").await;
    assert_eq!(answer.problem(400, "invalid_request").len(), 1);
    check("from=yesterday&window=week&group_by=key,day", &["/from", "/group_by", "/window"]).await;
    check(
        "tenant=acme&key=k&environment=prod&format=xml&zone=UTC",
        &["/environment", "/format", "/key", "/tenant", "/zone"],
    )
    .await;
    check("time_zone=Mars/Olympus&cursor=zz", &["/cursor", "/time_zone"]).await;
}

#[tokio::test]
async fn limits_stand_where_use_has_brought_them() {
    let stage = Stage::new().await;
    let tenant = stage.tenant().await;
    let key = stage.key(&tenant).await;
    stage.with_key("/v1/search", text(&key, "key")).await;
    let path = format!("/admin/v1/tenants/{tenant}/limits");
    let limits = stage.get(&format!("{path}?key={}", text(&key, "id"))).await.is(200);
    assert_eq!(&text(&limits, "as_of")[..19], "2026-11-24T12:00:00");
    let month = &limits["items"][1];
    assert_eq!((text(month, "name"), text(month, "subject"), &month["used"]), ("month", &*tenant, &json!(1)));
    assert_eq!(month["period"]["end"], "2026-12-01T00:00:00Z");
    assert_eq!(limits["items"][0]["subject"], key["id"]);
    let stranger = stage.key(&stage.more_tenants("Other").await).await;
    let answer = stage.get(&format!("{path}?key={}", text(&stranger, "id"))).await;
    assert_eq!(answer.problem(400, "invalid_request"), ["/key"]);
}

#[tokio::test]
async fn the_holder_of_a_key_sees_itself() {
    let stage = Stage::new().await;
    let tenant = stage.tenant().await;
    let users = format!("/admin/v1/tenants/{tenant}/users");
    let user = stage.post(&users, json!({"email": "ann@acme.test", "name": "Ann"})).await.is(201);
    let metadata = json!({"metadata": {"note": "for operators only"}});
    stage.patch(&format!("/admin/v1/tenants/{tenant}"), metadata).await.is(200);
    let wish = json!({"name": "ci", "user": user["id"], "scopes": ["search:read"]});
    let key = stage.post(&format!("/admin/v1/tenants/{tenant}/keys"), wish).await.is(201);
    let key = text(&key, "key");
    stage.with_key("/v1/search", key).await;
    let answer = stage.with_key("/usage-gate/v1/me", key).await;
    assert!(answer.headers.contains_key("x-request-id") && !answer.text.contains(key));
    let me = answer.is(200);
    let mut members: Vec<&str> = me.as_object().unwrap().keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(members, ["key", "limits", "period", "plan", "tenant", "usage", "user"]);
    assert_eq!((text(&me["key"], "user_name"), text(&me["user"], "name")), ("Ann", "Ann"));
    assert_eq!(me["plan"], json!({"id": "starter", "version": 1}));
    assert!(!me.to_string().contains("for operators only"), "what the operator keeps for itself is not shown");
    let usage = me["usage"].as_array().unwrap();
    assert!(usage.contains(&json!({"meter": "requests", "units": 1, "requests": 1})), "{me}");
    assert_eq!(me["limits"][1]["used"], 1, "asking costs nothing");

    stage.with_key("/usage-gate/v1/me", "nonsense").await.problem(401, "invalid_key");
    // A key is no session: it opens nothing else.
    stage.with_key("/usage-gate/v1/keys", key).await.problem(401, "missing_token");
    stage.with_key("/usage-gate/v1/nothing", key).await.problem(404, "not_found");
    stage.request(Method::POST, "/usage-gate/v1/me", &[], "").await.problem(405, "method_not_allowed");
}

#[tokio::test]
async fn probes_need_no_token_and_tell_of_a_drain() {
    let stage = Stage::new().await;
    let request = |path: &str| http::Request::get(path).body(axum::body::Body::empty()).unwrap();
    stage.send(request("/readyz")).await.is(200);
    stage.gate.start_draining();
    stage.send(request("/readyz")).await.is(503);
    stage.send(request("/healthz")).await.is(200);
}

#[tokio::test]
async fn a_handler_that_is_not_behind_the_layer_says_so() {
    let stage = Stage::new().await;
    let answer = stage.get("/bare").await;
    assert_eq!((answer.status.as_u16(), text(&answer.json, "code")), (500, "layer_missing"));
    assert!(text(&answer.json, "detail").contains("UsageGateLayer"));
}
