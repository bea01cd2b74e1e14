//! A Valkey of one test, that it may stop, freeze and start again.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server on loopback that keeps nothing on disk. Ended when dropped.
pub(super) struct Server {
    child: Option<Child>,
    port: u16,
    options: Vec<String>,
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::start_with(Vec::new()).await
    }

    /// With options of the command line.
    pub(super) async fn start_with(options: Vec<String>) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let mut server = Self { child: None, port, options };
        server.start_again().await;
        server
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// As `kill -9`.
    pub(super) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Begins empty, on the same port; answers when the server does.
    pub(super) async fn start_again(&mut self) {
        let port = self.port.to_string();
        let child = Command::new(program())
            .args([
                "--bind",
                "127.0.0.1",
                "--port",
                &port,
                "--save",
                "",
                "--appendonly",
                "no",
                "--enable-debug-command",
                "local",
            ])
            .args(&self.options)
            .stdout(Stdio::null())
            .spawn()
            .expect("valkey-server or redis-server: run tests/install-servers");
        self.child = Some(child);
        let mut patience = 0;
        while self.ask(&["PING"]).await.is_err() {
            patience += 1;
            assert!(patience < 500, "the server does not answer");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) async fn restart(&mut self) {
        self.stop();
        self.start_again().await;
    }

    /// It keeps its connections and answers none.
    pub(super) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(super) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        let id = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().expect("kill").success());
    }

    pub(super) async fn command(&self, words: &[&str]) {
        self.ask(words).await.expect("the command");
    }

    async fn ask(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Valkey, or Redis where there is none.
fn program() -> String {
    #[expect(clippy::disallowed_methods, reason = "who runs the tests says which server")]
    if let Ok(named) = std::env::var("USAGE_GATE_VALKEY_SERVER") {
        return named;
    }
    let found = |name: &&str| Command::new(name).arg("--version").stdout(Stdio::null()).status().is_ok();
    ["valkey-server", "redis-server"].iter().find(|name| found(name)).unwrap_or(&"valkey-server").to_string()
}
