//! The side of a move from SQLite that is filled: rows as they come, each part of them in a transaction.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row as Found};

use super::PostgresStore;
use super::fault::Fault;
use super::value::{Id, can_hold, optional_id, unreadable};
use crate::model::Timestamp;
use crate::store::move_up::{Column, Kind, Most, Row, TABLES, Table, Value};
use crate::store::{FeedPosition, StoreError};

const WHAT: &str = "fill the database";

/// A value on its way into a statement.
type Given = (Box<dyn ToSql + Send + Sync>, Type);

impl PostgresStore {
    /// What people call the first rows that are in it, if any are.
    pub(in crate::store) async fn first_rows(&self) -> Result<Option<String>, StoreError> {
        self.run(WHAT, async |client| first_rows(client).await).await
    }

    /// Begins to be filled by a move, or goes on.
    pub(in crate::store) async fn begin_filling(&self, id: u128, now: Timestamp) -> Result<(), StoreError> {
        // Not a step of the schema: only a database that is moved to has it.
        const TABLE: &str = "CREATE TABLE IF NOT EXISTS moved_up (
            one bool PRIMARY KEY DEFAULT true CHECK (one), move_id uuid NOT NULL, began_at int8 NOT NULL, done_at int8)";
        self.change(WHAT, async |client| {
            client.batch_execute(TABLE).await?;
            // Of two moves at once the second waits here.
            client.batch_execute("LOCK TABLE moved_up IN EXCLUSIVE MODE").await?;
            if client.query_typed("SELECT FROM moved_up", &[]).await?.is_empty()
                && let Some(what) = first_rows(client).await?
            {
                return Err(not_empty(&what).into());
            }
            let sql = "INSERT INTO moved_up (move_id, began_at) VALUES ($1, $2) ON CONFLICT DO NOTHING";
            client.execute_typed(sql, &[(&Id(id), Type::UUID), (&now.as_micros(), Type::INT8)]).await?;
            hold(client, id).await
        })
        .await
    }

    /// How many rows of a table are here.
    pub(in crate::store) async fn rows_here(&self, table: &Table) -> Result<u64, StoreError> {
        self.run(WHAT, async |client| {
            let sql = format!("SELECT count(*) FROM {}", table.name);
            super::value::units(&client.query_typed_one(&sql, &[]).await?, 0)
        })
        .await
    }

    /// The row of a table whose key is the last.
    pub(in crate::store) async fn last_row(&self, table: &Table) -> Result<Option<Row>, StoreError> {
        let order: Vec<String> = table.key_columns().iter().map(|column| format!("\"{}\" DESC", column.name)).collect();
        let sql = format!("SELECT {} FROM {} ORDER BY {} LIMIT 1", selected(table), table.name, order.join(", "));
        self.run(WHAT, async |client| {
            let rows = client.query_typed(&sql, &[]).await?;
            rows.first().map(|row| read(row, table)).transpose()
        })
        .await
    }

    /// The rows whose keys come after that of a row, in the order of their keys; from the first without.
    pub(in crate::store) async fn page(
        &self,
        table: &Table,
        after: Option<&Row>,
        most: Most,
    ) -> Result<Vec<Row>, StoreError> {
        let names: Vec<String> = table.key_columns().iter().map(|column| format!("\"{}\"", column.name)).collect();
        let names = names.join(", ");
        let places: Vec<String> = (1..=table.key).map(|place| format!("${place}")).collect();
        let beyond = after.map(|_| format!("WHERE ({names}) > ({})", places.join(", "))).unwrap_or_default();
        let sql =
            format!("SELECT {} FROM {} {beyond} ORDER BY {names} LIMIT {}", selected(table), table.name, most.rows);
        let key = after.map_or(&[][..], |row| row.key(table));
        let given: Vec<Given> = table.key_columns().iter().zip(key).map(|(column, value)| one(column, value)).collect();
        self.run(WHAT, async |client| {
            let rows = client.query_typed(&sql, &lent(&given)).await?;
            rows.iter().map(|row| read(row, table)).collect()
        })
        .await
    }

    /// Adds rows in one transaction, as long as the move is the one that fills this database.
    pub(in crate::store) async fn fill(&self, table: &Table, id: u128, rows: &[Row]) -> Result<(), StoreError> {
        check_texts(table, rows)?;
        if let Some(at) = table.partitioned_by() {
            let instants = rows.iter().filter_map(|row| match row.0.get(at) {
                Some(Value::Int(micros)) => Some(Timestamp::from_micros(*micros)),
                _ => None,
            });
            let made = self.run(WHAT, async |client| self.inner.months.make(client, instants).await).await;
            if made.is_err() {
                self.inner.months.forget();
            }
            made?;
        }
        let sql = insert(table);
        let columns = table.columns.iter().enumerate();
        let given: Vec<Given> = columns.map(|(at, column)| many(column, rows, at)).collect();
        self.change(WHAT, async |client| {
            hold(client, id).await?;
            client.execute_typed(&sql, &lent(&given)).await?;
            Ok(())
        })
        .await
    }

    /// Opens the database to nodes. What they have cached by a feed of before, they are told to forget.
    pub(in crate::store) async fn end_filling(
        &self,
        id: u128,
        feed: FeedPosition,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.change(WHAT, async |client| {
            hold(client, id).await?;
            // Numbers of rows that were given and not drawn.
            client
                .batch_execute(
                    "SELECT setval(pg_get_serial_sequence('request_block', 'id'), (SELECT max(id) FROM request_block))
                     WHERE EXISTS (SELECT FROM request_block)",
                )
                .await?;
            // The first plans of questions are made with this.
            for table in &TABLES {
                client.batch_execute(&format!("ANALYZE {}", table.name)).await?;
            }
            let next = super::value::to_column(feed.0.saturating_add(1));
            client.execute_typed("INSERT INTO change (seq, kind) VALUES ($1, 'all')", &[(&next, Type::INT8)]).await?;
            client.execute_typed("UPDATE moved_up SET done_at = $1", &[(&now.as_micros(), Type::INT8)]).await?;
            Ok(())
        })
        .await
    }
}

