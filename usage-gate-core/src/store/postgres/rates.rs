//! Rates and requests open at once in PostgreSQL: a function of the schema decides, as `rates/bucket.rs` and `rates/slots.rs` say.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::PostgresStore;
use super::fault::Fault;
use super::value::{Id, to_column, unreadable};
use crate::store::{
    LONGEST_RATE_LEASE, RateAnswer, RateCall, RateGrant, RateReport, RateRequest, RateState, RateStore,
    SLOT_LEASE_TIME, SlotGrant, SlotRequest, StoreError,
};

#[async_trait::async_trait]
impl RateStore for PostgresStore {
    fn backend(&self) -> &'static str {
        "postgres"
    }

    async fn lease_rates(&self, call: &RateCall) -> Result<RateAnswer, StoreError> {
        let clock = self.given_time();
        let (rates, slots) = (
            InOrder::of(&call.rates, |rate| rate.counter.to_string()),
            InOrder::of(&call.slots, |slot| slot.counter.to_string()),
        );
        let parameters = Parameters::new(&rates, &slots);
        self.run("lease units of rates", async |client| {
            let row = client.query_typed_one(SQL, &parameters.typed(&clock, &call.node)).await?;
            answer(&row, &rates, &slots)
        })
        .await
    }
}

const SQL: &str = "SELECT a_units, a_level, a_outstanding, a_next_in, a_slots, a_elsewhere, a_nodes
    FROM usage_gate_rates($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)";

/// Requests in the order of their counters, in which all nodes lock them.
struct InOrder<'a, T> {
    requests: Vec<(String, &'a T)>,
    /// The place of each in the call.
    places: Vec<usize>,
}

impl<'a, T> InOrder<'a, T> {
    fn of(requests: &'a [T], counter: impl Fn(&T) -> String) -> Self {
        let mut sorted: Vec<(String, usize, &T)> =
            requests.iter().enumerate().map(|(at, request)| (counter(request), at, request)).collect();
        sorted.sort_by(|one, other| one.0.cmp(&other.0));
        let places = sorted.iter().map(|(_, at, _)| *at).collect();
        Self { requests: sorted.into_iter().map(|(counter, _, request)| (counter, request)).collect(), places }
    }

    fn each<V>(&self, value: impl Fn(&T) -> V) -> Vec<V> {
        self.requests.iter().map(|(_, request)| value(request)).collect()
    }

    fn counters(&self) -> Vec<&str> {
        self.requests.iter().map(|(counter, _)| &**counter).collect()
    }

    /// Answers in the order of the call.
    fn unsorted<V: Copy>(&self, answers: &[V]) -> Vec<V> {
        let mut placed: Vec<(usize, V)> = self.places.iter().copied().zip(answers.iter().copied()).collect();
        placed.sort_unstable_by_key(|(at, _)| *at);
        placed.into_iter().map(|(_, answer)| answer).collect()
    }
}

/// Columns of reports: to which request each belongs, of which lease it is, and how much was spent.
struct Reports {
    of: Vec<i32>,
    lease: Vec<Id>,
    spent: Vec<i64>,
}

impl Reports {
    fn of(rates: &InOrder<'_, RateRequest>, reports: impl Fn(&RateRequest) -> &[RateReport]) -> Self {
        let mut all = Self { of: Vec::new(), lease: Vec::new(), spent: Vec::new() };
        for (at, (_, request)) in (1..).zip(&rates.requests) {
            for report in reports(request) {
                all.of.push(at);
                all.lease.push(Id(report.lease.as_u128()));
                all.spent.push(to_column(report.spent));
            }
        }
        all
    }
}

struct Parameters<'a> {
    counters: Vec<&'a str>,
    lease_time: Vec<i64>,
    idle: Vec<i64>,
    scale: Vec<i64>,
    rate: Vec<i64>,
    burst: Vec<i64>,
    lease: Vec<Id>,
    want: Vec<i64>,
    spent: Reports,
    returned: Reports,
    open: Vec<&'a str>,
    sequence: Vec<i64>,
    limit: Vec<i64>,
    keep: Vec<i64>,
    more: Vec<i64>,
    slot_time: i64,
}

