//! C: who is known, and what changes of it: the feed of the key store is followed, and what is known is kept on disk for a restart while the store is away.
//!
//! What an earlier process knew is taken up only then. If the store is there it is asked, since that costs little and is certain.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::GateCore;
use super::pepper_rule::PepperRule;
use crate::admission::snapshots::{Heard, Snapshots};
use crate::clock::Monotonic;
use crate::rates::RateDrivers;
use crate::store::{Changed, Changes, FeedPosition, KeyStore, StoreError, StoreErrorKind};

/// Between two looks at who is new, and at whether a change is to survive a loss of power.
const TICK: Duration = Duration::from_secs(1);
/// Between two times at which all callers are written, at least, and as a multiple of how long that takes.
const KEEP_EVERY: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
const KEEP_TIMES: u32 = 20;

/// How far the feed is followed.
#[derive(Debug)]
pub(super) struct Following {
    /// None as long as the store was never asked.
    position: Option<FeedPosition>,
    /// When it was last heard of: an instant of this process, and how long before that it was.
    since: Monotonic,
    before_nanos: u64,
    /// Whether what is known came from disk: it is read again with the first answer, whatever the feed says, since the store may be another than that which it came from.
    is_remembered: bool,
}

impl Following {
    fn silence(&self, now: Monotonic) -> u64 {
        now.nanos_since(self.since).saturating_add(self.before_nanos)
    }
}

/// Begins with the store: `folder` is where what is known is to be kept.
pub(super) async fn begin(core: &Arc<GateCore>, folder: Option<PathBuf>, position: FeedPosition) -> Following {
    core.callers.heard.store(true, Ordering::Relaxed);
    let heard = Heard { position, at: core.clock.wall(), nodes: 0 };
    keep_anew(core, folder, heard).await;
    Following { position: Some(position), since: core.clock.monotonic(), before_nanos: 0, is_remembered: false }
}

/// Begins without the store: with what an earlier process knew, if that may be served still.
pub(super) async fn go_on(core: &Arc<GateCore>, folder: Option<PathBuf>) -> Following {
    let (since, now) = (core.clock.monotonic(), core.clock.wall());
    core.callers.away.store(true, Ordering::Relaxed);
    let (pepper, most_stale) = (core.pepper.fingerprint(), Duration::from_nanos(core.max_stale));
    let found = folder.clone().map(|folder| {
        tokio::task::spawn_blocking(move || {
            let known = Snapshots::read(&folder, pepper, now, most_stale)?;
            let disk = Snapshots::go_on(folder, pepper, &known);
            Some((known, disk))
        })
    });
    let found = match found {
        Some(reading) => reading.await.ok().flatten(),
        None => None,
    };
    let Some((known, disk)) = found else {
        keep_anew(core, folder, Heard::default()).await;
        return Following { position: None, since, before_nanos: 0, is_remembered: false };
    };
    match disk {
        Ok(disk) => core.callers.keep_on(disk),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the log of changes cannot be gone on with");
            keep_anew(core, folder, known.heard).await;
        }
    }
    let heard = known.heard;
    tracing::warn!(callers = known.callers.len(), last_heard = %heard.at, "the key store is away: who was known is served, for max_stale at most");
    core.callers.adopt(core, known.callers);
    core.callers.heard.store(true, Ordering::Relaxed);
    core.rates.iter().flat_map(RateDrivers::all).for_each(|driver| driver.remember(heard.nodes));
    let before_nanos = heard.at.micros_until(now).saturating_mul(1_000);
    Following { position: Some(heard.position), since, before_nanos, is_remembered: true }
}

/// Keeps what is known from now on, and nothing of before.
async fn keep_anew(core: &Arc<GateCore>, folder: Option<PathBuf>, heard: Heard) {
    let Some(folder) = folder else { return };
    let pepper = core.pepper.fingerprint();
    match tokio::task::spawn_blocking(move || Snapshots::begin(folder, pepper, heard)).await {
        Ok(Ok(disk)) => core.callers.keep_on(disk),
        Ok(Err(error)) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "known callers cannot be kept on disk: a restart while the key store is away knows nobody"
            );
        }
        // The runtime ends.
        Err(_) => {}
    }
}

/// Applies changes of the key store's feed.
pub(super) async fn follow(core: Weak<GateCore>, mut following: Following) {
    let mut bell = core.upgrade().and_then(|core| core.rates.as_ref()?.fast.rung());
    let mut rung_before = false;
    loop {
        let Some((keys, rule, clock)) =
            core.upgrade().map(|core| (Arc::clone(&core.keys), Arc::clone(&core.pepper_rule), core.clock.clone()))
        else {
            return;
        };
        let (asked, at) = (clock.monotonic(), clock.wall());
        let changes = tokio::select! {
            changes = next(&*keys, &rule, following.position) => changes,
            // The store's own word may be on its way, or lost: it is asked anew, and answers at once if there is something.
            // Only once before it has answered: word that comes faster than answers do must not keep them away.
            () = rung(&mut bell), if !rung_before => {
                rung_before = true;
                continue;
            }
        };
        rung_before = false;
        let Some(core) = core.upgrade() else { return };
        let callers = &core.callers;
        match changes {
            Ok(Changes { mut items, position }) => {
                if following.is_remembered {
                    items.push(Changed::All);
                }
                for changed in &items {
                    callers.apply(changed, core.clock.monotonic());
                }
                following = Following { position: Some(position), since: asked, before_nanos: 0, is_remembered: false };
                callers.away.store(false, Ordering::Relaxed);
                callers.unusable.store(false, Ordering::Relaxed);
                let nodes = core.rates.iter().flat_map(RateDrivers::all).map(|driver| driver.nodes()).max();
                callers.heard_of(Heard { position, at, nodes: nodes.unwrap_or(0) });
            }
            Err(error) => {
                let fatal = error.kind() == StoreErrorKind::Unusable;
                tracing::warn!(error = &error as &dyn std::error::Error, fatal, "the feed of changes did not answer");
                callers.away.store(true, Ordering::Relaxed);
                callers.unusable.store(fatal, Ordering::Relaxed);
                // The position stays, so the next answer has what was missed, and known keys are served meanwhile; but not for ever.
                let now = core.clock.monotonic();
                if following.silence(now) > core.max_stale {
                    callers.expire(now);
                }
                drop(core);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Waits until another node has said that something has changed; for ever where none can.
async fn rung(bell: &mut Option<watch::Receiver<()>>) {
    if let Some(heard) = bell
        && heard.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

async fn next(keys: &dyn KeyStore, rule: &PepperRule, position: Option<FeedPosition>) -> Result<Changes, StoreError> {
    rule.check().await?;
    match position {
        Some(position) => keys.changes(position).await,
        // What was filled before the position is read may have changed before it.
        None => Ok(Changes { items: vec![Changed::All], position: keys.position().await? }),
    }
}

/// Keeps on disk who is known.
pub(super) async fn keep(core: Weak<GateCore>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut due = tokio::time::Instant::now();
    loop {
        tick.tick().await;
        let Some(core) = core.upgrade() else { return };
        let began = tokio::time::Instant::now();
        let whole = began >= due;
        let kept = tokio::task::spawn_blocking(move || core.callers.keep(whole)).await;
        // Who is known first is written at once; those who come later are added to the log, and are among all after a while.
        if matches!(kept, Ok(true)) {
            due = began + KEEP_EVERY.max(began.elapsed() * KEEP_TIMES);
        }
    }
}
