//! `usage-gate migrate --from sqlite:… --to …`: from one gateway on SQLite to PostgreSQL, without losing or counting anything twice.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tokio::process::Command;
use usage_gate_tests::cluster::Database;
use usage_gate_tests::{Client, Folder, Gateway, Setup, Upstream, binary, run};

/// A gateway's folder, and where its database goes.
struct Stage {
    folder: Arc<Folder>,
    database: Database,
}

impl Stage {
    async fn new() -> Self {
        let stage = Self { folder: Arc::new(Folder::new()), database: Database::new().await };
        std::fs::write(stage.target(), stage.database.url()).unwrap();
        stage
    }

    fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join("data").join(name)
    }

    /// The file with the address of the new database.
    fn target(&self) -> PathBuf {
        self.folder.path().join("postgres.url")
    }

    fn from(&self) -> String {
        format!("sqlite:{}", self.data("usage-gate.db").display())
    }

    async fn migrate(&self) -> (Option<i32>, String, String) {
        run(&["migrate", "--from", &self.from(), "--to-file", self.target().to_str().unwrap()]).await
    }

    /// What the command says in the end: a configuration.
    fn config(told: &str) -> String {
        let lines = told.lines().filter_map(|line| line.strip_prefix("  "));
        lines
            .filter(|line| line.starts_with('[') || line.contains(" = "))
            .fold(String::new(), |all, line| all + line + "\n")
    }
}

async fn serve(stage: &Stage, upstream: &Upstream, config: &str) -> Gateway {
    let setup = Setup { config: config.to_owned(), upstream: Some(upstream.url.clone()) };
    Gateway::start_in(Arc::clone(&stage.folder), setup).await
}

