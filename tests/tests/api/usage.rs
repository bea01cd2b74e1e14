//! Usage adds up to what the upstream saw, and outlives the process.

use serde_json::json;
use usage_gate_tests::{Client, Gateway, Setup, Upstream};

#[tokio::test]
async fn usage_is_what_the_upstream_saw_and_survives_a_restart() {
    let config = r#"
        [[routes]]
        name = "status"
        path = "/status/{code}"
        [[routes]]
        name = "rest"
        path = "/{*rest}"
    "#;
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Setup { config: config.into(), upstream: Some(upstream.url.clone()) }).await;
    let limits = json!([{"name": "month", "kind": "quota", "units": 40, "per": "month"}]);
    let (tenant, key) = gateway.admin().tenant_with_key("p", limits, "Australia/Lord_Howe", &[]).await;
    let second = gateway.admin().create(&format!("/tenants/{tenant}/keys"), &json!({"name": "second"})).await;
    let client = Client::new();
    for call in 0..30 {
        let path = if call % 3 == 0 { "/status/500" } else { "/bytes/10" };
        let text = if call % 2 == 0 { key.as_str() } else { second["key"].as_str().unwrap() };
        client.get(&format!("{}{path}", gateway.url), text).await;
    }
    assert_eq!(upstream.count(), 30);

    let check = |gateway: &Gateway| {
        let (admin, tenant, id) = (gateway.admin(), tenant.clone(), second["id"].clone());
        async move {
            let outcomes = admin.usage(&tenant, "requests").await;
            assert_eq!(outcomes, [("billed".to_owned(), 20, 20), ("unbilled".to_owned(), 10, 10)]);
            assert_eq!(admin.usage(&tenant, "bytes_out").await, [("billed".to_owned(), 200, 20)]);
            for split in ["route,outcome", "key", "route,key,outcome"] {
                for window in ["hour", "day", "month"] {
                    let usage = admin
                        .read(&format!("/usage?tenant={tenant}&meter=requests&group_by={split}&window={window}"))
                        .await;
                    let items = usage["items"].as_array().unwrap();
                    let calls: u64 = items.iter().map(|item| item["requests"].as_u64().unwrap()).sum();
                    assert_eq!(calls, 30, "{split} {window}: {usage}");
                }
            }
            let by_key =
                admin.read(&format!("/usage?tenant={tenant}&meter=requests&key={}", id.as_str().unwrap())).await;
            assert_eq!(by_key["items"][0]["requests"], json!(15));
            let by_route = admin.read(&format!("/usage?tenant={tenant}&meter=requests&route=status")).await;
            assert_eq!(by_route["items"][0]["requests"], json!(10));
            let limits = admin.read(&format!("/tenants/{tenant}/limits")).await;
            assert_eq!(limits["items"][0]["used"], json!(20), "what is not billed gives its units back");
        }
    };
    check(&gateway).await;
    let gateway = gateway.restart().await;
    check(&gateway).await;
    for call in 0..20 {
        assert_eq!(client.get(&format!("{}/bytes/10", gateway.url), &key).await.status, 200, "call {call}");
    }
    assert_eq!(client.get(&format!("{}/bytes/10", gateway.url), &key).await.code(), "quota_exceeded");
}

#[tokio::test]
async fn a_test_key_is_shown_as_such_and_takes_no_quota() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Setup { config: String::new(), upstream: Some(upstream.url.clone()) }).await;
    let limits = json!([{"name": "month", "kind": "quota", "units": 2, "per": "month"}]);
    let (tenant, _) = gateway.admin().tenant_with_key("p", limits, "UTC", &[]).await;
    let key =
        gateway.admin().create(&format!("/tenants/{tenant}/keys"), &json!({"name": "t", "environment": "test"})).await;
    for _ in 0..5 {
        assert_eq!(Client::new().get(&format!("{}/x", gateway.url), key["key"].as_str().unwrap()).await.status, 200);
    }
    assert_eq!(gateway.admin().usage(&tenant, "requests").await, [("test".to_owned(), 5, 5)]);
    assert_eq!(gateway.admin().read(&format!("/tenants/{tenant}/limits")).await["items"][0]["used"], json!(0));
}
