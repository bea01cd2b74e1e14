//! What becomes of the leases that earlier lives of this node have left. Pure.
//!
//! The authority says which leases are open under the table's id; the table says what is left of them.
//!
//! | authority | table | |
//! | --- | --- | --- |
//! | open | OPEN | spent on; given back if it was being returned, is over, of a period that may not have begun, or nothing is left |
//! | open | ASKED, or nothing | given back, but for what was reported of it: nobody ever learned of the grant |
//! | anything | OWED | told, then freed: what the authority was told already it knows by the lease |
//! | not open | anything | freed, never spent (A5) |
//!
//! After a reboot, or with a table that is damaged, there is another table id: the authority has closed everything as spent, and lists nothing.

use std::collections::HashMap;

use super::slot::{SlotState, TableEntry};
use crate::clock::Monotonic;
use crate::model::Timestamp;
use crate::store::{LeaseDebt, LeaseId, LeaseReport, OpenLease};

/// What becomes of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Spent on.
    SpentOn,
    /// Freed once the authority has the returns.
    Freed,
}

/// What is to be done at the start of a life.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Inheritance {
    /// For each entry of the table, in its order.
    pub(crate) fates: Vec<Fate>,
    /// For the first call, before any unit is asked for.
    pub(crate) returns: Vec<LeaseReport>,
    /// For the same call: what was spent of those that are spent on.
    pub(crate) reports: Vec<LeaseReport>,
    /// For the same call: what was spent without a lease.
    pub(crate) debts: Vec<LeaseDebt>,
}

/// Compares what the authority has open with what the table says.
///
/// Periods that begin after `surely_begun` are not spent on: the table does not say when they begin by the authority's clock (A4).
pub(crate) fn inherit<'a>(
    open: &[OpenLease],
    entries: impl IntoIterator<Item = &'a TableEntry>,
    now: Monotonic,
    surely_begun: Option<Timestamp>,
) -> Inheritance {
    let mut unseen: HashMap<LeaseId, &OpenLease> = open.iter().map(|open| (open.lease, open)).collect();
    let mut inheritance = Inheritance::default();
    for entry in entries {
        if entry.state == SlotState::Owed {
            inheritance.debts.extend(debt(entry));
            inheritance.fates.push(Fate::Freed);
            continue;
        }
        let fate = match unseen.get(&entry.lease) {
            // A5: what the authority does not have open is not there, whatever is left of it here.
            None => Fate::Freed,
            // Asked only: it is given back whole, below.
            Some(_) if entry.state == SlotState::Asked => Fate::Freed,
            Some(_) => {
                let report = LeaseReport { lease: entry.lease, used: entry.used() };
                let early = surely_begun.is_some_and(|begun| entry.period.start > begun);
                let fate = if entry.returning || entry.left <= 0 || now >= entry.deadline || early {
                    inheritance.returns.push(report);
                    Fate::Freed
                } else {
                    inheritance.reports.push(report);
                    Fate::SpentOn
                };
                unseen.remove(&entry.lease);
                fate
            }
        };
        inheritance.fates.push(fate);
    }
    // What was reported of one that the table lacks is certain: a restored authority may know of it.
    let unseen = unseen.into_values().map(|open| LeaseReport { lease: open.lease, used: open.used });
    let mut whole: Vec<LeaseReport> = unseen.collect();
    whole.sort_unstable_by_key(|report| report.lease);
    inheritance.returns.extend(whole);
    inheritance
}

