//! Quotas in SQLite: rows are read, [`WindowRow`] decides, rows are written. In one transaction, in the order of the ledger.

use std::net::AddrParseError;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row};

use super::value::{Fault, id, instant, optional_instant, to_column, units, unreadable};
use super::{SqliteStore, debts, incarnations};
use crate::lease::ledger::{
    DebtKey, MOST_UNITS, WindowRow, closed_leases_kept_since, forgotten_at_most, unused_window, windows_kept_since,
};
use crate::model::{StreamId, TenantId, Timestamp};
use crate::period::Period;
use crate::store::{
    CounterId, CounterTag, Durability, LeaseAnswer, LeaseCall, LeaseDebt, LeaseGrant, LeaseId, LeaseReport,
    LeaseRequest, NodeIdentity, OpenLease, QuotaPromises, QuotaStore, StoreError, Subject, WindowQuery, WindowState,
};

#[async_trait::async_trait]
impl QuotaStore for SqliteStore {
    fn backend(&self) -> &'static str {
        "sqlite"
    }

    fn promises(&self) -> QuotaPromises {
        QuotaPromises::new(Durability::Durable, true)
    }

    async fn register(&self, node: &NodeIdentity) -> Result<Vec<OpenLease>, StoreError> {
        let (node, clock) = (node.clone(), self.inner.clock.clone());
        self.write("register a node", move |connection| Ok(register(connection, &node, clock.wall())?)).await
    }

    async fn lease(&self, call: &LeaseCall) -> Result<LeaseAnswer, StoreError> {
        self.inner.quota_calls.fetch_add(1, Ordering::Relaxed);
        let (call, clock) = (call.clone(), self.inner.clock.clone());
        // The clock is read in the job: the order of instants is the order of calls.
        self.write("lease units", move |connection| lease(connection, &call, clock.wall())).await
    }

    async fn windows(&self, queries: &[WindowQuery]) -> Result<Vec<WindowState>, StoreError> {
        let (queries, clock) = (queries.to_vec(), self.inner.clock.clone());
        self.read("read quotas", move |connection| {
            let now = clock.wall();
            let states = queries.iter().map(|query| {
                let period = query.calendar.period(query.counter.per, now);
                let state = state(connection, &query.counter.to_string(), period.start)?;
                Ok(state.map_or_else(|| unused_window(period, query.cap), |state| WindowState { period, ..state }))
            });
            states.collect()
        })
        .await
    }

    async fn subjects(&self, template: &WindowQuery, most: usize) -> Result<Vec<(CounterId, WindowState)>, StoreError> {
        let (template, clock) = (template.clone(), self.inner.clock.clone());
        self.read("read the subjects of a quota", move |connection| {
            Ok(subjects(connection, &template, most, clock.wall())?)
        })
        .await
    }

    async fn incarnation_age(&self, incarnation: &str) -> Result<Duration, StoreError> {
        let (incarnation, clock) = (incarnation.to_owned(), self.inner.clock.clone());
        self.write("note an incarnation", move |connection| {
            Ok(incarnations::incarnation_age(connection, &incarnation, clock.wall())?)
        })
        .await
    }
}

/// Where a window is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    counter: String,
    start: Timestamp,
}

