//! The gateway as a process.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::{Admin, Client, Folder};

/// How a gateway is started.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Text of a configuration file; addresses and data directory are given by options.
    pub config: String,
    /// The upstream's URL, if the configuration does not have it.
    pub upstream: Option<String>,
}

/// A running gateway. Killed when dropped.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    /// `http://address` of the public listener.
    pub url: String,
    /// `http://address` of the admin listener.
    pub admin_url: String,
    token: String,
    folder: Arc<Folder>,
    setup: Setup,
    log: Arc<Mutex<String>>,
}

/// Where a built binary of the workspace is: `USAGE_GATE_BIN_DIR`, or beside the folder of the running test.
///
/// # Panics
/// If it is not there, with the command that builds it.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let Some(folder) = std::env::var_os("USAGE_GATE_BIN_DIR") else { return beside(name) };
    built(PathBuf::from(folder).join(name))
}

/// Where a binary of this package is: always what was built with the running test.
pub(crate) fn beside(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    built(test.parent().and_then(|deps| deps.parent()).unwrap().join(name))
}

fn built(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "{} is not built: run tests/run, or cargo build --workspace", path.display());
    path
}

/// Runs a command of the gateway to its end: status, standard output, standard error.
///
/// # Panics
/// If it cannot be run or does not end within 20 seconds.
pub async fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(binary("usage-gate")).args(arguments).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(20), output).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

impl Gateway {
    /// Starts one in a folder of its own.
    ///
    /// # Panics
    /// If it does not come up within 20 seconds.
    pub async fn start(setup: Setup) -> Self {
        Self::start_in(Arc::new(Folder::new()), setup).await
    }

    /// Starts one on the data that a folder has in `data`.
    ///
    /// # Panics
    /// If it does not come up within 20 seconds.
    pub async fn start_in(folder: Arc<Folder>, setup: Setup) -> Self {
        let config = folder.path().join("usage-gate.toml");
        std::fs::write(&config, &setup.config).unwrap();
        let mut command = Command::new(binary("usage-gate"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--config"]);
        command.arg(&config).arg("--data-dir").arg(folder.path().join("data"));
        if let Some(upstream) = &setup.upstream {
            command.args(["--upstream", upstream]);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();

        let log = Arc::new(Mutex::new(String::new()));
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let kept = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(Some(line)) = stderr.next_line().await {
                let mut kept = kept.lock().unwrap();
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let addresses = async {
            let (mut url, mut admin_url) = (None, None);
            while let Ok(Some(line)) = stdout.next_line().await {
                let mut words = line.split_whitespace();
                match (words.next(), words.next()) {
                    (Some("API"), Some(address)) => url = Some(address.to_owned()),
                    (Some("admin"), Some(address)) => {
                        admin_url = Some(address.trim_end_matches("/admin/v1").to_owned())
                    }
                    _ => {}
                }
                if let (Some(url), Some(admin_url)) = (&url, &admin_url) {
                    return Some((url.clone(), admin_url.clone()));
                }
            }
            None
        };
        let found = tokio::time::timeout(Duration::from_secs(20), addresses).await;
        let Ok(Some((url, admin_url))) = found else {
            panic!("the gateway did not come up: {}", log.lock().unwrap());
        };
        tokio::spawn(async move { while let Ok(Some(_)) = stdout.next_line().await {} });
        // One that was named in the configuration is the test's own.
        let token =
            std::fs::read_to_string(folder.path().join("data/admin-token")).unwrap_or_default().trim().to_owned();
        Self { child, url, admin_url, token, folder, setup, log }
    }

    /// A client of its admin API.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(Client::new(), &self.admin_url, &self.token)
    }

    /// Its process id.
    ///
    /// # Panics
    /// If it has ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// What it logged.
    ///
    /// # Panics
    /// If the reader of the log panicked.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// As `kill -9`.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Panics
    /// If it does not end within 40 seconds.
    pub async fn terminate(&mut self) -> ExitStatus {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
        tokio::time::timeout(Duration::from_secs(40), self.child.wait()).await.unwrap().unwrap()
    }

    /// SIGTERM, and starts it again on the same data.
    ///
    /// # Panics
    /// If it does not end well or come up again.
    pub async fn restart(mut self) -> Self {
        let status = self.terminate().await;
        assert!(status.success(), "{status}: {}", self.log());
        Self::start_in(Arc::clone(&self.folder), self.setup.clone()).await
    }

    /// Its data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A line of `/proc/<pid>/status`, in KiB.
    ///
    /// # Panics
    /// Where there is no `/proc`, or no such line.
    #[must_use]
    pub fn memory_kib(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
        found.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
    }
}
