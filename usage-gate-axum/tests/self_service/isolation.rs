//! Every route, every role, own things and others': who gets what, as one table.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};
use usage_gate_axum::self_service_routes;
use usage_gate_core::model::{KeyId, Role};

use crate::stage::{Browser, ROLES, Stage};

/// Whose key or user a request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// None is named.
    Nobody,
    Own,
    Colleague,
    /// The tenant's key, of no user.
    Shared,
    /// Another customer's.
    Stranger,
    /// An id that nothing has.
    Unknown,
}
use Whose::{Colleague, Nobody, Own, Shared, Stranger, Unknown};

/// A call, and its status for owner, admin, member and viewer; `suspended` is what an owner gets once the tenant is suspended.
struct Case {
    method: &'static str,
    path: &'static str,
    /// What is added to the path; `{user}` and `{key}` are ids.
    query: &'static str,
    body: &'static str,
    whose: Whose,
    expected: [u16; 4],
    suspended: u16,
}

#[rustfmt::skip]
const fn case(
    method: &'static str, path: &'static str, query: &'static str, body: &'static str, whose: Whose, expected: [u16; 4], suspended: u16,
) -> Case {
    Case { method, path, query, body, whose, expected, suspended }
}

const EVERYBODY: [u16; 4] = [200; 4];
const RENAME: &str = r#"{"name":"renamed"}"#;
const MAKE: &str = r#"{"name":"new"}"#;
const MAKE_FOR: &str = r#"{"name":"new","user":"{user}"}"#;
const MAKE_SHARED: &str = r#"{"name":"new","user":null}"#;

