//! Recent changes to who calls, remembered longer than a fill of the cache can take.
//!
//! A fill that read the store before a change and arrives after it would revive what was revoked. Therefore a change is noted here
//! first, then removes what is cached; and a fill, after it has put its entry, looks here for changes since it began to read. Whichever
//! comes second sees the other.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::clock::Monotonic;
use crate::model::{KeyId, TenantId};
use crate::store::Changed;

/// Longer than any fill may take (its time-out is shorter).
const KEPT_NANOS: u64 = 30_000_000_000;

#[derive(Debug, Default)]
pub(crate) struct RecentChanges {
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    /// Counts every change ever noted: an order that no clock can blur.
    count: u64,
    recent: VecDeque<(u64, Monotonic, Changed)>,
}

impl RecentChanges {
    pub(crate) fn note(&self, changed: &Changed, now: Monotonic) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        while noted.recent.front().is_some_and(|(_, at, _)| now.nanos_since(*at) > KEPT_NANOS) {
            noted.recent.pop_front();
        }
        noted.count += 1;
        let number = noted.count;
        noted.recent.push_back((number, now, changed.clone()));
    }

    /// How many were noted; to be read before a fill reads the store.
    pub(crate) fn count(&self) -> u64 {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    /// The last change of each key and tenant, to judge many callers at one moment.
    pub(crate) fn latest(&self) -> LatestChanges {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut latest = LatestChanges::default();
        for (number, _, changed) in &noted.recent {
            match changed {
                Changed::Key(key) => drop(latest.keys.insert(*key, *number)),
                Changed::Tenant(tenant) => drop(latest.tenants.insert(*tenant, *number)),
                Changed::All => latest.all = *number,
            }
        }
        latest
    }

    /// Whether anything that `touches` was noted after so many.
    pub(crate) fn any_after(&self, count: u64, touches: impl Fn(&Changed) -> bool) -> bool {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.recent.iter().rev().take_while(|(number, ..)| *number > count).any(|(.., changed)| touches(changed))
    }
}

/// The numbers of the last changes.
#[derive(Debug, Default)]
pub(crate) struct LatestChanges {
    keys: HashMap<KeyId, u64>,
    tenants: HashMap<TenantId, u64>,
    all: u64,
}

impl LatestChanges {
    /// Whether a caller was touched after so many were noted.
    pub(crate) fn any_after(&self, count: u64, key: KeyId, tenant: TenantId) -> bool {
        let last = |number: Option<&u64>| number.is_some_and(|number| *number > count);
        self.all > count || last(self.keys.get(&key)) || last(self.tenants.get(&tenant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_by_fills_that_began_before_it_only() {
        let (recent, key) = (RecentChanges::default(), KeyId::generate());
        let before = recent.count();
        recent.note(&Changed::Key(key), Monotonic(1));
        let touches = |changed: &Changed| *changed == Changed::Key(key);
        assert!(recent.any_after(before, touches));
        assert!(!recent.any_after(recent.count(), touches), "in the same instant, but after it");
        let (latest, tenant) = (recent.latest(), TenantId::generate());
        assert!(latest.any_after(before, key, tenant) && !latest.any_after(recent.count(), key, tenant));
        assert!(!latest.any_after(before, KeyId::generate(), tenant));
    }
}
