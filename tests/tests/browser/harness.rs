//! The harness sees what it is there to see.

use serde_json::json;
use usage_gate_tests::Browser;
use usage_gate_tests::browser::{Key, Target, View};

use crate::site::Site;

#[tokio::test]
async fn a_good_page_is_quiet_and_accessible_and_fits() {
    let site = Site::start(&[("/", "<main><h1>Keys</h1><p>None yet.</p></main>")]).await;
    let browser = Browser::start_with(&View { width: 390, ..View::default() }).await;
    browser.open(&site.url).await;
    assert_eq!(browser.text("h1").await, "Keys");
    assert!(!browser.horizontal_scroll().await);
    browser.assert_accessible().await;
    browser.assert_quiet().await;
}

#[tokio::test]
async fn a_script_that_the_policy_forbids_is_reported_and_does_not_run() {
    let site = Site::start(&[("/", "<main><h1>Keys</h1></main><script>document.title = 'owned'</script>")]).await;
    let browser = Browser::start().await;
    browser.open(&site.url).await;
    let console = browser.console().await;
    assert_eq!(console.len(), 1, "{console:?}");
    assert_eq!(console[0].source, "security");
    assert!(console[0].text.contains("script-src"), "{}", console[0]);
    // The test's own script does run, and so does axe: the debugger is not bound by the policy, which stays in force for the page.
    assert_eq!(browser.evaluate("document.title").await, "A page");
    browser.assert_accessible().await;
    browser.open(&site.url).await;
    assert_eq!(browser.console().await.len(), 2);
}

#[tokio::test]
async fn errors_of_scripts_and_missing_files_are_reported() {
    let site = Site::start(&[("/", "<main><h1>Keys</h1></main><link rel=stylesheet href=/none.css>")]).await;
    let browser = Browser::start().await;
    browser.open(&site.url).await;
    browser.assert_quiet_but(&["/none.css"]).await;
    browser.evaluate("setTimeout(() => { throw new Error('lost') }), console.warn('careful')").await;
    browser.evaluate("new Promise(resolve => setTimeout(resolve, 1))").await;
    let sources: Vec<_> = browser.console().await.into_iter().map(|message| message.source).collect();
    assert_eq!(sources, ["network", "console-api", "javascript"]);
}

#[tokio::test]
async fn what_is_too_wide_for_a_phone_is_seen() {
    let site = Site::start(&[("/", "<main><h1>Wide</h1><canvas width=600 height=10></canvas></main>")]).await;
    let browser = Browser::start_with(&View { width: 390, ..View::default() }).await;
    browser.open(&site.url).await;
    assert_eq!(browser.evaluate("innerWidth").await, 390);
    assert!(browser.horizontal_scroll().await);
    browser.look(&View::default()).await;
    assert_eq!(browser.evaluate("innerWidth").await, 1440);
    assert!(!browser.horizontal_scroll().await);
}

#[tokio::test]
async fn a_button_without_a_name_is_a_violation() {
    let site = Site::start(&[("/", "<main><h1>Keys</h1><button id=bare></button></main>")]).await;
    let browser = Browser::start().await;
    browser.open(&site.url).await;
    let violations = browser.axe().await;
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert_eq!((violations[0].id.as_str(), violations[0].impact.as_str()), ("button-name", "critical"));
    assert!(violations[0].elements[0].contains("#bare"), "{}", violations[0]);
}

#[tokio::test]
async fn a_view_has_a_scheme_motion_and_language() {
    let site = Site::start(&[("/", "<main><h1>Language</h1><p>{language}</p></main>")]).await;
    let browser = Browser::start().await;
    let seen = async || {
        let query = "[matchMedia('(prefers-color-scheme: dark)').matches,
            matchMedia('(prefers-reduced-motion: reduce)').matches,
            [...navigator.languages], new Intl.NumberFormat().resolvedOptions().locale]";
        browser.open(&site.url).await;
        (browser.evaluate(query).await, browser.text("p").await)
    };
    assert_eq!(seen().await, (json!([false, false, ["en"], "en"]), "en".to_owned()));
    let language = "ja,en".to_owned();
    browser.look(&View { language, dark: true, reduced_motion: true, ..View::default() }).await;
    assert_eq!(seen().await, (json!([true, true, ["ja", "en"], "ja"]), "ja,en;q=0.9".to_owned()));
    browser.look(&View { language: "pt-BR".to_owned(), ..View::default() }).await;
    assert_eq!(seen().await, (json!([false, false, ["pt-BR"], "pt-BR"]), "pt-BR".to_owned()));
}