fn register(connection: &Connection, identity: &NodeIdentity, now: Timestamp) -> rusqlite::Result<Vec<OpenLease>> {
    let (boot, table) = (identity.boot.as_u128().to_be_bytes(), identity.table.as_u128().to_be_bytes());
    let former: Option<([u8; 16], Option<[u8; 16]>)> = connection
        .prepare_cached("SELECT boot, table_id FROM node WHERE node = ?1")?
        .query_row([&identity.node], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if former.is_none_or(|(former, _)| former != boot) {
        if former.is_some_and(|(_, former)| former == Some(table)) {
            connection
                .prepare_cached("UPDATE lease SET boot = ?2 WHERE node = ?1 AND closed_at IS NULL")?
                .execute((&identity.node, boot))?;
        } else {
            // A6: what was left of them nobody knows.
            for open in open_of(connection, &identity.node)? {
                end(connection, open.lease.as_u128().to_be_bytes(), now, |window, size| {
                    window.write_off(size, open.used)
                })?;
            }
        }
        connection
            .prepare_cached(
                "INSERT INTO node (node, boot, table_id, life)
                 VALUES (?1, ?2, ?3, (SELECT coalesce(max(life), 0) + 1 FROM node))
                 ON CONFLICT (node) DO UPDATE SET
                     boot = excluded.boot, table_id = excluded.table_id, life = excluded.life, heard = 0",
            )?
            .execute((&identity.node, boot, table))?;
    }
    open_of(connection, &identity.node)
}

/// Open leases of a node, by id.
fn open_of(connection: &Connection, node: &str) -> rusqlite::Result<Vec<OpenLease>> {
    connection
        .prepare_cached(
            "SELECT lease_id, size, used, period_start, period_end
             FROM lease JOIN quota_window USING (counter, period_start)
             WHERE node = ?1 AND closed_at IS NULL ORDER BY lease_id",
        )?
        .query_map([node], |row| {
            Ok(OpenLease {
                lease: LeaseId::from_u128(id(row, 0)?),
                size: units(row, 1)?,
                used: units(row, 2)?,
                period: Period { start: instant(row, 3)?, end: instant(row, 4)? },
            })
        })?
        .collect()
}

fn lease(connection: &Connection, call: &LeaseCall, now: Timestamp) -> Result<LeaseAnswer, Fault> {
    let node = &*call.node.node;
    let heard = match latest_of(connection, node)? {
        Some((boot, heard)) if boot == call.node.boot.as_u128().to_be_bytes() => heard,
        _ => return Err(StoreError::superseded("lease units").into()),
    };
    for used in &call.reports {
        report(connection, used, node)?;
    }
    for returned in &call.returns {
        // The last word of its holder, which may be less than was reported: units that were held at that time have come back.
        let lease = returned.lease.as_u128().to_be_bytes();
        if is_open_of(connection, lease, node)? {
            let used = returned.used.min(MOST_UNITS);
            end(connection, lease, now, |window, size| window.close(size, used))?;
        }
    }
    for debt in &call.debts {
        book(connection, debt, now)?;
    }
    let is_new = call.number > heard;
    if is_new && !call.requests.is_empty() {
        connection
            .prepare_cached("UPDATE node SET heard = ?2 WHERE node = ?1")?
            .execute((node, to_column(call.number)))?;
    }
    let mut active_nodes = 1;
    let mut granted = Vec::with_capacity(call.requests.len());
    for request in &call.requests {
        let (units, place, nodes) = grant(connection, request, &call.node, is_new, now)?;
        active_nodes = active_nodes.max(nodes);
        granted.push((request, units, place));
    }
    // The state after the whole call, also where it asks twice for one counter.
    let grants = granted
        .into_iter()
        .map(|(request, units, place)| {
            let window = state(connection, &place.counter, place.start)?
                .unwrap_or_else(|| unused_window(request.period(now), request.cap));
            Ok(LeaseGrant { lease: request.lease, units, window })
        })
        .collect::<rusqlite::Result<_>>()?;
    let recalled = recalled_of(connection, node)?;
    forget(connection, forgotten_at_most(call), now)?;
    Ok(LeaseAnswer { now, active_nodes, grants, recalled })
}

/// The latest life of a node, and the largest number of its calls that asked for units.
fn latest_of(connection: &Connection, node: &str) -> rusqlite::Result<Option<([u8; 16], u64)>> {
    connection
        .prepare_cached("SELECT boot, heard FROM node WHERE node = ?1")?
        .query_row([node], |row| Ok((row.get(0)?, units(row, 1)?)))
        .optional()
}

/// Whether this node has the lease open. A5: what is said of any other changes nothing.
fn is_open_of(connection: &Connection, lease: [u8; 16], node: &str) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM lease WHERE lease_id = ?1 AND node = ?2 AND closed_at IS NULL")?
        .exists((lease, node))
}

/// Raises what is known of an open lease of this node.
fn report(connection: &Connection, report: &LeaseReport, node: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE lease SET used = max(used, ?2) WHERE lease_id = ?1 AND node = ?3 AND closed_at IS NULL",
        )?
        .execute((report.lease.as_u128().to_be_bytes(), to_column(report.used), node))?;
    Ok(())
}

