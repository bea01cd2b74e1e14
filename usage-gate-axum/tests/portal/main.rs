//! The pages as a browser gets them, without a browser: who sees what, what is in them, and what cannot get in.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what a test cannot go on without fails it")]

mod stage;

use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, LOCATION, SET_COOKIE};
use stage::{ROLES, Stage};
use usage_gate_core::model::{Environment, KeyId, MeterIndex, Meters, RequestId, StreamId};
use usage_gate_core::store::{Batch, Measured, Outcome, UnitTotals, UsageRecord, UsageSink};

/// What follows a text, up to the next mark.
fn after<'a>(text: &'a str, mark: &str, end: &str) -> &'a str {
    let from = text.find(mark).unwrap_or_else(|| panic!("{mark} is not in {text}")) + mark.len();
    text[from..].split(end).next().unwrap()
}

#[tokio::test]
async fn every_page_by_role_and_by_whose_key_it_is() {
    let stage = Stage::new().await;
    // Owner, admin, member, viewer.
    let table: &[(&str, &str, &str, [u16; 4])] = &[
        ("GET", "/", "", [303; 4]),
        ("GET", "/month", "", [200; 4]),
        ("GET", "/month/live", "", [200; 4]),
        ("GET", "/keys", "", [200; 4]),
        ("POST", "/keys", "name=new&environment=live", [200, 200, 200, 403]),
        ("GET", "/keys/OWN/edit", "", [200, 200, 200, 403]),
        ("POST", "/keys/OWN/edit", "name=named&expires=keep&scopes=search:read", [303, 303, 303, 403]),
        ("GET", "/keys/OWN/rotate", "", [200, 200, 200, 403]),
        ("POST", "/keys/OWN/rotate", "overlap_seconds=60", [200, 200, 200, 403]),
        ("GET", "/keys/OWN/revoke", "", [200, 200, 200, 403]),
        ("GET", "/keys/OTHER/edit", "", [200, 200, 404, 403]),
        ("POST", "/keys/OTHER/edit", "name=named&expires=keep&scopes=search:read", [303, 303, 404, 403]),
        ("GET", "/keys/OTHER/rotate", "", [200, 200, 404, 403]),
        ("POST", "/keys/OTHER/rotate", "overlap_seconds=60", [200, 200, 404, 403]),
        ("GET", "/keys/OTHER/revoke", "", [200, 200, 404, 403]),
        ("GET", "/keys/FOREIGN/edit", "", [404; 4]),
        ("POST", "/keys/FOREIGN/edit", "name=mine", [404; 4]),
        ("GET", "/keys/FOREIGN/rotate", "", [404; 4]),
        ("POST", "/keys/FOREIGN/rotate", "", [404; 4]),
        ("GET", "/keys/FOREIGN/revoke", "", [404; 4]),
        ("POST", "/keys/FOREIGN/revoke", "", [404; 4]),
        ("POST", "/keys/nonsense/revoke", "", [404; 4]),
        ("POST", "/keys/OTHER/revoke", "", [303, 303, 404, 403]),
        ("POST", "/keys/OWN/revoke", "", [303, 303, 303, 403]),
        ("POST", "/preferences", "theme=dark", [303; 4]),
        ("GET", "/nothing", "", [404; 4]),
    ];
    let mut cookies = Vec::new();
    for role in ROLES {
        cookies.push(stage.enter(role).await);
    }
    for (method, path, form, expected) in table {
        let path = path.replace("OWN", &stage.own.0.id.to_string()).replace("OTHER", &stage.other.0.id.to_string());
        let path = path.replace("FOREIGN", &stage.foreign.0.id.to_string());
        // The strongest role last: what it does to a key is not to be in the way of the others.
        for (at, role) in ROLES.iter().enumerate().rev() {
            let answer = stage.browse(method, &path, &cookies[at], &[], form).await;
            assert_eq!(answer.status.as_u16(), expected[at], "{method} {path} as {role}: {}", answer.text);
            assert!(!answer.text.contains("of a stranger"), "{method} {path} as {role}");
        }
        // Without a session only what shows nothing answers.
        let answer = stage.browse(method, &path, "", &[], form).await;
        let expected: &[u16] = if ["/", "/preferences"].contains(&&*path) { &[303] } else { &[401, 404, 204] };
        assert!(expected.contains(&answer.status.as_u16()), "{method} {path} without a session: {}", answer.status);
    }
}

