//! Quotas in PostgreSQL: each call is one function of the schema, which says what the ledger says. Here are the calendars, which SQL does not know.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::PostgresStore;
use super::fault::Fault;
use super::ledger_call::{self, Periods, units_of_text};
use super::value::{Id, id, instant, parsed, units, unreadable};
use crate::clock::Clock;
use crate::lease::incarnations::{FIRST_EVER, MOST_OLD, incarnations_kept_since};
use crate::lease::ledger::unused_window;
use crate::model::Timestamp;
use crate::period::Period;
use crate::store::quotas::RECALLS_LOOKED_FOR;
use crate::store::{
    CounterId, Durability, LeaseAnswer, LeaseCall, LeaseId, NodeIdentity, OpenLease, QuotaPromises, QuotaStore,
    StoreError, WindowQuery, WindowState,
};

/// How often a question is asked where no period that it named held the authority's now: once more with its time, and once more in case a period ended meanwhile.
const ASKED_AT_MOST: usize = 3;

#[async_trait::async_trait]
impl QuotaStore for PostgresStore {
    fn backend(&self) -> &'static str {
        "postgres"
    }

    fn promises(&self) -> QuotaPromises {
        QuotaPromises::new(Durability::Durable, true)
    }

    async fn register(&self, node: &NodeIdentity) -> Result<Vec<OpenLease>, StoreError> {
        let (boot, table) = (Id(node.boot.as_u128()), Id(node.table.as_u128()));
        let clock = self.given_time();
        self.run("register a node", async |client| {
            let rows = client
                .query_typed(
                    "SELECT lease_id, size, used, period_start, period_end FROM usage_gate_register($1, $2, $3, $4)",
                    &[(&node.node, Type::TEXT), (&boot, Type::UUID), (&table, Type::UUID), (&clock, Type::INT8)],
                )
                .await?;
            rows.iter().map(open_lease).collect()
        })
        .await
    }

    async fn lease(&self, call: &LeaseCall) -> Result<LeaseAnswer, StoreError> {
        const WHAT: &str = ledger_call::WHAT;
        for _ in 0..ASKED_AT_MOST {
            let (now, clock) = (self.authority_now(), self.given_time());
            let sending = self.run(WHAT, async |client| {
                // Rows are locked in one order, so that this is rare: a window that was forgotten meanwhile, a lock of somebody else's.
                for _ in 1..ASKED_AT_MOST {
                    match ledger_call::send(client, call, now, clock).await {
                        Err(fault) if fault.was_undone() => {}
                        sent => return sent,
                    }
                }
                ledger_call::send(client, call, now, clock).await
            });
            let answer = sending.await?;
            self.learn(answer.0);
            if let (_, Some(answer)) = answer {
                return Ok(answer);
            }
        }
        Err(periods_missed(WHAT))
    }

    async fn windows(&self, queries: &[WindowQuery]) -> Result<Vec<WindowState>, StoreError> {
        const WHAT: &str = "read quotas";
        let counters: Vec<String> = queries.iter().map(|query| query.counter.to_string()).collect();
        for _ in 0..ASKED_AT_MOST {
            let (periods, clock) = (self.periods(queries), self.given_time());
            let [ahead, starts, ends] = periods.parameters();
            let rows = self
                .run(WHAT, async |client| {
                    Ok(client
                        .query_typed(
                            "SELECT at, began, ends, cap, granted, used FROM usage_gate_windows($1, $2, $3, $4, $5)",
                            &[(&clock, Type::INT8), (&counters, Type::TEXT_ARRAY), ahead, starts, ends],
                        )
                        .await?)
                })
                .await?;
            let states = rows.iter().zip(queries).map(|(row, query)| {
                self.learn(instant(row, 0)?);
                state(row, query.cap)
            });
            let states: Option<Vec<WindowState>> = states.collect::<Result<_, Fault>>().map_err(of(WHAT))?;
            if let Some(states) = states {
                return Ok(states);
            }
        }
        Err(periods_missed(WHAT))
    }

    async fn subjects(&self, template: &WindowQuery, most: usize) -> Result<Vec<(CounterId, WindowState)>, StoreError> {
        const WHAT: &str = "read the subjects of a quota";
        let wanted = &template.counter;
        let (tenant, most) = (Id(wanted.tenant.as_u128()), i64::try_from(most).unwrap_or(i64::MAX));
        for _ in 0..ASKED_AT_MOST {
            let (periods, clock) = (self.periods(std::slice::from_ref(template)), self.given_time());
            let [ahead, starts, ends] = periods.parameters();
            let rows = self
                .run(WHAT, async |client| {
                    Ok(client
                        .query_typed(
                            "SELECT at, began, ends, cap, granted, used, subject
                             FROM usage_gate_subjects($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                            &[
                                (&clock, Type::INT8),
                                (&tenant, Type::UUID),
                                (&&*wanted.limit, Type::TEXT),
                                (&&*wanted.meter, Type::TEXT),
                                (&wanted.per.as_str(), Type::TEXT),
                                (&most, Type::INT8),
                                ahead,
                                starts,
                                ends,
                            ],
                        )
                        .await?)
                })
                .await?;
            let found = rows.iter().map(|row| {
                self.learn(instant(row, 0)?);
                Ok(match state(row, template.cap)? {
                    None => Found::Missed,
                    // The one row of a limit that nobody has used.
                    Some(_) if row.try_get::<_, Option<&str>>(6)?.is_none() => Found::Nobody,
                    Some(state) => Found::Subject(CounterId { subject: parsed(row, 6)?, ..wanted.clone() }, state),
                })
            });
            let found: Vec<Found> = found.collect::<Result<_, Fault>>().map_err(of(WHAT))?;
            if !found.iter().any(|found| matches!(found, Found::Missed)) {
                let subject =
                    |found| if let Found::Subject(counter, state) = found { Some((counter, state)) } else { None };
                return Ok(found.into_iter().filter_map(subject).collect());
            }
        }
        Err(periods_missed(WHAT))
    }

    async fn recalls(&self) -> Result<bool, StoreError> {
        let mut recalled = self.inner.listener.bells().recalls.subscribe();
        Ok(tokio::time::timeout(RECALLS_LOOKED_FOR, recalled.changed()).await.is_ok())
    }

    async fn incarnation_age(&self, incarnation: &str) -> Result<Duration, StoreError> {
        let clock = self.given_time();
        let (kept, most) = (incarnations_kept_since(Timestamp::default()).as_micros(), i64::from(MOST_OLD));
        let first_ever = i64::try_from(FIRST_EVER.as_micros()).unwrap_or(i64::MAX);
        self.run("note an incarnation", async |client| {
            let rows = client
                .query_typed(
                    "SELECT usage_gate_incarnation_age($1, $2, $3, $4, $5)",
                    &[
                        (&incarnation, Type::TEXT),
                        (&clock, Type::INT8),
                        (&kept, Type::INT8),
                        (&most, Type::INT8),
                        (&first_ever, Type::INT8),
                    ],
                )
                .await?;
            let row = rows.first().ok_or_else(|| unreadable("a function answered nothing"))?;
            Ok(Duration::from_micros(units(row, 0)?))
        })
        .await
    }
}

