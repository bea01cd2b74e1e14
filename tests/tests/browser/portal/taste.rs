//! Language and theme, as they are chosen at the foot of a page.

use serde_json::json;
use usage_gate_tests::Browser;
use usage_gate_tests::browser::{Target, View};

use super::stage::Stage;

/// Language and theme that a page says it has, and whether it is dark to look at.
async fn taste(browser: &Browser) -> (String, String, bool) {
    let seen = browser.evaluate(
        "[document.documentElement.lang, document.documentElement.dataset.theme ?? '',
            getComputedStyle(document.body).backgroundColor]",
    );
    let seen = seen.await;
    let word = |at: usize| seen[at].as_str().unwrap().to_owned();
    (word(0), word(1), word(2) != "rgb(255, 255, 255)")
}

fn of(language: &str, theme: &str, dark: bool) -> (String, String, bool) {
    (language.to_owned(), theme.to_owned(), dark)
}

#[tokio::test]
async fn a_choice_of_language_and_theme_stays_on_the_page_and_on_the_next_ones() {
    let stage = Stage::start().await;
    let limits = json!([{"name": "month", "kind": "quota", "meter": "requests", "units": 1000, "per": "month"}]);
    let tenant = stage.tenant("Acme", limits).await;
    let owner = stage.user(&tenant, "Ann", "owner").await;
    let browser = Browser::start().await;
    stage.sign_in(&browser, &owner).await;
    assert_eq!(taste(&browser).await, of("en", "", false));
    browser.see(Target::Role("heading", "Limits")).await;

    // A choice leads back to the page it was made on, as it was looked at.
    let page = stage.page("/month?by=route");
    browser.open(&page).await;
    browser.click(Target::Role("button", "日本語")).await;
    browser.see(Target::Role("heading", "上限")).await;
    assert_eq!(browser.url().await, page);
    assert_eq!(taste(&browser).await, of("ja", "", false));
    assert_eq!(browser.text("[data-limit=month] .left b").await, "残り 1,000");
    assert_eq!(browser.text("[data-limit=month] .name small").await, "1か月・チーム全体 · month");
    assert!(browser.text("[data-limit=month] .facts").await.contains("上限 1,000"));
    assert_eq!(browser.attribute(Target::Role("button", "日本語"), "ariaPressed").await.as_deref(), Some("true"));

    browser.click(Target::Role("button", "ダーク")).await;
    browser.see("[data-theme=dark]").await;
    assert_eq!(taste(&browser).await, of("ja", "dark", true));
    browser.click(Target::Role("link", "APIキー")).await;
    browser.see(Target::Role("button", "キーを作成")).await;
    assert_eq!(taste(&browser).await, of("ja", "dark", true));

    // A page for nobody in particular has them, too, and a browser that opens the portal later.
    browser.open(&stage.page("/signed-out")).await;
    assert_eq!(taste(&browser).await, of("ja", "dark", true));
    let kept = browser.cookies().await;
    let kept = kept.iter().filter(|cookie| !cookie.session).map(|cookie| cookie.name.as_str());
    let mut kept: Vec<_> = kept.collect();
    kept.sort_unstable();
    assert_eq!(kept, ["ug_language", "ug_theme"]);
    browser.assert_quiet().await;
}

#[tokio::test]
async fn without_a_choice_a_page_is_as_the_browser_and_the_system_say() {
    let stage = Stage::start().await;
    let browser = Browser::start_with(&View { language: "ja".to_owned(), dark: true, ..View::default() }).await;
    browser.open(&stage.page("/signed-out")).await;
    assert_eq!(taste(&browser).await, of("ja", "", true));
    // A chosen theme is stronger than the system's; «System» gives it back.
    browser.click(Target::Role("button", "ライト")).await;
    browser.see("[data-theme=light]").await;
    assert_eq!(taste(&browser).await, of("ja", "light", false));
    browser.click(Target::Role("button", "自動")).await;
    browser.see("html:not([data-theme])").await;
    assert_eq!(taste(&browser).await, of("ja", "", true));
    // Not signed in is a page, and no page is a blank one.
    browser.open(&stage.page("/month")).await;
    assert_eq!(browser.text("h1").await, "サインインしていません");
    browser.assert_quiet_but(&["401"]).await;
}
