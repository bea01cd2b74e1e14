//! Moves a database of SQLite to PostgreSQL, as it is: accounts, keys, quotas with what was used and leased of them, usage, the request log, and how far each
//! journal has been taken in, so that nothing counts twice.
//!
//! 1. The source is marked: from then on nobody opens it to write. Its journal must have been drained before, by whoever served from it.
//! 2. The target is marked as being filled: nobody serves from it. It must be empty.
//! 3. Tables are copied in the order of their keys, many rows a transaction. How far a table has come is its own last row, so that after a kill at
//!    any instant the same call goes on there: nothing is written twice, nothing is left out.
//! 4. Every row of both is compared with the other's.
//! 5. Only then the target is opened to be served from.
//!
//! Both marks carry the number of the move. A source that was taken back and served from again begins another one, which the half-filled target of the first refuses.

mod compare;
mod row;
mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use compare::{Compared, Comparison};
pub(in crate::store) use row::{Most, Row, Value};
pub(in crate::store) use table::{Column, Kind, TABLES, Table};

use super::sqlite::Mark;
use super::{KeyStore, PostgresOptions, PostgresStore, SqliteStore, StoreError};
use crate::clock::Clock;
use crate::lease::table_id;
use crate::mapped::Area;
use crate::model::Timestamp;

const WHAT: &str = "move the database";
/// For one statement: it may write thousands of rows, or make the schema's statistics.
const CALL_TIME: Duration = Duration::from_secs(120);

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MoveState {
    /// The source may still be served from: drain its journal first.
    NotBegun,
    /// The source is marked as moved, and the target is not whole.
    Begun,
    /// All of it was moved and compared then.
    Done(Timestamp),
}

/// A move of a database of SQLite to an empty one of PostgreSQL.
///
/// ```no_run
/// # use usage_gate_core::store::{MoveState, MoveUp, PostgresStore, StoreError};
/// # async fn f() -> Result<(), StoreError> {
/// let (from, to) = ("usage-gate-data/usage-gate.db", PostgresStore::options("postgres://gate@127.0.0.1/gate"));
/// if MoveUp::state(from, to.clone()).await? == MoveState::NotBegun {
///     // Build a gate on `from` with its `data_dir`, and drain it: what the journal has is in the database then.
/// }
/// let mut moving = MoveUp::begin(from, to).await?;
/// while let Some(moved) = moving.step().await? {
///     println!("{} rows of {}", moved.rows, moved.what);
/// }
/// let comparison = moving.compare(|_| {}).await?;
/// moving.finish(&comparison).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct MoveUp {
    path: PathBuf,
    source: SqliteStore,
    target: PostgresStore,
    id: u128,
    /// Which table is under way.
    at: usize,
    /// The last row of it that is in the target, once that is known.
    after: Option<Option<Row>>,
    all: u64,
    there: u64,
    most: Most,
}

/// What a step has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Moved {
    /// Of what, for people, such as `keys`.
    pub what: &'static str,
    /// How many rows.
    pub rows: u64,
}

impl MoveUp {
    /// Looks how far it is. Changes nothing, but that an empty target gets its schema, and that the source of a move at its end is marked so.
    ///
    /// # Errors
    /// [`Unusable`](crate::store::StoreErrorKind::Unusable) if the target has something already that is not of this move, or one of the two cannot be read;
    /// [`Unavailable`](crate::store::StoreErrorKind::Unavailable) if one is away.
    pub async fn state(source: impl AsRef<Path>, target: PostgresOptions) -> Result<MoveState, StoreError> {
        let target = open(target).await?;
        Self::state_of(source.as_ref(), &target).await
    }

    async fn state_of(source: &Path, target: &PostgresStore) -> Result<MoveState, StoreError> {
        let ours = SqliteStore::moved_as(source).await?;
        match target.move_mark().await? {
            Some(mark) if ours.is_some_and(|ours| ours.id == mark.id) => match mark.done_at {
                None => Ok(MoveState::Begun),
                Some(at) => {
                    // The last step of a move, if it was killed before that.
                    SqliteStore::end_move(source, at).await?;
                    Ok(MoveState::Done(at))
                }
            },
            Some(_) => Err(StoreError::unusable(
                WHAT,
                "the PostgreSQL database was filled from another database, or from this one before it was taken back: name an empty one",
            )),
            None => match target.first_rows().await? {
                Some(what) => Err(super::postgres::not_empty(&what)),
                None if ours.is_some_and(|ours| ours.is_done) => Err(StoreError::unusable(
                    WHAT,
                    "all of the SQLite database was moved to another one, which may be served from: two would come to differ. \
                     If that move is given up, --take-back comes first",
                )),
                None if ours.is_some() => Ok(MoveState::Begun),
                None => Ok(MoveState::NotBegun),
            },
        }
    }

