//! Connections: the pool, and what is set on each of them.

use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::{Config, NoTls};

use crate::store::StoreError;

pub(super) const WHAT: &str = "connect to the database";

/// What the server does with a call that its client has given up, and with a transaction whose client is gone: a lock must not outlive either for long.
fn settings(call_timeout: Duration) -> String {
    let millis = call_timeout.as_millis();
    format!(
        "SET statement_timeout = {millis}; SET idle_in_transaction_session_timeout = {millis}; SET lock_timeout = {millis}; \
         SET timezone = 'UTC'; SET client_min_messages = 'warning'"
    )
}

/// Reads an address.
pub(super) fn config(url: &str, call_timeout: Duration) -> Result<Config, StoreError> {
    // The parser's error does not repeat the address, which holds a password.
    let mut config: Config = url.parse().map_err(|error| StoreError::unusable(WHAT, error))?;
    config.application_name("usage-gate");
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(call_timeout);
    }
    config.keepalives_idle(Duration::from_secs(15));
    Ok(config)
}

pub(super) fn pool(url: &str, most: usize, call_timeout: Duration) -> Result<Pool, StoreError> {
    // A connection is looked at, not asked: a question would be a round trip before each call.
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(config(url, call_timeout)?, NoTls, recycling);
    let settings = settings(call_timeout);
    let prepare = Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
        let settings = settings.clone();
        Box::pin(async move { client.batch_execute(&settings).await.map_err(HookError::Backend) })
    });
    Pool::builder(manager)
        .max_size(most)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(call_timeout))
        .create_timeout(Some(call_timeout))
        .recycle_timeout(Some(call_timeout))
        .post_create(prepare)
        .build()
        .map_err(|error| StoreError::unusable(WHAT, error))
}
