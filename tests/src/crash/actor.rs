//! Processes that the test starts and nobody kills.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::traffic::Orders;
use crate::gateway::beside;

/// A running actor. Dropped, its standard input ends, and with that it does.
#[derive(Debug)]
pub struct Actor(Child);

impl Actor {
    /// Starts the counting upstream: the actor, and `http://address` of it.
    ///
    /// # Panics
    /// If it does not come up.
    pub async fn upstream(events: &Path) -> (Self, String) {
        let mut child = spawn("upstream", events.to_str().unwrap());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(Duration::from_secs(20), lines.next_line()).await.unwrap().unwrap();
        (Self(child), format!("http://{}", line.unwrap()))
    }

    /// Starts a recording client.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn client(orders: &Orders) -> Self {
        Self(spawn("client", &serde_json::to_string(orders).unwrap()))
    }

    /// Tells it to end with what it has begun.
    pub fn close(&mut self) {
        drop(self.0.stdin.take());
    }

    /// Waits until it has done all it was told to.
    ///
    /// # Panics
    /// If it does not end well in time.
    pub async fn ended(&mut self, time: Duration) {
        // Left in place, tokio's wait would close standard input first, which tells the actor to stop.
        let stdin = self.0.stdin.take();
        let status = tokio::time::timeout(time, self.0.wait()).await.unwrap().unwrap();
        drop(stdin);
        assert!(status.success(), "an actor ended with {status}");
    }
}

fn spawn(role: &str, argument: &str) -> Child {
    let mut command = Command::new(beside("usage-gate-crash-actor"));
    command.args([role, argument]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    command.spawn().unwrap()
}