/// Who fills a database that has something already.
pub(in crate::store) fn not_empty(what: &str) -> StoreError {
    let why = format!(
        "it is not empty: there are {what}. A move needs a database that nothing has served from, such as by CREATE DATABASE"
    );
    StoreError::unusable(WHAT, why)
}

async fn first_rows(client: &Client) -> Result<Option<String>, Fault> {
    let ours = TABLES.iter().map(|table| (table.name, table.what));
    let tables = ours.chain([("change", "changes of keys"), ("rate_bucket", "rates"), ("rate_node", "nodes")]);
    let cases: Vec<String> =
        tables.map(|(table, what)| format!("WHEN EXISTS (SELECT FROM {table}) THEN '{what}'")).collect();
    let row = client.query_typed_one(&format!("SELECT CASE {} END", cases.join(" ")), &[]).await?;
    Ok(row.try_get(0)?)
}

/// Holds the mark to the end of the transaction; nobody else adds anything or ends the move meanwhile.
async fn hold(client: &Client, id: u128) -> Result<(), Fault> {
    let sql = "SELECT FROM moved_up WHERE move_id = $1 AND done_at IS NULL FOR UPDATE";
    if client.query_typed(sql, &[(&Id(id), Type::UUID)]).await?.is_empty() {
        let why = "it is filled by another move, or that move has ended: begin with another database";
        return Err(StoreError::unusable(WHAT, why).into());
    }
    Ok(())
}

fn selected(table: &Table) -> String {
    let columns = table.columns.iter().map(|Column { name, kind, .. }| match kind {
        Kind::Int => format!("\"{name}\"::int8"),
        _ => format!("\"{name}\""),
    });
    columns.collect::<Vec<_>>().join(", ")
}