#[tokio::test]
async fn elements_are_found_as_a_person_names_them() {
    const FORM: &str = "<main><h1>New key</h1><form action=/made><label>Name <input name=name></label>
        <label>Password <input type=password name=secret></label>
        <label>Scope <select name=scope><option>read<option>write</select></label>
        <button>Make  it</button><button hidden>Make it</button></form></main>";
    let site = Site::start(&[("/", FORM), ("/made", "<main><h1>\"It's\" made</h1></main>")]).await;
    let browser = Browser::start().await;
    browser.open(&site.url).await;
    browser.fill(Target::Role("textbox", "Name"), "old").await;
    browser.fill(Target::Role("textbox", "Name"), "new").await;
    assert_eq!(browser.attribute("[name=name]", "value").await.as_deref(), Some("new"));
    browser.fill(Target::Role("textbox", "Password"), "p").await;
    browser.choose(Target::Role("combobox", "Scope"), "write").await;
    browser.click(Target::Role("button", "Make it")).await;
    browser.see(Target::Text("\"It's\" made")).await;
    assert_eq!(browser.url().await, site.page("/made?name=new&secret=p&scope=write"));
    assert_eq!(browser.count(Target::Role("button", "Make it")).await, 0);
    browser.back().await;
    assert_eq!(browser.count(Target::Role("button", "Make it")).await, 1);
}

#[tokio::test]
async fn a_step_waits_for_what_a_script_brings_and_keys_reach_the_focus() {
    const PAGE: &str =
        "<main><h1>Later</h1><a href=/>Home</a> <button id=go>Go</button></main><script src=/later.js></script>";
    let site = Site::start(&[("/", PAGE)]).await;
    let browser = Browser::start().await;
    browser.open(&site.url).await;
    browser.press(Key::Tab).await;
    browser.press(Key::Tab).await;
    assert_eq!(browser.evaluate("document.activeElement.id").await, "go");
    browser.press_together(&[Key::Shift, Key::Tab]).await;
    assert_eq!(browser.evaluate("document.activeElement.textContent").await, "Home");
    browser.press(Key::Tab).await;
    browser.press(Key::Enter).await;
    assert_eq!(browser.text("output").await, "done");
    browser.wait_until("document.querySelector('output') !== null").await;
    browser.assert_quiet().await;
}

#[tokio::test]
async fn without_scripts_a_page_is_plain_and_tests_still_reach_it() {
    const PAGE: &str = "<main><h1>Plain</h1><button id=go>Go</button><noscript><p>Without scripts</p></noscript></main>
        <script src=/later.js></script>";
    let site = Site::start(&[("/", PAGE)]).await;
    let browser = Browser::start_with(&View { scripts: false, ..View::default() }).await;
    browser.open(&site.url).await;
    browser.see(Target::Text("Without scripts")).await;
    browser.click(Target::Role("button", "Go")).await;
    browser.assert_accessible().await;
    assert_eq!(browser.count("output").await, 0);
    browser.look(&View::default()).await;
    browser.reload().await;
    assert_eq!(browser.count("noscript p").await, 0);
    browser.click("#go").await;
    browser.see(Target::Text("done")).await;
}

#[tokio::test]
async fn a_screenshot_is_the_whole_page() {
    const PAGE: &str = "<main><h1>Long</h1><canvas width=10 height=3000></canvas></main>";
    let site = Site::start(&[("/", PAGE)]).await;
    let browser = Browser::start_with(&View { width: 390, ..View::default() }).await;
    browser.open(&site.url).await;
    let picture = browser.screenshot().await;
    assert!(picture.starts_with(b"\x89PNG\r\n\x1a\n"));
    let number = |at: usize| u32::from_be_bytes(picture[at..at + 4].try_into().unwrap());
    assert_eq!(number(16), 390);
    assert!(number(20) > 3000, "{}", number(20));
}

#[tokio::test]
async fn cookies_can_be_stolen_and_lost() {
    let site = Site::start(&[("/", "<main><h1>Cookies</h1><p>{cookie}</p></main>")]).await;
    let (owner, thief) = (Browser::start().await, Browser::start().await);
    owner.open(&site.url).await;
    let mut cookie = owner.cookies().await.pop().unwrap();
    assert!(cookie.http_only && cookie.session && cookie.same_site == "Strict", "{cookie:?}");
    assert_eq!(owner.evaluate("document.cookie").await, "");

    thief.open(&site.url).await;
    assert_eq!(thief.text("p").await, "");
    "stolen".clone_into(&mut cookie.value);
    thief.set_cookie(&cookie).await;
    thief.reload().await;
    assert_eq!(thief.text("p").await, "visited=stolen");
    thief.delete_cookie("visited").await;
    assert_eq!(thief.cookies().await, []);
    thief.reload().await;
    assert_eq!(thief.text("p").await, "");
}
