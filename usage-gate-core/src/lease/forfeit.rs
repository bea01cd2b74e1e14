//! Units that a dead life took of its leases without leaving a record of them: B9. Pure.
//!
//! A process that is killed between taking units and saying so in a seat leaves a lease that counts more than all records of its requests do. The
//! difference is forfeited: nobody is billed for it, nobody gets it again, and a record says so. One that is killed between giving units back and publishing
//! the record leaves a lease that counts less than its seat says; then a record takes the difference back, so that the lease is right, which
//! may have gone back to the authority with the units in the meantime.
//!
//! It is computed from the table before a new life spends on it, and from the records of the dead life's stream once those of its seats are among
//! them; so it is idempotent, since these records are some of them.

use std::collections::HashMap;

use super::Found;
use super::slot::{SlotState, TableEntry};
use crate::model::{Environment, KeyId, Meters, RequestId, StreamId, Timestamp};
use crate::period::Period;
use crate::store::{CounterId, LeaseId, Measured, Outcome, QuotaUse, Subject, UnitTotals, UsageRecord};

/// Units of a lease that no record has; or, below 0, that records have and the lease got back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forfeit {
    /// Units of its meter that are shown as forfeited; the others are only cited, so that sums are right.
    pub(crate) shown: u64,
    pub(crate) lease: LeaseId,
    pub(crate) counter: CounterId,
    pub(crate) period: Period,
    pub(crate) units: i64,
}

/// Compares the leases that the life `dead` has spent on with its records: `cited` is the sum of [`QuotaUse::units`] by lease over its stream, the
/// records of its seats among them. Gives what is to be recorded there.
///
/// To be called before the table is taken over. Called again, with the new records among those that are summed, it finds nothing.
pub(crate) fn reconcile(found: &[Found], cited: &HashMap<u64, i64>, dead: StreamId) -> Vec<Forfeit> {
    found.iter().filter_map(|found| difference(&found.entry, cited, dead.tag())).collect()
}

fn difference(entry: &TableEntry, cited: &HashMap<u64, i64>, dead: u64) -> Option<Forfeit> {
    if entry.state == SlotState::Asked || entry.life != dead {
        return None;
    }
    let recorded = cited.get(&entry.lease.tag()).copied().unwrap_or(0);
    let units = i128::from(entry.used()) - i128::from(entry.base) - i128::from(recorded);
    let units = i64::try_from(units).unwrap_or(if units > 0 { i64::MAX } else { i64::MIN });
    let (lease, counter, period) = (entry.lease, entry.counter.clone(), entry.period);
    let shown = u64::try_from(units).unwrap_or(0);
    (units != 0).then_some(Forfeit { lease, counter, period, units, shown })
}

impl Forfeit {
    /// The record of it. Its hour is the first of the period, the one hour of the tenant's clock that the lease tells for certain.
    pub(crate) fn record(&self, meters: &Meters, at: Timestamp) -> UsageRecord {
        let mut units = UnitTotals::default();
        if let Some(meter) = meters.index(&self.counter.meter) {
            units.set(meter, self.shown);
        }
        let (user, key) = match self.counter.subject {
            Subject::User(user) => (user, KeyId::from_u128(0)),
            Subject::Key(key) => (None, key),
            Subject::Tenant | Subject::Ip(_) => (None, KeyId::from_u128(0)),
        };
        UsageRecord {
            sequence: 0,
            // No request is known that took them.
            request: RequestId::from_u128(self.lease.as_u128()),
            at,
            tenant: self.counter.tenant,
            user,
            key,
            environment: Environment::Live,
            route: "".into(),
            status: 0,
            outcome: Outcome::Forfeited,
            units,
            measured: Measured::Exact,
            bucket: self.period.start,
            quotas: vec![QuotaUse {
                lease: self.lease.tag(),
                counter: self.counter.tag(),
                period: self.period.start.floor_seconds(),
                units: self.units,
            }],
            retry: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Monotonic;
    use crate::model::{MeterIndex, Per, TenantId, UserId};

    fn entry(left: i64, base: u64) -> TableEntry {
        TableEntry {
            state: SlotState::Open,
            lease: LeaseId::from_u128(7),
            counter: CounterId {
                tenant: TenantId::from_u128(1),
                subject: Subject::User(Some(UserId::from_u128(2))),
                limit: "monthly".into(),
                meter: "input_tokens".into(),
                per: Per::Month,
            },
            period: Period { start: Timestamp::from_micros(5_000_001), end: Timestamp::from_micros(9_000_000) },
            deadline: Monotonic(1),
            size: 100,
            left,
            returning: false,
            base,
            life: 3,
            cap: 0,
            cap_version: 0,
        }
    }

    #[track_caller]
    fn check(left: i64, base: u64, cited: i64, expected: i64) {
        let dead = StreamId::from_u128(1 << 64 | 3);
        let got = difference(&entry(left, base), &HashMap::from([(7, cited)]), dead.tag()).map_or(0, |one| one.units);
        assert_eq!(got, expected);
    }

    #[test]
    fn b9_what_no_record_has_is_forfeited() {
        check(60, 0, 40, 0);
        check(60, 0, 35, 5);
        check(60, 30, 10, 0);
        check(60, 30, 4, 6);
        check(-5, 0, 100, 5);
        check(60, 0, -3, 43);
        check(60, 0, 44, -4);
        check(60, 50, 0, -10);
    }

    #[test]
    fn b9_what_is_owed_is_compared_as_what_is_leased() {
        let owed = |left| TableEntry { state: SlotState::Owed, size: 0, ..entry(left, 0) };
        let cited = HashMap::from([(7, 5)]);
        assert_eq!(difference(&owed(-5), &cited, 3), None);
        assert_eq!(difference(&owed(-3), &cited, 3).map(|one| one.units), Some(-2));
        assert_eq!(difference(&owed(-6), &cited, 3).map(|one| one.units), Some(1));
    }

    #[test]
    fn leases_of_other_lives_and_leases_that_were_only_asked_for_are_not_looked_at() {
        let asked = TableEntry { state: SlotState::Asked, ..entry(60, 0) };
        let none = HashMap::new();
        assert_eq!(difference(&entry(60, 0), &none, 4), None);
        assert_eq!(difference(&asked, &none, 3), None);
    }

    #[test]
    fn its_record_names_whose_it_is_and_cites_the_lease() {
        let found = difference(&entry(60, 0), &HashMap::new(), 3);
        let Some(forfeit) = found else { panic!("there is a difference") };
        let record = forfeit.record(&Meters::default(), Timestamp::from_micros(8));
        assert_eq!((record.user, record.outcome), (Some(UserId::from_u128(2)), Outcome::Forfeited));
        assert_eq!(record.units.of(Meters::default().index("input_tokens").unwrap()), 40);
        assert_eq!(record.units.of(MeterIndex::REQUESTS), 0);
        let used = record.quotas[0];
        assert_eq!((used.lease, used.units, used.period.as_micros()), (7, 40, 5_000_000));
        assert_eq!(used.counter, forfeit.counter.tag());
    }
}
