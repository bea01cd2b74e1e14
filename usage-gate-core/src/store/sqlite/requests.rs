//! Keeps the request log: blocks of requests, found by their newest.

use rusqlite::{Connection, ToSql};

use super::value::{Fault, id, instant, to_column};
use crate::model::{TenantId, Timestamp};
use crate::store::request_block::blocks;
use crate::store::request_log::{Finder, window};
use crate::store::requests::kept_since;
use crate::store::{Batch, RequestPage, RequestQuery, StoreError};

pub(super) fn add(connection: &Connection, batch: &Batch) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO request_block (tenant, at_first, at_last, stream, first, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for block in blocks(batch) {
        statement.execute((
            block.tenant.as_u128().to_be_bytes(),
            block.at_first.as_micros(),
            block.at_last.as_micros(),
            batch.stream.as_u128().to_be_bytes(),
            to_column(batch.first),
            block.body,
        ))?;
    }
    Ok(())
}

pub(super) fn forget(connection: &Connection, through: Timestamp, most: usize) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM request_block WHERE id IN
                 (SELECT id FROM request_block WHERE at_last < ?1 ORDER BY at_last LIMIT ?2)",
        )?
        .execute((kept_since(through).as_micros(), i64::try_from(most).unwrap_or(i64::MAX)))?;
    Ok(())
}

/// The newest first; a block is read only when it is wanted.
macro_rules! blocks_sql {
    ($tenant:literal) => {
        concat!(
            "SELECT tenant, at_last, body FROM request_block WHERE ",
            $tenant,
            "at_last BETWEEN :from AND :until AND at_first <= :end ORDER BY at_last DESC"
        )
    };
}

pub(super) fn find(connection: &Connection, query: &RequestQuery) -> Result<RequestPage, Fault> {
    let window = window(query);
    let (from, until, end) = (window.from.as_micros(), window.until.as_micros(), window.end.as_micros());
    let mut values: Vec<(&str, &dyn ToSql)> = vec![(":from", &from), (":until", &until), (":end", &end)];
    let tenant = query.tenant.map(|tenant| tenant.as_u128().to_be_bytes());
    let mut statement = match &tenant {
        Some(tenant) => {
            values.push((":tenant", tenant));
            connection.prepare_cached(blocks_sql!("tenant = :tenant AND "))?
        }
        None => connection.prepare_cached(blocks_sql!(""))?,
    };
    let mut rows = statement.query(&*values)?;
    let mut finder = Finder::new(query);
    while let Some(row) = rows.next()? {
        if !finder.wants(instant(row, 1)?) {
            break;
        }
        let body = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
        let unreadable = |error| StoreError::unusable("read the request log", error);
        finder.add(TenantId::from_u128(id(row, 0)?), body).map_err(unreadable)?;
    }
    Ok(finder.finish())
}
