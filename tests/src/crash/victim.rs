//! A gateway that is killed and started again, on the same data and the same ports.

use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::connection::ask;
use crate::gateway::binary;

/// Between two looks at whether it is ready.
const LOOK: Duration = Duration::from_millis(2);

/// Where and how it runs.
#[derive(Debug)]
pub struct Victim {
    /// The public listener.
    pub public: SocketAddr,
    /// The admin listener.
    pub admin: SocketAddr,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Where its admin token is: its own, made at the first start, unless its configuration names another.
    pub token_file: PathBuf,
    config: PathBuf,
    upstream: String,
    log: PathBuf,
    running: Option<(Child, Instant)>,
}

impl Victim {
    /// One that does not run yet.
    ///
    /// # Panics
    /// If there are no free ports.
    #[must_use]
    pub fn new(config: PathBuf, data_dir: PathBuf, upstream: &str) -> Self {
        let log = config.with_extension("log");
        let (public, admin) = (free_port(), free_port());
        let token_file = data_dir.join("admin-token");
        Self { public, admin, data_dir, token_file, config, upstream: upstream.to_owned(), log, running: None }
    }

    /// Starts it and does not wait.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(&mut self) {
        let log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(binary("usage-gate"));
        command.args(["serve", "--upstream", &self.upstream, "--config"]).arg(&self.config);
        command.arg("--data-dir").arg(&self.data_dir);
        command.args(["--listen", &self.public.to_string(), "--admin-listen", &self.admin.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        self.running = Some((command.spawn().unwrap(), Instant::now()));
    }

    /// Waits until `/readyz` says yes: how long that took from the start.
    ///
    /// # Panics
    /// If it ends, or takes longer than this.
    pub async fn ready(&mut self, time: Duration) -> Duration {
        loop {
            let (child, started) = self.running.as_mut().unwrap();
            let (ended, elapsed) = (child.try_wait().unwrap(), started.elapsed());
            assert!(ended.is_none(), "the gateway ended: {}\n{}", ended.unwrap(), self.log_tail());
            assert!(elapsed < time, "the gateway is not ready after {elapsed:?}\n{}", self.log_tail());
            if self.readiness().await == Some(200) {
                return elapsed;
            }
            sleep(LOOK).await;
        }
    }

    /// What `/readyz` answers now; none without an answer.
    pub async fn readiness(&self) -> Option<u16> {
        Some(ask(self.admin, "/readyz", ("accept", "*/*"), Duration::from_secs(5)).await?.0)
    }

    /// `kill -9`.
    ///
    /// # Panics
    /// If it does not run, or ended by something else before.
    pub async fn kill(&mut self) {
        use std::os::unix::process::ExitStatusExt;
        let (mut child, _) = self.running.take().unwrap();
        child.start_kill().unwrap();
        let status = child.wait().await.unwrap();
        assert_eq!(
            status.signal(),
            Some(9),
            "the gateway was gone before it was killed: {status}\n{}",
            self.log_tail()
        );
    }

    /// Stops it where it is for a while, as a machine that swaps or a debugger does.
    ///
    /// # Panics
    /// If it does not run.
    pub async fn pause(&self, time: Duration) {
        self.signal("-STOP").await;
        sleep(time).await;
        self.signal("-CONT").await;
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Panics
    /// If it does not run, or does not end within 60 seconds.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal("-TERM").await;
        let (mut child, _) = self.running.take().unwrap();
        timeout(Duration::from_secs(60), child.wait()).await.unwrap().unwrap()
    }

    async fn signal(&self, name: &str) {
        let pid = self.running.as_ref().and_then(|(child, _)| child.id()).unwrap();
        assert!(Command::new("kill").args([name, &pid.to_string()]).status().await.unwrap().success());
    }

    /// True while the process lives.
    ///
    /// # Panics
    /// If it cannot be asked for.
    pub fn alive(&mut self) -> bool {
        self.running.as_mut().is_some_and(|(child, _)| child.try_wait().unwrap().is_none())
    }

    /// The last of what all its lives logged.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Lines of what all its lives logged that have this in them.
    #[must_use]
    pub fn logged(&self, needle: &str) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().filter(|line| line.contains(needle)).map(str::to_owned).collect()
    }

    /// The admin token, once it has been ready.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn token(&self) -> String {
        std::fs::read_to_string(&self.token_file).unwrap().trim().to_owned()
    }
}

/// A port that nobody listens on. It is below those that the system gives to clients: one of them that tries to connect while the gateway is
/// down could be given the gateway's own port, and would be talking to itself.
fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..12_000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + u16::try_from((std::process::id() * 16 + u32::from(step)) % 12_000).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port between 20000 and 32000");
}