/// Rows come as columns. A number that the database draws itself is given here.
fn insert(table: &Table) -> String {
    let (mut names, mut values, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for (at, Column { name, kind, .. }) in table.columns.iter().enumerate() {
        names.push(format!("\"{name}\""));
        places.push(format!("${}", at + 1));
        values.push(match kind {
            // A list of lists would have to be a rectangle: each comes as one document.
            Kind::Texts => format!("ARRAY(SELECT jsonb_array_elements_text(\"{name}\"::jsonb))"),
            _ => format!("\"{name}\""),
        });
    }
    let (names, values, places) = (names.join(", "), values.join(", "), places.join(", "));
    format!(
        "INSERT INTO {} ({names}) OVERRIDING SYSTEM VALUE SELECT {values} FROM unnest({places}) AS given ({names})",
        table.name
    )
}

fn many(column: &Column, rows: &[Row], at: usize) -> Given {
    let values = rows.iter().map(|row| row.0.get(at).unwrap_or(&Value::Null));
    match column.kind {
        Kind::Id => (Box::new(values.map(as_id).collect::<Vec<_>>()), Type::UUID_ARRAY),
        Kind::Int => (Box::new(values.map(as_int).collect::<Vec<_>>()), Type::INT8_ARRAY),
        Kind::Bytes => (Box::new(values.map(as_bytes).collect::<Vec<_>>()), Type::BYTEA_ARRAY),
        Kind::Text | Kind::Texts => (Box::new(values.map(as_text).collect::<Vec<_>>()), Type::TEXT_ARRAY),
    }
}

fn one(column: &Column, value: &Value) -> Given {
    match column.kind {
        Kind::Id => (Box::new(as_id(value)), Type::UUID),
        Kind::Int => (Box::new(as_int(value)), Type::INT8),
        Kind::Bytes => (Box::new(as_bytes(value)), Type::BYTEA),
        Kind::Text | Kind::Texts => (Box::new(as_text(value)), Type::TEXT),
    }
}

fn as_id(value: &Value) -> Option<Id> {
    let Value::Bytes(bytes) = value else { return None };
    Some(Id(u128::from_be_bytes(bytes.as_slice().try_into().ok()?)))
}

const fn as_int(value: &Value) -> Option<i64> {
    if let Value::Int(number) = value { Some(*number) } else { None }
}

fn as_bytes(value: &Value) -> Option<Vec<u8>> {
    if let Value::Bytes(bytes) = value { Some(bytes.clone()) } else { None }
}

fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Texts(texts) => Some(serde_json::Value::from(texts.clone()).to_string()),
        Value::Null | Value::Int(_) | Value::Bytes(_) => None,
    }
}

fn lent(given: &[Given]) -> Vec<(&(dyn ToSql + Sync), Type)> {
    given.iter().map(|(value, kind)| (&**value as &(dyn ToSql + Sync), kind.clone())).collect()
}

fn read(found: &Found, table: &Table) -> Result<Row, Fault> {
    let values = table.columns.iter().enumerate().map(|(at, column)| {
        Ok(match column.kind {
            Kind::Id => optional_id(found, at)?.map(|id| Value::Bytes(id.to_be_bytes().to_vec())),
            Kind::Int => found.try_get::<_, Option<i64>>(at)?.map(Value::Int),
            Kind::Text => found.try_get::<_, Option<String>>(at)?.map(Value::Text),
            Kind::Bytes => found.try_get::<_, Option<Vec<u8>>>(at)?.map(Value::Bytes),
            Kind::Texts => found.try_get::<_, Option<Vec<String>>>(at)?.map(Value::Texts),
        }
        .unwrap_or(Value::Null))
    });
    Ok(Row(values.collect::<Result<_, Fault>>()?))
}

/// Refuses texts that PostgreSQL cannot hold: an operator has to change them before.
fn check_texts(table: &Table, rows: &[Row]) -> Result<(), StoreError> {
    for row in rows {
        for (column, value) in table.columns.iter().zip(&row.0) {
            let held = match value {
                Value::Text(text) => can_hold(text),
                Value::Texts(texts) => texts.iter().all(|text| can_hold(text)),
                Value::Null | Value::Int(_) | Value::Bytes(_) => true,
            };
            if !held {
                return Err(unreadable(format!(
                    "{}: one has the character U+0000 in its {}, which PostgreSQL cannot hold: take the database back, and leave it out",
                    table.what, column.name
                )));
            }
        }
    }
    Ok(())
}