#[tokio::test]
async fn a_member_is_told_their_own_keys_apart_and_the_rest_as_one() {
    let stage = Stage::new().await;
    for (key, times) in [(&stage.own.1, 3), (&stage.other.1, 4)] {
        for _ in 0..times {
            assert_eq!(stage.call(key).await, 200);
        }
    }
    let (owner, member) = (stage.enter("owner").await, stage.enter("member").await);
    let page = stage.get("/month", &owner).await.is(200).text;
    assert!(page.contains("of the owner") && page.contains("of the member"));
    assert_eq!(after(&page, "<td id=\"total\">", "<"), "7");
    let page = stage.get("/month", &member).await.is(200).text;
    assert!(!page.contains("of the owner") && page.contains("of the member") && page.contains("Keys of others"));
    assert_eq!(after(&page, "<td id=\"total\">", "<"), "7");
    let page = stage.get("/keys", &member).await.is(200).text;
    assert!(!page.contains("of the owner") && page.contains("of the member"));
    let page = stage.get("/keys", &stage.enter("viewer").await).await.is(200).text;
    assert!(page.contains("of the owner") && !page.contains("/revoke") && !page.contains("<select"));
}

#[tokio::test]
async fn what_a_crash_took_is_shown_as_not_billed() {
    let stage = Stage::new().await;
    let member = &stage.people["member"];
    let mut units = UnitTotals::default();
    units.set(MeterIndex::REQUESTS, 12);
    let at = "2026-11-24T05:00:00Z".parse().unwrap();
    let forfeited = UsageRecord {
        sequence: 1,
        request: RequestId::generate(),
        at,
        tenant: member.tenant,
        user: None,
        key: KeyId::from_u128(0),
        environment: Environment::Live,
        route: "".into(),
        status: 0,
        outcome: Outcome::Forfeited,
        units,
        measured: Measured::Exact,
        bucket: at,
        quotas: Vec::new(),
        retry: None,
    };
    let batch = Batch::numbered(StreamId::generate(), 1, at, Meters::default(), vec![forfeited], vec![]);
    stage.store.accept(batch).await.unwrap();
    for (by, name) in [("key", "Lost in a restart"), ("outcome", "Lost in a restart"), ("route", "No route")] {
        let page = stage.get(&format!("/month?by={by}"), &stage.enter("owner").await).await.is(200).text;
        assert!(page.contains("12 of them count against limits and are not billed"), "{by}");
        assert!(page.contains(name) && !page.contains("Keys of others"), "{by}");
    }
}

#[tokio::test]
async fn page_csv_and_json_have_the_same_sum() {
    let stage = Stage::new().await;
    for _ in 0..5 {
        assert_eq!(stage.call(&stage.own.1).await, 200);
    }
    let cookie = stage.enter("owner").await;
    for by in ["key", "route", "outcome"] {
        let page = stage.get(&format!("/month?by={by}"), &cookie).await.is(200).text;
        let total: u64 = after(&page, "<td id=\"total\">", "<").parse().unwrap();
        let href = |kind: &str| {
            let mark = format!("\" download=\"requests-2026-11.{kind}\"");
            let before = &page[..page.find(&mark).unwrap()];
            before[before.rfind("/usage-gate").unwrap() + 11..].replace("&amp;", "&").replace("&#38;", "&")
        };
        let csv = stage.get(&href("csv"), &cookie).await.is(200).text;
        let units = csv.lines().skip(1).map(|line| line.split(',').nth(3).unwrap().parse::<u64>().unwrap());
        assert_eq!(units.sum::<u64>(), total, "{by}");
        let json: serde_json::Value =
            serde_json::from_str(&stage.get(&href("json"), &cookie).await.is(200).text).unwrap();
        let units = json["items"].as_array().unwrap().iter().map(|item| item["units"].as_u64().unwrap());
        assert_eq!((units.sum::<u64>(), total), (5, 5), "{by}");
    }
}

