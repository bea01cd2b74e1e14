//! A disk that is full under load: the policy's answer, no signal, no acknowledged request lost, and it goes on when there is room again.
//!
//! The data directory is a tmpfs of 96 MiB. In one case the database is elsewhere and held by somebody else, so that nothing of the journal is
//! shipped and it alone meets the end of the disk; in the other the database is on the same disk and meets it too.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use usage_gate_tests::Folder;
use usage_gate_tests::crash::traffic::Mix;
use usage_gate_tests::crash::{Ending, Filler, HeldStore, Stage, TenantSetup, Tmpfs, ask, oracle};

/// For each change of state: the journal has segments with room in them when the disk is full, and those are used up first.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two questions.
const LOOK: Duration = Duration::from_millis(20);

/// A run on a small disk.
struct SmallDisk {
    disk: Tmpfs,
    stage: Stage,
    database: std::path::PathBuf,
    // The last to go: the database may be in it.
    _folder: Folder,
}

impl SmallDisk {
    /// The default policy is to refuse.
    async fn start(disk: Tmpfs, journal: &str, database_elsewhere: bool) -> Self {
        let folder = Folder::new();
        let data_dir = disk.path().join("data");
        let mut config = journal.to_owned();
        let mut database = data_dir.join("usage-gate.db");
        if database_elsewhere {
            database = folder.path().join("usage-gate.db");
            config.push_str(&format!("[store]\nsqlite = \"{}\"\n", database.display()));
        }
        let unlimited = TenantSetup { name: "unlimited", limits: json!([]), weights: &[1] };
        let mut stage = Stage::start(&config, Some(data_dir), &[unlimited]).await;
        stage.client(1, 16, Mix::Small, None, 0);
        Self { disk, stage, database, _folder: folder }
    }

    /// A request of the test's own: its status, and the code of a refusal.
    async fn probe(&self) -> (u16, String) {
        let secret = self.stage.accounts[0].secret.as_str();
        let path = "/status/404";
        let answer = ask(self.stage.victim.public, path, ("x-api-key", secret), Duration::from_secs(20)).await;
        let (status, body) = answer.expect("the gateway answers");
        let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
        (status, problem["code"].as_str().unwrap_or_default().to_owned())
    }

    /// Fills the disk until this is so.
    async fn fill_until(&mut self, what: &str, so: impl AsyncFn(&Self) -> bool) -> Filler {
        let mut filler = self.disk.fill();
        let began = Instant::now();
        while !so(self).await {
            assert!(self.stage.victim.alive(), "the gateway ended\n{}", self.stage.victim.log_tail());
            assert!(began.elapsed() < PATIENCE, "the disk is full, and never: {what}");
            filler.top_up();
            sleep(LOOK).await;
        }
        filler
    }

    async fn until(&mut self, what: &str, so: impl AsyncFn(&Self) -> bool) {
        let began = Instant::now();
        while !so(self).await {
            assert!(self.stage.victim.alive(), "the gateway ended\n{}", self.stage.victim.log_tail());
            assert!(began.elapsed() < PATIENCE, "never: {what}");
            sleep(LOOK).await;
        }
    }

