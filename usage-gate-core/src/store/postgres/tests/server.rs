//! A PostgreSQL of one test, which may stop and start it. It needs what `tests/with-servers` needs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio_postgres::NoTls;

/// A server in a folder of its own, both gone afterwards.
pub(super) struct Server {
    folder: PathBuf,
    settings: Vec<String>,
    port: u16,
    process: Option<Child>,
}

impl Server {
    /// Makes a folder with an empty cluster in it, that does not run yet.
    pub(super) fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("usage-gate-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&folder).unwrap();
        let server = Self { folder, settings: Vec::new(), port: free_port(), process: None };
        server.give_to_postgres(&server.folder);
        let initdb = program("initdb");
        finish(
            server
                .command(&initdb)
                .args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8"])
                .arg(format!("--pgdata={}", server.folder.join("cluster").display())),
        );
        server
    }

    /// With a setting more.
    #[cfg(feature = "postgres-tls")]
    pub(super) fn with(mut self, setting: impl Into<String>) -> Self {
        self.settings.push(setting.into());
        self
    }

    #[cfg(feature = "postgres-tls")]
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes a file one that the server reads, and nobody else.
    pub(super) fn give_to_postgres(&self, file: &Path) {
        if is_root() {
            finish(Command::new("chown").arg("postgres").arg(file));
        }
    }

    /// Its address by a host's name.
    pub(super) fn url(&self, host: &str) -> String {
        format!("postgres://postgres@{host}:{}/postgres", self.port)
    }

    /// Starts it, and comes back when it answers.
    pub(super) async fn start(&mut self) {
        let mut command = self.command(&program("postgres"));
        command.arg("-D").arg(self.folder.join("cluster")).args(["-p", &self.port.to_string()]);
        let folder = self.folder.display();
        let own = [
            "listen_addresses=localhost".to_owned(),
            format!("unix_socket_directories={folder}"),
            "fsync=off".to_owned(),
        ];
        for setting in own.iter().chain(&self.settings) {
            command.arg("-c").arg(setting);
        }
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let url = self.url("127.0.0.1");
        let answers = async {
            while tokio_postgres::connect(&url, NoTls).await.is_err() {
                assert!(process.try_wait().unwrap().is_none(), "the server has ended");
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), answers).await.expect("the server answers");
        self.process = Some(process);
    }

    /// Stops it at once, whoever is connected.
    pub(super) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            finish(Command::new("kill").args(["-QUIT", &process.id().to_string()]));
            process.wait().unwrap();
        }
    }

    /// PostgreSQL does not run as root.
    fn command(&self, program: &Path) -> Command {
        as_postgres(program, &self.folder)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        // What remains of a failed removal is the system's to clean.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A program that refuses to run as root.
pub(super) fn as_postgres(program: &Path, folder: &Path) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir(folder);
    command
}

/// A port that nobody has now.
pub(super) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout == b"0\n"
}

/// A program of the server's, which Debian keeps out of the path.
fn program(name: &str) -> PathBuf {
    let found = Command::new("sh")
        .args([
            "-c",
            "dirname \"$(readlink -f \"$(command -v initdb || ls /usr/lib/postgresql/*/bin/initdb | tail -1)\")\"",
        ])
        .output()
        .unwrap();
    Path::new(str::from_utf8(&found.stdout).unwrap().trim()).join(name)
}

/// Runs a command to its end, which is to be a good one.
pub(super) fn finish(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
