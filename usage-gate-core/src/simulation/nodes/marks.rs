//! What the runs have come across: a simulation that never meets a situation says nothing about it.

use std::cell::Cell;

/// A situation that must come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Mark {
    Refused,
    Waited,
    Undone,
    Forfeited,
    NothingLeft,
    GrantedAgain,
    Early,
    PeriodTurned,
    Recalled,
    Lost,
    Repeated,
    Late,
    Killed,
    KilledBetween,
    TookOver,
    StartFailed,
    Superseded,
    Rebooted,
    DiskLost,
    Stopped,
    QuotasAway,
    RatesAway,
    Overdrawn,
    Alone,
    DebtTold,
    LateCost,
    PlanRaised,
    PlanLowered,
    Idle,
    Drained,
    SetForward,
    SetBack,
    Restored,
    RestartedEmpty,
    FellBack,
    HeardAgain,
}

pub(super) const MARKS: u8 = Mark::HeardAgain as u8 + 1;

#[derive(Debug, Default)]
pub(super) struct Marks(Cell<u64>);

impl Marks {
    pub(super) const fn bits(&self) -> u64 {
        self.0.get()
    }

    pub(super) fn hit(&self, mark: Mark) {
        self.0.set(self.0.get() | 1 << mark as u8);
    }
}
