//! Debts in SQLite: what holders tell of them and what records cite meet in one row, so that each is booked once.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};

use super::value::{instant, to_column, units};
use crate::lease::ledger::{DebtKey, debts_kept_since};
use crate::model::Timestamp;
use crate::period::Period;
use crate::store::CounterTag;

/// What is booked of a debt.
pub(super) fn booked(connection: &Connection, debt: &DebtKey) -> rusqlite::Result<u64> {
    let (counter, second, lease) = columns(debt);
    let found = connection
        .prepare_cached("SELECT booked FROM debt WHERE counter_tag = ?1 AND period_start = ?2 AND lease_tag = ?3")?
        .query_row((counter, second, lease), |row| units(row, 0))
        .optional()?;
    Ok(found.unwrap_or(0))
}

/// Notes what is booked of a debt now.
pub(super) fn book(connection: &Connection, debt: &DebtKey, used: u64, now: Timestamp) -> rusqlite::Result<()> {
    let (counter, second, lease) = columns(debt);
    connection
        .prepare_cached(
            "INSERT INTO debt (counter_tag, period_start, lease_tag, booked, recorded, told_at)
             VALUES (?1, ?2, ?3, ?4, 0, ?5)
             ON CONFLICT DO UPDATE SET booked = excluded.booked, told_at = excluded.told_at",
        )?
        .execute((counter, second, lease, to_column(used), now.as_micros()))?;
    Ok(())
}

/// Adds what records cite of a debt.
pub(super) fn record(connection: &Connection, debt: &DebtKey, used: i64, now: Timestamp) -> rusqlite::Result<()> {
    let (counter, second, lease) = columns(debt);
    connection
        .prepare_cached(
            "INSERT INTO debt (counter_tag, period_start, lease_tag, booked, recorded, told_at)
             VALUES (?1, ?2, ?3, 0, ?4, ?5)
             ON CONFLICT DO UPDATE SET
                 recorded = CASE WHEN excluded.recorded > 0
                         THEN min(recorded, 9223372036854775807 - excluded.recorded)
                         ELSE max(recorded, -9223372036854775807 - excluded.recorded) END + excluded.recorded,
                 told_at = max(told_at, excluded.told_at)",
        )?
        .execute((counter, second, lease, used, now.as_micros()))?;
    Ok(())
}

/// The debts of a counter in a period, summed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Debts {
    pub(super) recorded: i128,
    pub(super) booked: i128,
    /// Recorded, and not booked.
    pub(super) missing: u64,
}

/// Books what records cite of debts and nobody has told. Gives the sums as they were before.
pub(super) fn book_recorded(connection: &Connection, counter: [u8; 8], second: Timestamp) -> rusqlite::Result<Debts> {
    let key = (counter, second.as_micros());
    // Summed here, because the sum may be more than SQLite's takes.
    let mut statement =
        connection.prepare_cached("SELECT booked, recorded FROM debt WHERE counter_tag = ?1 AND period_start = ?2")?;
    let mut rows = statement.query(key)?;
    let mut sums = Debts::default();
    while let Some(row) = rows.next()? {
        let (booked, recorded): (i64, i64) = (row.get(0)?, row.get(1)?);
        sums.booked = sums.booked.saturating_add(booked.into());
        sums.recorded = sums.recorded.saturating_add(recorded.into());
        let missing = u64::try_from(recorded.saturating_sub(booked)).unwrap_or(0);
        sums.missing = sums.missing.saturating_add(missing);
    }
    if sums.missing > 0 {
        connection
            .prepare_cached(
                "UPDATE debt SET booked = recorded
                 WHERE counter_tag = ?1 AND period_start = ?2 AND recorded > booked",
            )?
            .execute(key)?;
    }
    Ok(sums)
}

/// What records cite of debts of periods that began in this time, and nobody has told.
pub(super) fn not_told(
    connection: &Connection,
    began: Period,
) -> rusqlite::Result<BTreeMap<(CounterTag, Timestamp), u64>> {
    let mut statement = connection.prepare_cached(
        "SELECT counter_tag, period_start, recorded - booked FROM debt
         WHERE period_start >= ?1 AND period_start < ?2 AND recorded > booked",
    )?;
    let mut rows = statement.query((began.start.as_micros(), began.end.as_micros()))?;
    let mut sums = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let place = (CounterTag(row.get(0).map(u64::from_be_bytes)?), instant(row, 1)?);
        let sum: &mut u64 = sums.entry(place).or_default();
        *sum = sum.saturating_add(units(row, 2)?);
    }
    Ok(sums)
}

/// Forgets some of what nobody will tell again, as the ledger does.
pub(super) fn forget(connection: &Connection, most: i64, now: Timestamp) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM debt WHERE (counter_tag, period_start, lease_tag) IN
                 (SELECT counter_tag, period_start, lease_tag FROM debt WHERE told_at < ?1
                  ORDER BY told_at, counter_tag, period_start, lease_tag LIMIT ?2)",
        )?
        .execute((debts_kept_since(now).as_micros(), most))?;
    Ok(())
}

fn columns(debt: &DebtKey) -> ([u8; 8], i64, [u8; 8]) {
    (debt.counter.0.to_be_bytes(), debt.second.as_micros(), debt.lease.to_be_bytes())
}
