//! One counter in one period, as its authority counts it: the numbers that decide. Pure.
//!
//! Every store keeps just these numbers, and lets this file change them.

use crate::invariant::invariant;
use crate::period::Period;
use crate::store::{LeaseRequest, WindowState};

/// The most units that a window counts: what a signed 64-bit column holds. Grants and debts end there instead of wrapping.
pub(crate) const MOST_UNITS: u64 = i64::MAX.unsigned_abs();
/// One counter in one period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WindowRow {
    pub(crate) period: Period,
    /// The cap that holds: of the highest plan version seen.
    pub(crate) cap: u64,
    pub(crate) cap_version: u32,
    /// The cap, or what was granted within an earlier cap when it was lowered below that.
    pub(crate) ceiling: u64,
    /// Sizes of open leases and use of closed ones.
    pub(crate) granted: u64,
    /// What was granted beyond the cap knowingly, and debts: all of them that ever were.
    pub(crate) overrun: u64,
    /// Use of closed leases.
    pub(crate) used_closed: u64,
    /// What of that no holder reported: leases that were closed as spent.
    pub(crate) written_off: u64,
}

impl WindowRow {
    /// A window that nothing has used.
    pub(crate) fn new(period: Period, cap: u64, cap_version: u32) -> Self {
        let cap = cap.min(MOST_UNITS);
        Self { period, cap, cap_version, ceiling: cap, granted: 0, overrun: 0, used_closed: 0, written_off: 0 }
    }

    /// Takes over what a request knows of the limit. An older plan version changes nothing: nodes learn of a new plan one after the other.
    pub(crate) fn refresh(&mut self, request: &LeaseRequest, period: Period) {
        // A change of calendar may have cut the running period.
        self.period = period;
        if request.cap_version < self.cap_version {
            return;
        }
        self.cap_version = request.cap_version;
        let cap = request.cap.min(MOST_UNITS);
        if cap != self.cap {
            self.cap = cap;
            self.ceiling = cap.max(self.granted.saturating_sub(self.overrun));
        }
    }

    /// Debits a grant. `nodes` are those that hold open leases of this window, the asking one included.
    pub(crate) fn grant(&mut self, want: u64, beyond_cap: bool, nodes: u32) -> u64 {
        let remaining = self.cap.saturating_sub(self.granted);
        let units = if beyond_cap {
            want.min(MOST_UNITS.saturating_sub(self.granted))
        } else if nodes > 1 {
            // Halving what is left per node keeps something for the others until the very end.
            let share = remaining.checked_div(u64::from(nodes).saturating_mul(2)).unwrap_or(0);
            want.min(share.max(1)).min(remaining)
        } else {
            want.min(remaining)
        };
        self.granted = self.granted.saturating_add(units);
        self.overrun = self.overrun.saturating_add(units.saturating_sub(remaining)).min(MOST_UNITS);
        invariant!(A1, self.keeps_a1());
        units
    }

    /// Ends a lease: gives back what was not used, or books the debt. Gives the use that is booked.
    pub(crate) fn close(&mut self, size: u64, used: u64) -> u64 {
        let booked = if used <= size {
            let rest = size.saturating_sub(used);
            invariant!(A2, rest <= self.granted);
            self.granted = self.granted.saturating_sub(rest);
            used
        } else {
            let debt = used.saturating_sub(size).min(MOST_UNITS.saturating_sub(self.granted));
            self.granted = self.granted.saturating_add(debt);
            self.overrun = self.overrun.saturating_add(debt).min(MOST_UNITS);
            size.saturating_add(debt)
        };
        self.used_closed = self.used_closed.saturating_add(booked);
        invariant!(A1, self.keeps_a1());
        booked
    }

    /// Ends a lease of which nobody can say what was left, as spent: an audit is told what nobody reported. Gives the use.
    pub(crate) fn write_off(&mut self, size: u64, reported: u64) -> u64 {
        self.written_off = self.written_off.saturating_add(size.saturating_sub(reported)).min(MOST_UNITS);
        self.close(size, size.max(reported))
    }

