//! Where the units that a request holds of a quota are counted, lease by lease.
//!
//! Most requests hold all of them on one lease. One that takes more while it is served may find that its lease has gone back meanwhile, with what it
//! held there counted as used: that stays there, and the next lease counts the difference. Records and seats cite each lease for what it counts and
//! no more, because after a crash both are compared lease by lease.

use std::sync::Arc;

use crate::clock::Monotonic;
use crate::lease::{LeaseEntry, QuotaCounter};

/// Where units of a quota are held.
#[derive(Debug)]
pub(crate) enum Held {
    /// On the lease that they were taken of.
    Lease(Arc<LeaseEntry>),
    /// On several leases.
    Several(Box<Several>),
    /// Without one that had as many: on a lease that is in debt now, or as a debt of which the authority is told.
    Owed(Arc<LeaseEntry>),
    /// Nowhere: there was no room to note them.
    Nowhere,
}

/// Units on leases that have gone back, and the others on one that has not.
#[derive(Debug)]
pub(crate) struct Several {
    last: Arc<LeaseEntry>,
    gone: Vec<(Arc<LeaseEntry>, u64)>,
}

impl Held {
    /// The lease that takes a difference.
    pub(crate) fn entry(&self) -> Option<&Arc<LeaseEntry>> {
        match self {
            Self::Lease(entry) | Self::Owed(entry) => Some(entry),
            Self::Several(several) => Some(&several.last),
            Self::Nowhere => None,
        }
    }

    /// Says of each lease what it counts of `units`, all that are held: how a record cites them.
    pub(crate) fn each(&self, units: u64, mut cite: impl FnMut(u64, i64)) {
        match self {
            Self::Lease(entry) | Self::Owed(entry) => cite(entry.tag(), signed(units)),
            Self::Several(several) => {
                several.gone.iter().for_each(|(entry, gone)| cite(entry.tag(), signed(*gone)));
                cite(several.last.tag(), signed(units.saturating_sub(self.gone())));
            }
            Self::Nowhere => {}
        }
    }

    fn gone(&self) -> u64 {
        if let Self::Several(several) = self { several.gone.iter().map(|(_, gone)| gone).sum() } else { 0 }
    }

    /// Whether it may take more: what is owed already is not held.
    pub(crate) const fn is_leased(&self) -> bool {
        matches!(self, Self::Lease(_) | Self::Several(_))
    }

    /// Holds `total` units instead of `units`: the difference of the same lease, or all that is not on leases that have gone back of another one of the same
    /// period. `note` is told what each lease counts more or less, in an order in which a crash loses none of it.
    pub(crate) fn take_more(
        &mut self,
        quota: &QuotaCounter,
        units: u64,
        total: u64,
        now: Monotonic,
        mut note: impl FnMut(&LeaseEntry, i64),
    ) -> bool {
        let Some(current) = self.entry().filter(|_| self.is_leased()) else { return false };
        let more = total.saturating_sub(units);
        if current.spend(more, now) {
            note(current, signed(more));
            return true;
        }
        let here = units.saturating_sub(self.gone());
        let whole = here.saturating_add(more);
        let Some(other) = quota.take(whole, now) else { return false };
        // A4: units of another period do not pay for this one.
        if other.period != current.period {
            other.adjust(signed(whole));
            return false;
        }
        let credited = current.credit(signed(here));
        let stays = here.saturating_sub(credited.unsigned_abs());
        if stays > 0 {
            // That lease has gone back, or has given these to others: it counts them as spent, and the other one takes the difference only (A2).
            other.adjust(signed(stays));
        }
        note(&other, signed(whole.saturating_sub(stays)));
        note(current, credited.saturating_neg());
        let gone = (stays > 0).then(|| (Arc::clone(current), stays));
        match (&mut *self, gone) {
            (Self::Several(several), gone) => {
                several.last = other;
                several.gone.extend(gone);
            }
            (_, Some(gone)) => *self = Self::Several(Box::new(Several { last: other, gone: vec![gone] })),
            (_, None) => *self = Self::Lease(other),
        }
        true
    }
}

fn signed(units: u64) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX)
}
