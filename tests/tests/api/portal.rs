//! The portal's sessions from outside: a link from the command line, a browser's cookie, a key that works and one that does not any more.

use std::time::Duration;

use http::{Method, Request};
use serde_json::{Value, json};
use usage_gate_tests::{Answer, Client, Gateway, Setup, Upstream, run};

const CONFIG: &str = r#"
    [portal]
    name = "Northwind API"
    example = "/v1/search?q=hello"
    [[routes]]
    name = "search"
    path = "/v1/search"
    scopes = ["search:read"]
    [[routes]]
    name = "public"
    path = "/public"
    auth = "none"
"#;

/// A user's browser: a cookie, and pages of ours that ask.
struct Browser {
    client: Client,
    url: String,
    cookie: String,
}

impl Browser {
    async fn call(&self, method: Method, path: &str, body: &str) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}/usage-gate{path}", self.url))
            .header("cookie", &self.cookie)
            .header("origin", &self.url)
            .header("sec-fetch-site", "same-origin");
        self.client.call(request.body(body.to_owned()).unwrap()).await
    }
}

async fn command(gateway: &Gateway, arguments: &[&str]) -> String {
    let token = gateway.data_dir().join("admin-token").display().to_string();
    let mut all = arguments.to_vec();
    all.extend(["--admin-url", &gateway.admin_url, "--token-file", &token]);
    let (status, out, error) = run(&all).await;
    assert_eq!(status, Some(0), "{arguments:?}: {error}");
    out.trim_end().to_owned()
}

