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

/// Units on leases that take no difference any more, and the others on one that does.
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

    /// The lease of this tag, if it is one of them.
    pub(crate) fn lease(&self, tag: u64) -> Option<&Arc<LeaseEntry>> {
        let gone = if let Self::Several(several) = self { &several.gone[..] } else { &[] };
        self.entry().into_iter().chain(gone.iter().map(|(entry, _)| entry)).find(|entry| entry.tag() == tag)
    }

    fn gone(&self) -> u64 {
        if let Self::Several(several) = self { several.gone.iter().map(|(_, gone)| gone).sum() } else { 0 }
    }

    /// Whether it may take more: what is owed already is not held.
    pub(crate) const fn is_leased(&self) -> bool {
        matches!(self, Self::Lease(_) | Self::Several(_))
    }

    /// Holds `total` units instead of `units`, or a few more, and gives how many; `None` if there are not as many, and then nothing has changed.
    ///
    /// The difference comes of the same lease; or all that is not on leases that have gone back, of another one of the same period (A4); or, where none has
    /// that in one piece, the difference only. `note` is told what each lease counts more or less, in an order in which a crash loses none of it.
    pub(crate) fn take_more(
        &mut self,
        quota: &QuotaCounter,
        units: u64,
        total: u64,
        now: Monotonic,
        mut note: impl FnMut(&LeaseEntry, i64),
    ) -> Option<u64> {
        let current = self.entry().filter(|_| self.is_leased())?;
        let more = total.saturating_sub(units);
        if current.spend(more, now) {
            note(current, signed(more));
            return Some(total);
        }
        let here = units.saturating_sub(self.gone());
        let whole = here.saturating_add(more);
        let (other, taken) = match quota.take_in(current.period, whole, now) {
            Some(other) => (other, whole),
            None => (quota.take_in(current.period, more, now)?, more),
        };
        let (mut there, mut stays) = (taken, here);
        if taken == whole {
            let credited = current.credit(signed(here));
            stays = here.saturating_sub(credited.unsigned_abs());
            // What that lease does not take back it counts as spent, since it has gone back or gave it to others: the other one takes the difference
            // only (A2), unless it is going back itself by now. Then more is held than was asked for, and the end of the request returns it.
            if stays > 0 && other.adjust(signed(stays)) {
                there = there.saturating_sub(stays);
            }
            note(&other, signed(there));
            if credited > 0 {
                note(current, credited.saturating_neg());
            }
        } else {
            note(&other, signed(there));
        }
        let gone = (stays > 0).then(|| (Arc::clone(current), stays));
        let held = self.gone().saturating_add(stays).saturating_add(there);
        match (&mut *self, gone) {
            (Self::Several(several), gone) => {
                several.last = other;
                several.gone.extend(gone);
            }
            (_, Some(gone)) => *self = Self::Several(Box::new(Several { last: other, gone: vec![gone] })),
            (_, None) => *self = Self::Lease(other),
        }
        Some(held)
    }
}

fn signed(units: u64) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX)
}
