//! Gateways that start while their servers are away: they serve what they know, nothing else, and heal without a restart.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use usage_gate_core::model::Environment;
use usage_gate_core::secret::Pepper;
use usage_gate_tests::cluster::{Cluster, OwnPostgres, Stores};
use usage_gate_tests::{Answer, Client, run};

const QUOTA: usize = 500;
/// Where a server is a black hole, and whatever else this machine does.
const SOON: Duration = Duration::from_secs(8);

fn alone(postgres: &OwnPostgres) -> Stores {
    Stores { postgres: postgres.url(), valkey: None }
}

/// Waits for what nobody tells of.
async fn eventually(what: &str, mut happens: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !happens().await {
        assert!(began.elapsed() < Duration::from_secs(40), "{what}: never");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn ready(cluster: &Cluster) -> (u16, Value) {
    let answer = Client::new().get(&format!("{}/readyz", cluster.gateways[0].admin_url), "").await;
    (answer.status.as_u16(), answer.json())
}

async fn ask(cluster: &Cluster, key: &str) -> Answer {
    Client::new().get(&format!("{}/status/200", cluster.gateways[0].url), key).await
}

/// How many pass until one does not, and what that one is told.
async fn ask_all(cluster: &Cluster, key: &str) -> (usize, u16, String) {
    let mut passed = 0;
    loop {
        let answer = ask(cluster, key).await;
        match answer.status.as_u16() {
            200 => passed += 1,
            other => return (passed, other, answer.code()),
        }
    }
}

/// A key on a plan of its own with a quota, and its id.
async fn key(cluster: &Cluster, plan: &str) -> (String, String) {
    let limits = json!([{"name": "month", "kind": "quota", "meter": "requests", "units": QUOTA, "per": "month", "counted_by": "tenant"}]);
    let (tenant, key) = cluster.key(plan, limits).await;
    let keys = cluster.admin(0).read(&format!("/tenants/{tenant}/keys")).await;
    (key, keys["items"][0]["id"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_killed_while_postgres_is_away_serves_known_keys_from_its_leases() {
    let mut postgres = OwnPostgres::start().await;
    let mut cluster = Cluster::start(1, &alone(&postgres), "").await;
    let (one, one_id) = key(&cluster, "one").await;
    let (two, two_id) = key(&cluster, "two").await;
    let (revoked, revoked_id) = key(&cluster, "three").await;
    let (unknown, _) = key(&cluster, "unknown").await;
    let mut before = 0;
    let kept = cluster.gateways[0].data_dir().join("callers.snapshot");
    eventually("all three are kept", async || {
        // Changes of their own making may have them looked up more than once.
        for key in [&one, &two, &revoked] {
            assert_eq!(ask(&cluster, key).await.status, 200);
        }
        before += 1;
        let text = std::fs::read_to_string(&kept).unwrap_or_default();
        [&one_id, &two_id, &revoked_id].iter().all(|id| text.contains(*id))
    })
    .await;
    let revocation = cluster.admin(0).call(Method::POST, &format!("/keys/{revoked_id}/revoke"), "{}").await;
    assert!(revocation.status.is_success(), "{}", revocation.json());
    postgres.stop().await;
    cluster.kill(0).await;

    let began = Instant::now();
    cluster.start_again(0).await;
    println!("started without PostgreSQL in {:?}", began.elapsed());
    assert!(began.elapsed() < SOON);
    assert_eq!(ready(&cluster).await, (200, json!({"status": "degraded", "degraded": ["postgres"]})));
    let (leased, status, code) = ask_all(&cluster, &one).await;
    println!("{leased} units were leased");
    assert!(leased > 0 && leased < QUOTA, "{leased}: {status} {code}: {}", cluster.gateways[0].log());
    assert_eq!((status, code.as_str()), (503, "store_unavailable"));
    assert_eq!(ask(&cluster, &two).await.status, 200);
    let refused = [ask(&cluster, &unknown).await, ask(&cluster, &revoked).await];
    assert_eq!(refused.map(|answer| answer.code()), ["store_unavailable", "store_unavailable"]);
    // Once more, with less left.
    cluster.kill(0).await;
    cluster.start_again(0).await;
    assert_eq!(ask(&cluster, &two).await.status, 200);
    assert_eq!(ask(&cluster, &one).await.status, 503);
    assert_eq!(ask(&cluster, &revoked).await.status, 503);

    let began = Instant::now();
    postgres.start_again().await;
    eventually("it heals", async || ready(&cluster).await == (200, json!({"status": "ready"}))).await;
    println!("healed in {:?}", began.elapsed());
    assert_eq!(ask(&cluster, &unknown).await.status, 200);
    assert_eq!(ask(&cluster, &revoked).await.code(), "revoked_key");
    let totals = [(ask_all(&cluster, &one).await, before + leased), (ask_all(&cluster, &two).await, before + 2)];
    for ((passed, status, code), spent) in totals {
        assert_eq!((passed + spent, status, code.as_str()), (QUOTA, 429, "quota_exceeded"));
    }
    assert!(cluster.gateways[0].terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_while_postgres_is_away_refuses_every_key_and_heals() {
    let mut postgres = OwnPostgres::start().await;
    postgres.stop().await;
    let cluster = Cluster::start(1, &alone(&postgres), "").await;
    assert_eq!(ready(&cluster).await, (503, json!({"status": "loading", "degraded": ["postgres"]})));
    let config = std::fs::read_to_string(cluster.config_file(0)).unwrap();
    let pepper = config.lines().find_map(|line| line.strip_prefix("pepper_file = \"")?.strip_suffix('"')).unwrap();
    let made = Pepper::read(pepper).unwrap().unwrap().issue("ug", Environment::Live).unwrap();
    let answer = ask(&cluster, &made.text).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "store_unavailable"));
    assert_eq!(cluster.admin(0).call(Method::GET, "/plans", "").await.status, 503);
    postgres.start_again().await;
    eventually("it heals", async || ready(&cluster).await == (200, json!({"status": "ready"}))).await;
    eventually("the first plan is made", async || {
        cluster.admin(0).call(Method::GET, "/plans/free", "").await.status == 200
    })
    .await;
    assert_eq!(ask(&cluster, &made.text).await.code(), "invalid_key", "now it is known that there is none");
    let (key, _) = key(&cluster, "one").await;
    assert_eq!(ask_all(&cluster, &key).await, (QUOTA, 429, "quota_exceeded".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_accept_and_never_answer_do_not_hold_up_a_start() {
    // Nobody takes what the system has accepted.
    let (postgres, valkey) = (std::net::TcpListener::bind("127.0.0.1:0"), std::net::TcpListener::bind("127.0.0.1:0"));
    let [postgres, valkey] = [postgres.unwrap(), valkey.unwrap()];
    let stores = Stores {
        postgres: format!("postgres://postgres@{}/postgres", postgres.local_addr().unwrap()),
        valkey: Some(format!("redis://{}", valkey.local_addr().unwrap())),
    };
    let began = Instant::now();
    let cluster = Cluster::start(1, &stores, "").await;
    println!("started on black holes in {:?}", began.elapsed());
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    let (status, document) = ready(&cluster).await;
    assert_eq!((status, &document["status"]), (503, &json!("loading")));
    assert!(document["degraded"].as_array().unwrap().contains(&json!("postgres")), "{document}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_must_mend_ends_a_start_and_a_command_needs_its_store() {
    let mut postgres = OwnPostgres::start().await;
    let cluster = Cluster::start(1, &alone(&postgres), "").await;
    let config = std::fs::read_to_string(cluster.config_file(0)).unwrap();
    let folder = usage_gate_tests::Folder::new();
    let other = folder.path().join("other.toml");
    let named = config.lines().find(|line| line.starts_with("postgres_file")).unwrap();
    let wrong = postgres.url().replace("/postgres", "/nobody-made-this");
    std::fs::write(&other, config.replace(named, &format!("postgres = \"{wrong}\""))).unwrap();
    let data = folder.path().join("data");
    let listen = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--upstream", "http://127.0.0.1:9"];
    let files = ["serve", "--config", other.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
    let (status, _, fault) = run(&[&files[..], &listen[..]].concat()).await;
    assert!(status == Some(1) && fault.contains("does not exist"), "{status:?} {fault}");
    postgres.stop().await;
    for command in ["check", "migrate"] {
        let (status, _, fault) = run(&[command, "--config", cluster.config_file(0).to_str().unwrap()]).await;
        assert!(status == Some(1) && fault.contains("store.postgres"), "{command}: {status:?} {fault}");
    }
}
