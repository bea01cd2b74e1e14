//! One call of a node as the one statement that it is, and its answer. Calendars are computed here, never in SQL: a call names the periods around what this
//! node takes for the authority's now, and where the authority finds its own in none of them it says its time and nothing else.

use std::collections::HashMap;

use deadpool_postgres::Client;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use super::fault::Fault;
use super::value::{Id, instant, to_column, unreadable};
use crate::lease::ledger::{
    DebtKey, closed_leases_kept_since, debts_kept_since, forgotten_at_most, windows_kept_since,
};
use crate::model::{Per, Timestamp};
use crate::period::{Calendar, Period};
use crate::store::{
    CounterId, LeaseAnswer, LeaseCall, LeaseGrant, LeaseId, LeaseReport, LeaseRequest, StoreError, WindowState,
};

pub(super) const WHAT: &str = "lease units";
/// How the function refuses a process life that is not the node's latest.
const SUPERSEDED: &str = "UG001";

/// Periods around an instant, three for each question: the one before, the present one, the next.
#[derive(Debug, Default)]
pub(super) struct Periods {
    /// How far ahead of the authority's now the question is.
    ahead: Vec<i64>,
    starts: Vec<i64>,
    ends: Vec<i64>,
}

impl Periods {
    /// Adds a question. `now` is what this node takes for the authority's.
    pub(super) fn add(&mut self, calendar: &Calendar, per: Per, ahead: i64, now: Timestamp) {
        let present = calendar.period(per, now.plus_micros(ahead));
        let around = [calendar.period(per, present.start.plus_micros(-1)), present, calendar.period(per, present.end)];
        self.ahead.push(ahead);
        self.starts.extend(around.map(|period| period.start.as_micros()));
        self.ends.extend(around.map(|period| period.end.as_micros()));
    }

    pub(super) fn parameters(&self) -> [(&(dyn ToSql + Sync), Type); 3] {
        [(&self.ahead, Type::INT8_ARRAY), (&self.starts, Type::INT8_ARRAY), (&self.ends, Type::INT8_ARRAY)]
    }
}

/// Counters, each once; what speaks of one names its place, from 1.
#[derive(Debug, Default)]
struct CounterColumns<'c> {
    places: HashMap<&'c CounterId, i32>,
    counter: Vec<String>,
    tenant: Vec<Id>,
    limit: Vec<&'c str>,
    meter: Vec<&'c str>,
    per: Vec<&'static str>,
    subject: Vec<String>,
}

impl<'c> CounterColumns<'c> {
    fn place(&mut self, counter: &'c CounterId) -> i32 {
        if let Some(place) = self.places.get(counter) {
            return *place;
        }
        self.counter.push(counter.to_string());
        self.tenant.push(Id(counter.tenant.as_u128()));
        self.limit.push(&counter.limit);
        self.meter.push(&counter.meter);
        self.per.push(counter.per.as_str());
        self.subject.push(counter.subject.to_string());
        let place = i32::try_from(self.counter.len()).unwrap_or(i32::MAX);
        self.places.insert(counter, place);
        place
    }
}

/// Leases with what was used of them.
#[derive(Debug, Default)]
struct ReportColumns {
    lease: Vec<Id>,
    used: Vec<i64>,
}

impl ReportColumns {
    fn new(reports: &[LeaseReport]) -> Self {
        let column = |report: &LeaseReport| (Id(report.lease.as_u128()), to_column(report.used));
        let (lease, used) = reports.iter().map(column).unzip();
        Self { lease, used }
    }
}

#[derive(Debug, Default)]
struct DebtColumns {
    lease: Vec<Vec<u8>>,
    counter: Vec<i32>,
    start: Vec<i64>,
    end: Vec<i64>,
    cap: Vec<i64>,
    version: Vec<i64>,
    used: Vec<i64>,
}

#[derive(Debug, Default)]
struct RequestColumns {
    lease: Vec<Id>,
    counter: Vec<i32>,
    cap: Vec<i64>,
    version: Vec<i64>,
    want: Vec<i64>,
    beyond: Vec<bool>,
    needed: Vec<i64>,
    periods: Periods,
}