impl PostgresStore {
    /// The time in the place of the server's, if there is one.
    pub(super) fn given_time(&self) -> Option<i64> {
        self.inner.clock.as_ref().map(|clock| clock.wall().as_micros())
    }

    /// What this node takes for the authority's now.
    fn authority_now(&self) -> Timestamp {
        match &self.inner.clock {
            Some(clock) => clock.wall(),
            // Relaxed: a guess that is old costs a round trip.
            None => Clock::system().wall().plus_micros(self.inner.ahead.load(Ordering::Relaxed)),
        }
    }

    /// Notes by how much the authority's clock is ahead of ours.
    fn learn(&self, now: Timestamp) {
        if self.inner.clock.is_none() {
            let ahead = now.as_micros().saturating_sub(Clock::system().wall().as_micros());
            self.inner.ahead.store(ahead, Ordering::Relaxed);
        }
    }

    fn periods(&self, queries: &[WindowQuery]) -> Periods {
        let now = self.authority_now();
        let mut periods = Periods::default();
        for query in queries {
            periods.add(&query.calendar, query.counter.per, 0, now);
        }
        periods
    }
}

/// A row of the subjects of a limit.
enum Found {
    Missed,
    Nobody,
    Subject(CounterId, WindowState),
}

fn open_lease(row: &Row) -> Result<OpenLease, Fault> {
    Ok(OpenLease {
        lease: LeaseId::from_u128(id(row, 0)?),
        size: units(row, 1)?,
        used: units(row, 2)?,
        period: Period { start: instant(row, 3)?, end: instant(row, 4)? },
    })
}

/// A window from the columns after the time; nothing if no period held that.
fn state(row: &Row, cap: u64) -> Result<Option<WindowState>, Fault> {
    let Some(start) = row.try_get::<_, Option<i64>>(1)? else { return Ok(None) };
    let period = Period { start: Timestamp::from_micros(start), end: instant(row, 2)? };
    if row.try_get::<_, Option<i64>>(3)?.is_none() {
        return Ok(Some(unused_window(period, cap)));
    }
    Ok(Some(WindowState {
        period,
        cap: units(row, 3)?,
        granted: units(row, 4)?,
        used: units_of_text(row.try_get(5)?)?,
    }))
}

fn of(what: &'static str) -> impl Fn(Fault) -> StoreError {
    move |fault| fault.into_store(what)
}

/// Only a clock that jumps between the questions gets here.
fn periods_missed(what: &'static str) -> StoreError {
    StoreError::unavailable(what, "the database's clock is in none of the periods that it was asked about")
}
