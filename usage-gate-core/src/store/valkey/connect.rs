//! The connection: one, shared by all calls, which go out as they come. Made anew when it is found broken.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, Pipeline, RedisError, Value};
use tokio::sync::Mutex;

use crate::store::StoreError;

pub(super) const WHAT: &str = "connect to Valkey";

/// Calls of this many counters fit into one write.
const PIPELINE: usize = 1_024;

pub(super) fn client(url: &str) -> Result<Client, StoreError> {
    let info = url.into_connection_info().map_err(|error| StoreError::unusable(WHAT, error))?;
    // Nagle's algorithm would hold each call back until the last was acknowledged.
    let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
    Client::open(info).map_err(|error| StoreError::unusable(WHAT, error))
}

/// The one connection.
pub(super) struct Connection {
    client: Client,
    call_timeout: Duration,
    current: Mutex<Current>,
}

/// The connection that is in use, and how many there were: who finds one broken must not close its successor.
#[derive(Default)]
struct Current {
    number: u64,
    connection: Option<MultiplexedConnection>,
}

impl Connection {
    pub(super) fn new(client: Client, call_timeout: Duration) -> Self {
        Self { client, call_timeout, current: Mutex::default() }
    }

    /// Runs commands in one round trip, and gives what came back of each, errors among them.
    pub(super) async fn run(&self, what: &'static str, commands: &Pipeline) -> Result<Vec<Value>, StoreError> {
        let used = AtomicU64::new(0);
        let call = async {
            let mut retried = false;
            loop {
                let (number, mut connection) = self.connection().await?;
                used.store(number, Ordering::Relaxed);
                let answer: Result<Vec<Value>, RedisError> = commands.query_async(&mut connection).await;
                // One that broke while nobody used it is found only now. Every call may be repeated.
                if retried || !answer.as_ref().is_err_and(broken) {
                    return answer;
                }
                self.forget(number).await;
                retried = true;
            }
        };
        match tokio::time::timeout(self.call_timeout, call).await {
            Ok(Ok(answers)) => Ok(answers),
            Ok(Err(error)) => {
                if broken(&error) {
                    self.forget(used.into_inner()).await;
                }
                Err(fault(what, error))
            }
            Err(elapsed) => {
                // What does not answer is not asked again: the connection may be half-open.
                self.forget(used.into_inner()).await;
                Err(StoreError::unavailable(what, elapsed))
            }
        }
    }

    /// The connection and its number, made if there is none. Who comes meanwhile waits for the same one.
    async fn connection(&self) -> Result<(u64, MultiplexedConnection), RedisError> {
        let mut current = self.current.lock().await;
        if let Some(connection) = &current.connection {
            return Ok((current.number, connection.clone()));
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.call_timeout))
            .set_response_timeout(Some(self.call_timeout))
            .set_pipeline_buffer_size(PIPELINE);
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        current.number += 1;
        current.connection = Some(connection.clone());
        Ok((current.number, connection))
    }

    async fn forget(&self, number: u64) {
        let mut current = self.current.lock().await;
        if current.number == number {
            current.connection = None;
        }
    }
}

fn broken(error: &RedisError) -> bool {
    error.is_unrecoverable_error() || error.is_io_error() || error.is_timeout()
}

/// What a failure means for the caller of `what`.
pub(super) fn fault(what: &'static str, error: RedisError) -> StoreError {
    let login = matches!(error.kind(), ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig);
    if login || error.code() == Some("NOPERM") {
        StoreError::unusable(what, error)
    } else {
        StoreError::unavailable(what, error)
    }
}