    /// Raises what is known to what records say was used: for a database that was restored from a backup. `owed` is how far open leases are
    /// overdrawn, which is on their reports and not booked yet.
    ///
    /// `recorded` has of each debt that was noted as a lease just what is booked of it. Such a debt is booked by its lease, once, whether its
    /// holder tells it or a record of it is seen first ([`DebtKey`](super::ledger::DebtKey)); so it neither hides what is missing nor seems to be it.
    ///
    /// To be called when a window is first touched after a life of a node began, once that life's reports are in, or after late records of a dead
    /// life. At any other time a record may be ahead of the report of an overdrawn lease, whose debt would be counted twice; late records may still meet
    /// such a lease, whose debt then counts twice until the period ends: too much, never too little.
    #[cfg_attr(
        not(any(test, feature = "sqlite")),
        expect(dead_code, reason = "a ledger in memory is never older than its records")
    )]
    pub(crate) fn heal(&mut self, recorded: u64, owed: u64) {
        let known = self.granted.saturating_add(owed);
        let room = MOST_UNITS.saturating_sub(self.granted);
        let missing = recorded.saturating_sub(known).min(room);
        self.granted = self.granted.saturating_add(missing);
        self.used_closed = self.used_closed.saturating_add(missing);
        let beyond = self.granted.saturating_sub(self.ceiling.saturating_add(self.overrun));
        self.overrun = self.overrun.saturating_add(beyond);
        invariant!(A1, self.keeps_a1());
    }

    /// The window as callers see it, given what is reported of its open leases.
    pub(crate) fn state(&self, used_open: u64) -> WindowState {
        WindowState {
            period: self.period,
            cap: self.cap,
            granted: self.granted,
            used: self.used_closed.saturating_add(used_open),
        }
    }

    pub(crate) fn keeps_a1(&self) -> bool {
        self.granted <= self.ceiling.saturating_add(self.overrun)
    }
}

/// The window of a counter that has no row: nothing is used of it.
pub(crate) fn unused_window(period: Period, cap: u64) -> WindowState {
    WindowRow::new(period, cap, 0).state(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    fn row(cap: u64) -> WindowRow {
        let period = Period { start: Timestamp::from_micros(0), end: Timestamp::from_micros(1) };
        WindowRow::new(period, cap, 1)
    }

    #[track_caller]
    fn check(cap: u64, granted: u64, want: u64, nodes: u32, expected: u64) {
        let mut row = row(cap);
        row.granted = granted;
        assert_eq!(row.grant(want, false, nodes), expected);
    }

    #[test]
    fn one_node_gets_what_is_left() {
        check(100, 0, 40, 1, 40);
        check(100, 90, 40, 1, 10);
        check(100, 100, 40, 1, 0);
    }

    #[test]
    fn several_nodes_share_what_is_left_down_to_the_last_unit() {
        check(100, 0, 40, 2, 25);
        check(100, 97, 40, 2, 1);
        check(100, 100, 40, 2, 0);
    }

    #[test]
    fn a1_units_beyond_the_cap_are_overrun() {
        let mut row = row(10);
        assert_eq!(row.grant(25, true, 1), 25);
        assert_eq!((row.granted, row.overrun), (25, 15));
        assert_eq!(row.grant(1, false, 1), 0);
    }

    #[test]
    fn a1_a_debt_is_booked_against_the_counter() {
        let mut row = row(10);
        assert_eq!(row.grant(10, false, 1), 10);
        assert_eq!(row.close(10, 14), 14);
        assert_eq!((row.granted, row.overrun, row.used_closed), (14, 4, 14));
    }

    #[track_caller]
    fn check_heal(granted: u64, recorded: u64, owed: u64, expected: (u64, u64, u64)) {
        let mut row = row(100);
        assert_eq!(row.grant(granted, false, 1), granted);
        row.heal(recorded, owed);
        assert_eq!((row.granted, row.used_closed, row.overrun), expected);
        row.heal(recorded, owed);
        assert_eq!((row.granted, row.used_closed, row.overrun), expected, "once is enough");
    }

    #[test]
    fn a_restored_window_knows_what_records_say() {
        check_heal(40, 0, 0, (40, 0, 0));
        check_heal(40, 40, 0, (40, 0, 0));
        check_heal(40, 70, 0, (70, 30, 0));
        check_heal(40, 130, 0, (130, 90, 30));
        check_heal(40, 45, 5, (40, 0, 0));
        check_heal(0, u64::MAX, 0, (MOST_UNITS, MOST_UNITS, MOST_UNITS - 100));
    }

    #[test]
    fn nothing_wraps_at_the_largest_numbers() {
        let mut row = row(u64::MAX);
        assert_eq!(row.grant(u64::MAX, true, 1), MOST_UNITS);
        assert_eq!(row.grant(1, true, 1), 0);
        assert_eq!(row.close(MOST_UNITS, MOST_UNITS), MOST_UNITS);
        assert_eq!(row.close(0, 5), 0);
    }
}
