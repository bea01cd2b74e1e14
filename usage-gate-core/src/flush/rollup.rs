//! Records summed by tenant, meter, bucket, key, outcome, route, environment and user. Pure.

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

#[cfg(any(feature = "sqlite", feature = "postgres"))]
use crate::lease::ledger::DebtKey;
use crate::model::{Environment, KeyId, MeterIndex, TenantId, Timestamp, UserId};
use crate::store::{AuditKey, Batch, CounterTag, Outcome, RollupDelta, RollupKey, UnitTotals, UsageRecord};

/// What records of one rollup row share, for all meters.
#[derive(PartialEq, Eq)]
struct Group<'b> {
    tenant: TenantId,
    key: KeyId,
    bucket: Timestamp,
    user: Option<UserId>,
    route: &'b str,
    outcome: Outcome,
    environment: Environment,
}

impl Hash for Group<'_> {
    /// A key has one tenant, and mostly one user and environment: to hash them too would cost more than it tells apart.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.key.as_u128());
        state.write_i64(self.bucket.as_micros());
        state.write(self.route.as_bytes());
        self.outcome.hash(state);
    }
}

/// Their sum, with one of them.
struct GroupSum<'b> {
    record: &'b UsageRecord,
    units: UnitTotals,
    /// Calls that took units of a meter; of `requests`, all calls.
    calls: UnitTotals,
}

/// Rollup rows in key order, each once.
pub(crate) fn rollup(batch: &Batch) -> Vec<(RollupKey, RollupDelta)> {
    // The few words are shared by all rows of the batch.
    let names: Vec<(MeterIndex, Arc<str>)> = batch.meters.iter().map(|(at, name)| (at, name.into())).collect();
    let requests: Arc<str> = batch.meters.name(MeterIndex::REQUESTS).into();
    let outcomes = Outcome::ALL.map(|outcome| (outcome, Arc::<str>::from(outcome.as_str())));

    let mut rows = Vec::new();
    for sum in groups(&batch.records, &names) {
        let record = sum.record;
        let word = outcomes.iter().find(|(known, _)| *known == record.outcome);
        let outcome = word.map_or_else(|| record.outcome.as_str().into(), |(_, word)| Arc::clone(word));
        for (index, meter) in &names {
            let delta = RollupDelta { units: sum.units.of(*index), requests: sum.calls.of(*index) };
            if delta == RollupDelta::default() {
                continue;
            }
            let key = RollupKey {
                tenant: record.tenant,
                meter: Arc::clone(meter),
                bucket: record.bucket,
                key: record.key,
                outcome: Arc::clone(&outcome),
                limit: None,
                route: Arc::clone(&record.route),
                environment: record.environment,
                user: record.user,
            };
            rows.push((key, delta));
        }
    }
    for refusal in &batch.refusals {
        let key = RollupKey {
            tenant: refusal.tenant,
            meter: Arc::clone(&requests),
            bucket: refusal.bucket,
            key: refusal.key,
            outcome: format!("refused:{}", refusal.code).into(),
            limit: refusal.limit.clone(),
            route: Arc::clone(&refusal.route),
            environment: refusal.environment,
            user: refusal.user,
        };
        rows.push((key, RollupDelta { units: 0, requests: refusal.requests }));
    }
    rows.sort_by(|(one, _), (other, _)| one.cmp(other));
    rows.dedup_by(|(key, delta), (kept, sum)| {
        let same = key == kept;
        if same {
            sum.add(*delta);
        }
        same
    });
    rows
}

fn groups<'b>(records: &'b [UsageRecord], meters: &[(MeterIndex, Arc<str>)]) -> Vec<GroupSum<'b>> {
    let mut places = HashMap::<Group<'b>, usize>::new();
    let mut sums = Vec::<GroupSum<'b>>::new();
    for record in records {
        let group = Group {
            tenant: record.tenant,
            key: record.key,
            bucket: record.bucket,
            user: record.user,
            route: &record.route,
            outcome: record.outcome,
            environment: record.environment,
        };
        let place = *places.entry(group).or_insert_with(|| {
            sums.push(GroupSum { record, units: UnitTotals::default(), calls: UnitTotals::default() });
            sums.len() - 1
        });
        let Some(sum) = sums.get_mut(place) else { continue };
        // What was forfeited is units of one meter, and no call.
        let call = u64::from(record.outcome != Outcome::Forfeited);
        for (index, _) in meters {
            let units = record.units.of(*index);
            sum.units.add(*index, units);
            if units > 0 || *index == MeterIndex::REQUESTS {
                sum.calls.add(*index, call);
            }
        }
    }
    sums
}

/// Rollup rows summed by what a segment's digest tells apart, in key order.
pub(crate) fn totals(rows: &[(RollupKey, RollupDelta)]) -> BTreeMap<AuditKey, RollupDelta> {
    let mut totals = HashMap::<(TenantId, Timestamp, &str, &str), (&RollupKey, RollupDelta)>::new();
    for (key, delta) in rows {
        let place = (key.tenant, key.bucket, &*key.meter, &*key.outcome);
        totals.entry(place).or_insert((key, RollupDelta::default())).1.add(*delta);
    }
    let total = |key: &RollupKey| AuditKey {
        tenant: key.tenant,
        bucket: key.bucket,
        meter: Arc::clone(&key.meter),
        outcome: Arc::clone(&key.outcome),
    };
    totals.into_values().map(|(key, delta)| (total(key), delta)).collect()
}

/// What a batch took of quotas, by counter and period, in order.
pub(crate) fn quota_use(batch: &Batch) -> BTreeMap<(CounterTag, Timestamp), (TenantId, i64)> {
    let mut sums = HashMap::<(CounterTag, Timestamp), (TenantId, i64)>::new();
    for record in &batch.records {
        for used in &record.quotas {
            let sum = sums.entry((used.counter, used.period)).or_insert((record.tenant, 0));
            sum.1 = sum.1.saturating_add(used.units);
        }
    }
    sums.into_iter().collect()
}

/// What of that was spent without a lease, by debt.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) fn debt_use(batch: &Batch) -> BTreeMap<DebtKey, i64> {
    let cited = batch
        .records
        .iter()
        .flat_map(|record| &record.quotas)
        .filter(|used| crate::store::LeaseId::is_debt(used.lease));
    let mut sums = BTreeMap::<DebtKey, i64>::new();
    for used in cited {
        let sum = sums.entry(DebtKey { counter: used.counter, second: used.period, lease: used.lease }).or_default();
        *sum = sum.saturating_add(used.units);
    }
    sums
}
