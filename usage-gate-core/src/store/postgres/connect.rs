//! Connections: where to, the pool, and what is set on each of them.

use std::error::Error;
use std::time::Duration;

use deadpool_postgres::{Client, Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::{Config, NoTls};

use super::feed::{Bells, listen_on};
use super::tls::{self, Tls};
use crate::store::StoreError;

pub(super) const WHAT: &str = "connect to the database";

/// Where the database is, and how to speak to it.
#[derive(Clone)]
pub(super) struct Address {
    config: Config,
    tls: Tls,
    call_timeout: Duration,
}

impl Address {
    /// Reads an address.
    pub(super) fn read(url: &str, call_timeout: Duration) -> Result<Self, StoreError> {
        let (url, asked) = tls::read(url)?;
        // The parser's error does not repeat the address, which holds a password.
        let mut config: Config = url.parse().map_err(|error| StoreError::unusable(WHAT, error))?;
        let tls = tls::connector(&mut config, asked)?;
        config.application_name("usage-gate");
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(call_timeout);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(call_timeout);
        }
        // A server that is gone without a word is found out within half a minute, also by who only listens.
        config.keepalives_idle(Duration::from_secs(15));
        if config.get_keepalives_interval().is_none() {
            config.keepalives_interval(Duration::from_secs(5));
        }
        if config.get_keepalives_retries().is_none() {
            config.keepalives_retries(3);
        }
        Ok(Self { config, tls, call_timeout })
    }

    pub(super) fn pool(&self, most: usize) -> Result<Pool, StoreError> {
        // A connection is looked at, not asked: a question would be a round trip before each call.
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let config = self.config.clone();
        let manager = match &self.tls {
            Tls::Plain => Manager::from_config(config, NoTls, recycling),
            #[cfg(feature = "postgres-tls")]
            Tls::Rustls(tls) => Manager::from_config(config, tls.clone(), recycling),
        };
        let settings = settings(self.call_timeout);
        let prepare = Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
            let settings = settings.clone();
            Box::pin(async move { client.batch_execute(&settings).await.map_err(HookError::Backend) })
        });
        Pool::builder(manager)
            .max_size(most)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(self.call_timeout))
            .create_timeout(Some(self.call_timeout))
            .recycle_timeout(Some(self.call_timeout))
            .post_create(prepare)
            .build()
            .map_err(|error| StoreError::unusable(WHAT, error))
    }

    /// Rings for every change until the connection on which it listens is lost; `heard` says whether it came to listening.
    pub(super) async fn listen(&self, bells: &Bells, heard: &mut bool) -> Result<(), Box<dyn Error + Send + Sync>> {
        match &self.tls {
            Tls::Plain => listen_on(&self.config, NoTls, self.call_timeout, bells, heard).await,
            #[cfg(feature = "postgres-tls")]
            Tls::Rustls(tls) => listen_on(&self.config, tls.clone(), self.call_timeout, bells, heard).await,
        }
    }
}

/// What the server does with a call that its client has given up, and with a transaction whose client is gone: a lock must not outlive either for long.
fn settings(call_timeout: Duration) -> String {
    let millis = call_timeout.as_millis();
    format!(
        "SET statement_timeout = {millis}; SET idle_in_transaction_session_timeout = {millis}; SET lock_timeout = {millis}; \
         SET timezone = 'UTC'; SET client_min_messages = 'warning'"
    )
}

/// A connection under way. One whose call did not come to its end, because the caller went away or the time was over, is closed and serves no other: what it was
/// asked may still be running on it.
#[derive(Default)]
pub(super) struct Lent(Option<Client>);

impl Lent {
    /// Holds a connection.
    pub(super) fn hold(&mut self, client: Client) -> &mut Client {
        self.0.insert(client)
    }

    /// Closes the connection, and leaves its place in the pool to another.
    pub(super) fn close(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Client::take(client));
        }
    }

    /// The call has come to its end: the connection goes back to the pool.
    pub(super) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.close();
    }
}
