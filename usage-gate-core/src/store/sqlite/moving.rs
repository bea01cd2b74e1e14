//! The side of a move to PostgreSQL that is left: rows in the order of their keys, and the mark that keeps the file as it is.

use std::path::Path;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, OptionalExtension, ToSql, params_from_iter};

use super::moved::{Mark, mark};
use super::value::{Fault, unreadable};
use super::{SqliteStore, open};
use crate::model::Timestamp;
use crate::store::move_up::{Column, Kind, Most, Row, Table, Value};
use crate::store::{StoreError, TableId};

const WHAT: &str = "move the database";

impl SqliteStore {
    /// How many rows of a table are to be moved.
    pub(in crate::store) async fn rows_to_move(&self, table: &'static Table) -> Result<u64, StoreError> {
        self.read(WHAT, move |connection| {
            let sql = format!("SELECT count(*) FROM {}{}", table.source, condition(table.only, None));
            Ok(connection.query_row(&sql, [], |row| super::value::units(row, 0))?)
        })
        .await
    }

    /// The rows whose keys come after that of a row, in the order of their keys; from the first without.
    pub(in crate::store) async fn page(
        &self,
        table: &'static Table,
        after: Option<Row>,
        most: Most,
    ) -> Result<Vec<Row>, StoreError> {
        self.read(WHAT, move |connection| page(connection, table, after.as_ref(), most)).await
    }

    /// Writes the mark: from now on the file is not opened to be written. Gives the number of the move, that of an earlier mark if there is one.
    pub(in crate::store) async fn mark_as_moved(&self, id: u128, now: Timestamp) -> Result<u128, StoreError> {
        self.write(WHAT, move |connection| {
            if let Some(earlier) = mark(connection)? {
                return Ok(earlier.id);
            }
            // Not a step of the schema: only a database that is moved has it.
            connection.execute_batch(
                "CREATE TABLE moved_up (id BLOB NOT NULL, at INTEGER NOT NULL, done_at INTEGER) STRICT",
            )?;
            connection.execute("INSERT INTO moved_up (id, at) VALUES (?1, ?2)", (id.to_be_bytes(), now.as_micros()))?;
            Ok(id)
        })
        .await
    }

    /// What a file is marked with, if it is.
    pub(in crate::store) async fn moved_as(path: &Path) -> Result<Option<Mark>, StoreError> {
        let path = path.to_owned();
        blocking(move || mark(&open::reader(&path)?)).await
    }

    /// Notes that all of it was moved: it is moved to no other database from now on.
    pub(in crate::store) async fn end_move(path: &Path, now: Timestamp) -> Result<(), StoreError> {
        let path = path.to_owned();
        blocking(move || {
            let connection = marked(&path)?;
            connection.execute("UPDATE moved_up SET done_at = ?1 WHERE done_at IS NULL", [now.as_micros()]).map(|_| ())
        })
        .await
    }

    /// Takes the mark away.
    pub(in crate::store) async fn take_back(path: &Path) -> Result<(), StoreError> {
        let path = path.to_owned();
        blocking(move || marked(&path)?.execute_batch("DROP TABLE IF EXISTS moved_up")).await
    }

    /// The name of the node that registered under a lease table, if one did.
    pub(in crate::store) async fn node_of(&self, table: TableId) -> Result<Option<String>, StoreError> {
        self.read(WHAT, move |connection| {
            let sql = "SELECT node FROM node WHERE table_id = ?1";
            Ok(connection.query_row(sql, [table.as_u128().to_be_bytes()], |row| row.get(0)).optional()?)
        })
        .await
    }
}

/// A connection that changes the mark and nothing else.
fn marked(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    Ok(connection)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| StoreError::unavailable(WHAT, error))?;
    done.map_err(|error| Fault::from(error).into_store(WHAT))
}

fn page(connection: &Connection, table: &Table, after: Option<&Row>, most: Most) -> Result<Vec<Row>, Fault> {
    let key: Vec<&str> = table.key_columns().iter().map(|column| column.source).collect();
    let key = key.join(", ");
    let places: Vec<String> = (1..=table.key).map(|place| format!("?{place}")).collect();
    let beyond = after.map(|_| format!("({key}) > ({})", places.join(", ")));
    let columns: Vec<&str> = table.columns.iter().map(|column| column.source).collect();
    let sql = format!(
        "SELECT {} FROM {}{} ORDER BY {key} LIMIT {}",
        columns.join(", "),
        table.source,
        condition(table.only, beyond.as_deref()),
        most.rows,
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = statement.query(params_from_iter(after.map_or(&[][..], |row| row.key(table))))?;
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while bytes < most.bytes
        && let Some(row) = found.next()?
    {
        let values = table.columns.iter().enumerate();
        let values = values.map(|(at, column)| {
            read(row.get_ref(at)?, column)
                .ok_or_else(|| unreadable(at, format!("{}: {} is not what it should be", table.source, column.name)))
        });
        let row = Row(values.collect::<rusqlite::Result<_>>()?);
        bytes += row.weight();
        rows.push(row);
    }
    Ok(rows)
}

fn condition(only: Option<&str>, beyond: Option<&str>) -> String {
    let conditions: Vec<&str> = only.into_iter().chain(beyond).collect();
    if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) }
}

fn read(found: ValueRef<'_>, column: &Column) -> Option<Value> {
    Some(match (column.kind, found) {
        (_, ValueRef::Null) => Value::Null,
        (Kind::Int, ValueRef::Integer(number)) => Value::Int(number),
        (Kind::Text, ValueRef::Text(text)) => Value::Text(str::from_utf8(text).ok()?.to_owned()),
        (Kind::Texts, ValueRef::Text(text)) => Value::Texts(serde_json::from_slice(text).ok()?),
        (Kind::Bytes, ValueRef::Blob(bytes)) => Value::Bytes(bytes.to_owned()),
        (Kind::Id, ValueRef::Blob([])) => Value::Bytes(vec![0; 16]),
        (Kind::Id, ValueRef::Blob(bytes)) if bytes.len() == 16 => Value::Bytes(bytes.to_owned()),
        _ => return None,
    })
}

/// For keys, none of which is a list.
impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null | Self::Texts(_) => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}
