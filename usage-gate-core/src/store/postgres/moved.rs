//! The mark of a database that a move from SQLite fills: until all of it has come, nobody serves from it.

use tokio_postgres::Client;

use super::fault::Fault;
use super::value::{id, optional_instant};
use crate::model::Timestamp;
use crate::store::StoreError;

const WHAT: &str = "open the database";

/// What the mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Mark {
    pub(in crate::store) id: u128,
    /// When the move was whole, if it is.
    pub(in crate::store) done_at: Option<Timestamp>,
}

/// Refuses a database that a move has not wholly filled.
pub(super) async fn refuse_half_moved(client: &Client) -> Result<(), StoreError> {
    match mark(client).await.map_err(|fault| fault.into_store(WHAT))? {
        Some(Mark { done_at: None, .. }) => Err(StoreError::unusable(
            WHAT,
            "a database of SQLite is being moved here, and not all of it has come: the same command again, \
             `usage-gate migrate --from sqlite:… --to postgres://…`, goes on and ends it",
        )),
        _ => Ok(()),
    }
}

/// The mark, if there is one.
async fn mark(client: &Client) -> Result<Option<Mark>, Fault> {
    let there = client.query_typed_one("SELECT to_regclass('moved_up') IS NOT NULL", &[]).await?;
    if !there.try_get::<_, bool>(0)? {
        return Ok(None);
    }
    let rows = client.query_typed("SELECT move_id, done_at FROM moved_up", &[]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(Mark { id: id(row, 0)?, done_at: optional_instant(row, 1)? }))
}

#[cfg(feature = "sqlite")]
impl super::PostgresStore {
    /// The mark, if there is one.
    pub(in crate::store) async fn move_mark(&self) -> Result<Option<Mark>, StoreError> {
        self.run(WHAT, async |client| mark(client).await).await
    }
}