async fn calls(gateway: &Gateway, key: &str, many: usize) -> Vec<StatusCode> {
    let (client, mut statuses) = (Client::new(), Vec::new());
    for _ in 0..many {
        statuses.push(client.get(&format!("{}/status/200", gateway.url), key).await.status);
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_goes_on_where_it_was() {
    let (stage, upstream) = (Stage::new().await, Upstream::start().await);
    let gateway = serve(&stage, &upstream, "").await;
    let limits = json!([{"name": "month", "kind": "quota", "meter": "requests", "units": 20, "per": "month", "counted_by": "tenant"}]);
    let (tenant, key) = gateway.admin().tenant_with_key("starter", limits, "Asia/Tokyo", &[]).await;
    assert_eq!(calls(&gateway, &key, 5).await, [200; 5]);
    // What was shipped, and then what was not.
    let mut gateway = gateway.restart().await;
    assert_eq!(gateway.admin().usage(&tenant, "requests").await, [("billed".to_owned(), 5, 5)]);
    assert_eq!(calls(&gateway, &key, 7).await, [200; 7]);
    let (status, _, fault) = stage.migrate().await;
    let holder = format!("(process {})", gateway.pid());
    assert!(status == Some(1) && fault.contains("in use by another usage-gate") && fault.contains(&holder), "{fault}");
    gateway.kill().await;

    let (status, told, fault) = stage.migrate().await;
    assert_eq!(status, Some(0), "{told}{fault}");
    assert!(told.contains("both databases are equal") && !told.contains("NOT"), "{told}");
    let pepper = std::fs::read_to_string(stage.data("pepper")).unwrap();
    assert!(!told.contains(pepper.trim()) && !fault.contains(pepper.trim()), "a secret is printed");
    let old = run(&[
        "serve",
        "--data-dir",
        stage.data("").to_str().unwrap(),
        "--upstream",
        &upstream.url,
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ])
    .await;
    assert!(old.0 == Some(1) && old.2.contains("it was moved to PostgreSQL"), "{old:?}");

    let gateway = serve(&stage, &upstream, &Stage::config(&told)).await;
    assert_eq!(gateway.admin().usage(&tenant, "requests").await, [("billed".to_owned(), 12, 12)]);
    let limits = gateway.admin().read(&format!("/tenants/{tenant}/limits")).await;
    assert_eq!((&limits["items"][0]["used"], &limits["items"][0]["reserved"]), (&json!(12), &json!(0)), "{limits}");
    let mut expected = vec![StatusCode::OK; 8];
    expected.push(StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(calls(&gateway, &key, 9).await, expected, "the quota goes on where it stood");
    assert_eq!(upstream.seen().len(), 20);

    let (status, told, _) = stage.migrate().await;
    assert!(status == Some(0) && told.contains("nothing left to do"), "{told}");
    let mut gateway = gateway.restart().await;
    let usage = gateway.admin().usage(&tenant, "requests").await;
    assert_eq!(usage.iter().find(|(outcome, ..)| outcome == "billed"), Some(&("billed".to_owned(), 20, 20)));
    assert!(gateway.terminate().await.success());
    verify(&stage).await;
}

/// Of the months that can be the present one of some zone.
async fn verify(stage: &Stage) {
    let now = jiff::Timestamp::now().in_tz("Asia/Tokyo").unwrap();
    let period = format!("{:04}-{:02}", now.year(), now.month());
    let config = stage.folder.path().join("usage-gate.toml");
    let data_dir = stage.folder.path().join("data");
    let (status, told, fault) = run(&[
        "verify",
        "--period",
        &period,
        "--config",
        config.to_str().unwrap(),
        "--data-dir",
        data_dir.to_str().unwrap(),
    ])
    .await;
    assert_eq!(status, Some(0), "{told}{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_moves_the_same_command_goes_on() {
    let stage = Stage::new().await;
    let data_dir = stage.folder.path().join("data");
    let (status, _, fault) = run(&["sample", "--weeks", "2", "--data-dir", data_dir.to_str().unwrap()]).await;
    assert_eq!(status, Some(0), "{fault}");
    let mut killed = 0;
    let status = loop {
        let mut command = Command::new(binary("usage-gate"));
        command.args(["migrate", "--from", &stage.from(), "--to-file"]).arg(stage.target());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        // Later each time: before the mark, between tables, while both are compared; and in the end it comes through.
        let time = Duration::from_millis(60 + 90 * killed);
        match tokio::time::timeout(time, child.wait()).await {
            Ok(status) => break status.unwrap(),
            Err(_) => {
                child.kill().await.unwrap();
                killed += 1;
            }
        }
    };
    assert!(status.success());
    println!("killed {killed} times");
    assert!(killed > 2, "{killed}");
    let (status, told, _) = stage.migrate().await;
    assert!(status == Some(0) && told.contains("nothing left to do"), "{told}");
    let source = rusqlite::Connection::open(stage.data("usage-gate.db")).unwrap();
    for sql in [
        "SELECT sum(units) FROM rollup_hour",
        "SELECT sum(requests) FROM rollup_day",
        "SELECT sum(granted) FROM quota_window",
    ] {
        let before: i64 = source.query_row(sql, [], |row| row.get(0)).unwrap();
        assert!(before > 0);
        assert_eq!(before, stage.database.number(&sql.replace(" FROM", "::int8 FROM")).await, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_moved_half_is_served_by_nobody_until_the_move_is_given_up() {
    let (stage, upstream) = (Stage::new().await, Upstream::start().await);
    let mut gateway = serve(&stage, &upstream, "").await;
    let (_, key) = gateway.admin().tenant_with_key("starter", json!([]), "UTC", &[]).await;
    assert!(gateway.terminate().await.success());
    // A row that PostgreSQL cannot hold ends the move in the middle.
    let raw = rusqlite::Connection::open(stage.data("usage-gate.db")).unwrap();
    raw.execute("UPDATE secret SET hint = 'a' || char(0)", []).unwrap();
    drop(raw);
    let (status, _, fault) = stage.migrate().await;
    assert!(
        status == Some(1) && fault.contains("U+0000") && fault.contains("the same command again goes on"),
        "{fault}"
    );
    let target = stage.target();
    let pepper = stage.data("pepper");
    let config =
        format!("[store]\npostgres_file = \"{}\"\n[keys]\npepper_file = \"{}\"\n", target.display(), pepper.display());
    std::fs::write(stage.folder.path().join("half.toml"), config).unwrap();
    let half = stage.folder.path().join("half.toml");
    let data = stage.folder.path().join("other");
    let serve_half = [
        "serve",
        "--config",
        half.to_str().unwrap(),
        "--data-dir",
        data.to_str().unwrap(),
        "--upstream",
        &upstream.url,
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ];
    let (status, _, fault) = run(&serve_half).await;
    assert!(status == Some(1) && fault.contains("usage-gate migrate --from sqlite:"), "{fault}");

    let (status, told, fault) = run(&["migrate", "--from", &stage.from(), "--take-back"]).await;
    assert!(status == Some(0) && told.contains("may be served from again"), "{told}{fault}");
    let gateway = serve(&stage, &upstream, "").await;
    assert_eq!(calls(&gateway, &key, 1).await, [200]);
    drop(gateway);
    let (status, _, fault) = stage.migrate().await;
    assert!(status == Some(1) && fault.contains("name an empty one"), "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_is_told_what_to_write() {
    let (stage, upstream) = (Stage::new().await, Upstream::start().await);
    let mut gateway = serve(&stage, &upstream, "").await;
    assert!(gateway.terminate().await.success());
    let (from, config) = (stage.from(), stage.folder.path().join("usage-gate.toml"));
    let (config, target) = (config.to_str().unwrap(), stage.target());
    let target = target.to_str().unwrap();
    let url = stage.database.url();
    let pepper = stage.folder.path().join("no-pepper");
    for (arguments, expected) in [
        (&["migrate"][..], "--config <FILE>"),
        (&["migrate", "--from", &from], "--to <postgres://…>"),
        (&["migrate", "--to", &url], "--from <sqlite:PATH>"),
        (&["migrate", "--from", &from, "--to", &url, "--to-file", target], "cannot be used with"),
        (&["migrate", "--from", &from, "--to", &url, "--config", config], "cannot be used with"),
        (&["migrate", "--from", &url, "--to", &url], "must be sqlite: and the path"),
        (&["migrate", "--from", "sqlite:no-such.db", "--to", &url], "no-such.db is not there"),
        (&["migrate", "--from", &from, "--to", "mysql://u:secret@h/d"], "--to: must be an address such as postgres://"),
        (&["migrate", "--from", &from, "--to-file", "no-such-file"], "--to-file: no-such-file cannot be read"),
        (
            &["migrate", "--from", &from, "--to", &url, "--data-dir", "/"],
            "name the data directory of the gate with --data-dir",
        ),
        (&["migrate", "--from", &from, "--to", &url, "--pepper-file", pepper.to_str().unwrap()], "with --pepper-file"),
    ] {
        let (status, told, fault) = run(arguments).await;
        assert_eq!(status, Some(2), "{arguments:?}: {told}{fault}");
        assert!(fault.contains(expected) && !fault.contains("secret"), "{arguments:?}: {fault}");
    }
    // A pepper of others is no pepper of these keys; nothing has been moved yet.
    std::fs::write(&pepper, "another pepper: 0123456789abcdef0123456789abcdef").unwrap();
    let (status, _, fault) =
        run(&["migrate", "--from", &from, "--to", &url, "--pepper-file", pepper.to_str().unwrap()]).await;
    assert!(status == Some(1) && fault.contains("this pepper is not the one"), "{fault}");
    let (status, told, fault) = run(&["migrate", "--from", &from, "--to", &url]).await;
    assert!(status == Some(0) && told.contains("postgres = \"…\""), "{told}{fault}");
}
