//! What another site's page can make a browser do: nothing.

use http::Method;
use serde_json::{Value, json};
use usage_gate_axum::self_service_routes;
use usage_gate_core::model::Role;

use crate::stage::{ORIGIN, Stage};

#[tokio::test]
async fn changes_from_another_site_are_refused_on_every_route() {
    let stage = Stage::new().await;
    let browser = stage.sign_in_as(Role::Owner).await;
    let key = stage.key(stage.acme, None, "kept").await.to_string();
    let changing = self_service_routes().filter(|(method, _)| *method != "GET");
    let changing = changing.chain([("POST", "/sign-out".to_owned())]);
    for (method, path) in changing {
        let path = format!("/usage-gate{}", path.replace("{id}", &key));
        let method = || method.parse::<Method>().unwrap();
        let foreign: [&[(&str, &str)]; 4] = [
            &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")],
            // A sibling domain is another site's page, too.
            &[("sec-fetch-site", "same-site"), ("origin", "https://blog.example.com")],
            &[("origin", "https://evil.example")],
            &[("origin", "null")],
        ];
        for headers in foreign {
            let answer = stage.request(&browser, method(), &path, headers, "{}").await;
            answer.problem(403, "forbidden");
        }
    }
    stage.get(&browser, "/v1/session").await.is(200);
    let kept = stage.operator(Method::GET, &format!("/keys/{key}"), Value::Null).await.is(200);
    assert_eq!((&kept["status"], &kept["name"]), (&json!("active"), &json!("kept")));
}

#[tokio::test]
async fn changes_from_our_own_pages_pass() {
    let stage = Stage::new().await;
    let browser = stage.sign_in_as(Role::Owner).await;
    let own: [&[(&str, &str)]; 5] = [
        &[("sec-fetch-site", "same-origin"), ("origin", ORIGIN)],
        &[("sec-fetch-site", "none")],
        // A browser without Sec-Fetch-Site behind a proxy that rewrote the host.
        &[("origin", ORIGIN)],
        // The host that was asked, as on a machine of a developer.
        &[("origin", "http://api.example.com")],
        // No browser at all: it has no cookies that somebody else could ride on.
        &[],
    ];
    for headers in own {
        let answer = stage.request(&browser, Method::POST, "/usage-gate/v1/keys", headers, r#"{"name":"k"}"#).await;
        answer.is(201);
    }
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there_answer_as_the_admin_api_does() {
    let stage = Stage::new().await;
    let browser = stage.sign_in_as(Role::Owner).await;
    for path in ["/v1", "/v1/", "/v1/nothing", "/v1/keys/x/y", "/nothing"] {
        stage.get(&browser, path).await.problem(404, "not_found");
    }
    let answer = stage.call(&browser, "PUT", "/v1/keys", "{}").await;
    answer.problem(405, "method_not_allowed");
    assert_eq!(answer.header("allow"), "GET,HEAD,POST");
}
