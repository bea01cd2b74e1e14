//! Whether everything has come: both databases are read side by side, each table in the order of its keys, and every row is compared with the other's.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::row::{Most, Row, Value};
use super::table::{HOURS, Table};
use crate::store::{PostgresStore, SqliteStore, StoreError};

/// What was compared, and found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Comparison {
    /// Rows of each table, then sums of usage.
    pub lines: Vec<Compared>,
}

/// Something that both databases have, in both.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compared {
    /// What it is, for people.
    pub what: String,
    /// How many there are in SQLite.
    pub source: u128,
    /// How many there are in PostgreSQL.
    pub target: u128,
    /// Rows that are in one of them only, or not the same in both.
    pub different: u64,
}

impl Comparison {
    /// Whether nothing is missing, too much or different.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.lines.iter().all(Compared::is_equal)
    }
}

impl Compared {
    /// Whether both databases have the same of it.
    #[must_use]
    pub const fn is_equal(&self) -> bool {
        self.source == self.target && self.different == 0
    }
}

/// Units by meter and outcome: of the source, and of the target.
type Sums = BTreeMap<(String, String), [u128; 2]>;

/// Compares a table; `seen` is told how many rows of the source were read since it was told last.
pub(super) async fn compare(
    source: &SqliteStore,
    target: &PostgresStore,
    table: &'static Table,
    most: Most,
    seen: &mut (dyn FnMut(u64) + Send),
) -> Result<Vec<Compared>, StoreError> {
    let mut ours = Side::new(Database::Sqlite(source), table, most);
    let mut theirs = Side::new(Database::Postgres(target), table, most);
    let mut sums = (table.name == HOURS).then(Sums::new);
    let (mut left, mut right) = (ours.next().await?, theirs.next().await?);
    let mut different = 0_u64;
    let mut told = 0;
    loop {
        let order = match (&left, &right) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(left), Some(right)) => left.key(table).cmp(right.key(table)),
        };
        different += u64::from(order != Ordering::Equal || left != right);
        if order != Ordering::Greater {
            add(&mut sums, 0, left.as_ref());
            left = ours.next().await?;
            if ours.read - told >= u64::from(most.rows) {
                seen(ours.read - told);
                told = ours.read;
            }
        }
        if order != Ordering::Less {
            add(&mut sums, 1, right.as_ref());
            right = theirs.next().await?;
        }
    }
    seen(ours.read - told);
    let rows =
        Compared { what: table.what.to_owned(), source: ours.read.into(), target: theirs.read.into(), different };
    let sums = sums.unwrap_or_default().into_iter().map(|((meter, outcome), [source, target])| Compared {
        what: format!("units of {meter}, {outcome}"),
        source,
        target,
        different: 0,
    });
    Ok([rows].into_iter().chain(sums).collect())
}

/// Adds an hour of usage to one side's sums.
fn add(sums: &mut Option<Sums>, side: usize, row: Option<&Row>) {
    // As the columns of the table are in order: meter, outcome, units.
    if let (Some(sums), Some(row)) = (sums, row)
        && let (Some(Value::Text(meter)), Some(Value::Text(outcome)), Some(Value::Int(units))) =
            (row.0.get(1), row.0.get(4), row.0.get(9))
        && let Some(sum) = sums.entry((meter.clone(), outcome.clone())).or_default().get_mut(side)
    {
        *sum = sum.saturating_add(u128::try_from(*units).unwrap_or(0));
    }
}

/// A table of one of them, row by row.
struct Side<'s> {
    database: Database<'s>,
    table: &'static Table,
    most: Most,
    rows: std::vec::IntoIter<Row>,
    last: Option<Row>,
    read: u64,
}

#[derive(Clone, Copy)]
enum Database<'s> {
    Sqlite(&'s SqliteStore),
    Postgres(&'s PostgresStore),
}

impl<'s> Side<'s> {
    fn new(database: Database<'s>, table: &'static Table, most: Most) -> Self {
        Self { database, table, most, rows: Vec::new().into_iter(), last: None, read: 0 }
    }

    async fn next(&mut self) -> Result<Option<Row>, StoreError> {
        if self.rows.as_slice().is_empty() {
            let rows = match self.database {
                Database::Sqlite(store) => store.page(self.table, self.last.take(), self.most).await?,
                Database::Postgres(store) => store.page(self.table, self.last.as_ref(), self.most).await?,
            };
            self.last = rows.last().cloned();
            self.rows = rows.into_iter();
        }
        let next = self.rows.next();
        self.read += u64::from(next.is_some());
        Ok(next)
    }
}
