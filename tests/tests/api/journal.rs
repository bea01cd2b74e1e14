//! What an operator can look up of what was recorded: `verify`, `journal dump`, single requests, `[journal]`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::process::Command;
use usage_gate_tests::{Client, Folder, Gateway, Setup, Upstream, run};

/// A gateway over a counting upstream, and a tenant that has called.
struct Stage {
    folder: Arc<Folder>,
    setup: Setup,
    _upstream: Upstream,
    gateway: Gateway,
    tenant: String,
    key: String,
}

const CALLS: u64 = 12;

impl Stage {
    /// `CALLS` calls of 10 bytes, and one that is not billed.
    async fn start(config: &str) -> Self {
        let upstream = Upstream::start().await;
        let setup = Setup { config: config.to_owned(), upstream: Some(upstream.url.clone()) };
        let folder = Arc::new(Folder::new());
        let gateway = Gateway::start_in(Arc::clone(&folder), setup.clone()).await;
        let limits = json!([{"name": "month", "kind": "quota", "units": 1_000, "per": "month"}]);
        let (tenant, key) = gateway.admin().tenant_with_key("p", limits, "Asia/Kolkata", &[]).await;
        let stage = Self { folder, setup, _upstream: upstream, gateway, tenant, key };
        for _ in 0..CALLS {
            assert_eq!(stage.call("/bytes/10").await, 200);
        }
        assert_eq!(stage.call("/status/500").await, 500);
        stage
    }

    async fn call(&self, path: &str) -> u16 {
        Client::new().get(&format!("{}{path}", self.gateway.url), &self.key).await.status.as_u16()
    }

    /// `kill -9`, and starts it again on the same data.
    async fn kill(mut self) -> Self {
        let pid = self.gateway.pid().to_string();
        assert!(Command::new("kill").args(["-KILL", &pid]).status().await.unwrap().success());
        self.gateway = Gateway::start_in(Arc::clone(&self.folder), self.setup.clone()).await;
        self
    }

    /// What is in the database, as the admin API shows it: all that was recorded is shipped before it answers.
    async fn outcomes(&self) -> Vec<(String, u64, u64)> {
        self.gateway.admin().usage(&self.tenant, "requests").await
    }

    async fn requests(&self, query: &str) -> Vec<Value> {
        let page = self.gateway.admin().read(&format!("/requests?tenant={}{query}", self.tenant)).await;
        assert_eq!(page["next_cursor"], json!(null), "{page}");
        page["items"].as_array().unwrap().clone()
    }
}

/// The present month of the tenant's clock.
fn month() -> String {
    let now = jiff::Timestamp::now().in_tz("Asia/Kolkata").unwrap();
    format!("{:04}-{:02}", now.year(), now.month())
}

/// `verify --json` over a data directory: its exit code and its report.
async fn verify(data_dir: &Path) -> (Option<i32>, Value) {
    let data_dir = data_dir.display().to_string();
    let (status, report, error) = run(&["verify", "--json", "--period", &month(), "--data-dir", &data_dir]).await;
    let report = serde_json::from_str(&report).unwrap_or_else(|fault| panic!("{fault}: {report}{error}"));
    (status, report)
}

