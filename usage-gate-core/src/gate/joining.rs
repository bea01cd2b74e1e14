//! Steps 4 to 6 of the start: the stores hear of this life. Pepper and feed, then the ledger, then what earlier lives recorded; only then units are asked for.
//!
//! Stores may be away. Then the gate serves what it knows (callers that are kept on disk, leases in the table), and this goes on beside requests until it is done. Each step can be
//! repeated: after an answer that was lost, and by the next life after a kill.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::pepper_rule::PepperRule;
use super::{BuildError, GateCore};
use crate::flush::Shipper;
use crate::lease::{Found, FoundLeases, LeaseDriver};
use crate::model::StreamId;
use crate::store::{FeedPosition, KeyStore, StoreError, StoreErrorKind};

/// For what an earlier process recorded and did not ship: ledgers are set right by it before units are asked for. What takes longer is shipped
/// while requests are served.
const SHIP_FIRST: Duration = Duration::from_secs(1);
/// For stores to answer at the start; those that do not are away.
const ANSWER_FIRST: Duration = Duration::from_secs(2);
/// Between two tries while they are away.
const PAUSE: Duration = Duration::from_millis(500);
/// The same where an operator must act.
const LONG_PAUSE: Duration = Duration::from_secs(5);

/// What is left to do.
#[derive(Debug)]
pub(super) struct Joining {
    keys: Arc<dyn KeyStore>,
    pepper_rule: Arc<PepperRule>,
    leases: Arc<LeaseDriver>,
    shipper: Arc<Shipper>,
    found: FoundLeases,
    /// Streams of earlier lives, and up to where the sink has said to have each.
    earlier: Vec<(StreamId, u64)>,
    registered: bool,
}

impl Joining {
    pub(super) fn new(core: &GateCore, found: Vec<Found>, earlier: Vec<(StreamId, u64)>) -> Self {
        Self {
            keys: Arc::clone(&core.keys),
            pepper_rule: Arc::clone(&core.pepper_rule),
            leases: Arc::clone(&core.leases),
            shipper: Arc::clone(&core.shipper),
            found: FoundLeases::new(found),
            earlier,
            registered: false,
        }
    }

    /// Does all of it before anything is served, and gives the position of the feed; `None` if a store is away, and the rest is for [`start`].
    pub(super) async fn at_the_start(&mut self) -> Result<Option<FeedPosition>, BuildError> {
        // What lies on this machine is there or broken.
        let local = self.keys.is_local();
        let first = async {
            self.pepper_rule.check().await?;
            let position = self.keys.position().await?;
            self.register().await?;
            Ok::<_, StoreError>(position)
        };
        let first = match local {
            true => first.await,
            false => tokio::time::timeout(ANSWER_FIRST, first)
                .await
                .unwrap_or_else(|elapsed| Err(StoreError::unavailable("hear of this process", elapsed))),
        };
        let joined = match first {
            Ok(position) => self.ship_first().await.map(|()| position),
            Err(error) => Err(error),
        };
        match joined {
            Ok(position) => {
                self.leases.queue.open();
                Ok(Some(position))
            }
            Err(_) if self.pepper_rule.is_broken() => Err(BuildError::OtherPepper),
            Err(error) if error.kind() == StoreErrorKind::Unavailable && !local => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a store is away: known keys are served from what was leased, until it is back"
                );
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Until the ledger has heard of this life, leases are spent on that were surely granted.
    pub(super) fn spend_on(&mut self) {
        if !self.registered {
            self.leases.spend_on(&mut self.found);
        }
    }

    /// Does what is left.
    async fn join(&mut self) -> Result<(), StoreError> {
        self.pepper_rule.check().await?;
        self.register().await?;
        self.ship_first().await?;
        self.leases.queue.open();
        Ok(())
    }

    /// Step 4 and 5: a late grant to a former life fails from here on, and its leases are taken over.
    async fn register(&mut self) -> Result<(), StoreError> {
        if !self.registered {
            let open = self.leases.store.register(&self.leases.node).await?;
            self.leases.take_over(&open, &mut self.found).await?;
            self.registered = true;
        }
        Ok(())
    }

    /// Step 6.
    async fn ship_first(&self) -> Result<(), StoreError> {
        if self.was_restored().await? {
            tracing::warn!(
                "the database is older than what it was given: earlier usage is shipped again before units are asked for"
            );
            self.shipper.flush().await?;
        } else if let Ok(Err(error)) = tokio::time::timeout(SHIP_FIRST, self.shipper.flush()).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "earlier usage is shipped later");
        }
        Ok(())
    }

    /// Whether the sink has less of a stream than it once said: it was restored from a backup.
    async fn was_restored(&self) -> Result<bool, StoreError> {
        for (stream, acked) in &self.earlier {
            if self.shipper.sink.watermark(*stream).await? < *acked {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Goes on with what stores that were away have left of the start.
async fn go_on(mut joining: Joining) {
    loop {
        let pause = match joining.join().await {
            Ok(()) => {
                tracing::info!("the stores have heard of this process: units are leased again");
                return;
            }
            Err(error) if error.kind() == StoreErrorKind::Superseded => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "another process has this node's name: stop one of them"
                );
                return;
            }
            Err(error) if error.kind() == StoreErrorKind::Unavailable => PAUSE,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a store that was away cannot be used");
                LONG_PAUSE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Has it done beside requests, until the gate ends.
pub(super) fn start(core: &GateCore, joining: Joining) {
    let task = tokio::spawn(go_on(joining));
    core.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task.abort_handle());
}
