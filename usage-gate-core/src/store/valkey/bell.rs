//! The bell: word to all nodes that keys, tenants or plans have changed, so that they look at once and not with their next poll. What is lost here is found by that.

use std::pin::pin;
use std::sync::Weak;
use std::time::Duration;

use futures_core::Stream;
use redis::{Client, RedisError};
use tokio::sync::watch;

use super::{Inner, ValkeyStore};
use crate::store::StoreError;

/// What is said. Who hears it looks for what has changed.
const WORD: &str = "change";

/// Between two tries to listen; doubled each time, up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Without a word for so long, the connection is asked whether it lives; without an answer for so long it is dead.
const SILENCE: Duration = Duration::from_secs(5);

impl ValkeyStore {
    /// Rings for all nodes, this one included.
    pub(super) async fn ring_for_all(&self) -> Result<(), StoreError> {
        let mut command = redis::pipe();
        command.cmd("PUBLISH").arg(self.inner.channel()).arg(WORD);
        self.inner.connection.run("ring for the other nodes", &command).await.map(|_| ())
    }

    /// What is marked as changed when it rings. A connection of its own is made for this, and made anew when it breaks, as long as this store or a clone of it is there.
    pub(super) fn listen(&self) -> watch::Receiver<()> {
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
        let mut heard = false;
        let Err(error) = listen(&client, &channel, &inner, &mut heard).await else { return };
        tracing::debug!(error = &error as &dyn std::error::Error, "Valkey's bell cannot be heard");
        pause = if heard { SHORTEST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        tokio::time::sleep(pause).await;
    }
}

/// Listens until the connection breaks, or nobody has the store any more; `heard` says whether it came to listening.
async fn listen(client: &Client, channel: &str, inner: &Weak<Inner>, heard: &mut bool) -> Result<(), RedisError> {
    let timed_out = || RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    let begin = async {
        let (mut sink, stream) = client.get_async_pubsub().await?.split();
        sink.subscribe(channel).await?;
        Ok::<_, RedisError>((sink, stream))
    };
    let (mut sink, stream) = tokio::time::timeout(SILENCE, begin).await.map_err(|_| timed_out())??;
    let mut stream = pin!(stream);
    *heard = true;
    // What was said while nobody listened is not said again.
    if !tell(inner) {
        return Ok(());
    }
    loop {
        let message = std::future::poll_fn(|context| stream.as_mut().poll_next(context));
        match tokio::time::timeout(SILENCE, message).await {
            Ok(Some(_)) => {
                if !tell(inner) {
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

/// Whether anybody has the store still.
fn tell(inner: &Weak<Inner>) -> bool {
    inner.upgrade().map(|inner| inner.rung.send_replace(())).is_some()
}
