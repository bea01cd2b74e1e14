//! From calls to usage: a batch a day of one stream, as a node ships it, and what is known of the running periods once it is shipped.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use usage_gate_core::model::{Meters, Per, RequestId, StreamId, Timestamp};
use usage_gate_core::period::bucket_start;
use usage_gate_core::store::{Batch, LastUse, Measured, Outcome, RefusalSum, UsageRecord, UsageSink};

use super::calls::{Call, Calls, Day, Refusal};
use super::cast::Cast;
use super::progress::Progress;

const MINUTE: i64 = 60_000_000;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Used {
    pub(super) calls: u64,
    pub(super) refusals: u64,
    pub(super) last_uses: Vec<LastUse>,
    /// Units that quotas count, by meter and the unit of the running period.
    pub(super) running: BTreeMap<(String, Per), u64>,
}

/// A journal stream of its own, numbered without a gap.
#[derive(Debug)]
pub(super) struct Stream {
    id: StreamId,
    last: u64,
}

impl Stream {
    pub(super) const fn new(id: StreamId) -> Self {
        Self { id, last: 0 }
    }

    /// Ships all calls of a customer.
    pub(super) async fn ship(
        &mut self,
        calls: &Calls<'_>,
        store: &dyn UsageSink,
        cast: &Cast,
        progress: &mut Progress,
    ) -> anyhow::Result<Used> {
        let mut used = Used::default();
        let mut last = BTreeMap::new();
        for (number, period) in (0..).zip(&calls.days) {
            let day = calls.day(number, *period);
            used.count(&day, calls);
            for call in &day.calls {
                let at = last.entry(call.key).or_insert(call.at);
                *at = call.at.max(*at);
            }
            let batch = self.batch(&day, cast, period.end.min(calls.now), calls.meters);
            store.accept(batch).await.context("usage")?;
            progress.step();
        }
        used.last_uses = last.into_iter().flat_map(|(key, at)| last_uses(cast, key, at)).collect();
        Ok(used)
    }

    fn batch(&mut self, day: &Day, cast: &Cast, through: Timestamp, meters: &Meters) -> Batch {
        let records: Vec<_> = day.calls.iter().filter_map(|call| record(cast, call)).collect();
        let refusals: Vec<_> = day.refusals.iter().filter_map(|refusal| refusal_sum(cast, refusal)).collect();
        let first = self.last + 1;
        let batch = Batch::numbered(self.id, first, through, meters.clone(), records, refusals);
        self.last = batch.last;
        batch
    }
}

impl Used {
    fn count(&mut self, day: &Day, calls: &Calls<'_>) {
        self.calls += u64::try_from(day.calls.len()).unwrap_or(u64::MAX);
        self.refusals += day.refusals.iter().map(|refusal| refusal.requests).sum::<u64>();
        for per in [Per::Day, Per::Month] {
            let running = calls.calendar.period(per, calls.now);
            for call in day.calls.iter().filter(|call| call.outcome != Outcome::Test && running.contains(call.at)) {
                for (index, meter) in calls.meters.iter() {
                    let units = call.units.of(index);
                    if units > 0 {
                        *self.running.entry((meter.to_owned(), per)).or_default() += units;
                    }
                }
            }
        }
    }
}

fn record(cast: &Cast, call: &Call) -> Option<UsageRecord> {
    let key = cast.keys.get(call.key)?;
    Some(UsageRecord {
        sequence: 0,
        request: RequestId::generate(),
        at: call.at,
        tenant: key.tenant,
        user: key.user,
        key: key.id,
        environment: key.environment,
        route: Arc::from(call.path.name()),
        status: 200,
        outcome: call.outcome,
        units: call.units,
        measured: Measured::Exact,
        quotas: Vec::new(),
        retry: None,
        bucket: bucket_start(cast.tenant.calendar.zone_at(call.at), call.at),
    })
}

fn refusal_sum(cast: &Cast, refusal: &Refusal) -> Option<RefusalSum> {
    let key = cast.keys.get(refusal.key)?;
    Some(RefusalSum {
        sequence: 0,
        tenant: key.tenant,
        user: key.user,
        key: key.id,
        environment: key.environment,
        route: Arc::from(refusal.path.name()),
        code: refusal.code.as_str().into(),
        limit: refusal.limit.map(Arc::from),
        requests: refusal.requests,
        bucket: bucket_start(cast.tenant.calendar.zone_at(refusal.at), refusal.at),
    })
}

/// Last uses of a key's secrets, to the minute: an old one beside a new one was used a little earlier.
fn last_uses(cast: &Cast, key: usize, at: Timestamp) -> Vec<LastUse> {
    let secrets = cast.keys.get(key).map_or(&[][..], |key| &key.secrets);
    let minute = Timestamp::from_micros(at.as_micros().div_euclid(MINUTE) * MINUTE);
    let at = |place: i64| minute.plus_micros(-place * 2 * MINUTE);
    (0..).zip(secrets).map(|(place, secret)| LastUse { credential: secret.credential, at: at(place) }).collect()
}
