//! What operators of several gateways are told, and what one of them changes for all.

use std::time::Duration;

use http::Method;
use serde_json::json;
use tokio::time::{Instant, sleep};
use usage_gate_tests::cluster::{Cluster, Database, Stores};
use usage_gate_tests::{Client, run};

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_the_stores_are_and_what_is_promised() {
    let database = Database::new().await;
    let cluster = Cluster::start(1, &Stores::with_valkey(&database), "").await;
    let limits = json!([{"name": "month", "kind": "quota", "meter": "requests", "units": 5, "per": "month", "counted_by": "tenant",
        "routes": ["serch"], "store_away": {"overdraft": 7}}]);
    cluster.admin(0).create("/plans", &json!({"id": "starter", "name": "Starter", "limits": limits})).await;
    let config = cluster.config_file(0);
    let (status, told, fault) = run(&["check", "--config", config.to_str().unwrap()]).await;
    assert_eq!(status, Some(0), "{fault}");
    for expected in [
        "postgres: PostgreSQL ",
        "noeviction, clock ",
        "quotas: exact over all nodes",
        "plan starter, limit month: bounded while the store is away: at most N x 7 units more on N nodes",
        "warning: plan starter: limit month is for a route serch, and no route is called so",
    ] {
        assert!(told.contains(expected), "{expected} is missing: {told}");
    }
    let (status, told, _) = run(&["check", "--offline", "--config", config.to_str().unwrap()]).await;
    assert!(status == Some(0) && !told.contains("PostgreSQL 1"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_made_once_opens_every_node_as_far_as_its_role_goes() {
    let database = Database::new().await;
    let cluster = Cluster::start(2, &Stores::postgres(&database), "").await;
    let config = cluster.config_file(0);
    let make = async |role: &str| {
        let made = run(&["admin-token", "create", "--role", role, "--config", config.to_str().unwrap()]).await;
        assert_eq!(made.0, Some(0), "{}", made.2);
        made.1.trim().to_owned()
    };
    let (full, read) = (make("full").await, make("read").await);
    for node in 0..2 {
        let status = async |token: &str, method: Method| {
            cluster.admin_with(node, token).call(method, "/plans", "{}").await.status.as_u16()
        };
        assert_eq!([status(&full, Method::GET).await, status(&read, Method::GET).await], [200, 200]);
        assert_eq!([status(&full, Method::POST).await, status(&read, Method::POST).await], [400, 403]);
        assert_eq!(status("uga_nobody-made-this", Method::GET).await, 401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_another_pepper_does_not_start() {
    let database = Database::new().await;
    let cluster = Cluster::start(1, &Stores::postgres(&database), "").await;
    let folder = usage_gate_tests::Folder::new();
    let pepper = folder.path().join("pepper");
    std::fs::write(&pepper, "another pepper: 0123456789abcdef0123456789abcdef").unwrap();
    let config = std::fs::read_to_string(cluster.config_file(0)).unwrap();
    let named = config.lines().find(|line| line.starts_with("pepper_file")).unwrap();
    let other = folder.path().join("other.toml");
    std::fs::write(&other, config.replace(named, &format!("pepper_file = \"{}\"", pepper.display()))).unwrap();
    let data = folder.path().join("data");
    let listen = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--upstream", "http://127.0.0.1:9"];
    let files = ["serve", "--config", other.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
    let (status, _, fault) = run(&[&files[..], &listen[..]].concat()).await;
    assert_eq!(status, Some(1));
    assert!(fault.contains("this pepper is not the one"), "{fault}");
}

/// The bound is a second at p99; what is asserted here is that it happens at all, on every node, and stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_one_node_revokes_is_refused_by_every_node() {
    let database = Database::new().await;
    let cluster = Cluster::start(3, &Stores::with_valkey(&database), "").await;
    let client = Client::new();
    let (tenant, _) = cluster.key("revoked", json!([])).await;
    let mut lags = Vec::new();
    for turn in 0..20 {
        let made = cluster.admin(turn % 3).create(&format!("/tenants/{tenant}/keys"), &json!({"name": "one"})).await;
        let (id, key) = (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned());
        let status = async |node: usize| {
            client.get(&format!("{}/status/200", cluster.gateways[node].url), &key).await.status.as_u16()
        };
        for node in 0..3 {
            assert_eq!(status(node).await, 200);
        }
        let revoked = cluster.admin(turn % 3).call(Method::POST, &format!("/keys/{id}/revoke"), "{}").await;
        assert!(revoked.status.is_success(), "{}", revoked.json());
        let began = Instant::now();
        for node in 0..3 {
            while status(node).await != 401 {
                assert!(began.elapsed() < Duration::from_secs(30), "node {node} serves a revoked key");
                sleep(Duration::from_millis(2)).await;
            }
        }
        lags.push(began.elapsed());
        for node in 0..3 {
            assert_eq!(status(node).await, 401, "it came back");
        }
    }
    lags.sort_unstable();
    println!("revoked on all three nodes after: median {:?}, longest {:?}", lags[10], lags[19]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_serve_may_not_migrate_it_says_what_does() {
    let database = Database::new().await;
    let folder = usage_gate_tests::Folder::new();
    let pepper = folder.path().join("pepper");
    std::fs::write(&pepper, "a pepper: 0123456789abcdef0123456789abcdef").unwrap();
    let config = folder.path().join("gate.toml");
    let (url, data) = (database.url(), folder.path().join("data"));
    let text = format!(
        "[store]\npostgres = \"{url}\"\nmigrate = false\n[keys]\npepper_file = \"{}\"\n[server]\ndata_dir = \"{}\"\nlisten = \"127.0.0.1:0\"\n\
         admin_listen = \"127.0.0.1:0\"\n[upstream]\nurl = \"http://127.0.0.1:9\"\n",
        pepper.display(),
        data.display()
    );
    std::fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let (status, _, fault) = run(&["serve", "--config", config]).await;
    assert!(status == Some(1) && fault.contains("usage-gate migrate --config"), "{fault}");
    let (status, told, fault) = run(&["migrate", "--config", config]).await;
    assert!(status == Some(0) && told.contains("up to date"), "{told}{fault}");
    let (status, told, _) = run(&["check", "--config", config]).await;
    assert!(status == Some(0) && !told.contains("earlier version"), "{told}");
}
