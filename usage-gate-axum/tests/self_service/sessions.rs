//! Links and sessions: once, for a while, and never longer than user and tenant are there.

use http::header::{CACHE_CONTROL, LOCATION, SET_COOKIE};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use usage_gate_axum::Portal;
use usage_gate_core::model::{Role, UserId};

use crate::stage::{Browser, Stage};

const MINUTE: u32 = 60_000;

/// Whether a browser is signed in.
#[track_caller]
fn check(answer: &crate::answer::Answer, signed_in: bool) {
    if signed_in {
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    } else {
        answer.problem(401, "invalid_token");
    }
}

/// A link that opens nothing: a page that tells nobody where it was, and no cookie.
#[track_caller]
fn check_refused(answer: &crate::answer::Answer) {
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{}", answer.text);
    assert_eq!((answer.header("referrer-policy"), answer.header("cache-control")), ("no-referrer", "no-store"));
    assert!(!answer.headers.contains_key(SET_COOKIE));
}

#[tokio::test]
async fn a_link_signs_in_and_says_who() {
    let stage = Stage::new().await;
    let user = stage.user(Role::Admin);
    let made = stage.operator(Method::POST, "/portal-sessions", json!({"user": user})).await.is(201);
    assert_eq!(made["expires_at"], "2026-11-24T12:15:00Z");
    let link = made["url"].as_str().unwrap().strip_prefix("https://api.example.com/usage-gate/enter/").unwrap();
    assert!(link.len() >= 43, "256 bits: {link}");

    let answer = stage.visit(&Browser::default(), &format!("/usage-gate/enter/{link}")).await;
    assert_eq!((answer.status, answer.header("location")), (StatusCode::SEE_OTHER, "/usage-gate/"));
    assert_eq!((answer.header("referrer-policy"), answer.header("cache-control")), ("no-referrer", "no-store"));
    let cookie = answer.header("set-cookie");
    assert!(cookie.starts_with("__Host-ug_session="), "{cookie}");
    assert!(cookie.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"), "{cookie}");
    assert!(!cookie.contains(link), "a session's token is another");

    let session = stage.get(&Browser(answer.cookie()), "/v1/session").await.is(200);
    assert_eq!((&session["role"], &session["user"]["id"]), (&json!("admin"), &json!(user)));
    assert_eq!(session["tenant"]["name"], "Acme");
    assert!(session["tenant"].get("metadata").is_none(), "the operator's notes");
    assert_eq!(session["grantable_scopes"], json!(["items:read", "search:read"]));
    assert_eq!(session["brand"], json!({"name": "Northwind API", "logo": null}));
    assert_eq!((&session["language"], &session["theme"]), (&json!("en"), &json!("auto")));
}

#[tokio::test]
async fn a_replayed_link_is_refused_and_leaves_the_session_alone() {
    let stage = Stage::new().await;
    let link = stage.link(stage.user(Role::Owner)).await;
    let browser = Browser(stage.visit(&Browser::default(), &link).await.cookie());
    let again = stage.visit(&Browser::default(), &link).await;
    check_refused(&again);
    check(&stage.get(&browser, "/v1/session").await, true);
}

#[tokio::test]
async fn a_link_ends_after_15_minutes() {
    let stage = Stage::new().await;
    let link = stage.link(stage.user(Role::Owner)).await;
    stage.clock.advance_millis(15 * MINUTE);
    check_refused(&stage.visit(&Browser::default(), &link).await);
}

#[tokio::test]
async fn made_up_links_open_nothing() {
    let stage = Stage::new().await;
    for token in ["x", "0000000000000000000000000000000000000000000", "%00", "..%2f..", "%F0%9F%92%A9"] {
        check_refused(&stage.visit(&Browser::default(), &format!("/usage-gate/enter/{token}")).await);
    }
}

#[tokio::test]
async fn looking_at_a_link_does_not_use_it_up() {
    let stage = Stage::new().await;
    let link = stage.link(stage.user(Role::Owner)).await;
    let nobody = Browser::default();
    let looked = [
        stage.request(&nobody, Method::HEAD, &link, &[], "").await,
        stage.request(&nobody, Method::GET, &link, &[("sec-purpose", "prefetch")], "").await,
        stage.request(&nobody, Method::GET, &link, &[("sec-purpose", "prefetch;prerender")], "").await,
        stage.request(&nobody, Method::GET, &link, &[("purpose", "prefetch")], "").await,
    ];
    for answer in looked {
        assert_eq!(answer.status, StatusCode::NO_CONTENT);
        assert_eq!(answer.headers[CACHE_CONTROL], "no-store");
        assert!(!answer.headers.contains_key(SET_COOKIE));
    }
    assert_eq!(stage.visit(&nobody, &link).await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_session_ends_after_two_hours_without_a_request() {
    let stage = Stage::new().await;
    let browser = stage.sign_in_as(Role::Member).await;
    stage.clock.advance_millis(119 * MINUTE);
    check(&stage.get(&browser, "/v1/session").await, true);
    stage.clock.advance_millis(119 * MINUTE);
    check(&stage.get(&browser, "/v1/session").await, true);
    stage.clock.advance_millis(120 * MINUTE);
    check(&stage.get(&browser, "/v1/session").await, false);
}

#[tokio::test]
async fn a_session_ends_after_twelve_hours_however_it_is_used() {
    let stage = Stage::new().await;
    let browser = stage.sign_in_as(Role::Member).await;
    for _ in 0..11 {
        stage.clock.advance_millis(60 * MINUTE);
        check(&stage.get(&browser, "/v1/session").await, true);
    }
    stage.clock.advance_millis(60 * MINUTE - 1);
    check(&stage.get(&browser, "/v1/session").await, true);
    stage.clock.advance_millis(1);
    check(&stage.get(&browser, "/v1/session").await, false);
}

#[tokio::test]
async fn a_stolen_cookie_is_worth_nothing_after_sign_out() {
    let stage = Stage::new().await;
    let browser = stage.sign_in_as(Role::Owner).await;
    let stolen = browser.clone();
    let answer = stage.call(&browser, "POST", "/sign-out", "").await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, "https://app.example.com/account"));
    assert!(answer.header("set-cookie").starts_with("__Host-ug_session=; "), "{:?}", answer.headers);
    assert!(answer.header("set-cookie").contains("Max-Age=0"));
    check(&stage.get(&stolen, "/v1/session").await, false);
    stage.post(&stolen, "/v1/keys", json!({"name": "x"})).await.problem(401, "invalid_token");
    // Again is no error; nobody knows any more where they came from.
    let again = stage.call(&stolen, "POST", "/sign-out", "").await;
    assert_eq!((again.status.as_u16(), again.header("location")), (303, "/usage-gate/signed-out"));
}

#[tokio::test]
async fn the_api_signs_out_as_well() {
    let stage = Stage::new().await;
    let browser = stage.sign_in_as(Role::Viewer).await;
    let answer = stage.call(&browser, "DELETE", "/v1/session", "").await;
    assert!(answer.header("set-cookie").contains("Max-Age=0"));
    answer.is(204);
    check(&stage.get(&browser, "/v1/session").await, false);
}

#[tokio::test]
async fn a_new_link_begins_a_new_session_and_ends_the_one_before() {
    let stage = Stage::new().await;
    let planted = stage.sign_in(stage.colleague).await;
    let answer = stage.visit(&planted, &stage.link(stage.user(Role::Owner)).await).await;
    let browser = Browser(answer.cookie());
    assert_ne!(browser.0, planted.0, "no fixation: the token is a new one");
    check(&stage.get(&planted, "/v1/session").await, false);
    let session = stage.get(&browser, "/v1/session").await.is(200);
    assert_eq!(session["role"], "owner");
    // A token of the attacker's own choice is not taken over either.
    let chosen = Browser(format!("__Host-ug_session={}", "a".repeat(43)));
    let answer = stage.visit(&chosen, &stage.link(stage.user(Role::Owner)).await).await;
    assert_ne!(answer.cookie(), chosen.0);
    check(&stage.get(&chosen, "/v1/session").await, false);
}

#[tokio::test]
async fn two_session_cookies_are_none() {
    let stage = Stage::new().await;
    let (one, two) = (stage.sign_in_as(Role::Owner).await, stage.sign_in_as(Role::Member).await);
    let both = Browser(format!("{}; {}", one.0, two.0));
    stage.get(&both, "/v1/session").await.problem(401, "missing_token");
    let same = Browser(format!("{}; other=1; {}", one.0, one.0));
    check(&stage.get(&same, "/v1/session").await, true);
}

#[tokio::test]
async fn a_demoted_user_is_demoted_at_once() {
    let stage = Stage::new().await;
    let browser = stage.sign_in_as(Role::Owner).await;
    stage.post(&browser, "/v1/keys", json!({"name": "while owner"})).await.is(201);
    let user = stage.user(Role::Owner);
    stage.operator(Method::PATCH, &format!("/users/{user}"), json!({"role": "viewer"})).await.is(200);
    stage.post(&browser, "/v1/keys", json!({"name": "too late"})).await.problem(403, "forbidden");
    assert_eq!(stage.get(&browser, "/v1/session").await.is(200)["role"], "viewer");
}

#[tokio::test]
async fn a_deleted_user_and_the_users_of_a_deleted_tenant_are_signed_out_at_once() {
    let stage = Stage::new().await;
    let (browser, other) = (stage.sign_in_as(Role::Member).await, stage.sign_in_as(Role::Owner).await);
    let link = stage.link(stage.user(Role::Member)).await;
    let user = stage.user(Role::Member);
    stage.operator(Method::DELETE, &format!("/users/{user}"), Value::Null).await.is(204);
    check(&stage.get(&browser, "/v1/session").await, false);
    check_refused(&stage.visit(&Browser::default(), &link).await);
    check(&stage.get(&other, "/v1/session").await, true);
    stage.operator(Method::DELETE, &format!("/tenants/{}", stage.acme), Value::Null).await.is(204);
    check(&stage.get(&other, "/v1/session").await, false);
}

#[tokio::test]
async fn a_link_is_made_for_a_known_user_and_leads_back_to_a_web_address() {
    let stage = Stage::new().await;
    let ask = async |body: Value| stage.operator(Method::POST, "/portal-sessions", body).await;
    let user = stage.user(Role::Owner);
    assert_eq!(ask(json!({"user": UserId::generate()})).await.problem(400, "invalid_request"), ["/user"]);
    assert_eq!(ask(json!({"user": "x"})).await.problem(400, "invalid_request"), ["/user"]);
    for url in ["javascript:alert(1)", "/relative", "https://bank@evil.example", ""] {
        let pointers = ask(json!({"user": user, "return_url": url})).await.problem(400, "invalid_request");
        assert_eq!(pointers, ["/return_url"], "{url}");
    }
    ask(json!({"user": user, "return_url": null})).await.is(201);
    assert_eq!(ask(json!({"user": user, "then": 1})).await.problem(400, "invalid_request"), ["/then"]);
}

#[tokio::test]
async fn without_tls_the_cookie_is_confined_to_the_prefix() {
    let options = Portal::new().public_url("http://127.0.0.1:8080").unwrap().prefix("/account").unwrap();
    let stage = Stage::with(options).await;
    let asked = json!({"user": stage.user(Role::Owner)});
    let made = stage.operator(Method::POST, "/portal-sessions", asked).await.is(201);
    let path = made["url"].as_str().unwrap().strip_prefix("http://127.0.0.1:8080").unwrap();
    assert!(path.starts_with("/account/enter/"), "{path}");
    let answer = stage.visit(&Browser::default(), path).await;
    assert_eq!(answer.headers[LOCATION], "/account/");
    let cookie = answer.header("set-cookie");
    assert!(
        cookie.starts_with("ug_session=") && cookie.ends_with("; Path=/account; HttpOnly; SameSite=Lax"),
        "{cookie}"
    );
}

#[tokio::test]
async fn without_a_public_url_no_links_are_made() {
    let stage = Stage::with(Portal::new()).await;
    let asked = json!({"user": stage.user(Role::Owner)});
    let answer = stage.operator(Method::POST, "/portal-sessions", asked).await;
    answer.problem(404, "not_found");
    assert!(answer.text.contains("public_url"), "{}", answer.text);
}

#[tokio::test]
async fn language_and_theme_are_remembered_in_the_browser() {
    let stage = Stage::new().await;
    let browser = stage.sign_in_as(Role::Viewer).await;
    let answer = stage.post(&browser, "/v1/session", json!({"language": "ja", "theme": "dark"})).await;
    let cookies: Vec<_> = answer.headers.get_all(SET_COOKIE).iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!(
        cookies,
        [
            "ug_language=ja; Path=/usage-gate; Max-Age=31536000; SameSite=Lax; Secure",
            "ug_theme=dark; Path=/usage-gate; Max-Age=31536000; SameSite=Lax; Secure"
        ]
    );
    let shown = answer.is(200);
    assert_eq!((&shown["language"], &shown["theme"]), (&json!("ja"), &json!("dark")));
    let later = Browser(format!("{}; ug_language=ja; ug_theme=<script>", browser.0));
    let shown = stage.get(&later, "/v1/session").await.is(200);
    assert_eq!((&shown["language"], &shown["theme"]), (&json!("ja"), &json!("auto")));
    let refused = stage.post(&browser, "/v1/session", json!({"theme": "pink"})).await;
    assert_eq!(refused.problem(400, "invalid_request"), ["/theme"]);
}
