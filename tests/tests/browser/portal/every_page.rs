//! Every page, in both languages, light and dark, on a phone and on a desk, with names that nobody would choose who means well: nothing runs,
//! nothing is too wide, nothing keeps anybody out.

use http::Method;
use serde_json::json;
use usage_gate_tests::browser::View;
use usage_gate_tests::{Admin, Browser, Tour};

/// Markup, writing from right to left, pictures, marks that turn the direction, and no place to break.
fn names() -> Vec<String> {
    vec![
        "<img src=x onerror=alert(1)>".to_owned(),
        "مفتاح الإنتاج الرئيسي".to_owned(),
        "👩🏽‍🔬🔑🇯🇵 build".to_owned(),
        "\u{202e}gnol-ton\u{202d}".to_owned(),
        "x".repeat(200),
        "とても長い名前のキー".repeat(10),
        "{{ 7 * 7 }} ' \" & %3Cscript%3E".to_owned(),
        "Z̸̢̛͎̳a̷l̶g̵o̴".to_owned(),
    ]
}

/// Keys of the customer that can be renamed; what is revoked keeps its name.
const KEYS: usize = 7;

/// The innermost elements that are seen beyond the window's right edge.
const BEYOND: &str = "[...document.body.querySelectorAll('*')]
    .filter(element => element.checkVisibility() && element.getBoundingClientRect().right > innerWidth)
    .slice(-3).map(element => element.outerHTML.slice(0, 80)).join(', ')";

/// Gives these names to a customer's keys, and others like them to the customer and its people.
async fn rename(admin: &Admin, tenant: &str) {
    let set = async |path: String, name: &str| {
        let answer = admin.call(Method::PATCH, &path, json!({ "name": name }).to_string()).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.json());
    };
    set(format!("/tenants/{tenant}"), "<script>alert(1)</script>").await;
    for (nouns, names) in
        [("keys", names()), ("users", vec!["\"><script>alert(2)</script>".to_owned(), "y".repeat(200)])]
    {
        let page = admin.read(&format!("/tenants/{tenant}/{nouns}")).await;
        let items = page["items"].as_array().unwrap().iter().filter(|item| item["status"] != "revoked");
        for (item, name) in items.zip(names.iter().cycle()) {
            set(format!("/{nouns}/{}", item["id"].as_str().unwrap()), name).await;
        }
    }
}

#[tokio::test]
async fn every_page_is_quiet_and_accessible_and_fits_in_every_language_theme_and_width() {
    let tour = Tour::start().await;
    rename(tour.admin(), tour.tenant()).await;
    let browser = Browser::start().await;
    let (mut faults, mut heard) = (Vec::new(), 0);
    for language in ["en", "ja"] {
        let view = View { language: language.to_owned(), ..View::default() };
        browser.look(&view).await;
        tour.walk(&browser, async |stop| {
            assert_eq!(browser.evaluate("document.documentElement.lang").await, language, "{}", stop.name);
            if stop.name == "keys" {
                // The same words are there, as words.
                let text = browser.evaluate("document.querySelector('.keys').textContent").await;
                let shown = |name: &&String| text.as_str().unwrap().contains(name.as_str());
                assert_eq!(names().iter().filter(shown).count(), KEYS, "{text}");
            }
            for (dark, width) in [(false, 1440), (true, 1440), (true, 390), (false, 390)] {
                browser.look(&View { dark, width, ..view.clone() }).await;
                let place = format!("{} {language} {} {width}", stop.name, if dark { "dark" } else { "light" });
                if browser.horizontal_scroll().await {
                    faults.push(format!("{place}: too wide: {}", browser.evaluate(BEYOND).await));
                }
                // A look costs axe a quarter of a second. So it looks at each theme in each width once, half of them in either language.
                if (language == "ja") == (dark == (width == 1440)) {
                    faults.extend(browser.axe().await.iter().map(|violation| format!("{place}: {violation}")));
                }
            }
            browser.look(&view).await;
            let console = browser.console().await;
            let own = format!("status of {}", stop.status);
            let loud = console[heard..].iter().filter(|message| stop.status == 200 || !message.text.contains(&own));
            faults.extend(loud.map(|message| format!("{} {language}: {message}", stop.name)));
            heard = console.len();
        })
        .await;
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
