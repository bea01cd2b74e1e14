//! Databases of the shared servers, and servers of a test's own.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use tokio_postgres::NoTls;
use usage_gate_core::model::StreamId;

use crate::Folder;
use crate::crash::Random;

fn given(name: &str) -> String {
    let given = std::env::var_os(name).and_then(|url| url.into_string().ok());
    given.unwrap_or_else(|| panic!("{name}: run this by tests/with-servers, or name a server"))
}

/// An empty database of the server of `DATABASE_URL`, gone when dropped; and a part of the Valkey of `VALKEY_URL` that nobody else uses.
#[derive(Debug)]
pub struct Database {
    server: String,
    name: String,
}

impl Database {
    /// Makes one.
    ///
    /// # Panics
    /// If the server cannot be reached.
    pub async fn new() -> Self {
        Self::on(&given("DATABASE_URL")).await
    }

    /// Makes one on a server.
    ///
    /// # Panics
    /// If the server cannot be reached.
    pub async fn on(server: &str) -> Self {
        let name = format!("cluster_{:x}", StreamId::generate().as_u128());
        command(server, &format!("CREATE DATABASE {name}")).await;
        Self { server: server.to_owned(), name }
    }

    /// Its address.
    ///
    /// # Panics
    /// If that of the server cannot be read.
    #[must_use]
    pub fn url(&self) -> String {
        let mut url = url::Url::parse(&self.server).unwrap();
        url.set_path(&self.name);
        url.into()
    }

    /// Asks it for one number.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn number(&self, sql: &str) -> i64 {
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await.unwrap();
        let driving = tokio::spawn(connection);
        let number = client.query_one(sql, &[]).await.unwrap().get(0);
        drop(client);
        let _ = driving.await;
        number
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, sql) = (self.server.clone(), format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        // A thread of its own, because this may run inside a runtime. The server may be gone.
        let _ = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                if let Ok((client, connection)) = tokio_postgres::connect(&server, NoTls).await {
                    let driving = tokio::spawn(connection);
                    let _ = client.batch_execute(&sql).await;
                    drop(client);
                    let _ = driving.await;
                }
            });
        })
        .join();
    }
}

async fn command(server: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(server, NoTls).await.expect("the server of DATABASE_URL");
    let driving = tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
    drop(client);
    let _ = driving.await;
}

/// The address of the Valkey that all tests share.
///
/// # Panics
/// If there is none.
pub(super) fn shared_valkey() -> String {
    given("VALKEY_URL")
}

/// A port that nobody has, and not of the range that connections get theirs from: who asks for a server that is not running could be given its port, and talk to itself.
///
/// # Panics
/// If there is none.
fn free_port() -> u16 {
    // Its low half is chance.
    let seed = StreamId::generate().as_u128() & u128::from(u64::MAX);
    let mut random = Random::new(u64::try_from(seed).unwrap());
    let ports = std::iter::repeat_with(|| u16::try_from(random.within(20_000..32_000)).unwrap());
    ports.take(1_000).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

/// A Valkey that a test stops, freezes and starts again, on one port. Ended when dropped.
#[derive(Debug)]
pub struct OwnValkey {
    child: Option<Child>,
    port: u16,
    folder: Folder,
}

impl OwnValkey {
    /// Starts one that is empty.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start() -> Self {
        let mut server = Self { child: None, port: free_port(), folder: Folder::new() };
        server.start_again().await;
        server
    }

    /// Keeps what it has, so that it begins with that when it is started again: as a replica that has not heard of what comes now.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn save(&self) {
        assert_eq!(self.ask("SAVE\r\n").await.as_deref(), Some("+OK"));
    }

    /// Begins empty when it is started again.
    pub fn forget(&self) {
        let _ = std::fs::remove_file(self.folder.path().join("dump.rdb"));
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// As `kill -9`.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.unwrap();
        }
    }

    /// Begins with what it saved, or empty, on the same port.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_again(&mut self) {
        let program = std::env::var_os("USAGE_GATE_VALKEY_SERVER").unwrap_or_else(|| {
            let found =
                |name: &&str| std::process::Command::new(name).arg("--version").stdout(Stdio::null()).status().is_ok();
            ["valkey-server", "redis-server"].iter().find(|name| found(name)).unwrap_or(&"valkey-server").into()
        });
        let mut command = Command::new(program);
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"]).arg(self.port.to_string());
        command.arg("--dir").arg(self.folder.path());
        self.child = Some(command.stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap());
        let began = Instant::now();
        while self.ask("PING\r\n").await.as_deref() != Some("+PONG") {
            assert!(began.elapsed() < Duration::from_secs(20), "Valkey does not start");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn ask(&self, line: &str) -> Option<String> {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        stream.write_all(line.as_bytes()).await.ok()?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await.ok()?;
        Some(answer.trim_end().to_owned())
    }
}

