//! What the runs have come across: a simulation that never meets a situation says nothing about it.

use std::sync::atomic::{AtomicU64, Ordering};

/// A situation that must come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Mark {
    KilledInLife,
    KilledInRecovery,
    PowerLost,
    PowerLostInRecovery,
    AnswerLost,
    LateCommit,
    Superseded,
    /// Without the database.
    StartedAlone,
    JoinedLate,
    Forfeited,
    RecordOfASeat,
    Hole,
    SecondSegment,
    SegmentGone,
    Cut,
    NoRoom,
    NoSeat,
    Refused,
    LeaseTakenOver,
    LeaseReturned,
    Debt,
    DebtOfAnEndedPeriod,
    LateCost,
    CreditElsewhere,
    DebtElsewhere,
    Extended,
    ExtendedElsewhere,
    ExtendedBeside,
    PeriodTurned,
    SyncFailed,
    WaitedForTheDisk,
    Restored,
    Drained,
}

pub(super) const MARKS: u8 = Mark::Drained as u8 + 1;

#[derive(Debug, Default)]
pub(super) struct Marks(AtomicU64);

impl Marks {
    pub(super) fn hit(&self, mark: Mark) {
        self.0.fetch_or(1 << mark as u8, Ordering::Relaxed);
    }

    pub(super) fn bits(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