impl<'a> Parameters<'a> {
    fn new(rates: &'a InOrder<'_, RateRequest>, slots: &'a InOrder<'_, SlotRequest>) -> Self {
        let idle = |request: &RateRequest| {
            micros(LONGEST_RATE_LEASE).saturating_add(micros(request.terms.refill_time())).saturating_add(1)
        };
        Self {
            counters: rates.counters(),
            lease_time: rates.each(|request| micros(request.terms.lease_time())),
            idle: rates.each(idle),
            scale: rates.each(|request| to_column(request.terms.parts().0)),
            rate: rates.each(|request| to_column(request.terms.parts().1)),
            burst: rates.each(|request| to_column(request.terms.burst)),
            lease: rates.each(|request| Id(request.lease.as_u128())),
            want: rates.each(|request| to_column(request.want)),
            spent: Reports::of(rates, |request| &request.spent),
            returned: Reports::of(rates, |request| &request.returned),
            open: slots.counters(),
            sequence: slots.each(|request| to_column(request.sequence)),
            limit: slots.each(|request| to_column(request.limit)),
            keep: slots.each(|request| to_column(request.keep)),
            more: slots.each(|request| to_column(request.more)),
            slot_time: micros(SLOT_LEASE_TIME),
        }
    }

    fn typed<'b>(&'b self, clock: &'b Option<i64>, node: &'b String) -> [(&'b (dyn ToSql + Sync), Type); 22] {
        [
            (clock, Type::INT8),
            (node, Type::TEXT),
            (&self.counters, Type::TEXT_ARRAY),
            (&self.lease_time, Type::INT8_ARRAY),
            (&self.idle, Type::INT8_ARRAY),
            (&self.scale, Type::INT8_ARRAY),
            (&self.rate, Type::INT8_ARRAY),
            (&self.burst, Type::INT8_ARRAY),
            (&self.lease, Type::UUID_ARRAY),
            (&self.want, Type::INT8_ARRAY),
            (&self.spent.of, Type::INT4_ARRAY),
            (&self.spent.lease, Type::UUID_ARRAY),
            (&self.spent.spent, Type::INT8_ARRAY),
            (&self.returned.of, Type::INT4_ARRAY),
            (&self.returned.lease, Type::UUID_ARRAY),
            (&self.returned.spent, Type::INT8_ARRAY),
            (&self.open, Type::TEXT_ARRAY),
            (&self.sequence, Type::INT8_ARRAY),
            (&self.limit, Type::INT8_ARRAY),
            (&self.keep, Type::INT8_ARRAY),
            (&self.more, Type::INT8_ARRAY),
            (&self.slot_time, Type::INT8),
        ]
    }
}

fn answer(row: &Row, rates: &InOrder<'_, RateRequest>, slots: &InOrder<'_, SlotRequest>) -> Result<RateAnswer, Fault> {
    let [units, level, outstanding, next_in] = [numbers(row, 0)?, numbers(row, 1)?, numbers(row, 2)?, numbers(row, 3)?];
    let grants: Vec<RateGrant> = units
        .into_iter()
        .zip(level)
        .zip(outstanding)
        .zip(next_in)
        .map(|(((units, level), outstanding), next_in)| {
            let state = RateState { level, outstanding, next_in: Duration::from_micros(next_in) };
            RateGrant { units, state }
        })
        .collect();
    let places: Vec<SlotGrant> = numbers(row, 4)?
        .into_iter()
        .zip(numbers(row, 5)?)
        .map(|(slots, elsewhere)| SlotGrant { slots, elsewhere })
        .collect();
    let nodes: i64 = row.try_get(6)?;
    Ok(RateAnswer {
        rates: rates.unsorted(&grants),
        slots: slots.unsorted(&places),
        active_nodes: u32::try_from(nodes).unwrap_or(u32::MAX),
        broken: Vec::new(),
    })
}

fn numbers(row: &Row, at: usize) -> Result<Vec<u64>, Fault> {
    let numbers: Vec<i64> = row.try_get(at)?;
    Ok(numbers.into_iter().map(u64::try_from).collect::<Result<_, _>>().map_err(unreadable)?)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
