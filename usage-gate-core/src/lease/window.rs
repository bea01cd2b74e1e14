//! One counter in one period, as its authority counts it: the numbers that decide. Pure.
//!
//! Every store keeps just these numbers, and lets this file change them.

use crate::invariant::invariant;
use crate::model::Timestamp;
use crate::period::Period;
use crate::store::{LeaseRequest, WindowState};

/// The most units that a window counts: what a signed 64-bit column holds. Grants and debts end there instead of wrapping.
pub(crate) const MOST_UNITS: u64 = i64::MAX.unsigned_abs();
/// How often a window is recalled at most: its holders are given time to answer.
const RECALLED_EVERY_MICROS: i64 = 250_000;

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
    /// When its open leases were last recalled.
    pub(crate) recalled_at: Option<Timestamp>,
}

impl WindowRow {
    /// A window that nothing has used.
    pub(crate) fn new(period: Period, cap: u64, cap_version: u32) -> Self {
        let cap = cap.min(MOST_UNITS);
        Self {
            period,
            cap,
            cap_version,
            ceiling: cap,
            granted: 0,
            overrun: 0,
            used_closed: 0,
            written_off: 0,
            recalled_at: None,
        }
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
    pub(crate) fn grant(&mut self, request: &LeaseRequest, nodes: u32) -> u64 {
        let (want, remaining) = (request.want, self.cap.saturating_sub(self.granted));
        let units = if request.beyond_cap {
            want.min(MOST_UNITS.saturating_sub(self.granted))
        } else if nodes > 1 {
            // Halving what is left per node keeps something for the others until the very end. A request takes its units of one lease: in smaller
            // parts it could have none of them.
            let share = remaining.checked_div(u64::from(nodes).saturating_mul(2)).unwrap_or(0);
            want.min(share.max(request.needed).max(1)).min(remaining)
        } else {
            want.min(remaining)
        };
        self.granted = self.granted.saturating_add(units);
        self.overrun = self.overrun.saturating_add(units.saturating_sub(remaining)).min(MOST_UNITS);
        invariant!(A1, self.keeps_a1());
        units
    }

    /// Whether the open leases are recalled: a waiting request needs more than it was granted, other nodes hold some, and nobody asked them a moment ago.
    pub(crate) fn recall(&mut self, request: &LeaseRequest, units: u64, nodes: u32, now: Timestamp) -> bool {
        let short = !request.beyond_cap && units < request.needed && nodes > 1;
        // By a clock that was set back the last time may be far ahead: that is no reason to wait for it.
        let lately = self.recalled_at.is_some_and(|at| at <= now && now < at.plus_micros(RECALLED_EVERY_MICROS));
        if !short || lately {
            return false;
        }
        self.recalled_at = Some(now);
        true
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
    use crate::model::{Per, TenantId};
    use crate::period::{AnchorDay, Calendar, Zone};
    use crate::store::{CounterId, LeaseId, Subject};

    fn want(want: u64) -> LeaseRequest {
        let (tenant, limit, meter) = (TenantId::generate(), "monthly".into(), "requests".into());
        LeaseRequest {
            lease: LeaseId::generate(),
            counter: CounterId { tenant, subject: Subject::Tenant, limit, meter, per: Per::Month },
            calendar: Calendar::new(Zone::UTC, AnchorDay::FIRST),
            cap: 100,
            cap_version: 1,
            want,
            beyond_cap: false,
            early: false,
            needed: 0,
        }
    }

    fn beyond(units: u64) -> LeaseRequest {
        LeaseRequest { beyond_cap: true, ..want(units) }
    }

    fn row(cap: u64) -> WindowRow {
        let period = Period { start: Timestamp::from_micros(0), end: Timestamp::from_micros(1) };
        WindowRow::new(period, cap, 1)
    }

    #[track_caller]
    fn check(cap: u64, granted: u64, units: u64, nodes: u32, expected: u64) {
        let mut row = row(cap);
        row.granted = granted;
        assert_eq!(row.grant(&want(units), nodes), expected);
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
    fn who_waits_gets_what_it_needs_as_long_as_it_is_there() {
        let mut row = row(100);
        let needed = |needed| LeaseRequest { needed, ..want(60) };
        assert_eq!(row.grant(&needed(30), 2), 30);
        assert_eq!(row.grant(&needed(5), 2), 17, "its share is more");
        assert_eq!(row.grant(&needed(60), 2), 53);
    }

    #[test]
    fn a_window_is_recalled_for_who_waits_and_not_all_the_time() {
        let mut row = row(100);
        let at = |millis: i64| Timestamp::from_micros(millis * 1_000);
        let waits = LeaseRequest { needed: 5, ..want(5) };
        for (request, units, nodes) in [(&waits, 5, 2), (&waits, 4, 1), (&want(5), 4, 2)] {
            assert!(!row.recall(request, units, nodes, at(0)));
        }
        assert!(!row.recall(&LeaseRequest { needed: 5, ..beyond(5) }, 4, 2, at(0)));
        for (millis, expected) in
            [(1_000, true), (1_000, false), (1_249, false), (1_250, true), (700, true), (900, false)]
        {
            assert_eq!(row.recall(&waits, 4, 2, at(millis)), expected, "{millis}");
        }
    }

    #[test]
    fn a1_units_beyond_the_cap_are_overrun() {
        let mut row = row(10);
        assert_eq!(row.grant(&beyond(25), 1), 25);
        assert_eq!((row.granted, row.overrun), (25, 15));
        assert_eq!(row.grant(&want(1), 1), 0);
    }

    #[test]
    fn a1_a_debt_is_booked_against_the_counter() {
        let mut row = row(10);
        assert_eq!(row.grant(&want(10), 1), 10);
        assert_eq!(row.close(10, 14), 14);
        assert_eq!((row.granted, row.overrun, row.used_closed), (14, 4, 14));
    }

    #[track_caller]
    fn check_heal(granted: u64, recorded: u64, owed: u64, expected: (u64, u64, u64)) {
        let mut row = row(100);
        assert_eq!(row.grant(&want(granted), 1), granted);
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
        assert_eq!(row.grant(&beyond(u64::MAX), 1), MOST_UNITS);
        assert_eq!(row.grant(&beyond(1), 1), 0);
        assert_eq!(row.close(MOST_UNITS, MOST_UNITS), MOST_UNITS);
        assert_eq!(row.close(0, 5), 0);
    }
}