/// Closes an open lease of a size with what `book` makes of it.
fn end(
    connection: &Connection,
    lease: [u8; 16],
    now: Timestamp,
    book: impl FnOnce(&mut WindowRow, u64) -> u64,
) -> rusqlite::Result<()> {
    let (place, size) = connection
        .prepare_cached("SELECT counter, period_start, size FROM lease WHERE lease_id = ?1")?
        .query_row([lease], |row| Ok((place(row)?, units(row, 2)?)))?;
    let Some(mut window) = window(connection, &place)? else { return Ok(()) };
    let booked = book(&mut window, size);
    save(connection, &place, &window)?;
    connection.prepare_cached("UPDATE lease SET used = ?2, closed_at = ?3 WHERE lease_id = ?1")?.execute((
        lease,
        to_column(booked),
        now.as_micros(),
    ))?;
    Ok(())
}

/// Books what is not booked yet of a debt.
fn book(connection: &Connection, debt: &LeaseDebt, now: Timestamp) -> rusqlite::Result<()> {
    let (key, used) = (DebtKey::of(debt), debt.used.min(MOST_UNITS));
    let booked = debts::booked(connection, &key)?;
    if used <= booked || debt.period.end < windows_kept_since(now) {
        return Ok(());
    }
    let place = Place { counter: debt.counter.to_string(), start: debt.period.start };
    let mut window = match window(connection, &place)? {
        Some(window) => window,
        None => create(connection, &debt.counter, &place, WindowRow::new(debt.period, debt.cap, debt.cap_version))?,
    };
    window.close(0, used.saturating_sub(booked));
    save(connection, &place, &window)?;
    debts::book(connection, &key, used, now)
}

/// Gives units, the window, and how many nodes share it.
fn grant(
    connection: &Connection,
    request: &LeaseRequest,
    identity: &NodeIdentity,
    is_new: bool,
    now: Timestamp,
) -> rusqlite::Result<(u64, Place, u32)> {
    let known = connection
        .prepare_cached("SELECT counter, period_start, size FROM lease WHERE lease_id = ?1")?
        .query_row([request.lease.as_u128().to_be_bytes()], |row| Ok((place(row)?, units(row, 2)?)))
        .optional()?;
    if let Some((place, size)) = known {
        let nodes = nodes_of(connection, &place, &identity.node)?;
        return Ok((size, place, nodes));
    }
    let period = request.period(now);
    let place = Place { counter: request.counter.to_string(), start: period.start };
    let nodes = nodes_of(connection, &place, &identity.node)?;
    if !is_new {
        return Ok((0, place, nodes));
    }
    let mut window = match window(connection, &place)? {
        Some(window) => window,
        None => {
            let new = WindowRow::new(period, request.cap, request.cap_version);
            create(connection, &request.counter, &place, new)?
        }
    };
    heal(connection, &place, &mut window)?;
    window.refresh(request, period);
    let units = window.grant(request, nodes);
    // Before the new lease is there, which is not meant.
    if window.recall(request, units, nodes, now) {
        connection
            .prepare_cached(
                "UPDATE lease SET recalled = 1 WHERE counter = ?1 AND period_start = ?2 AND closed_at IS NULL",
            )?
            .execute((&place.counter, place.start.as_micros()))?;
    }
    save(connection, &place, &window)?;
    if units > 0 {
        connection
            .prepare_cached(
                "INSERT INTO lease (lease_id, counter, period_start, node, boot, size, used)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)",
            )?
            .execute((
                request.lease.as_u128().to_be_bytes(),
                &place.counter,
                place.start.as_micros(),
                &identity.node,
                identity.boot.as_u128().to_be_bytes(),
                to_column(units),
            ))?;
    }
    Ok((units, place, nodes))
}

/// Open leases of a node that are recalled, by id.
fn recalled_of(connection: &Connection, node: &str) -> rusqlite::Result<Vec<LeaseId>> {
    connection
        .prepare_cached(
            "SELECT lease_id FROM lease WHERE node = ?1 AND recalled <> 0 AND closed_at IS NULL ORDER BY lease_id",
        )?
        .query_map([node], |row| id(row, 0).map(LeaseId::from_u128))?
        .collect()
}

/// Nodes that hold open leases of a window, and this one.
fn nodes_of(connection: &Connection, place: &Place, node: &str) -> rusqlite::Result<u32> {
    let others: u32 = connection
        .prepare_cached(
            "SELECT count(DISTINCT node) FROM lease
             WHERE counter = ?1 AND period_start = ?2 AND closed_at IS NULL AND node <> ?3",
        )?
        .query_row((&place.counter, place.start.as_micros(), node), |row| row.get(0))?;
    Ok(others.saturating_add(1))
}

fn place(row: &Row<'_>) -> rusqlite::Result<Place> {
    Ok(Place { counter: row.get(0)?, start: instant(row, 1)? })
}