#[tokio::test]
async fn from_a_link_to_a_key_that_works_and_is_revoked_and_out_again() {
    let upstream = Upstream::start().await;
    let setup = Setup { config: CONFIG.into(), upstream: Some(upstream.url.clone()) };
    let gateway = Gateway::start(setup).await;
    let tenant = command(&gateway, &["tenant", "create", "--name", "Acme"]).await;
    let create = ["user", "create", "--tenant", &tenant, "--email", "ann@acme.test", "--role", "owner"];
    let user = command(&gateway, &create).await;
    assert!(command(&gateway, &["user", "list", "--tenant", &tenant]).await.contains("ann@acme.test"));
    let link = command(&gateway, &["user", "link", &user, "--return-url", "https://app.example.com/"]).await;
    assert!(link.starts_with(&format!("{}/usage-gate/enter/", gateway.url)), "{link}");

    let client = Client::new();
    let entered = client.call(Request::get(&link).body("").unwrap()).await;
    assert_eq!((entered.status.as_u16(), entered.header("location")), (303, "/usage-gate/"));
    let cookie = entered.header("set-cookie").split(';').next().unwrap().to_owned();
    assert!(cookie.starts_with("ug_session="), "{cookie}");
    assert_eq!(client.call(Request::get(&link).body("").unwrap()).await.status, 401, "a link works once");
    let browser = Browser { client: client.clone(), url: gateway.url.clone(), cookie };

    let session = browser.call(Method::GET, "/v1/session", "").await.json();
    assert_eq!((&session["user"]["id"], &session["brand"]["name"]), (&json!(user), &json!("Northwind API")));
    assert_eq!(session["grantable_scopes"], json!(["search:read"]));
    let made = browser.call(Method::POST, "/v1/keys", r#"{"name":"ci","scopes":["search:read"]}"#).await;
    assert_eq!(made.status, 201);
    let (key, id) = (made.json()["key"].as_str().unwrap().to_owned(), made.json()["id"].clone());
    let search = format!("{}/v1/search", gateway.url);
    assert_eq!(client.get(&search, &key).await.status, 200);

    let usage = browser.call(Method::GET, "/v1/usage?meter=requests&group_by=key", "").await.json();
    assert_eq!((&usage["items"][0]["key"], &usage["items"][0]["requests"]), (&id, &json!(1)));
    let limits = browser.call(Method::GET, "/v1/limits", "").await.json();
    assert!(limits["items"].as_array().unwrap().iter().any(|limit| limit["used"] == 1), "{limits}");

    let path = format!("/v1/keys/{}/revoke", id.as_str().unwrap());
    assert_eq!(browser.call(Method::POST, &path, "").await.json()["status"], "revoked");
    let refused = async { while client.get(&search, &key).await.code() != "revoked_key" {} };
    tokio::time::timeout(Duration::from_secs(1), refused).await.unwrap();

    let forged = Request::post(format!("{}/usage-gate/v1/keys", gateway.url))
        .header("cookie", &browser.cookie)
        .header("origin", "https://evil.example")
        .header("sec-fetch-site", "cross-site");
    assert_eq!(client.call(forged.body(r#"{"name":"forged"}"#).unwrap()).await.code(), "forbidden");

    let out = browser.call(Method::POST, "/sign-out", "").await;
    assert_eq!((out.status.as_u16(), out.header("location")), (303, "https://app.example.com/"));
    assert_eq!(browser.call(Method::GET, "/v1/session", "").await.code(), "invalid_token");
}

#[tokio::test]
async fn a_session_outlives_a_restart_and_its_cookie_never_reaches_the_upstream() {
    let upstream = Upstream::start().await;
    let setup = Setup { config: CONFIG.into(), upstream: Some(upstream.url.clone()) };
    let gateway = Gateway::start(setup).await;
    let admin = gateway.admin();
    let tenant = admin.create("/tenants", &json!({"name": "Acme", "plan": "free"})).await;
    let users = format!("/tenants/{}/users", tenant["id"].as_str().unwrap());
    let user = admin.create(&users, &json!({"email": "ann@acme.test"})).await;
    let link = admin.create("/portal-sessions", &json!({"user": user["id"]})).await;
    let client = Client::new();
    let entered = client.call(Request::get(link["url"].as_str().unwrap()).body("").unwrap()).await;
    let cookie = entered.header("set-cookie").split(';').next().unwrap().to_owned();

    let cookies = format!("theirs=1; {cookie}; ug_theme=dark; also=2");
    let request = Request::get(format!("{}/public", gateway.url)).header("cookie", cookies);
    assert_eq!(client.call(request.body("").unwrap()).await.status, 200);
    let seen = upstream.seen();
    assert_eq!(seen.last().unwrap().headers["cookie"], "theirs=1; also=2");

    let token = cookie.split('=').nth(1).unwrap().to_owned();
    assert!(!gateway.log().contains(&token), "no secret is logged");
    let folders = [gateway.data_dir(), gateway.data_dir().join("journal")];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|file| file.unwrap().path());
    for file in files.filter(|path| path.is_file()) {
        let bytes = std::fs::read(file).unwrap();
        assert!(!bytes.windows(token.len()).any(|window| window == token.as_bytes()), "only its hash is stored");
    }
    let gateway = gateway.restart().await;
    let browser = Browser { client, url: gateway.url.clone(), cookie };
    let session: Value = browser.call(Method::GET, "/v1/session", "").await.json();
    assert_eq!(session["user"]["id"], user["id"]);
}

#[tokio::test]
async fn a_portal_that_cannot_be_dressed_is_named_by_check() {
    let folder = usage_gate_tests::Folder::new();
    let config = folder.path().join("usage-gate.toml");
    let text = "[portal]\nlogo_file = \"no-such-logo.svg\"\nstylesheet_file = \"no-such.css\"\n";
    std::fs::write(&config, text).unwrap();
    let (status, _, error) = run(&["check", "--config", config.to_str().unwrap()]).await;
    assert_eq!(status, Some(1));
    assert!(error.contains(":2:1: portal.logo_file: no-such-logo.svg: cannot be read"), "{error}");
    assert!(error.contains(":3:1: portal.stylesheet_file: no-such.css: cannot be read"), "{error}");
}