#[tokio::test]
async fn a_form_that_is_sent_again_makes_no_second_key() {
    let stage = Stage::new().await;
    let cookie = stage.enter("owner").await;
    let page = stage.get("/keys", &cookie).await.is(200).text;
    let token = after(&page, "name=\"idempotency_key\" value=\"", "\"");
    let form = format!("name=staging&environment=live&scopes=search%3Aread&expires=90&idempotency_key={token}");
    let answer = stage.post("/keys", &cookie, &form).await.is(200);
    assert_eq!(answer.header(CACHE_CONTROL), "no-store");
    let key = after(&answer.text, "id=\"key-text\">", "<").to_owned();
    assert!(answer.text.contains("https://api.example.com/v1/search?q=hello"), "{}", answer.text);
    stage.clock.advance_millis(1);
    assert_eq!(stage.call(&key).await, 200);
    let again = stage.post("/keys", &cookie, &form).await.is(409).text;
    assert!(!again.contains(&key) && again.contains("sent already"));
    assert_eq!(again.matches("<h3 class=\"cut-off\" dir=\"auto\" title=\"staging\"").count(), 1);
    // What was refused was not done, and may be sent again.
    let token = after(&again, "name=\"idempotency_key\" value=\"", "\"");
    let refused = format!("name=&idempotency_key={token}");
    stage.post("/keys", &cookie, &refused).await.is(400);
    stage.post("/keys", &cookie, &format!("name=later&idempotency_key={token}")).await.is(200);
}

#[tokio::test]
async fn rotation_shows_the_new_secret_and_keeps_the_old_one_for_as_long_as_was_chosen() {
    let stage = Stage::new().await;
    let cookie = stage.enter("member").await;
    let (key, old) = &stage.own;
    let answer = stage.post(&format!("/keys/{}/rotate", key.id), &cookie, "overlap_seconds=3600").await.is(200);
    let new = after(&answer.text, "id=\"key-text\">", "<").to_owned();
    stage.clock.advance_millis(1);
    assert_eq!((stage.call(old).await, stage.call(&new).await), (200, 200));
    assert!(stage.get("/keys", &cookie).await.text.contains("Rotating"));
    stage.clock.advance_millis(3_600_000);
    assert_eq!((stage.call(old).await, stage.call(&new).await), (401, 200));
    stage.post(&format!("/keys/{}/revoke", key.id), &cookie, "").await.is(303);
    assert_eq!(stage.call(&new).await, 401);
}

#[tokio::test]
async fn nothing_that_somebody_named_becomes_markup() {
    let hostile = "<script>alert(1)</script>\"'&";
    let stage = Stage::named(hostile).await;
    let cookie = stage.enter("owner").await;
    for name in [hostile, "مرحبا بالعالم", "🔑🏳️‍🌈", "\u{202e}drowssap", "<img src=x onerror=alert(1)>"]
    {
        let form = form_urlencoded::Serializer::new(String::new()).append_pair("name", name).finish();
        stage.post("/keys", &cookie, &form).await.is(200);
    }
    stage.clock.advance_millis(1);
    for language in ["en", "ja"] {
        for path in ["/month", "/keys", "/month?by=%3Cscript%3E&meter=%3Cscript%3E&period=%22%3E%3Cscript%3E"] {
            let page = stage.get_in(language, path, &cookie).await.is(200).text;
            assert!(!page.contains("<script>") && !page.contains("<img src=x"), "{path}");
            assert!(page.contains("&#60;script&#62;") || page.contains("&lt;script&gt;"), "{path}");
            // A Content-Security-Policy without `unsafe-inline` would not let them in.
            for inline in [" style=", "<style", " onclick=", "javascript:"] {
                assert!(!page.contains(inline), "{path} has {inline}");
            }
        }
    }
}

#[tokio::test]
async fn a_name_that_is_too_long_is_told_and_the_form_is_kept() {
    let stage = Stage::new().await;
    let cookie = stage.enter("owner").await;
    let answer = stage.post("/keys", &cookie, &format!("name={}&environment=test", "あ".repeat(10_000))).await.is(400);
    assert!(
        answer.text.contains("Name: must have at most 200 characters"),
        "{}",
        after(&answer.text, "role=\"alert\"", "</ul>")
    );
    assert!(answer.text.contains("value=\"test\" checked") && answer.text.len() < 40_000);
    let answer = stage.post("/keys", &cookie, "name=a&scopes=admin%3Aall").await.is(400);
    assert!(answer.text.contains("Scopes: your plan does not include it: use one of search:read"), "{}", answer.text);
    assert!(!stage.get("/keys", &cookie).await.text.contains("あああ"));
}