    /// The name of the node whose leases are in a folder `journal`, as the source knows it: who drains the folder must have the same. `None` if the source
    /// knows no such node.
    ///
    /// # Errors
    /// As [`SqliteOptions::open`](crate::store::SqliteOptions::open); `Unavailable` if the folder cannot be read.
    pub async fn node_of(source: impl AsRef<Path>, journal: impl AsRef<Path>) -> Result<Option<String>, StoreError> {
        let table = table_id(&Area::existing(journal.as_ref()));
        match table.map_err(|error| StoreError::unavailable("read the lease table", error))? {
            Some(table) => SqliteStore::open(source).await?.node_of(table).await,
            None => Ok(None),
        }
    }

    /// Begins, or goes on where an earlier move of the same source to the same target ended. Marks both: see [`take_back`](Self::take_back).
    ///
    /// Nobody may serve from the source, and what its journal has must be in it.
    ///
    /// # Errors
    /// As [`state`](Self::state); `Unusable` also if the move is done.
    pub async fn begin(source: impl AsRef<Path>, target: PostgresOptions) -> Result<Self, StoreError> {
        let (path, target) = (source.as_ref(), open(target).await?);
        let now = Clock::system().wall();
        match Self::state_of(path, &target).await? {
            MoveState::NotBegun => {
                let source = SqliteStore::open(path).await?;
                source.mark_as_moved(uuid::Uuid::now_v7().as_u128(), now).await?;
                // The file alone is the whole database from now on.
                source.checkpoint().await?;
            }
            MoveState::Begun => {}
            MoveState::Done(_) => return Err(StoreError::unusable(WHAT, "it was moved, all of it")),
        }
        let Some(Mark { id, .. }) = SqliteStore::moved_as(path).await? else {
            return Err(StoreError::unusable(WHAT, "the database was taken back meanwhile"));
        };
        let source = SqliteStore::options(path).read_only().open().await?;
        target.begin_filling(id, now).await?;
        let (mut all, mut there) = (0, 0);
        for table in &TABLES {
            all += source.rows_to_move(table).await?;
            there += target.rows_here(table).await?;
        }
        let path = path.to_owned();
        Ok(Self { path, source, target, id, at: 0, after: None, all, there, most: Most::USUAL })
    }

    /// With smaller steps.
    #[cfg(test)]
    pub(in crate::store) const fn at_most(mut self, most: Most) -> Self {
        self.most = most;
        self
    }

    /// How many rows there are to move.
    #[must_use]
    pub const fn rows(&self) -> u64 {
        self.all
    }

    /// How many of them are in the target.
    #[must_use]
    pub const fn rows_there(&self) -> u64 {
        self.there
    }

    /// Moves some thousand rows more, in one transaction; `None` when all are there.
    ///
    /// # Errors
    /// `Unavailable` if one of the two is away, or the answer was lost: [`begin`](Self::begin) again goes on. `Unusable` if a row cannot be kept by the target.
    pub async fn step(&mut self) -> Result<Option<Moved>, StoreError> {
        while let Some(table) = TABLES.get(self.at) {
            let after = match self.after.take() {
                Some(after) => after,
                None => self.target.last_row(table).await?,
            };
            let mut rows = self.source.page(table, after, self.most).await?;
            if rows.is_empty() {
                self.at += 1;
                continue;
            }
            self.target.fill(table, self.id, &rows).await?;
            let moved = u64::try_from(rows.len()).unwrap_or(u64::MAX);
            self.there += moved;
            self.after = Some(rows.pop());
            return Ok(Some(Moved { what: table.what, rows: moved }));
        }
        Ok(None)
    }

    /// Compares every row of both, and sums of usage. `seen` is told how many rows more of [`rows`](Self::rows) were compared.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub async fn compare(&self, mut seen: impl FnMut(u64) + Send) -> Result<Comparison, StoreError> {
        let mut lines = Vec::new();
        for table in &TABLES {
            lines.extend(compare::compare(&self.source, &self.target, table, self.most, &mut seen).await?);
        }
        Ok(Comparison { lines })
    }

    /// Opens the target to be served from, if both are equal.
    ///
    /// # Errors
    /// `Unusable` if they are not; else as [`step`](Self::step).
    pub async fn finish(self, comparison: &Comparison) -> Result<(), StoreError> {
        if !comparison.is_equal() {
            return Err(StoreError::unusable(WHAT, "the databases are not equal: the new one stays closed"));
        }
        let feed = self.source.position().await?;
        let now = Clock::system().wall();
        self.target.end_filling(self.id, feed, now).await?;
        SqliteStore::end_move(&self.path, now).await
    }

    /// Takes the mark of a source away, so that it can be served from again: the move is given up. What its target has then is of no more use, whole or not;
    /// another move needs an empty one.
    ///
    /// # Errors
    /// `Unavailable` if it cannot be written.
    pub async fn take_back(source: impl AsRef<Path>) -> Result<(), StoreError> {
        SqliteStore::take_back(source.as_ref()).await
    }
}

async fn open(target: PostgresOptions) -> Result<PostgresStore, StoreError> {
    target.connections(2).call_timeout(CALL_TIME).open_to_fill().await
}