    /// The sum of a metric's lines that have this in them; none if there is no such line.
    async fn metric(&self, name: &str, label: &str) -> Option<f64> {
        let (_, text) = ask(self.stage.victim.admin, "/metrics", ("accept", "*/*"), Duration::from_secs(20)).await?;
        let text = String::from_utf8(text.to_vec()).unwrap();
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        let values: Vec<f64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}

const MEBIBYTES: u32 = 96;

async fn refused_while_full_and_well_after(disk: Tmpfs, database_elsewhere: bool) {
    let mut run = SmallDisk::start(disk, "", database_elsewhere).await;
    let held = database_elsewhere.then(|| HeldStore::hold(&run.database));
    let refused = async |run: &SmallDisk| run.probe().await == (503, "journal_unavailable".to_owned());
    // Both at once: a segment that is shipped meanwhile gives its room back, until that is filled too.
    let not_ready = async |run: &SmallDisk| run.stage.victim.readiness().await == Some(503);
    let filler = run
        .fill_until("503 journal_unavailable, and not ready between two of them", async |run| {
            refused(run).await && not_ready(run).await && refused(run).await
        })
        .await;
    assert!(run.metric("usage_gate_journal_bytes", "").await.is_some_and(|bytes| bytes > 0.0));

    drop(filler);
    drop(held);
    run.until("an answer of the upstream again", async |run| run.probe().await.0 == 404).await;
    run.until("ready again", async |run| run.stage.victim.readiness().await == Some(200)).await;
    let completed = |run: &SmallDisk| run.stage.endings().iter().filter(|ending| ending.completed()).count();
    let before = completed(&run);
    run.until("clients are served again", async |run| completed(run) > before).await;
    run.stage.stop_clients().await;

    let mut evidence = run.stage.evidence(0).await;
    // The probes' requests are nobody's that writes files.
    evidence.in_flight += 1;
    let verdict = oracle::judge(&evidence);
    println!("{verdict}");
    assert!(verdict.faults.is_empty(), "{} faults, see above", verdict.faults.len());
}

#[test]
fn b7_a_journal_without_room_refuses_loses_nothing_and_recovers() {
    Tmpfs::with(MEBIBYTES, "disk_full::b7_a_journal_without_room_refuses_loses_nothing_and_recovers", async |disk| {
        refused_while_full_and_well_after(disk, true).await;
    });
}

#[test]
fn b7_journal_and_database_on_one_full_disk_refuse_lose_nothing_and_recover() {
    let name = "disk_full::b7_journal_and_database_on_one_full_disk_refuse_lose_nothing_and_recover";
    Tmpfs::with(MEBIBYTES, name, async |disk| refused_while_full_and_well_after(disk, false).await);
}

#[test]
fn a_full_disk_lets_requests_pass_unrecorded_where_the_owner_wants_that_and_a_metric_counts_them() {
    let name =
        "disk_full::a_full_disk_lets_requests_pass_unrecorded_where_the_owner_wants_that_and_a_metric_counts_them";
    Tmpfs::with(MEBIBYTES, name, passed_and_counted_while_full);
}

async fn passed_and_counted_while_full(disk: Tmpfs) {
    let mut run = SmallDisk::start(disk, "[journal]\nwhen_full = \"count_unbilled\"\n", true).await;
    let held = HeldStore::hold(&run.database);
    let unrecorded = async |run: &SmallDisk| run.metric("usage_gate_requests_total", "outcome=\"unbilled\"").await;
    let uncounted_begin = unrecorded(&run).await.unwrap_or_default();
    let filler = run
        .fill_until("requests pass and are counted as unbilled", async |run| {
            unrecorded(run).await.unwrap_or_default() > uncounted_begin
        })
        .await;
    assert_eq!(run.probe().await.0, 404, "what comes while it is full is forwarded");
    drop(filler);
    drop(held);
    run.until("ready", async |run| run.stage.victim.readiness().await == Some(200)).await;
    run.stage.stop_clients().await;

    let uncounted = unrecorded(&run).await.unwrap_or_default() - uncounted_begin;
    let evidence = run.stage.evidence(0).await;
    assert!(evidence.missing.is_empty(), "{:?}", evidence.missing);
    assert!(!evidence.endings.iter().any(|ending| ending.code == "journal_unavailable"));
    let billed = evidence.records.iter().filter(|record| record.billed()).count();
    let completed = evidence.endings.iter().filter(|ending| Ending::completed(ending)).count();
    let passed = f64::from(u32::try_from(completed.saturating_sub(billed)).unwrap());
    assert!(passed > 0.0 && uncounted >= passed, "{passed} passed without a record, {uncounted} are in the metric");
}