#[tokio::test]
async fn a_page_speaks_the_browsers_language_unless_one_was_chosen() {
    let stage = Stage::new().await;
    let cookie = stage.enter("owner").await;
    let page = stage.get_in("ja,en;q=0.5", "/month", &cookie).await.text;
    assert!(page.contains("<html lang=\"ja\">") && page.contains("2026年11月") && page.contains("残り"));
    let page = stage.get_in("de,en;q=0.5", "/month", &cookie).await.text;
    assert!(page.contains("<html lang=\"en\">") && page.contains("November 2026"));
    let chosen =
        stage.post("/preferences", &cookie, "language=ja&theme=dark&here=/usage-gate/keys?after=x").await.is(303);
    assert_eq!(chosen.header(LOCATION), "/usage-gate/keys?after=x");
    let cookies: Vec<&str> = chosen.headers.get_all(SET_COOKIE).iter().map(|value| value.to_str().unwrap()).collect();
    let cookies = cookies.iter().map(|cookie| cookie.split(';').next().unwrap()).collect::<Vec<_>>().join("; ");
    let page = stage.get_in("en", "/month", &format!("{cookie}; {cookies}")).await.text;
    assert!(page.contains("<html lang=\"ja\" data-theme=\"dark\">"));
    let elsewhere = stage.post("/preferences", &cookie, "language=en&here=https://evil.test/").await.is(303);
    let often = stage.post("/preferences", &cookie, &"theme=auto&language=en&".repeat(5_000)).await.is(303);
    assert_eq!(often.headers.get_all(SET_COOKIE).iter().count(), 2, "one of each");
    assert_eq!(elsewhere.header(LOCATION), "/usage-gate/month");
}

#[tokio::test]
async fn limits_are_sent_again_only_when_they_changed() {
    let stage = Stage::new().await;
    let cookie = stage.enter("owner").await;
    let page = stage.get("/month", &cookie).await.text;
    let again = after(&page, "hx-get=\"/usage-gate", "\"").to_owned();
    stage.get(&again, &cookie).await.is(204);
    assert_eq!(stage.call(&stage.own.1).await, 200);
    let fragment = stage.get(&again, &cookie).await.is(200).text;
    assert!(fragment.contains("1 used") && fragment.contains("hx-swap-oob"));
    let next = after(&fragment, "hx-get=\"/usage-gate", "\"").to_owned();
    stage.get(&next, &cookie).await.is(204);
    // Whose session has ended is sent to the page that says so.
    assert_eq!(stage.get(&next, "").await.is(204).header("hx-refresh"), "true");
}

#[tokio::test]
async fn a_full_limit_is_said_first_and_refusals_are_explained() {
    let stage = Stage::new().await;
    for _ in 0..1_002 {
        stage.call(&stage.other.1).await;
    }
    let cookie = stage.enter("owner").await;
    let page = stage.get("/month", &cookie).await.text;
    let note = after(&page, "<div class=\"note\">", "</div>");
    assert!(note.contains("Requests: refused until") && note.contains("all 1,000 per month are used"), "{note}");
    assert!(!note.contains("Everything else works"), "it is a limit of every route");
    assert!(page.contains("<li class=\"limit full\"") && page.contains("0 left"));
    let refused = after(&page, "id=\"refused\">", "</section>");
    assert!(
        refused.contains("2 of 1,002 calls") && refused.contains("quota_exceeded") && refused.contains("of the owner")
    );
}

#[tokio::test]
async fn a_portal_is_small_private_and_cached_where_it_may_be() {
    let stage = Stage::new().await;
    let cookie = stage.enter("owner").await;
    assert_eq!(stage.call(&stage.own.1).await, 200);
    let mut sum = 0;
    let page = stage.get_small("/month", &cookie).await.is(200);
    let policy = page.header(CONTENT_SECURITY_POLICY).to_owned();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header(CACHE_CONTROL), "no-store");
    sum += page.length;
    for asset in page.text.split('"').filter(|text| text.starts_with("/usage-gate/assets/")) {
        let answer = stage.get_small(&asset["/usage-gate".len()..], "").await.is(200);
        assert!(answer.header(CACHE_CONTROL).contains("immutable"));
        let known = [("if-none-match", answer.header(ETAG))];
        stage.browse("GET", &asset["/usage-gate".len()..], "", &known, "").await.is(304);
        sum += answer.length;
    }
    let other = stage.get("/assets/style.css?v=of-another-version", "").await.is(200);
    assert_eq!(other.header(CACHE_CONTROL), "no-cache");
    assert!(sum < 35_000, "{sum} bytes");
}

#[tokio::test]
async fn the_first_day_shows_how_to_call() {
    let stage = Stage::new().await;
    let page = stage.get("/month", &stage.enter("owner").await).await.text;
    assert!(page.contains("No calls yet") && page.contains("YOUR_KEY") && page.contains("1,000 left"));
    assert!(page.contains("None of the calls was refused"));
    // There is nothing before the tenant was made.
    assert!(!page.contains("rel=\"prev\"") && !page.contains("rel=\"next\""));
}
