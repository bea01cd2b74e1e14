//! A user's day: a key of their own, their use as it grows, the limit, a new secret, the end of a key.

use serde_json::json;
use usage_gate_tests::Browser;
use usage_gate_tests::browser::{Key, Target};

use super::stage::{Stage, create, session_cookie};

#[tokio::test]
async fn a_users_day_from_the_link_to_a_revoked_key() {
    let stage = Stage::start().await;
    // Searches are few, so that the limit is met; items have none, so that the rest of the day goes on.
    let searches = json!([{"name": "searches", "kind": "quota", "meter": "requests", "units": 8, "per": "month",
        "counted_by": "tenant", "routes": ["search"], "when_exceeded": "block"}]);
    let tenant = stage.tenant("Acme", searches).await;
    let owner = stage.user(&tenant, "Ann", "owner").await;
    let browser = Browser::start().await;
    stage.sign_in(&browser, &owner).await;

    // The first day: no use, and a way to the first key.
    browser.see(Target::Text("No calls yet. Make the first one:")).await;
    browser.click(Target::Role("link", "Create a key first")).await;
    let key = create(&browser, "ci").await;
    assert!(key.starts_with("ug_live_"), "{key}");
    let curl = browser.text(".secret pre").await;
    let expected = format!("curl '{}/v1/search?q=hello' \\\n-H 'x-api-key: {key}'", stage.gateway.url);
    assert_eq!(curl.replace("  ", ""), expected);
    assert_eq!(copied(&browser).await, key);
    assert_eq!(stage.call("/v1/search", &key).await.status, 200);
    browser.click(Target::Role("link", "I have stored it")).await;
    browser.see(Target::Role("heading", "ci")).await;
    assert_eq!(browser.count("#secret").await, 0, "it is shown once");
    assert_eq!(browser.evaluate(&format!("document.body.innerText.includes('{key}')")).await, false);

    // The month follows the calls while it is open.
    browser.click(Target::Role("link", "Month")).await;
    browser.wait_until(&limit_says("1 used")).await;
    browser.evaluate("window.sameDocument = true").await;
    for _ in 0..3 {
        assert_eq!(stage.call("/v1/search", &key).await.status, 200);
    }
    browser.wait_until(&limit_says("4 used")).await;
    for _ in 0..4 {
        assert_eq!(stage.call("/v1/search", &key).await.status, 200);
    }
    for _ in 0..2 {
        let refused = stage.call("/v1/search", &key).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (429, "quota_exceeded"));
    }
    let notice = browser.text("#live .note b").await;
    assert!(notice.starts_with("Requests: refused until "), "{notice}");
    assert!(browser.text("#live .note p").await.contains("all 8 per month are used"));
    assert_eq!(browser.text("[data-limit=searches] .tag").await, "Full");
    assert_eq!(browser.evaluate("window.sameDocument").await, true, "nothing was loaded again");
    browser.reload().await;
    assert_eq!(browser.text(".reasons tbody code").await, "quota_exceeded");
    assert_eq!(browser.text(".reasons tbody td:nth-of-type(1)").await, "2");
    assert_eq!(browser.text(".reasons tbody td:nth-of-type(3)").await, "ci");

    // A new secret, beside the old one for a day.
    browser.click(Target::Role("link", "Keys")).await;
    browser.click(Target::Role("link", "Rotate ci")).await;
    browser.click(Target::Role("radio", "In 24 hours")).await;
    browser.click(Target::Role("button", "Make the new secret")).await;
    let new = browser.text("#key-text").await;
    assert_ne!(new, key);
    for text in [&key, &new] {
        assert_eq!(stage.call("/v1/items", text).await.status, 200);
    }
    browser.click(Target::Role("link", "I have stored it")).await;
    browser.see(Target::Text("Rotating")).await;

    // Page, file and API have the same sum.
    browser.click(Target::Role("link", "Month")).await;
    assert_eq!(browser.text(".sum b").await, "10 requests");
    assert_eq!(browser.text("#total").await, "10");
    assert_eq!(sums(&stage, &browser).await, (10, 10));

    // The end of a key: asked in its row, and true within a second.
    browser.click(Target::Role("link", "Keys")).await;
    browser.click(Target::Role("link", "Revoke ci")).await;
    browser.see(Target::Text("Revoke ci?")).await;
    let on_click = "addEventListener('click', () => { sessionStorage.clicked = Date.now() }, { capture: true })";
    browser.evaluate(on_click).await;
    let refused = async {
        while stage.call("/v1/items", &new).await.code() != "revoked_key" {}
        jiff::Timestamp::now().as_millisecond()
    };
    let ((), refused) = tokio::join!(browser.click(Target::Role("button", "Revoke ci")), refused);
    let clicked: i64 = browser.evaluate("sessionStorage.clicked").await.as_str().unwrap().parse().unwrap();
    assert!(refused - clicked <= 1_000, "{} ms from the click to the first refusal", refused - clicked);
    assert_eq!(stage.call("/v1/items", &key).await.code(), "revoked_key", "the old secret is no way around");
    browser.see(Target::Text("Revoked")).await;
    assert_eq!(browser.count(Target::Role("link", "Revoke ci")).await, 0);
    browser.assert_quiet().await;
}

/// What the first copy button copies, as it is pasted into the field for a name.
async fn copied(browser: &Browser) -> String {
    browser.click(".secret .copy:has(code) button").await;
    browser.see(Target::Role("button", "Copied")).await;
    browser.click(Target::Role("textbox", "Name")).await;
    browser.press_together(&[Key::Shift, Key::Insert]).await;
    browser.attribute(Target::Role("textbox", "Name"), "value").await.unwrap()
}

fn limit_says(text: &str) -> String {
    format!("document.querySelector('[data-limit=searches] .facts').textContent.includes('{text}')")
}

/// Units in the file that the page links to, and in the self-service API.
async fn sums(stage: &Stage, browser: &Browser) -> (u64, u64) {
    let file = browser.attribute(Target::Role("link", "CSV"), "href").await.unwrap();
    let file = browser.evaluate(&format!("fetch('{file}').then(answer => answer.text())")).await;
    let mut lines = file.as_str().unwrap().lines().map(|line| line.split(',').collect::<Vec<_>>());
    let head = lines.next().unwrap();
    let units = head.iter().position(|name| *name == "units").unwrap();
    let in_file = lines.map(|line| line[units].parse::<u64>().unwrap()).sum();

    let cookie = session_cookie(browser).await;
    let usage = stage.with_cookie("/v1/usage?meter=requests&group_by=key", &cookie).await.json();
    let in_api = usage["items"].as_array().unwrap().iter().map(|item| item["units"].as_u64().unwrap()).sum();
    (in_file, in_api)
}
