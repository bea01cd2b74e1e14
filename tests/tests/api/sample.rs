//! `usage-gate sample`: its limits say what its usage says, the same seed makes the same, and nothing is filled twice.

use std::path::Path;
use std::sync::Arc;

use usage_gate_tests::{Client, Folder, Gateway, Setup, Upstream, run};

async fn sample(data_dir: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let data_dir = data_dir.display().to_string();
    run(&[&["sample", "--weeks", "1", "--data-dir", &data_dir], more].concat()).await
}

#[tokio::test]
async fn limits_say_what_usage_says() {
    let folder = Arc::new(Folder::new());
    let data_dir = folder.path().join("data");
    let (status, told, log) = sample(&data_dir, &[]).await;
    assert_eq!(status, Some(0), "{log}");
    let again = sample(&data_dir, &[]).await;
    assert_eq!(again.0, Some(1));
    assert!(again.2.contains("there is a tenant `Acme Robotics` here already"), "{}", again.2);

    let upstream = Upstream::start().await;
    let config = std::fs::read_to_string(data_dir.join("sample.toml")).unwrap();
    let gateway = Gateway::start_in(folder, Setup { config, upstream: Some(upstream.url.clone()) }).await;
    let served = sample(&data_dir, &[]).await;
    assert_eq!(served.0, Some(1));
    assert!(served.2.contains("in use by another usage-gate"), "{}", served.2);

    let admin = gateway.admin();
    for (external_id, quotas) in [("acme-robotics", 3), ("globex", 1)] {
        let tenant = admin.read(&format!("/tenants?external_id={external_id}")).await["items"][0]["id"].clone();
        let tenant = tenant.as_str().unwrap();
        let limits = admin.read(&format!("/tenants/{tenant}/limits")).await;
        let limits: Vec<_> =
            limits["items"].as_array().unwrap().iter().filter(|limit| limit["kind"] == "quota").collect();
        assert_eq!(limits.len(), quotas);
        for limit in limits {
            let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            let (from, to) = (text(&limit["period"]["start"]), text(&limit["period"]["end"]));
            let meter = text(&limit["meter"]);
            let usage =
                admin.read(&format!("/usage?tenant={tenant}&meter={meter}&from={from}&to={to}&environment=live")).await;
            let units: u64 =
                usage["items"].as_array().unwrap().iter().map(|item| item["units"].as_u64().unwrap()).sum();
            assert_eq!(limit["used"].as_u64().unwrap(), units, "{limit}");
            assert_eq!(limit["reserved"], 0, "{limit}");
        }
    }

    let key = told.lines().find_map(|line| line.trim().strip_suffix(" web-production")).unwrap();
    let answer = Client::new().get(&format!("{}/v1/items/7", gateway.url), key).await;
    assert_eq!(answer.status, 200, "a limit that is full refuses what it is for and nothing else: {}", answer.json());
}

/// Hours of usage by the names of keys, since ids are new each time.
fn hours(data_dir: &Path) -> Vec<(String, String, String, i64, i64, i64)> {
    let database = rusqlite::Connection::open(data_dir.join("usage-gate.db")).unwrap();
    let mut statement = database
        .prepare(
            "SELECT api_key.name, meter, outcome, bucket, units, requests
             FROM rollup_hour JOIN api_key ON api_key.id = rollup_hour.key ORDER BY 1, 2, 3, 4, route",
        )
        .unwrap();
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn the_same_seed_and_instant_make_the_same_use() {
    let folder = Folder::new();
    let mut made = Vec::new();
    for (name, seed) in [("one", "7"), ("two", "7"), ("three", "8")] {
        let data_dir = folder.path().join(name);
        let (status, _, log) = sample(&data_dir, &["--seed", seed, "--now", "2026-11-24T05:32:08Z"]).await;
        assert_eq!(status, Some(0), "{log}");
        made.push(hours(&data_dir));
    }
    assert!(made[0].len() > 1_000);
    assert!(made[0] == made[1], "of one seed");
    assert!(made[0] != made[2], "of two seeds");
}