fn window(connection: &Connection, place: &Place) -> rusqlite::Result<Option<WindowRow>> {
    connection
        .prepare_cached(
            "SELECT period_start, period_end, cap, cap_version, ceiling, granted, overrun, used_closed, written_off,
                 recalled_at
             FROM quota_window WHERE counter = ?1 AND period_start = ?2",
        )?
        .query_row((&place.counter, place.start.as_micros()), window_row)
        .optional()
}

fn window_row(row: &Row<'_>) -> rusqlite::Result<WindowRow> {
    Ok(WindowRow {
        period: Period { start: instant(row, 0)?, end: instant(row, 1)? },
        cap: units(row, 2)?,
        cap_version: row.get(3)?,
        ceiling: units(row, 4)?,
        granted: units(row, 5)?,
        overrun: units(row, 6)?,
        used_closed: units(row, 7)?,
        written_off: units(row, 8)?,
        recalled_at: optional_instant(row, 9)?,
    })
}

fn create(
    connection: &Connection,
    counter: &CounterId,
    place: &Place,
    window: WindowRow,
) -> rusqlite::Result<WindowRow> {
    connection
        .prepare_cached(
            "INSERT INTO quota_window (counter, period_start, period_end, tenant, limit_name, meter, per, subject,
                                       cap, cap_version, ceiling, granted, overrun, used_closed)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 0, 0, 0)",
        )?
        .execute((
            &place.counter,
            place.start.as_micros(),
            window.period.end.as_micros(),
            counter.tenant.as_u128().to_be_bytes(),
            &*counter.limit,
            &*counter.meter,
            counter.per.as_str(),
            counter.subject.to_string(),
            to_column(window.cap),
            window.cap_version,
            to_column(window.ceiling),
        ))?;
    Ok(window)
}

/// Compares a window with the records when it is first touched after a life of a node began, or after late records of a dead one.
fn heal(connection: &Connection, place: &Place, window: &mut WindowRow) -> rusqlite::Result<()> {
    let key = (&place.counter, place.start.as_micros());
    let touched = connection
        .prepare_cached(
            "UPDATE quota_window SET healed_in = (SELECT max(life) FROM node)
             WHERE counter = ?1 AND period_start = ?2 AND healed_in < (SELECT max(life) FROM node)",
        )?
        .execute(key)?;
    if touched == 0 {
        return Ok(());
    }
    // Records name a period by whole seconds.
    let (tag, second) = (CounterTag::of_text(&place.counter).0.to_be_bytes(), place.start.floor_seconds());
    let recorded = connection
        .prepare_cached("SELECT units FROM counter_use WHERE tag = ?1 AND period_start = ?2")?
        .query_row((tag, second.as_micros()), |row| row.get::<_, i64>(0))
        .optional()?;
    let Some(recorded) = recorded else { return Ok(()) };
    // What a reboot made a node forget to tell. A living node may be about to tell it: then it is known already, by its lease.
    let debts = debts::book_recorded(connection, tag, second)?;
    window.close(0, debts.missing);
    // Of leases the sums are compared, since records may be of any that ever were; with what is booked of debts in place of what is recorded of them.
    let recorded = i128::from(recorded).saturating_sub(debts.recorded).saturating_add(debts.booked);
    // Below zero are credits of leases that were counted elsewhere: nothing to heal.
    let recorded = u64::try_from(recorded.max(0)).unwrap_or(u64::MAX).saturating_add(debts.missing);
    let owed = connection
        .prepare_cached(
            "SELECT used - size FROM lease
             WHERE counter = ?1 AND period_start = ?2 AND closed_at IS NULL AND used > size",
        )?
        .query_map(key, |row| units(row, 0))?
        .try_fold(0u64, |sum, debt| debt.map(|debt| sum.saturating_add(debt)))?;
    window.heal(recorded, owed);
    Ok(())
}

/// Lets windows of a tenant's period be compared once more: records came late.
pub(super) fn heal_again(connection: &Connection, tenant: TenantId, start: Timestamp) -> rusqlite::Result<()> {
    // Records name a period by whole seconds, and a counter by its tag: other windows of the tenant lose nothing by another look.
    let (from, to) = (start.as_micros(), start.plus_micros(1_000_000).as_micros());
    connection
        .prepare_cached(
            "UPDATE quota_window SET healed_in = 0
             WHERE tenant = ?1 AND period_start >= ?2 AND period_start < ?3 AND healed_in <> 0",
        )?
        .execute((tenant.as_u128().to_be_bytes(), from, to))?;
    Ok(())
}

