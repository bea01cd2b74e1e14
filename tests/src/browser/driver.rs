//! The processes: a chromedriver, and the Chromium that it starts.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::PATIENCE;
use crate::Folder;

/// A chromedriver with one session. Both end when it is dropped.
#[derive(Debug)]
pub(super) struct Driver {
    session: String,
    address: SocketAddr,
    _process: Child,
    // Last: the profile can go when nothing writes to it.
    _folder: Folder,
}

/// A program: what the variable says, or the first of that name in `PATH`.
fn program(variable: &str, name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed: run tests/run, which installs it, or set {variable}"))
}

fn capabilities(folder: &Path) -> Value {
    let profile = format!("--user-data-dir={}", folder.join("profile").display());
    let patience_ms = PATIENCE.as_secs() * 1000;
    json!({
        "timeouts": { "pageLoad": patience_ms, "script": patience_ms },
        "goog:loggingPrefs": { "browser": "ALL" },
        "goog:chromeOptions": {
            "binary": program("USAGE_GATE_CHROMIUM", "chromium"),
            "args": [
                "--headless=new",
                profile,
                // The tests' pages are ours, and containers that run as root have neither a sandbox nor a large /dev/shm.
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--disable-gpu",
                // A pipe and no port: Chromium ends when the driver does, even if that is killed. Leave the crash handler on beside it: without
                // that, Chromium 156 gives the pipe's file descriptors to its network process a second time, which then crashes.
                "--remote-debugging-pipe",
                // Nothing on its own account, and nothing beyond this machine.
                "--no-first-run",
                "--no-default-browser-check",
                "--no-proxy-server",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-default-apps",
                "--disable-extensions",
                "--disable-sync",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
                // The same pictures everywhere, and no bar that takes its width from a narrow window.
                "--hide-scrollbars",
                "--force-color-profile=srgb",
                "--font-render-hinting=none",
                "--lang=en-US",
            ],
            "prefs": { "credentials_enable_service": false, "profile.password_manager_leak_detection": false },
        },
    })
}

impl Driver {
    /// Starts both, and a client that speaks with them.
    pub(super) async fn start() -> (Self, Client) {
        let folder = Folder::new();
        let log = folder.path().join("chromedriver.log");
        let said = || std::fs::read_to_string(&log).unwrap_or_default();

        let mut command = Command::new(program("USAGE_GATE_CHROMEDRIVER", "chromedriver"));
        // It chooses the port, so that no other process can take it in between. The home keeps what Chromium writes beside its profile.
        command.arg("--port=0").env("HOME", folder.path()).kill_on_drop(true);
        for variable in ["XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"] {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log).unwrap());
        let mut process = command.spawn().unwrap();

        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = async {
            while let Ok(Some(line)) = lines.next_line().await {
                let port = line.strip_prefix("ChromeDriver was started successfully on port ");
                if let Some(port) = port.and_then(|rest| rest.trim_end_matches('.').parse::<u16>().ok()) {
                    return Some(port);
                }
            }
            None
        };
        let Ok(Some(port)) = tokio::time::timeout(PATIENCE, port).await else {
            panic!("chromedriver did not come up: {}", said());
        };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });

        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut builder = ClientBuilder::new(HttpConnector::new());
        if let Value::Object(capabilities) = capabilities(folder.path()) {
            builder.capabilities(capabilities);
        }
        let url = format!("http://{address}/");
        let client = match tokio::time::timeout(PATIENCE, builder.connect(&url)).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => panic!("chromium did not come up: {error}: {}", said()),
            Err(_) => panic!("chromium did not come up within {PATIENCE:?}: {}", said()),
        };
        let session = client.session_id().await.unwrap().unwrap();
        (Self { session, address, _process: process, _folder: folder }, client)
    }

    /// Lets the driver end Chromium and waits for that.
    fn end(&self) -> std::io::Result<()> {
        const BOUND: Duration = Duration::from_secs(5);
        let mut stream = TcpStream::connect_timeout(&self.address, BOUND)?;
        stream.set_read_timeout(Some(BOUND))?;
        let Self { session, address, .. } = self;
        write!(stream, "DELETE /session/{session} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
        stream.read_exact(&mut [0; 12])
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Blocking, since there is no waiting in a drop: a fifth of a second. If it does not work, killing the driver closes Chromium's pipe.
        let _ = self.end();
    }
}