/// A PostgreSQL that a test stops and starts again, on one port. Its commits are durable, as in earnest. Ended when dropped.
#[derive(Debug)]
pub struct OwnPostgres {
    child: Option<Child>,
    port: u16,
    folder: Folder,
    bin: PathBuf,
}

impl OwnPostgres {
    /// Makes a cluster and starts it.
    ///
    /// # Panics
    /// If PostgreSQL is not installed, or does not start.
    pub async fn start() -> Self {
        let bin = programs();
        let folder = Folder::new();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        // Readable for the user that PostgreSQL runs as.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        if is_root() {
            let owned = std::process::Command::new("chown").arg("postgres").arg(&data).status().unwrap();
            assert!(owned.success());
        }
        let mut made = as_postgres(bin.join("initdb"));
        made.args([
            "--no-sync",
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--pgdata",
        ]);
        made.arg(data.join("cluster")).current_dir(&data).stdout(Stdio::null());
        assert!(made.status().await.unwrap().success(), "initdb");
        let mut server = Self { child: None, port: free_port(), folder, bin };
        server.start_again().await;
        server
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// As `kill -9` of all its processes.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub async fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let own = child.id().map(children_of).unwrap_or_default();
        // The postmaster first, so that it starts no other. Who it started since the look ends with it.
        child.start_kill().unwrap();
        child.wait().await.unwrap();
        let ids = own.iter().map(u32::to_string);
        // Some have ended already.
        let _ = Command::new("kill").arg("-KILL").args(ids).stderr(Stdio::null()).status().await;
    }

    /// Starts it on what it had committed.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_again(&mut self) {
        let data = self.folder.path().join("data");
        let _ = std::fs::remove_file(data.join("cluster/postmaster.pid"));
        let began = Instant::now();
        loop {
            let mut command = as_postgres(self.bin.join("postgres"));
            command.arg("-D").arg(data.join("cluster")).args(["-p", &self.port.to_string(), "-c"]);
            command.arg(format!("unix_socket_directories={}", data.display()));
            command.args(["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=100", "-c", "track_functions=pl"]);
            let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
            command.current_dir(&data).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
            let mut child = command.spawn().unwrap();
            loop {
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                if let Ok((client, connection)) = tokio_postgres::connect(&self.url(), NoTls).await {
                    drop((client, connection));
                    self.child = Some(child);
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
            // Memory of the one before may not be free yet.
            assert!(began.elapsed() < Duration::from_secs(30), "PostgreSQL does not start");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The processes that one has started and that run still.
fn children_of(parent: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id| {
        // Behind the name, which may hold anything: the state, then the parent.
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)) == Some(&*parent.to_string())
    })
    .collect()
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// PostgreSQL does not run as root.
fn as_postgres(program: PathBuf) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
    command
}

/// Where Debian has them, in the newest version; or wherever `initdb` is found.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok();
    let mut found: Vec<PathBuf> =
        versions.into_iter().flatten().flatten().map(|entry| entry.path().join("bin")).collect();
    found.retain(|bin| bin.join("initdb").exists());
    found.sort();
    found.pop().unwrap_or_else(|| {
        let output = std::process::Command::new("pg_config").arg("--bindir").output();
        let path = output.expect("PostgreSQL is not installed: run tests/install-servers").stdout;
        PathBuf::from(String::from_utf8(path).unwrap().trim())
    })
}