/// Whether this is the stream of a node's latest life.
pub(super) fn is_of_a_node(connection: &Connection, stream: StreamId) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM node WHERE boot = ?1")?.exists([stream.as_u128().to_be_bytes()])
}

fn save(connection: &Connection, place: &Place, window: &WindowRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE quota_window SET period_end = ?3, cap = ?4, cap_version = ?5, ceiling = ?6,
                    granted = ?7, overrun = ?8, used_closed = ?9, written_off = ?10, recalled_at = ?11
             WHERE counter = ?1 AND period_start = ?2",
        )?
        .execute((
            &place.counter,
            place.start.as_micros(),
            window.period.end.as_micros(),
            to_column(window.cap),
            window.cap_version,
            to_column(window.ceiling),
            to_column(window.granted),
            to_column(window.overrun),
            to_column(window.used_closed),
            to_column(window.written_off),
            window.recalled_at.map(Timestamp::as_micros),
        ))?;
    Ok(())
}

fn state(connection: &Connection, counter: &str, start: Timestamp) -> rusqlite::Result<Option<WindowState>> {
    let place = Place { counter: counter.to_owned(), start };
    let Some(window) = window(connection, &place)? else { return Ok(None) };
    Ok(Some(window.state(used_open(connection, &place)?)))
}

/// Summed here, because the sum of debts may be more than SQLite's `sum` takes.
fn used_open(connection: &Connection, place: &Place) -> rusqlite::Result<u64> {
    let mut statement = connection
        .prepare_cached("SELECT used FROM lease WHERE counter = ?1 AND period_start = ?2 AND closed_at IS NULL")?;
    let mut used = statement.query_map((&place.counter, place.start.as_micros()), |row| units(row, 0))?;
    used.try_fold(0u64, |sum, used| Ok(sum.saturating_add(used?)))
}

fn subjects(
    connection: &Connection,
    template: &WindowQuery,
    most: usize,
    now: Timestamp,
) -> rusqlite::Result<Vec<(CounterId, WindowState)>> {
    let wanted = &template.counter;
    let period = template.calendar.period(wanted.per, now);
    let mut statement = connection.prepare_cached(
        "SELECT period_start, period_end, cap, cap_version, ceiling, granted, overrun, used_closed, written_off,
             recalled_at, counter, subject
         FROM quota_window
         WHERE tenant = ?1 AND limit_name = ?2 AND meter = ?3 AND per = ?4 AND period_start = ?5
         ORDER BY granted DESC, counter LIMIT ?6",
    )?;
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let tenant = wanted.tenant.as_u128().to_be_bytes();
    let found = statement.query_map(
        (tenant, &*wanted.limit, &*wanted.meter, wanted.per.as_str(), period.start.as_micros(), most),
        |row| {
            let place = Place { counter: row.get(10)?, start: period.start };
            let subject = subject(row, 11)?;
            let state = window_row(row)?.state(used_open(connection, &place)?);
            Ok((CounterId { subject, ..wanted.clone() }, WindowState { period, ..state }))
        },
    )?;
    found.collect()
}

fn subject(row: &Row<'_>, at: usize) -> rusqlite::Result<Subject> {
    row.get::<_, Arc<str>>(at)?.parse().map_err(|error: AddrParseError| unreadable(at, error))
}

/// Forgets some of what nobody will ask for again, as the ledger does.
fn forget(connection: &Connection, most: usize, now: Timestamp) -> rusqlite::Result<()> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    connection
        .prepare_cached(
            "DELETE FROM lease WHERE lease_id IN
                 (SELECT lease_id FROM lease WHERE closed_at < ?1 ORDER BY closed_at, lease_id LIMIT ?2)",
        )?
        .execute((closed_leases_kept_since(now).as_micros(), most))?;
    debts::forget(connection, most, now)?;
    connection
        .prepare_cached(
            "DELETE FROM quota_window WHERE (counter, period_start) IN
                 (SELECT counter, period_start FROM quota_window WHERE period_end < ?1
                  ORDER BY period_end, counter, period_start LIMIT ?2)",
        )?
        .execute((windows_kept_since(now).as_micros(), most))?;
    Ok(())
}

const _: () = assert!(MOST_UNITS == i64::MAX.unsigned_abs(), "a column holds every number of the ledger");
