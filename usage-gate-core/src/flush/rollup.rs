//! Records summed by bucket, tenant, user, key, route, meter and outcome. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::MeterIndex;
use crate::store::{Batch, Outcome, RollupDelta, RollupKey};

pub(crate) fn rollup(batch: &Batch) -> BTreeMap<RollupKey, RollupDelta> {
    // The few words are shared by all rows of the batch.
    let names: Vec<(MeterIndex, Arc<str>)> = batch.meters.iter().map(|(at, name)| (at, name.into())).collect();
    let requests: Arc<str> = batch.meters.name(MeterIndex::REQUESTS).into();
    let outcomes = [
        Outcome::Billed,
        Outcome::Unbilled,
        Outcome::Aborted,
        Outcome::Indeterminate,
        Outcome::Test,
        Outcome::Forfeited,
    ]
    .map(|outcome| (outcome, Arc::<str>::from(outcome.as_str())));

    let mut rows = BTreeMap::<RollupKey, RollupDelta>::new();
    for record in &batch.records {
        let outcome = outcomes
            .iter()
            .find(|(known, _)| *known == record.outcome)
            .map_or_else(|| record.outcome.as_str().into(), |(_, word)| Arc::clone(word));
        for (index, meter) in &names {
            let units = record.units.of(*index);
            // What was forfeited is units of one meter, and no call.
            let forfeited = record.outcome == Outcome::Forfeited;
            if units == 0 && (*index != MeterIndex::REQUESTS || forfeited) {
                continue;
            }
            let row = rows
                .entry(RollupKey {
                    tenant: record.tenant,
                    bucket: record.bucket,
                    user: record.user,
                    key: record.key,
                    environment: record.environment,
                    route: Arc::clone(&record.route),
                    meter: Arc::clone(meter),
                    outcome: Arc::clone(&outcome),
                    limit: None,
                })
                .or_default();
            row.units = row.units.saturating_add(units);
            row.requests = row.requests.saturating_add(u64::from(!forfeited));
        }
    }
    for refusal in &batch.refusals {
        let row = rows
            .entry(RollupKey {
                tenant: refusal.tenant,
                bucket: refusal.bucket,
                user: refusal.user,
                key: refusal.key,
                environment: refusal.environment,
                route: Arc::clone(&refusal.route),
                meter: Arc::clone(&requests),
                outcome: format!("refused:{}", refusal.code).into(),
                limit: refusal.limit.clone(),
            })
            .or_default();
        row.requests = row.requests.saturating_add(refusal.requests);
    }
    rows
}