async fn dump(data_dir: &Path) -> Vec<Value> {
    let data_dir = data_dir.display().to_string();
    let (status, lines, error) = run(&["journal", "dump", "--data-dir", &data_dir]).await;
    assert_eq!(status, Some(0), "{error}");
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn agrees((status, report): &(Option<i32>, Value)) {
    assert_eq!((*status, &report["ok"]), (Some(0), &json!(true)), "{report:#}");
    assert_eq!(report["differences"], json!([]));
}

#[tokio::test]
async fn b8_b9_verify_agrees_beside_a_server_after_a_stop_and_after_a_kill() {
    let mut stage = Stage::start("").await;
    let data_dir = stage.gateway.data_dir();
    stage.outcomes().await;
    let beside = verify(&data_dir).await;
    agrees(&beside);
    assert_eq!((&beside.1["period"], &beside.1["records"]), (&json!(month()), &json!(CALLS + 1)));
    assert!(!beside.1["source"]["records"].as_array().unwrap().is_empty());

    assert!(stage.gateway.terminate().await.success());
    let stopped = verify(&data_dir).await;
    agrees(&stopped);
    assert_eq!(stopped.1["under_way"], json!([]), "a clean stop leaves nothing under way");

    stage.gateway = Gateway::start_in(Arc::clone(&stage.folder), stage.setup.clone()).await;
    for _ in 0..CALLS {
        assert_eq!(stage.call("/bytes/10").await, 200);
    }
    let stage = stage.kill().await;
    assert_eq!(stage.outcomes().await, [("billed".into(), 2 * CALLS, 2 * CALLS), ("unbilled".into(), 1, 1)]);
    agrees(&verify(&data_dir).await);
}

#[tokio::test]
async fn b2_a_stream_that_a_kill_cut_is_billed_for_what_was_handed_over() {
    let stage = Stage::start("").await;
    let request = Request::get(format!("{}/drip", stage.gateway.url)).header("x-api-key", &stage.key);
    let client = Client::new();
    let mut body = client.send(request.body(Full::<bytes::Bytes>::default()).unwrap()).await.into_body();
    let mut taken = 0;
    while taken < 65_536 {
        taken += body.frame().await.unwrap().unwrap().into_data().map_or(0, |data| data.len());
    }
    let stage = stage.kill().await;
    assert!(body.frame().await.is_none_or(|frame| frame.is_err()), "the answer never came to its end");
    assert!(stage.outcomes().await.contains(&("aborted".into(), 1, 1)));
    let cut = stage.requests("&outcome=aborted").await;
    let [cut] = &cut[..] else { panic!("{cut:?}") };
    assert_eq!((&cut["status"], &cut["units"]["bytes_out"]), (&json!(200), &json!(65_536)), "{cut}");
    let lines = dump(&stage.gateway.data_dir()).await;
    let line = lines.iter().find(|line| line["request_id"] == cut["request_id"]).unwrap();
    assert_eq!((&line["type"], &line["outcome"]), (&json!("record"), &json!("aborted")));
    agrees(&verify(&stage.gateway.data_dir()).await);
}

#[tokio::test]
async fn b8_verify_names_what_was_changed_in_the_books() {
    let mut stage = Stage::start("").await;
    let data_dir = stage.gateway.data_dir();
    assert!(stage.gateway.terminate().await.success());
    let books = rusqlite::Connection::open(data_dir.join("usage-gate.db")).unwrap();
    let changed =
        books.execute("UPDATE rollup_hour SET units = units + 5 WHERE meter = 'requests' AND outcome = 'billed'", []);
    assert_eq!(changed.unwrap(), 1);
    drop(books);

    let (status, report) = verify(&data_dir).await;
    assert_eq!((status, &report["ok"]), (Some(1), &json!(false)), "{report:#}");
    let differences = report["differences"].as_array().unwrap();
    let [difference] = &differences[..] else { panic!("{report:#}") };
    for (member, expected) in [
        ("kind", json!("journal")),
        ("compared", json!("units")),
        ("tenant", json!(stage.tenant)),
        ("meter", json!("requests")),
        ("of", json!("billed")),
        ("expected", json!(CALLS)),
        ("found", json!(CALLS + 5)),
    ] {
        assert_eq!(difference[member], expected, "{member}: {difference}");
    }
    let data_dir = data_dir.display().to_string();
    let (status, text, error) = run(&["verify", "--period", &month(), "--data-dir", &data_dir]).await;
    assert_eq!(status, Some(1));
    assert!(text.starts_with("NOT ok: ") && text.contains(&stage.tenant), "{text}");
    assert_eq!(error, "error: the books do not say what was recorded: differences: 1\n");
}

#[tokio::test]
async fn b3_a_database_that_was_put_back_is_booked_again_and_nothing_twice() {
    let mut stage = Stage::start("").await;
    let database = stage.gateway.data_dir().join("usage-gate.db");
    let backup = stage.folder.path().join("backup.db");
    assert!(stage.gateway.terminate().await.success());
    // What a process that ends leaves in the log of the database belongs to the backup too.
    rusqlite::Connection::open(&database).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    std::fs::copy(&database, &backup).unwrap();
    stage.gateway = Gateway::start_in(Arc::clone(&stage.folder), stage.setup.clone()).await;
    for _ in 0..CALLS {
        assert_eq!(stage.call("/bytes/10").await, 200);
    }
    assert!(stage.gateway.terminate().await.success());
    std::fs::copy(&backup, &database).unwrap();
    for beside in ["usage-gate.db-wal", "usage-gate.db-shm"] {
        let _ = std::fs::remove_file(stage.gateway.data_dir().join(beside));
    }
    stage.gateway = Gateway::start_in(Arc::clone(&stage.folder), stage.setup.clone()).await;
    assert_eq!(stage.outcomes().await, [("billed".into(), 2 * CALLS, 2 * CALLS), ("unbilled".into(), 1, 1)]);
    assert!(stage.gateway.log().contains("the database is older"), "{}", stage.gateway.log());
    assert_eq!(stage.call("/bytes/10").await, 200);
    let limits = stage.gateway.admin().read(&format!("/tenants/{}/limits", stage.tenant)).await;
    let (used, reserved) = (limits["items"][0]["used"].as_u64(), limits["items"][0]["reserved"].as_u64());
    assert!(used.zip(reserved).is_some_and(|(used, reserved)| used + reserved > 2 * CALLS), "{limits}");
    agrees(&verify(&stage.gateway.data_dir()).await);
}

#[tokio::test]
async fn the_dump_the_api_and_usage_say_the_same_of_each_request() {
    let stage = Stage::start("").await;
    assert_eq!(Client::new().get(&format!("{}/x", stage.gateway.url), "ug_live_nope").await.status, 401);
    let outcomes = stage.outcomes().await;
    let listed = stage.requests("").await;
    let dumped = dump(&stage.gateway.data_dir()).await;
    let dumped: BTreeMap<&str, &Value> = dumped
        .iter()
        .filter(|line| line["type"] == json!("record"))
        .map(|line| (line["request_id"].as_str().unwrap(), line))
        .collect();
    assert_eq!((dumped.len(), listed.len()), (13, 13));
    let mut sums = BTreeMap::new();
    for item in &listed {
        let line = dumped[item["request_id"].as_str().unwrap()];
        for member in ["at", "tenant", "key", "user", "route", "environment", "status", "outcome", "measured", "units"]
        {
            assert_eq!(item[member], line[member], "{member}: {item} {line}");
        }
        assert_eq!(item["measured"], json!("exact"));
        *sums.entry(item["outcome"].as_str().unwrap().to_owned()).or_insert(0) +=
            item["units"]["requests"].as_u64().unwrap();
    }
    let summed: BTreeMap<String, u64> = outcomes.into_iter().map(|(outcome, units, _)| (outcome, units)).collect();
    assert_eq!(sums, summed);

    let newest = listed[0]["request_id"].as_str().unwrap();
    let one = stage.requests(&format!("&request_id={newest}")).await;
    assert_eq!(one, listed[..1]);
    assert_eq!(stage.requests("&status=500").await.len(), 1);
}

#[tokio::test]
async fn with_durability_disk_requests_are_served_and_counted() {
    let stage = Stage::start("[journal]\ndurability = \"disk\"\nsegment_bytes = \"1MiB\"\n").await;
    let stage = stage.kill().await;
    assert_eq!(stage.outcomes().await, [("billed".into(), CALLS, CALLS), ("unbilled".into(), 1, 1)]);
    agrees(&verify(&stage.gateway.data_dir()).await);
}

#[tokio::test]
async fn a_fault_of_the_section_is_named_with_its_place() {
    let folder = Folder::new();
    let file = folder.path().join("gate.toml");
    for (line, expected) in [
        ("durability = \"ram\"", "4:14: journal.durability: unknown variant `ram`, expected `process` or `disk`"),
        ("when_full = \"drop\"", "expected `refuse` or `count_unbilled`"),
        ("segment_bytes = \"1KiB\"", "4:17: journal.segment_bytes: must be from 1MiB to 64MiB"),
        ("retention = \"none\"", "4:13: journal.retention: `none` is not a duration"),
        ("retention_bytes = \"none\"", "there must be a bound"),
        ("retention_bytes = \"40MiB\"", "4:1: journal.retention_bytes: must be at least 50331648 bytes"),
        ("whenfull = 1", "4:1: unknown key `whenfull`"),
    ] {
        std::fs::write(&file, format!("[upstream]\nurl = \"http://127.0.0.1:1\"\n[journal]\n{line}\n")).unwrap();
        let (status, _, error) = run(&["check", "--config", file.to_str().unwrap()]).await;
        assert_eq!(status, Some(1), "{line}");
        assert!(error.contains(expected), "{error}\nexpected {expected}");
    }
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_named() {
    let folder = Folder::new();
    let nowhere = folder.path().display().to_string();
    let no_journal = format!("error: {nowhere} has no journal: name the data directory of a server with --data-dir\n");
    let config = folder.path().join("server.toml");
    std::fs::write(&config, format!("[server]\ndata_dir = {nowhere:?}\n")).unwrap();
    let config = config.to_str().unwrap();
    for (arguments, status, expected) in [
        (&["verify", "--period", "2026-11", "--data-dir", &nowhere][..], 1, no_journal.as_str()),
        (&["journal", "dump", "--data-dir", &nowhere][..], 1, no_journal.as_str()),
        (&["verify", "--period", "2026-11", "--config", config][..], 1, no_journal.as_str()),
        (&["journal", "dump", "--config", config][..], 1, no_journal.as_str()),
        (&["verify", "--period", "2026-13"][..], 2, "error: invalid value '2026-13' for '--period <PERIOD>'"),
        (&["verify"][..], 2, "error: the following required arguments were not provided"),
        (&["journal", "dump", "--stream", "nope"][..], 2, "error: invalid value 'nope' for '--stream <ID>'"),
    ] {
        let (found, _, error) = run(arguments).await;
        assert_eq!(found, Some(status), "{error}");
        assert!(error.starts_with(expected), "{error}\nexpected {expected}");
    }
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_may_close_the_dump() {
    let stage = Stage::start("").await;
    let data_dir = stage.gateway.data_dir();
    let mut command = Command::new(usage_gate_tests::binary("usage-gate"));
    command.args(["journal", "dump", "--data-dir"]).arg(&data_dir).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
}
