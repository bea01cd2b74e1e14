//! What a page of another origin can do to somebody who is signed in: nothing.

use serde_json::json;
use usage_gate_tests::Browser;
use usage_gate_tests::browser::Target;

use super::stage::Stage;
use crate::site::Site;

#[tokio::test]
async fn another_origins_page_changes_nothing_and_reads_nothing() {
    let stage = Stage::start().await;
    let tenant = stage.tenant("Acme", json!([])).await;
    let owner = stage.user(&tenant, "Ann", "owner").await;
    let (key, _) = stage.key(&tenant, &owner, "ci").await;
    let browser = Browser::start().await;
    stage.sign_in(&browser, &owner).await;

    let site = Site::start_without_policy(&[("/", "<main><h1>You have won</h1></main>")]).await;
    // By another port it is the same site: the browser sends the cookie along. By another name it is not.
    let (same_site, other_site) = (site.url.clone(), site.url.replace("127.0.0.1", "localhost"));
    for origin in [&same_site, &other_site] {
        let posts =
            ["/keys", "/sign-out", &format!("/keys/{key}/revoke"), &format!("/keys/{key}/rotate"), "/preferences"];
        for path in posts {
            browser.open(origin).await;
            let form = format!(
                "(() => {{ const form = document.createElement('form');
                    form.method = 'post'; form.action = '{}';
                    form.innerHTML = '<input name=name value=stolen><input name=language value=ja>';
                    document.body.append(form); form.submit() }})()",
                stage.page(path)
            );
            browser.evaluate(&form).await;
            browser.wait_until("document.body.innerText.includes('forbidden')").await;
            assert_eq!(browser.url().await, stage.page(path));
        }
        browser.open(origin).await;
        let ask = |method: &str, mode: &str, path: &str| {
            format!(
                "fetch('{}', {{ method: '{method}', mode: '{mode}', credentials: 'include' }})
                    .then(answer => answer.type, () => 'refused')",
                stage.page(path)
            )
        };
        // It is sent, and the answer is not shown; that nothing came of it is seen below.
        assert_eq!(browser.evaluate(&ask("POST", "no-cors", "/sign-out")).await, "opaque");
        assert_eq!(browser.evaluate(&ask("DELETE", "cors", &format!("/v1/keys/{key}"))).await, "refused");
        assert_eq!(browser.evaluate(&ask("GET", "cors", "/v1/keys")).await, "refused");
        let frame = format!(
            "new Promise(resolve => {{ const frame = document.createElement('iframe');
                frame.onload = resolve; frame.src = '{}'; document.body.append(frame) }}).then(() => 'loaded')",
            stage.page("/keys")
        );
        assert_eq!(browser.evaluate(&frame).await, "loaded");
    }
    let console = browser.console().await;
    assert!(console.iter().any(|message| message.text.contains("frame-ancestors")), "{console:?}");

    let kept = stage.keys(&tenant).await;
    assert_eq!(kept, [("ci".to_owned(), "active".to_owned())]);
    browser.open(&stage.page("/keys")).await;
    browser.see(Target::Role("link", "Revoke ci")).await;
    assert_eq!(browser.attribute("html", "lang").await.as_deref(), Some("en"));
    // A link there is only a link.
    browser.open(&other_site).await;
    let link = format!(
        "(() => {{ const link = document.createElement('a'); link.href = '{}'; link.textContent = 'Look';
            document.body.append(link) }})()",
        stage.page("/month")
    );
    browser.evaluate(&link).await;
    browser.click(Target::Role("link", "Look")).await;
    browser.see(Target::Role("link", "Keys")).await;
}
