//! What runs beside requests: leases, shipping, the journal's room, changes, and the small things of every second.

use std::sync::Arc;
use std::time::Duration;

use super::GateCore;
use super::following::{self, Following};
use crate::journal::{JournalDurability, JournalState};

/// Starts what runs beside requests. Tasks hold the gate weakly where they can live longer than it, and end with it.
pub(super) fn start(core: &Arc<GateCore>, following: Following) {
    let leases = Arc::clone(&core.leases);
    let shipper = Arc::clone(&core.shipper);
    let rates = core.rates.iter().flat_map(crate::rates::RateDrivers::all).map(Arc::clone);
    let rates = rates.map(|driver| tokio::spawn(async move { driver.run().await })).collect::<Vec<_>>();
    let tasks = [
        tokio::spawn(async move { leases.run().await }),
        tokio::spawn(async move { shipper.run().await }),
        tokio::spawn(keep_journal(Arc::downgrade(core))),
        tokio::spawn(following::follow(Arc::downgrade(core), following)),
        tokio::spawn(following::keep(Arc::downgrade(core))),
        tokio::spawn(keep_house(Arc::downgrade(core))),
    ];
    if core.recorder.journal.durability() == JournalDurability::Disk {
        let journal = Arc::clone(&core.recorder.journal);
        // It waits on the disk all the time, and ends with the journal or the gate.
        std::thread::spawn(move || journal.run_syncs());
    }
    let mut handles = core.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    handles.extend(tasks.iter().chain(&rates).map(tokio::task::JoinHandle::abort_handle));
}

/// Once a second: the wall clock's offset, last uses, gauges.
async fn keep_house(core: std::sync::Weak<GateCore>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        let Some(core) = core.upgrade() else { return };
        core.refresh_wall_offset();
        core.metrics.gauges(core.recorder.seats.taken(), core.recorder.unshipped(), core.recorder.journal.size().0);
        let uses = core.callers.take_uses();
        if !uses.is_empty()
            && let Err(error) = core.keys.mark_used(&uses).await
        {
            // Only a hint for people: the next use is noted again.
            tracing::warn!(error = &error as &dyn std::error::Error, "last uses were not written");
        }
    }
}

/// Keeps room in the journal: when it runs low, and every second besides.
async fn keep_journal(core: std::sync::Weak<GateCore>) {
    let mut before = JournalState::Ok;
    loop {
        let Some(journal) = core.upgrade().map(|core| Arc::clone(&core.recorder.journal)) else { return };
        let _ = tokio::time::timeout(Duration::from_secs(1), journal.low()).await;
        let Some(now) = core.upgrade().map(|core| core.clock.wall()) else { return };
        // A thread that may block: a file is made, or one is removed.
        let state = match tokio::task::spawn_blocking(move || journal.maintain(now)).await {
            Ok(state) => state,
            Err(error) if error.is_panic() => JournalState::Failed("a fault in this program: see its log".to_owned()),
            // The runtime ends.
            Err(_) => return,
        };
        if state != before {
            match &state {
                JournalState::Ok => tracing::info!("the journal has room again"),
                JournalState::Full { .. } => {
                    tracing::error!("the journal is full: make space on its disk, or raise journal.retention_bytes")
                }
                JournalState::Failed(reason) => tracing::error!(reason, "the journal cannot be extended"),
            }
            before = state.clone();
        }
        if state != JournalState::Ok {
            // Room comes from outside: looked for in a while, however often it is asked for.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
