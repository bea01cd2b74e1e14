//! The bell: word to all nodes that something has changed, so that they look at once and not with their next poll. What is lost here is found by that.

use std::pin::pin;
use std::sync::Weak;
use std::time::Duration;

use futures_core::Stream;
use redis::{Client, Msg, RedisError};
use tokio::sync::watch;

use super::{Inner, ValkeyStore};
use crate::store::StoreError;

/// Between two tries to listen; doubled each time, up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Without a word for so long, the connection is asked whether it lives; without an answer for so long it is dead.
const SILENCE: Duration = Duration::from_secs(5);

/// How often it rang for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rung {
    /// Keys, tenants or plans have changed: read the feed. Counted too when the connection was made anew, because word may have been lost meanwhile.
    pub changes: u64,
    /// Somebody needs units that others hold: ask which leases are recalled.
    pub recalls: u64,
}

/// What to ring for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    /// Keys, tenants or plans have changed.
    Change,
    /// Units are recalled.
    Recall,
}

impl Ring {
    const fn word(self) -> &'static str {
        match self {
            Self::Change => "change",
            Self::Recall => "recall",
        }
    }
}

impl ValkeyStore {
    /// Rings for all nodes, this one included.
    ///
    /// # Errors
    /// [`Unavailable`](crate::store::StoreErrorKind::Unavailable): nobody may have heard it.
    pub async fn ring(&self, what: Ring) -> Result<(), StoreError> {
        let mut command = redis::pipe();
        command.cmd("PUBLISH").arg(self.inner.channel()).arg(what.word());
        self.inner.connection.run("ring for the other nodes", &command).await.map(|_| ())
    }

    /// What was rung, and will be. A connection of its own is made for this, and made anew when it breaks, as long as this store or a clone of it is there.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    #[must_use]
    pub fn listen(&self) -> watch::Receiver<Rung> {
        let rung = self.inner.rung.subscribe();
        let inner = std::sync::Arc::downgrade(&self.inner);
        self.inner.listening.call_once(|| drop(tokio::spawn(keep_listening(inner))));
        rung
    }
}

impl Inner {
    fn channel(&self) -> String {
        format!("{}:bell", self.namespace)
    }
}

async fn keep_listening(inner: Weak<Inner>) {
    let mut pause = SHORTEST_PAUSE;
    loop {
        let Some(now) = inner.upgrade() else { return };
        let (client, channel) = (now.client.clone(), now.channel());
        drop(now);
        match listen(&client, &channel, &inner).await {
            Ok(()) => pause = SHORTEST_PAUSE,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "Valkey's bell cannot be heard");
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Listens until the connection breaks, or nobody has the store any more.
async fn listen(client: &Client, channel: &str, inner: &Weak<Inner>) -> Result<(), RedisError> {
    let timed_out = || RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    let begin = async {
        let (mut sink, stream) = client.get_async_pubsub().await?.split();
        sink.subscribe(channel).await?;
        Ok::<_, RedisError>((sink, stream))
    };
    let (mut sink, stream) = tokio::time::timeout(SILENCE, begin).await.map_err(|_| timed_out())??;
    let mut stream = pin!(stream);
    // What was said while nobody listened is not said again.
    if !tell(inner, |rung| (rung.changes, rung.recalls) = (rung.changes + 1, rung.recalls + 1)) {
        return Ok(());
    }
    loop {
        let message = std::future::poll_fn(|context| stream.as_mut().poll_next(context));
        match tokio::time::timeout(SILENCE, message).await {
            Ok(Some(message)) => {
                if !hear(inner, &message) {
                    return Ok(());
                }
            }
            Ok(None) => return Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset))),
            // Nobody rang for long: is anybody there?
            Err(_) => {
                if inner.strong_count() == 0 {
                    return Ok(());
                }
                let alive: Result<(), RedisError> =
                    tokio::time::timeout(SILENCE, sink.ping()).await.unwrap_or_else(|_| Err(timed_out()));
                alive?;
            }
        }
    }
}

fn hear(inner: &Weak<Inner>, message: &Msg) -> bool {
    let word = message.get_payload_bytes();
    tell(inner, |rung| {
        if word == Ring::Change.word().as_bytes() {
            rung.changes += 1;
        } else if word == Ring::Recall.word().as_bytes() {
            rung.recalls += 1;
        }
    })
}

/// Whether anybody has the store still.
fn tell(inner: &Weak<Inner>, change: impl FnOnce(&mut Rung)) -> bool {
    inner.upgrade().map(|inner| inner.rung.send_modify(change)).is_some()
}
