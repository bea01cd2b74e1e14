//! The end of a session, as its user sees it, and as somebody does who stole what belongs to it.

use http::Method;
use serde_json::json;
use usage_gate_tests::Browser;
use usage_gate_tests::browser::Target;

use super::stage::{SESSION, Stage, session_cookie};

const ENDED: &str = "You are not signed in";

#[tokio::test]
async fn after_sign_out_neither_the_way_back_nor_a_stolen_cookie_leads_in() {
    let stage = Stage::start().await;
    let tenant = stage.tenant("Acme", json!([])).await;
    let owner = stage.user(&tenant, "Ann", "owner").await;
    let browser = Browser::start().await;
    stage.sign_in(&browser, &owner).await;
    let stolen = session_cookie(&browser).await;
    assert!(stolen.http_only && stolen.session && stolen.same_site == "Lax", "{stolen:?}");
    assert_eq!(stolen.path, "/usage-gate", "the API never gets it");
    assert_eq!(browser.evaluate("document.cookie.includes('ug_session')").await, false);
    assert_eq!(stage.with_cookie("/v1/session", &stolen).await.status, 200);

    browser.click(Target::Role("link", "Keys")).await;
    browser.see(Target::Role("button", "Create key")).await;
    browser.click(".who summary").await;
    browser.click(Target::Role("button", "Sign out")).await;
    browser.see(Target::Role("heading", "You are signed out")).await;
    assert!(browser.cookies().await.iter().all(|cookie| cookie.name != SESSION));
    browser.back().await;
    browser.see(Target::Role("heading", ENDED)).await;
    browser.open(&stage.page("/month")).await;
    browser.see(Target::Role("heading", ENDED)).await;
    browser.assert_quiet_but(&["401"]).await;

    for path in ["/month", "/month/live", "/keys", "/v1/session", "/v1/keys", "/v1/usage"] {
        let answer = stage.with_cookie(path, &stolen).await;
        let said = String::from_utf8_lossy(&answer.body);
        assert!(!said.contains("Ann") && !said.contains("Acme"), "{path}: {said}");
        // What an open page asks for is no page: it is told to load again, which then says that it is over.
        let expected = if path == "/month/live" { 204 } else { 401 };
        assert_eq!(answer.status.as_u16(), expected, "{path}");
    }
    let thief = Browser::start().await;
    thief.open(&stage.page("/signed-out")).await;
    thief.set_cookie(&stolen).await;
    thief.open(&stage.page("/keys")).await;
    thief.see(Target::Role("heading", ENDED)).await;
}

#[tokio::test]
async fn a_link_works_once() {
    let stage = Stage::start().await;
    let tenant = stage.tenant("Acme", json!([])).await;
    let owner = stage.user(&tenant, "Ann", "owner").await;
    let link = stage.link(&owner).await;
    let (first, second) = (Browser::start().await, Browser::start().await);
    first.open(&link).await;
    first.see(Target::Role("link", "Keys")).await;
    assert!(!first.url().await.contains("enter"), "what is in the address bar leads nobody in");

    second.open(&link).await;
    second.see(Target::Role("heading", "This link does not work any more")).await;
    assert!(second.cookies().await.iter().all(|cookie| cookie.name != SESSION));
    // Nor does it end the session that it began.
    first.reload().await;
    first.see(Target::Role("link", "Keys")).await;
    first.assert_quiet().await;
    second.assert_quiet_but(&["401"]).await;
}

#[tokio::test]
async fn a_page_that_is_open_when_the_session_ends_says_so_by_itself() {
    let stage = Stage::start().await;
    let tenant = stage.tenant("Acme", json!([])).await;
    let owner = stage.user(&tenant, "Ann", "owner").await;
    let browser = Browser::start().await;
    stage.sign_in(&browser, &owner).await;
    browser.see(Target::Role("heading", "Limits")).await;
    let deleted = stage.admin.call(Method::DELETE, &format!("/users/{owner}"), "").await;
    assert!(deleted.status.is_success(), "{}", deleted.status);
    browser.see(Target::Role("heading", ENDED)).await;
    assert_eq!(browser.url().await, stage.page("/month"));
    assert_eq!(browser.evaluate("document.body.innerText.includes('Ann')").await, false);
    browser.assert_quiet_but(&["401"]).await;
}