/// Sends a call once. `now` is what this node takes for the authority's, `clock` the time where the server's does not count.
///
/// Gives the authority's time alone if no period of a request held it: nothing was done.
pub(super) async fn send(
    client: &Client,
    call: &LeaseCall,
    now: Timestamp,
    clock: Option<i64>,
) -> Result<(Timestamp, Option<LeaseAnswer>), Fault> {
    let mut counters = CounterColumns::default();
    let mut debts = DebtColumns::default();
    for debt in &call.debts {
        debts.lease.push(DebtKey::of(debt).lease.to_be_bytes().to_vec());
        debts.counter.push(counters.place(&debt.counter));
        debts.start.push(debt.period.start.as_micros());
        debts.end.push(debt.period.end.as_micros());
        debts.cap.push(to_column(debt.cap));
        debts.version.push(debt.cap_version.into());
        debts.used.push(to_column(debt.used));
    }
    let mut requests = RequestColumns::default();
    for request in &call.requests {
        requests.lease.push(Id(request.lease.as_u128()));
        requests.counter.push(counters.place(&request.counter));
        requests.cap.push(to_column(request.cap));
        requests.version.push(request.cap_version.into());
        requests.want.push(to_column(request.want));
        requests.beyond.push(request.beyond_cap);
        requests.needed.push(to_column(request.needed));
        requests.periods.add(&request.calendar, request.counter.per, ahead(request), now);
    }
    let (reports, returns) = (ReportColumns::new(&call.reports), ReportColumns::new(&call.returns));
    let epoch = Timestamp::default();
    let most = i64::try_from(forgotten_at_most(call)).unwrap_or(i64::MAX);
    let kept = [closed_leases_kept_since(epoch), debts_kept_since(epoch), windows_kept_since(epoch)];
    let kept = kept.map(Timestamp::as_micros);
    let (boot, number) = (Id(call.node.boot.as_u128()), to_column(call.number));
    let parameters: [(&(dyn ToSql + Sync), Type); 35] = {
        let [ahead, starts, ends] = requests.periods.parameters();
        [
            (&call.node.node, Type::TEXT),
            (&boot, Type::UUID),
            (&number, Type::INT8),
            (&clock, Type::INT8),
            (&most, Type::INT8),
            (&kept[0], Type::INT8),
            (&kept[1], Type::INT8),
            (&kept[2], Type::INT8),
            (&counters.counter, Type::TEXT_ARRAY),
            (&counters.tenant, Type::UUID_ARRAY),
            (&counters.limit, Type::TEXT_ARRAY),
            (&counters.meter, Type::TEXT_ARRAY),
            (&counters.per, Type::TEXT_ARRAY),
            (&counters.subject, Type::TEXT_ARRAY),
            (&reports.lease, Type::UUID_ARRAY),
            (&reports.used, Type::INT8_ARRAY),
            (&returns.lease, Type::UUID_ARRAY),
            (&returns.used, Type::INT8_ARRAY),
            (&debts.lease, Type::BYTEA_ARRAY),
            (&debts.counter, Type::INT4_ARRAY),
            (&debts.start, Type::INT8_ARRAY),
            (&debts.end, Type::INT8_ARRAY),
            (&debts.cap, Type::INT8_ARRAY),
            (&debts.version, Type::INT8_ARRAY),
            (&debts.used, Type::INT8_ARRAY),
            (&requests.lease, Type::UUID_ARRAY),
            (&requests.counter, Type::INT4_ARRAY),
            ahead,
            starts,
            ends,
            (&requests.cap, Type::INT8_ARRAY),
            (&requests.version, Type::INT8_ARRAY),
            (&requests.want, Type::INT8_ARRAY),
            (&requests.beyond, Type::BOOL_ARRAY),
            (&requests.needed, Type::INT8_ARRAY),
        ]
    };
    let rows = client.query_typed(&statement(parameters.len()), &parameters).await.map_err(refused)?;
    let row = rows.first().ok_or_else(|| unreadable("a function answered nothing"))?;
    Ok((instant(row, 0)?, answer(row, call)?))
}

/// How far ahead of the authority's now a request asks.
const fn ahead(request: &LeaseRequest) -> i64 {
    request.instant(Timestamp::from_micros(0)).as_micros()
}

fn statement(parameters: usize) -> String {
    let places: Vec<String> = (1..=parameters).map(|number| format!("${number}")).collect();
    format!(
        "SELECT a_now, a_active_nodes, a_recalled, a_units, a_starts, a_ends, a_caps, a_granted, a_used
         FROM usage_gate_lease({})",
        places.join(", ")
    )
}

fn refused(error: tokio_postgres::Error) -> Fault {
    if error.code().is_some_and(|code: &SqlState| code.code() == SUPERSEDED) {
        return StoreError::superseded(WHAT).into();
    }
    error.into()
}

fn answer(row: &Row, call: &LeaseCall) -> Result<Option<LeaseAnswer>, Fault> {
    let Some(granted_units) = row.try_get::<_, Option<Vec<i64>>>(3)? else { return Ok(None) };
    let (starts, ends): (Vec<i64>, Vec<i64>) = (row.try_get(4)?, row.try_get(5)?);
    let (caps, granted): (Vec<i64>, Vec<i64>) = (row.try_get(6)?, row.try_get(7)?);
    let used: Vec<&str> = row.try_get(8)?;
    let mut grants = Vec::with_capacity(call.requests.len());
    for (at, request) in call.requests.iter().enumerate() {
        let number = |column: &[i64]| column.get(at).copied().ok_or_else(|| unreadable("a grant is missing"));
        let period =
            Period { start: Timestamp::from_micros(number(&starts)?), end: Timestamp::from_micros(number(&ends)?) };
        let window = WindowState {
            period,
            cap: from_column(number(&caps)?)?,
            granted: from_column(number(&granted)?)?,
            used: units_of_text(used.get(at).copied().unwrap_or_default())?,
        };
        grants.push(LeaseGrant { lease: request.lease, units: from_column(number(&granted_units)?)?, window });
    }
    let recalled: Vec<Id> = row.try_get(2)?;
    Ok(Some(LeaseAnswer {
        now: instant(row, 0)?,
        active_nodes: u32::try_from(row.try_get::<_, i64>(1)?).unwrap_or(u32::MAX),
        grants,
        recalled: recalled.into_iter().map(|id| LeaseId::from_u128(id.0)).collect(),
    }))
}

fn from_column(value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(unreadable)
}

/// A sum, which may be more than a column of a number holds; what is more than we count becomes the most.
pub(super) fn units_of_text(text: &str) -> Result<u64, StoreError> {
    let sum: u128 = text.parse().map_err(unreadable)?;
    Ok(u64::try_from(sum).unwrap_or(u64::MAX))
}
