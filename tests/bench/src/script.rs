//! The usual way to share limits: a script in Valkey for every request.

use std::error::Error;
use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{Client, IntoConnectionInfo, RedisResult, Script};

/// A rate and a quota by key, which never refuse. Clones share the connection.
#[derive(Clone)]
pub struct ScriptARequest {
    connection: MultiplexedConnection,
    script: Arc<Script>,
}

impl std::fmt::Debug for ScriptARequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScriptARequest").finish_non_exhaustive()
    }
}

impl ScriptARequest {
    /// Connects.
    ///
    /// # Errors
    /// If that is not possible.
    pub async fn on(valkey: &str) -> Result<Self, Box<dyn Error>> {
        let info = valkey.into_connection_info()?.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let connection = Client::open(info)?.get_multiplexed_async_connection().await?;
        Ok(Self { connection, script: Arc::new(Script::new(include_str!("limit.lua"))) })
    }

    /// Whether a request with this key may pass.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn allows(&mut self, key: &str) -> RedisResult<bool> {
        let mut call = self.script.key(format!("{{{key}}}:rate"));
        // A million a second; a month.
        let call = call.key(format!("{{{key}}}:quota")).arg(1).arg(1_000_000).arg(1_000_000_000_000_u64).arg(2_592_000);
        let (allowed, _wait, _used): (bool, i64, u64) = call.invoke_async(&mut self.connection).await?;
        Ok(allowed)
    }
}
