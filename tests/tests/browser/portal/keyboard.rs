//! By keyboard alone: what has the focus, and where it goes when something closes.

use serde_json::json;
use usage_gate_tests::Browser;
use usage_gate_tests::browser::{Key, Target};

use super::stage::Stage;

/// The text of what has the focus, or its label.
async fn focused(browser: &Browser) -> String {
    let name = "(document.activeElement.ariaLabel ?? document.activeElement.textContent).trim()";
    browser.evaluate(name).await.as_str().unwrap().to_owned()
}

/// Tabs on to what is called so.
async fn tab_to(browser: &Browser, name: &str) {
    const MOST: usize = 40;
    let mut tabs = 0;
    while focused(browser).await != name {
        assert!(tabs < MOST, "{MOST} tabs do not lead to {name}");
        browser.press(Key::Tab).await;
        tabs += 1;
    }
}

#[tokio::test]
async fn the_first_tab_skips_to_the_content_and_the_menu_gives_the_focus_back() {
    let stage = Stage::start().await;
    let tenant = stage.tenant("Acme", json!([])).await;
    let owner = stage.user(&tenant, "Ann", "owner").await;
    let browser = Browser::start().await;
    stage.sign_in(&browser, &owner).await;

    browser.press(Key::Tab).await;
    assert_eq!(focused(&browser).await, "Skip to content");
    let left = "document.activeElement.getBoundingClientRect().left";
    assert!(browser.evaluate(left).await.as_f64().unwrap() >= 0.0, "it is seen when it has the focus");
    browser.press(Key::Enter).await;
    browser.press(Key::Tab).await;
    assert_eq!(browser.evaluate("document.activeElement.closest('main') !== null").await, true);

    browser.open(&stage.page("/keys")).await;
    tab_to(&browser, "Ann").await;
    browser.press(Key::Enter).await;
    browser.see(Target::Role("button", "Sign out")).await;
    browser.press(Key::Tab).await;
    assert_eq!(focused(&browser).await, "Sign out");
    browser.press(Key::Escape).await;
    assert_eq!(browser.count(".who[open]").await, 0);
    assert_eq!(focused(&browser).await, "Ann");
    browser.assert_quiet().await;
}

#[tokio::test]
async fn the_panel_of_a_row_takes_the_focus_and_gives_it_back() {
    let stage = Stage::start().await;
    let tenant = stage.tenant("Acme", json!([])).await;
    let owner = stage.user(&tenant, "Ann", "owner").await;
    stage.key(&tenant, &owner, "ci").await;
    stage.key(&tenant, &owner, "laptop").await;
    let browser = Browser::start().await;
    stage.sign_in(&browser, &owner).await;
    browser.open(&stage.page("/keys")).await;
    tab_to(&browser, "Revoke ci").await;

    for keep_it in [false, true] {
        browser.press(Key::Enter).await;
        browser.see(Target::Role("heading", "Revoke ci?")).await;
        browser.wait_until("document.activeElement.matches('.panel .danger')").await;
        if keep_it {
            browser.press(Key::Tab).await;
            assert_eq!(focused(&browser).await, "Keep it");
            browser.press(Key::Enter).await;
        } else {
            browser.press(Key::Escape).await;
        }
        browser.wait_until("document.querySelector('.panel') === null").await;
        assert_eq!(focused(&browser).await, "Revoke ci");
    }
    browser.press(Key::Enter).await;
    browser.wait_until("document.activeElement.matches('.panel .danger')").await;
    browser.press(Key::Enter).await;
    browser.see(Target::Text("Revoked")).await;
    let revoked = |name: &str, status: &str| (name.to_owned(), status.to_owned());
    assert_eq!(stage.keys(&tenant).await, [revoked("ci", "revoked"), revoked("laptop", "active")]);
    browser.assert_quiet().await;
}

#[tokio::test]
async fn days_of_the_chart_are_gone_through_by_arrows() {
    let stage = Stage::start().await;
    let plan = json!({"id": "acme", "name": "Acme", "limits": []});
    stage.admin.create("/plans", &plan).await;
    // A month that began at least two weeks ago.
    let anchor = if jiff::tz::TimeZone::UTC.to_datetime(jiff::Timestamp::now()).day() < 15 { 15 } else { 1 };
    let tenant = json!({"name": "Acme", "plan": "acme", "time_zone": "UTC", "anchor_day": anchor});
    let tenant = stage.admin.create("/tenants", &tenant).await["id"].as_str().unwrap().to_owned();
    let owner = stage.user(&tenant, "Ann", "owner").await;
    let (_, text) = stage.key(&tenant, &owner, "ci").await;
    assert_eq!(stage.call("/v1/search", &text).await.status, 200);

    let browser = Browser::start().await;
    stage.sign_in(&browser, &owner).await;
    browser.evaluate("document.querySelector('[name=day]:checked').focus()").await;
    let day = async || {
        let told = "(() => { const label = document.querySelector('.days :checked + .r b');
            return [document.activeElement.ariaLabel, label.textContent, getComputedStyle(label.parentElement).opacity] })()";
        browser.evaluate(told).await
    };
    let today = day().await;
    assert!(today[0].as_str().unwrap().ends_with(", 1") && today[2] == "1", "{today}");
    browser.press(Key::Left).await;
    let yesterday = day().await;
    assert!(yesterday[0].as_str().unwrap().ends_with(", 0") && yesterday[2] == "1", "{yesterday}");
    assert_ne!(today[1], yesterday[1]);
    browser.press(Key::Right).await;
    assert_eq!(day().await, today);
    browser.assert_quiet().await;
}
