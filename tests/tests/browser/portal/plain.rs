//! Without scripts everything works, by plain pages. What was sent before does not happen twice, and what is refused is in view.

use serde_json::json;
use usage_gate_tests::Browser;
use usage_gate_tests::browser::{PATIENCE, Target, View};

use super::stage::{Stage, create};

#[tokio::test]
async fn without_scripts_a_key_is_made_changed_rotated_and_revoked() {
    let stage = Stage::start().await;
    let tenant = stage.tenant("Acme", json!([])).await;
    let owner = stage.user(&tenant, "Ann", "owner").await;
    let browser = Browser::start_with(&View { scripts: false, ..View::default() }).await;
    stage.sign_in(&browser, &owner).await;
    let shown = "[...document.querySelectorAll('[data-copy]')].filter(button => button.checkVisibility()).length";
    let there = "document.querySelectorAll('[data-copy]').length";
    assert_eq!((browser.evaluate(there).await, browser.evaluate(shown).await), (json!(1), json!(0)));

    browser.click(Target::Role("link", "Keys")).await;
    let key = create(&browser, "ci").await;
    assert_eq!((browser.evaluate(there).await, browser.evaluate(shown).await), (json!(2), json!(0)));
    browser.assert_accessible().await;
    assert_eq!(stage.call("/v1/search", &key).await.status, 200);

    browser.click(Target::Role("link", "Edit ci")).await;
    browser.fill(Target::Role("textbox", "Name"), "ci 2").await;
    browser.click(Target::Role("button", "Save")).await;
    browser.see(Target::Role("heading", "ci 2")).await;

    browser.click(Target::Role("link", "Rotate ci 2")).await;
    browser.click(Target::Role("radio", "Now")).await;
    browser.click(Target::Role("button", "Make the new secret")).await;
    let new = browser.text("#key-text").await;
    assert_eq!(stage.call("/v1/search", &new).await.status, 200);
    assert_ne!(stage.call("/v1/search", &key).await.status, 200, "the old secret ended now");

    browser.click(Target::Role("link", "Revoke ci 2")).await;
    browser.see(Target::Role("heading", "Revoke ci 2?")).await;
    assert!(browser.url().await.ends_with("/revoke"), "a page of its own");
    browser.click(Target::Role("link", "Keep it")).await;
    browser.click(Target::Role("link", "Revoke ci 2")).await;
    browser.click(Target::Role("button", "Revoke ci 2")).await;
    browser.see(Target::Text("Revoked")).await;
    assert_eq!(stage.call("/v1/search", &new).await.code(), "revoked_key");

    // The menu is the browser's own.
    browser.click(".who summary").await;
    browser.click(Target::Role("button", "Sign out")).await;
    browser.see(Target::Role("heading", "You are signed out")).await;
    browser.assert_quiet().await;
}

#[tokio::test]
async fn a_second_click_and_a_reload_make_no_second_key() {
    let stage = Stage::start().await;
    let tenant = stage.tenant("Acme", json!([])).await;
    let owner = stage.user(&tenant, "Ann", "owner").await;
    let browser = Browser::start().await;
    stage.sign_in(&browser, &owner).await;
    let sent_already = Target::Text("This form was sent already.");

    browser.open(&stage.page("/keys")).await;
    create(&browser, "reloaded").await;
    browser.reload().await;
    browser.see(sent_already).await;
    assert_eq!(browser.count("#secret").await, 0);
    let active = |name: &str| (name.to_owned(), "active".to_owned());
    assert_eq!(stage.keys(&tenant).await, [active("reloaded")]);

    browser.open(&stage.page("/keys")).await;
    browser.fill(Target::Role("textbox", "Name"), "clicked twice").await;
    browser.evaluate("for (const click of [1, 2]) document.querySelector('.form .primary').click()").await;
    browser.wait_until("document.querySelector('#secret, .note') !== null").await;
    // The answer to the second may be there before the first is done.
    let made = async { while stage.keys(&tenant).await.len() < 2 {} };
    assert!(tokio::time::timeout(PATIENCE, made).await.is_ok(), "a key was made");
    assert_eq!(stage.keys(&tenant).await, [active("reloaded"), active("clicked twice")]);

    browser.open(&stage.page("/keys")).await;
    browser.click(Target::Role("link", "Rotate reloaded")).await;
    browser.click(Target::Role("button", "Make the new secret")).await;
    let secret = browser.text("#key-text").await;
    browser.reload().await;
    browser.see(sent_already).await;
    assert_eq!(stage.call("/v1/search", &secret).await.status, 200, "the one that was shown is the one that holds");
    browser.assert_quiet_but(&["409"]).await;
}

#[tokio::test]
async fn a_form_that_is_refused_is_in_view_with_what_was_typed() {
    let stage = Stage::start().await;
    let tenant = stage.tenant("Acme", json!([])).await;
    let owner = stage.user(&tenant, "Ann", "owner").await;
    for number in 0..12 {
        stage.key(&tenant, &owner, &format!("key {number}")).await;
    }
    let browser = Browser::start_with(&View { scripts: false, ..View::default() }).await;
    stage.sign_in(&browser, &owner).await;
    browser.open(&stage.page("/keys")).await;
    browser.fill(Target::Role("textbox", "Name"), " ").await;
    browser.click(Target::Role("checkbox", "items:read")).await;
    browser.click(Target::Role("button", "Create key")).await;
    browser.see(Target::Text("Name: must not be empty")).await;
    let in_view = "(() => { const box = document.querySelector('[role=alert]').getBoundingClientRect();
        return box.top >= 0 && box.bottom <= innerHeight })()";
    browser.wait_until(in_view).await;
    assert_eq!(browser.evaluate("document.activeElement.name").await, "name");
    assert_eq!(browser.evaluate("document.querySelector('[value=\"items:read\"]').checked").await, true);
    assert_eq!(stage.keys(&tenant).await.len(), 12);
    browser.assert_quiet_but(&["400"]).await;
}
