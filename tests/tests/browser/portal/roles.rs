//! What a role does not see is not on the page: not in its text, nor in its markup, nor in what the page asks for.

use serde_json::json;
use usage_gate_tests::Browser;
use usage_gate_tests::browser::Target;

use super::stage::Stage;

/// What the page has anywhere, seen or not.
async fn has(browser: &Browser, text: &str) -> bool {
    browser.evaluate(&format!("document.documentElement.outerHTML.includes('{text}')")).await == json!(true)
}

#[tokio::test]
async fn a_member_sees_their_own_keys_and_the_others_as_one() {
    let stage = Stage::start().await;
    // One call of items a month: the second is refused, so that there are refusals of both.
    let limits = json!([{"name": "items", "kind": "quota", "meter": "requests", "units": 1, "per": "month",
        "counted_by": "key", "routes": ["items"], "when_exceeded": "block"}]);
    let tenant = stage.tenant("Acme", limits).await;
    let (ann, ben) = (stage.user(&tenant, "Ann", "owner").await, stage.user(&tenant, "Ben", "member").await);
    let (production, production_text) = stage.key(&tenant, &ann, "production").await;
    let (laptop, laptop_text) = stage.key(&tenant, &ben, "laptop").await;
    for (text, calls) in [(&production_text, 7), (&laptop_text, 2)] {
        for _ in 0..calls {
            assert_eq!(stage.call("/v1/search", text).await.status, 200);
        }
        assert_eq!(stage.call("/v1/items", text).await.status, 200);
        assert_eq!(stage.call("/v1/items", text).await.status, 429);
    }

    let owner = Browser::start().await;
    stage.sign_in(&owner, &ann).await;
    assert_eq!(owner.text(".legend").await.split_whitespace().collect::<Vec<_>>(), ["production", "laptop"]);
    assert_eq!(owner.text("#total").await, "11");
    assert_eq!(owner.count(".reasons tbody tr").await, 1);
    owner.click(Target::Role("link", "Keys")).await;
    owner.see(Target::Role("heading", "2 keys")).await;
    owner.see(Target::Role("link", "Revoke laptop")).await;

    let member = Browser::start().await;
    stage.sign_in(&member, &ben).await;
    let legend = member.text(".legend").await;
    assert!(legend.contains("laptop") && legend.contains("Keys of others"), "{legend}");
    assert_eq!(member.text("#total").await, "11", "what all used together is told: the limits are shared");
    for page in ["/month", "/month?by=route", "/month?by=outcome", "/keys", "/keys#create"] {
        member.open(&stage.page(page)).await;
        assert!(has(&member, "Northwind API").await, "{page}");
        for secret in ["production", production.as_str(), ann.as_str()] {
            assert!(!has(&member, secret).await, "{secret} on {page}");
        }
    }
    member.see(Target::Role("heading", "1 key")).await;
    member.see(Target::Role("link", "Revoke laptop")).await;
    // Asked for by its address, another's key is not there.
    for act in ["edit", "rotate", "revoke"] {
        member.open(&stage.page(&format!("/keys/{production}/{act}"))).await;
        member.see(Target::Role("heading", "There is nothing here")).await;
        member.open(&stage.page(&format!("/keys/{laptop}/{act}"))).await;
        assert!(member.text("h1").await.contains("laptop"));
    }
    let ask = format!("fetch('/usage-gate/v1/usage?key={production}').then(answer => answer.status)");
    assert_eq!(member.evaluate(&ask).await, 404);
    member.assert_quiet_but(&["404"]).await;
}

#[tokio::test]
async fn a_viewer_has_nothing_to_press() {
    let stage = Stage::start().await;
    let tenant = stage.tenant("Acme", json!([])).await;
    let (ann, vic) = (stage.user(&tenant, "Ann", "owner").await, stage.user(&tenant, "Vic", "viewer").await);
    let (production, _) = stage.key(&tenant, &ann, "production").await;
    let viewer = Browser::start().await;
    stage.sign_in(&viewer, &vic).await;
    viewer.open(&stage.page("/keys")).await;
    viewer.see(Target::Role("heading", "Keys")).await;
    assert_eq!(viewer.count("main form, main button, .acts a").await, 0);
    for act in ["edit", "rotate", "revoke"] {
        viewer.open(&stage.page(&format!("/keys/{production}/{act}"))).await;
        let said = viewer.text("h1").await;
        assert!(["There is nothing here", "Your role does not permit this"].contains(&said.as_str()), "{said}");
    }
    // A form that was open when the role changed, or that somebody wrote.
    viewer.open(&stage.page("/keys")).await;
    let sent = viewer.evaluate(
        "fetch('/usage-gate/keys', { method: 'POST', body: new URLSearchParams({ name: 'mine' }) })
            .then(answer => answer.status)",
    );
    assert_eq!(sent.await, 403);
    assert_eq!(stage.keys(&tenant).await.len(), 1);
    viewer.assert_quiet_but(&["403", "404"]).await;
}