#[rustfmt::skip]
const CASES: &[Case] = &[
    case("GET",    "/v1/session", "", "", Nobody, EVERYBODY, 200),
    case("POST",   "/v1/session", "", r#"{"theme":"dark"}"#, Nobody, EVERYBODY, 200),
    case("DELETE", "/v1/session", "", "", Nobody, [204; 4], 204),
    case("GET",    "/v1/periods", "", "", Nobody, EVERYBODY, 200),

    case("GET",    "/v1/keys", "", "", Nobody, EVERYBODY, 200),
    case("GET",    "/v1/keys", "?user={user}", "", Own, EVERYBODY, 200),
    case("GET",    "/v1/keys", "?user={user}", "", Colleague, [200, 200, 404, 200], 200),
    case("GET",    "/v1/keys", "?user={user}", "", Stranger, [404; 4], 404),
    case("GET",    "/v1/keys", "?user={user}", "", Unknown, [404; 4], 404),
    case("POST",   "/v1/keys", "", MAKE, Nobody, [201, 201, 201, 403], 403),
    case("POST",   "/v1/keys", "", MAKE_FOR, Own, [201, 201, 201, 403], 403),
    case("POST",   "/v1/keys", "", MAKE_FOR, Colleague, [201, 201, 400, 403], 403),
    case("POST",   "/v1/keys", "", MAKE_FOR, Stranger, [400, 400, 400, 403], 403),
    case("POST",   "/v1/keys", "", MAKE_FOR, Unknown, [400, 400, 400, 403], 403),
    case("POST",   "/v1/keys", "", MAKE_SHARED, Nobody, [201, 201, 400, 403], 403),

    case("GET",    "/v1/keys/{id}", "", "", Own, EVERYBODY, 200),
    case("GET",    "/v1/keys/{id}", "", "", Colleague, [200, 200, 404, 200], 200),
    case("GET",    "/v1/keys/{id}", "", "", Shared, [200, 200, 404, 200], 200),
    case("GET",    "/v1/keys/{id}", "", "", Stranger, [404; 4], 404),
    case("GET",    "/v1/keys/{id}", "", "", Unknown, [404; 4], 404),
    case("PATCH",  "/v1/keys/{id}", "", RENAME, Own, [200, 200, 200, 403], 403),
    case("PATCH",  "/v1/keys/{id}", "", RENAME, Colleague, [200, 200, 404, 403], 403),
    case("PATCH",  "/v1/keys/{id}", "", RENAME, Shared, [200, 200, 404, 403], 403),
    case("PATCH",  "/v1/keys/{id}", "", RENAME, Stranger, [404; 4], 404),
    case("PATCH",  "/v1/keys/{id}", "", RENAME, Unknown, [404; 4], 404),
    case("DELETE", "/v1/keys/{id}", "", "", Own, [200, 200, 200, 403], 200),
    case("DELETE", "/v1/keys/{id}", "", "", Colleague, [200, 200, 404, 403], 200),
    case("DELETE", "/v1/keys/{id}", "", "", Shared, [200, 200, 404, 403], 200),
    case("DELETE", "/v1/keys/{id}", "", "", Stranger, [404; 4], 404),
    case("DELETE", "/v1/keys/{id}", "", "", Unknown, [404; 4], 404),
    case("POST",   "/v1/keys/{id}/revoke", "", r#"{"reason":"lost"}"#, Own, [200, 200, 200, 403], 200),
    case("POST",   "/v1/keys/{id}/revoke", "", "", Colleague, [200, 200, 404, 403], 200),
    case("POST",   "/v1/keys/{id}/revoke", "", "", Shared, [200, 200, 404, 403], 200),
    case("POST",   "/v1/keys/{id}/revoke", "", "", Stranger, [404; 4], 404),
    case("POST",   "/v1/keys/{id}/revoke", "", "", Unknown, [404; 4], 404),
    case("POST",   "/v1/keys/{id}/rotate", "", r#"{"overlap_seconds":60}"#, Own, [200, 200, 200, 403], 403),
    case("POST",   "/v1/keys/{id}/rotate", "", "", Colleague, [200, 200, 404, 403], 403),
    case("POST",   "/v1/keys/{id}/rotate", "", "", Shared, [200, 200, 404, 403], 403),
    case("POST",   "/v1/keys/{id}/rotate", "", "", Stranger, [404; 4], 404),
    case("POST",   "/v1/keys/{id}/rotate", "", "", Unknown, [404; 4], 404),

    case("GET",    "/v1/usage", "", "", Nobody, EVERYBODY, 200),
    case("GET",    "/v1/usage", "?group_by=key,user", "", Nobody, EVERYBODY, 200),
    case("GET",    "/v1/usage", "?format=csv&group_by=user", "", Nobody, EVERYBODY, 200),
    case("GET",    "/v1/usage", "?group_by=tenant", "", Nobody, [400; 4], 400),
    case("GET",    "/v1/usage", "?tenant={tenant}", "", Stranger, [400; 4], 400),
    case("GET",    "/v1/usage", "?key={key}", "", Own, EVERYBODY, 200),
    case("GET",    "/v1/usage", "?key={key}", "", Colleague, [200, 200, 404, 200], 200),
    case("GET",    "/v1/usage", "?key={key}", "", Shared, [200, 200, 404, 200], 200),
    case("GET",    "/v1/usage", "?key={key}", "", Stranger, [404; 4], 404),
    case("GET",    "/v1/usage", "?key={key}", "", Unknown, [404; 4], 404),
    case("GET",    "/v1/usage", "?user={user}", "", Own, EVERYBODY, 200),
    case("GET",    "/v1/usage", "?user={user}", "", Colleague, [200, 200, 404, 200], 200),
    case("GET",    "/v1/usage", "?user={user}", "", Stranger, [404; 4], 404),
    case("GET",    "/v1/usage", "?user={user}", "", Unknown, [404; 4], 404),
    // One that may be seen does not open another that may not.
    case("GET",    "/v1/usage", "?user={user}&key={own_key}", "", Stranger, [404; 4], 404),

    case("GET",    "/v1/requests", "", "", Nobody, EVERYBODY, 200),
    case("GET",    "/v1/requests", "?tenant={tenant}", "", Stranger, [400; 4], 400),
    case("GET",    "/v1/requests", "?key={key}", "", Own, EVERYBODY, 200),
    case("GET",    "/v1/requests", "?key={key}", "", Colleague, [200, 200, 404, 200], 200),
    case("GET",    "/v1/requests", "?key={key}", "", Shared, [200, 200, 404, 200], 200),
    case("GET",    "/v1/requests", "?key={key}", "", Stranger, [404; 4], 404),
    case("GET",    "/v1/requests", "?key={key}", "", Unknown, [404; 4], 404),
    case("GET",    "/v1/requests", "?user={user}", "", Own, EVERYBODY, 200),
    case("GET",    "/v1/requests", "?user={user}", "", Colleague, [200, 200, 404, 200], 200),
    case("GET",    "/v1/requests", "?user={user}", "", Stranger, [404; 4], 404),
    case("GET",    "/v1/requests", "?user={user}", "", Unknown, [404; 4], 404),
    case("GET",    "/v1/requests", "?user={user}&key={own_key}", "", Stranger, [404; 4], 404),

    case("GET",    "/v1/limits", "", "", Nobody, EVERYBODY, 200),
    case("GET",    "/v1/limits", "?key={key}", "", Own, EVERYBODY, 200),
    case("GET",    "/v1/limits", "?key={key}", "", Colleague, [200, 200, 404, 200], 200),
    case("GET",    "/v1/limits", "?key={key}", "", Shared, [200, 200, 404, 200], 200),
    case("GET",    "/v1/limits", "?key={key}", "", Stranger, [404; 4], 404),
    case("GET",    "/v1/limits", "?key={key}", "", Unknown, [404; 4], 404),
    case("GET",    "/v1/limits", "?user={user}", "", Own, EVERYBODY, 200),
    case("GET",    "/v1/limits", "?user={user}", "", Colleague, [200, 200, 404, 200], 200),
    case("GET",    "/v1/limits", "?user={user}", "", Stranger, [404; 4], 404),
    case("GET",    "/v1/limits", "?user={user}", "", Unknown, [404; 4], 404),
];

/// What a case's text names, with keys that are new for it.
struct Named {
    path: String,
    body: String,
    key: KeyId,
    foreign_key: KeyId,
}

async fn named(stage: &Stage, case: &Case, role: Role) -> Named {
    let own = stage.user(role);
    let own_key = stage.key(stage.acme, Some(own), "own").await;
    let foreign_key = stage.key(stage.globex, Some(stage.stranger), "foreign").await;
    let key = match case.whose {
        Nobody | Own => own_key,
        Colleague => stage.key(stage.acme, Some(stage.colleague), "colleague's").await,
        Shared => stage.key(stage.acme, None, "shared").await,
        Stranger => foreign_key,
        Unknown => KeyId::generate(),
    };
    let user = match case.whose {
        Nobody | Shared | Own => own,
        Colleague => stage.colleague,
        Stranger => stage.stranger,
        Unknown => usage_gate_core::model::UserId::generate(),
    };
    let fill = |text: &str| {
        text.replace("{user}", &user.to_string())
            .replace("{key}", &key.to_string())
            .replace("{own_key}", &own_key.to_string())
            .replace("{tenant}", &stage.globex.to_string())
    };
    let path = fill(&format!("{}{}", case.path, case.query)).replace("{id}", &key.to_string());
    Named { path, body: fill(case.body), key, foreign_key }
}

fn code(answer: &Value) -> &str {
    answer["code"].as_str().unwrap_or_default()
}

#[test]
fn every_route_has_a_case_and_every_case_a_route() {
    let routes: BTreeSet<(&str, String)> = self_service_routes().collect();
    let cases: BTreeSet<(&str, String)> = CASES.iter().map(|case| (case.method, case.path.to_owned())).collect();
    assert_eq!(routes, cases, "add rows to CASES for a new route: who may use it?");
}

#[tokio::test]
async fn each_role_gets_what_the_table_says() {
    let stage = Stage::new().await;
    for case in CASES {
        for (role, expected) in ROLES.into_iter().zip(case.expected) {
            let browser = stage.sign_in_as(role).await;
            let named = named(&stage, case, role).await;
            let answer = stage.call(&browser, case.method, &named.path, &named.body).await;
            let what = format!("{} {} of {:?} by {role:?}", case.method, named.path, case.whose);
            assert_eq!(answer.status.as_u16(), expected, "{what}: {}", answer.text);
            let codes = match expected {
                400 => "invalid_request",
                403 => "forbidden",
                404 => "not_found",
                _ => "",
            };
            assert_eq!(code(&answer.json), codes, "{what}");
            // Nothing of another customer's is in any answer, also not in a refusal of what was asked for.
            for foreign in [stage.globex.to_string(), stage.stranger.to_string(), named.foreign_key.to_string()] {
                assert!(!answer.text.contains(&foreign), "{what}: {}", answer.text);
            }
            if role == Role::Member {
                assert!(!answer.text.contains(&stage.colleague.to_string()), "{what}: {}", answer.text);
            }
        }
    }
}

#[tokio::test]
async fn what_was_refused_was_not_done() {
    let stage = Stage::new().await;
    let changing = CASES.iter().filter(|case| case.path.contains("{id}") && case.method != "GET");
    for case in changing {
        for (role, _) in ROLES.into_iter().zip(case.expected).filter(|(_, expected)| *expected >= 400) {
            let browser = stage.sign_in_as(role).await;
            let named = named(&stage, case, role).await;
            let read = |key: KeyId| {
                let path = format!("/keys/{key}");
                let stage = &stage;
                async move {
                    let mut document = stage.operator(Method::GET, &path, Value::Null).await.json;
                    // An id that nothing has gives a problem, whose request id is always another.
                    document.as_object_mut().unwrap().remove("instance");
                    document
                }
            };
            let before = (read(named.key).await, read(named.foreign_key).await);
            stage.call(&browser, case.method, &named.path, &named.body).await;
            assert_eq!((read(named.key).await, read(named.foreign_key).await), before);
        }
    }
}

#[tokio::test]
async fn nobody_gets_anything_without_a_session() {
    let stage = Stage::new().await;
    let (_, key) = stage.key_with_text(stage.acme, None, "a key is no session").await;
    for case in CASES {
        let named = named(&stage, case, Role::Owner).await;
        let path = format!("/usage-gate{}", named.path);
        let method = || case.method.parse().unwrap();
        let nobody = Browser::default();
        stage.request(&nobody, method(), &path, &[], &named.body).await.problem(401, "missing_token");
        let with_key = [("x-api-key", key.as_str())];
        stage.request(&nobody, method(), &path, &with_key, &named.body).await.problem(401, "missing_token");
        let key_as_cookie = Browser(format!("__Host-ug_session={key}"));
        stage.request(&key_as_cookie, method(), &path, &[], &named.body).await.problem(401, "invalid_token");
    }
}

#[tokio::test]
async fn users_of_a_suspended_tenant_look_and_revoke() {
    let stage = Stage::new().await;
    stage.operator(Method::POST, &format!("/tenants/{}/suspend", stage.acme), Value::Null).await.is(200);
    for case in CASES {
        let browser = stage.sign_in_as(Role::Owner).await;
        let named = named(&stage, case, Role::Owner).await;
        let answer = stage.call(&browser, case.method, &named.path, &named.body).await;
        assert_eq!(answer.status.as_u16(), case.suspended, "{} {}: {}", case.method, named.path, answer.text);
        if case.suspended == 403 {
            assert_eq!(answer.json["code"], json!("tenant_suspended"));
        }
    }
}

#[tokio::test]
async fn a_list_has_what_the_role_sees_and_no_more() {
    let stage = Stage::new().await;
    let mut of_users = Vec::new();
    for user in stage.users {
        of_users.push(stage.key(stage.acme, Some(user), "own").await.to_string());
    }
    let colleagues = stage.key(stage.acme, Some(stage.colleague), "colleague's").await.to_string();
    let shared = stage.key(stage.acme, None, "shared").await.to_string();
    stage.key(stage.globex, None, "foreign").await;
    let all: BTreeSet<String> = of_users.iter().cloned().chain([colleagues, shared]).collect();
    for (role, own) in ROLES.into_iter().zip(&of_users) {
        let browser = stage.sign_in_as(role).await;
        let list = stage.get(&browser, "/v1/keys").await.is(200);
        let items = list["items"].as_array().unwrap().iter();
        let found: BTreeSet<String> = items.map(|key| key["id"].as_str().unwrap().to_owned()).collect();
        let expected = if role == Role::Member { BTreeSet::from([own.clone()]) } else { all.clone() };
        assert_eq!(found, expected, "{role:?}");
    }
}
