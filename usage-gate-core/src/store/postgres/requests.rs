//! Keeps the request log: blocks of requests, found by their newest.

use deadpool_postgres::Client;
use deadpool_postgres::Transaction;
use tokio_postgres::types::{ToSql, Type};

use super::fault::Fault;
use super::value::{Id, id, instant, to_column};
use crate::model::{StreamId, TenantId, Timestamp};
use crate::store::request_block::Block;
use crate::store::request_log::{Finder, window};
use crate::store::requests::kept_since;
use crate::store::{RequestPage, RequestQuery, StoreError};

/// Blocks that are read at once: few at first, since they mostly suffice.
const FEWEST: i64 = 8;
const MOST: i64 = 256;

/// Adds blocks of a batch that begins at `first`.
pub(super) async fn add(step: &Transaction<'_>, stream: StreamId, first: u64, blocks: &[Block]) -> Result<(), Fault> {
    if blocks.is_empty() {
        return Ok(());
    }
    let tenants: Vec<Id> = blocks.iter().map(|block| Id(block.tenant.as_u128())).collect();
    let at_first: Vec<i64> = blocks.iter().map(|block| block.at_first.as_micros()).collect();
    let at_last: Vec<i64> = blocks.iter().map(|block| block.at_last.as_micros()).collect();
    let bodies: Vec<&[u8]> = blocks.iter().map(|block| &*block.body).collect();
    step.execute_typed(
        "INSERT INTO request_block (tenant, at_first, at_last, body, stream, first)
         SELECT *, $5, $6 FROM unnest($1, $2, $3, $4)",
        &[
            (&tenants, Type::UUID_ARRAY),
            (&at_first, Type::INT8_ARRAY),
            (&at_last, Type::INT8_ARRAY),
            (&bodies, Type::BYTEA_ARRAY),
            (&Id(stream.as_u128()), Type::UUID),
            (&to_column(first), Type::INT8),
        ],
    )
    .await?;
    Ok(())
}

pub(super) async fn forget(step: &Transaction<'_>, through: Timestamp, most: i64) -> Result<(), Fault> {
    step.execute_typed(
        "DELETE FROM request_block WHERE ctid = ANY(ARRAY(
             SELECT ctid FROM request_block WHERE at_last < $1 ORDER BY at_last, id LIMIT $2 FOR UPDATE SKIP LOCKED))",
        &[(&kept_since(through).as_micros(), Type::INT8), (&most, Type::INT8)],
    )
    .await?;
    Ok(())
}

/// The newest first, from a place in their order.
macro_rules! blocks_sql {
    ($tenant:literal) => {
        concat!(
            "SELECT tenant, at_last, body, id FROM request_block
             WHERE at_last >= $1 AND (at_last, id) < ($2, $3) AND at_first <= $4",
            $tenant,
            " ORDER BY at_last DESC, id DESC LIMIT $5"
        )
    };
}

/// Reads part by part until there is enough: a block that is added meanwhile is a newer one, or is seen by whoever asks next.
pub(super) async fn find(client: &Client, query: &RequestQuery) -> Result<RequestPage, Fault> {
    let window = window(query);
    let (from, end) = (window.from.as_micros(), window.end.as_micros());
    let (mut until, mut before, mut most) = (window.until.as_micros(), i64::MAX, FEWEST);
    let tenant = query.tenant.map(|tenant| Id(tenant.as_u128()));
    let mut finder = Finder::new(query);
    loop {
        let mut values: Vec<(&(dyn ToSql + Sync), Type)> = vec![
            (&from, Type::INT8),
            (&until, Type::INT8),
            (&before, Type::INT8),
            (&end, Type::INT8),
            (&most, Type::INT8),
        ];
        let rows = match &tenant {
            Some(tenant) => {
                values.push((tenant, Type::UUID));
                client.query_typed(blocks_sql!(" AND tenant = $6"), &values).await?
            }
            None => client.query_typed(blocks_sql!(""), &values).await?,
        };
        for row in &rows {
            if !finder.wants(instant(row, 1)?) {
                return Ok(finder.finish());
            }
            let unreadable = |error| StoreError::unusable("read the request log", error);
            finder.add(TenantId::from_u128(id(row, 0)?), row.try_get(2)?).map_err(unreadable)?;
        }
        let Some(last) = rows.last().filter(|_| to_column(rows.len() as u64) == most) else {
            return Ok(finder.finish());
        };
        (until, before) = (last.try_get(1)?, last.try_get(3)?);
        most = (most * 2).min(MOST);
    }
}
