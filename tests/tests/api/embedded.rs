//! The gate without the proxy: `examples/axum-saas` as its user runs it.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use usage_gate_tests::{Admin, Client, Folder, binary};

#[tokio::test]
async fn the_axum_example_serves_limits_and_meters() {
    let folder = Folder::new();
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (listen, admin_listen) = (free(), free());
    let mut command = tokio::process::Command::new(binary("axum-saas"));
    command.args(["--admin-token", "a-long-random-token"]).arg("--data-dir").arg(folder.path());
    command.arg("--listen").arg(listen.to_string()).arg("--admin-listen").arg(admin_listen.to_string());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let up = async {
        while tokio::net::TcpStream::connect(admin_listen).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), up).await.unwrap();

    let admin = Admin::new(Client::new(), &format!("http://{admin_listen}"), "a-long-random-token");
    let limits = json!([{"name": "rows", "kind": "quota", "meter": "rows", "units": 100, "per": "day"}]);
    let (tenant, key) = admin.tenant_with_key("p", limits, "UTC", &["search:read"]).await;
    let client = Client::new();
    let url = format!("http://{listen}/v1/search?q=hello");
    assert_eq!(client.get(&url, "").await.code(), "missing_key");
    for _ in 0..3 {
        let answer = client.get(&url, &key).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["for"]), (200, &json!(tenant)));
    }
    let refused = client.get(&url, &key).await;
    assert_eq!((refused.code().as_str(), &refused.json()["violated"][0]["used"]), ("quota_exceeded", &json!(120)));
    assert_eq!(admin.usage(&tenant, "rows").await, [("billed".to_owned(), 120, 3)]);
    assert_eq!(client.get(&format!("http://{listen}/usage-gate/v1/me"), &key).await.status, 200);

    let healthy = client.get(&format!("http://{admin_listen}/healthz"), "").await;
    assert_eq!(healthy.status, 200, "health is open: who watches over a process has no token");
    assert_eq!(client.get(&format!("http://{admin_listen}/admin/v1/plans"), "").await.code(), "missing_token");

    // Whoever is signed in to the service is signed in to its portal.
    let user = json!({"email": "ann@acme.test", "external_id": "ann"});
    let user = admin.create(&format!("/tenants/{tenant}/users"), &user).await;
    let session = http::Request::get(format!("http://{listen}/usage-gate/v1/session"));
    let answer = client.call(session.header("cookie", "a=b; saas_user=ann").body("").unwrap()).await;
    assert_eq!(answer.json()["user"]["id"], user["id"]);

    let pid = child.id().unwrap().to_string();
    assert!(tokio::process::Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let status = tokio::time::timeout(Duration::from_secs(20), child.wait()).await.unwrap().unwrap();
    assert!(status.success());
}
