//! Recent changes to who calls, remembered longer than a fill of the cache can take.
//!
//! A fill that read the store before a change and arrives after it would revive what was revoked. Therefore a change is noted here
//! first, then removes what is cached; and a fill, after it has put its entry, looks here for changes after the position it read at.
//! Whichever comes second sees the other.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::clock::Monotonic;
use crate::store::Changed;

/// Longer than any fill may take (its time-out is shorter).
const KEPT_NANOS: u64 = 30_000_000_000;

#[derive(Debug, Default)]
pub(crate) struct RecentChanges {
    changes: Mutex<VecDeque<(Monotonic, Changed)>>,
}

impl RecentChanges {
    pub(crate) fn note(&self, changed: &Changed, now: Monotonic) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        while changes.front().is_some_and(|(at, _)| now.nanos_since(*at) > KEPT_NANOS) {
            changes.pop_front();
        }
        changes.push_back((now, changed.clone()));
    }

    /// Whether anything that `touches` was noted at or after `since`: an instant before the fill began to read.
    pub(crate) fn any_since(&self, since: Monotonic, touches: impl Fn(&Changed) -> bool) -> bool {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.iter().rev().take_while(|(at, _)| *at >= since).any(|(_, changed)| touches(changed))
    }
}