/// A debt in the words of a call; `None` if all of it was given back.
fn debt(entry: &TableEntry) -> Option<LeaseDebt> {
    let TableEntry { lease, period, cap, cap_version, .. } = *entry;
    let used = entry.used();
    (used > 0).then(|| LeaseDebt { lease, counter: entry.counter.clone(), period, cap, cap_version, used })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Per, TenantId, Timestamp};
    use crate::period::Period;
    use crate::store::{CounterId, Subject};

    const PERIOD: Period = Period { start: Timestamp::from_micros(0), end: Timestamp::from_micros(1) };

    fn entry() -> TableEntry {
        TableEntry {
            state: SlotState::Open,
            lease: LeaseId::from_u128(1),
            counter: CounterId {
                tenant: TenantId::from_u128(1),
                subject: Subject::Tenant,
                limit: "l".into(),
                meter: "m".into(),
                per: Per::Day,
            },
            period: PERIOD,
            deadline: Monotonic(100),
            size: 10,
            left: 6,
            returning: false,
            base: 0,
            life: 1,
            cap: 0,
            cap_version: 0,
        }
    }

    /// `Ok` with the use that is reported of a lease that is spent on, `Err` with the use that is returned, if it is.
    #[track_caller]
    fn check(entry: Option<TableEntry>, is_open: bool, expected: Result<u64, Option<u64>>) {
        let open = OpenLease { lease: LeaseId::from_u128(1), size: 10, used: 3, period: PERIOD };
        let open: &[OpenLease] = if is_open { &[open] } else { &[] };
        let got = inherit(open, &entry, Monotonic(50), None);
        let fate = got.fates.first().copied();
        match expected {
            Ok(used) => {
                assert_eq!((fate, got.returns.len()), (Some(Fate::SpentOn), 0));
                assert_eq!(got.reports, [LeaseReport { lease: LeaseId::from_u128(1), used }]);
            }
            Err(returned) => {
                assert_eq!(fate, entry.map(|_| Fate::Freed));
                assert_eq!(got.returns.first().map(|report| report.used), returned);
            }
        }
        assert_eq!(got.reports.is_empty(), expected.is_err());
    }

    #[test]
    fn a_lease_that_both_know_is_spent_on() {
        check(Some(entry()), true, Ok(4));
    }

    #[test]
    fn one_that_is_over_goes_back_with_what_was_used() {
        check(Some(TableEntry { returning: true, ..entry() }), true, Err(Some(4)));
        check(Some(TableEntry { deadline: Monotonic(50), ..entry() }), true, Err(Some(4)));
        check(Some(TableEntry { left: 0, ..entry() }), true, Err(Some(10)));
        check(Some(TableEntry { left: -2, ..entry() }), true, Err(Some(12)));
    }

    #[test]
    fn a4_one_of_a_period_that_may_not_have_begun_goes_back() {
        let open = [OpenLease { lease: LeaseId::from_u128(1), size: 10, used: 0, period: PERIOD }];
        let fate = |begun| inherit(&open, [&entry()], Monotonic(50), Some(Timestamp::from_micros(begun))).fates;
        assert_eq!((fate(-1), fate(0)), (vec![Fate::Freed], vec![Fate::SpentOn]));
    }

    #[test]
    fn a_grant_that_nobody_learned_of_goes_back() {
        check(Some(TableEntry { state: SlotState::Asked, ..entry() }), true, Err(Some(3)));
        check(None, true, Err(Some(3)));
    }

    #[test]
    fn what_is_owed_is_told_whatever_the_authority_knows() {
        let owed = TableEntry { state: SlotState::Owed, size: 0, left: -4, cap: 9, cap_version: 2, ..entry() };
        for returning in [false, true] {
            let got = inherit(&[], [&TableEntry { returning, ..owed.clone() }], Monotonic(50), None);
            assert_eq!((got.fates, got.returns.len(), got.reports.len()), (vec![Fate::Freed], 0, 0));
            let [debt] = &got.debts[..] else { panic!("{:?}", got.debts) };
            assert_eq!((debt.lease, &debt.counter, debt.period), (owed.lease, &owed.counter, PERIOD));
            assert_eq!((debt.used, debt.cap, debt.cap_version), (4, 9, 2));
        }
        assert_eq!(inherit(&[], [&TableEntry { left: 0, ..owed }], Monotonic(50), None).debts, []);
    }

    #[test]
    fn a5_what_the_authority_does_not_have_open_is_never_spent() {
        check(Some(entry()), false, Err(None));
        check(Some(TableEntry { state: SlotState::Asked, ..entry() }), false, Err(None));
    }
}
