//! Reads usage: SQLite finds the rows, by days where those answer the question as well as hours, and the shared [`fold`] makes windows of
//! their sums.

use rusqlite::{Connection, OptionalExtension, ToSql};

use super::SqliteStore;
use super::days::parts;
use super::sums::Sums;
use super::value::{Fault, instant};
use super::{audit, requests};
use crate::model::{TenantId, Timestamp};
use crate::store::days::Part;
use crate::store::reader::fold;
use crate::store::{
    Audit, AuditQuery, Dimension, RequestPage, RequestQuery, StoreError, UsagePage, UsageQuery, UsageReader, Window,
};

#[async_trait::async_trait]
impl UsageReader for SqliteStore {
    async fn usage(&self, query: &UsageQuery) -> Result<UsagePage, StoreError> {
        let query = query.clone();
        self.read("read usage", move |connection| usage(connection, &query)).await
    }

    async fn requests(&self, query: &RequestQuery) -> Result<RequestPage, StoreError> {
        let query = query.clone();
        self.read("read the request log", move |connection| requests::find(connection, &query)).await
    }

    async fn audit(&self, query: &AuditQuery) -> Result<Audit, StoreError> {
        let query = *query;
        self.read("audit usage", move |connection| audit::audit(connection, &query)).await
    }
}

fn usage(connection: &Connection, query: &UsageQuery) -> Result<UsagePage, Fault> {
    let parts = match query.tenant {
        Some(tenant) if query.window != Some(Window::Hour) => parts(connection, tenant, query.period, &query.zone)?,
        _ => vec![Part::Hours(query.period)],
    };
    answer(connection, query, &parts)
}

/// Answers from these parts of the period.
pub(super) fn answer(connection: &Connection, query: &UsageQuery, parts: &[Part]) -> Result<UsagePage, Fault> {
    // One node has one living stream, the newest: ids sort by creation.
    let complete_through: Option<Timestamp> = connection
        .prepare_cached("SELECT through FROM stream ORDER BY stream DESC LIMIT 1")?
        .query_row([], |row| instant(row, 0))
        .optional()?;
    // A meter of a tenant is one range of the primary key; all tenants together are read from end to end.
    let meters = match (&query.meter, query.tenant) {
        (Some(meter), _) => vec![Some(meter.clone())],
        (None, Some(tenant)) => meters(connection, tenant)?,
        (None, None) => vec![None],
    };
    let mut sums = Sums::new(query);
    for meter in &meters {
        for part in parts {
            Question::new(query, *part, meter.as_deref()).ask(connection, &mut sums)?;
        }
    }
    Ok(fold(query, sums.into_rows(), complete_through))
}

/// The meters of a tenant: one step in the primary key each, however many rows there are.
fn meters(connection: &Connection, tenant: TenantId) -> rusqlite::Result<Vec<Option<String>>> {
    let mut statement = connection
        .prepare_cached("SELECT meter FROM rollup_hour WHERE tenant = ?1 AND meter > ?2 ORDER BY meter LIMIT 1")?;
    let mut found = Vec::new();
    // No meter has an empty name.
    let mut after = String::new();
    while let Some(meter) =
        statement.query_row((tenant.as_u128().to_be_bytes(), &after), |row| row.get::<_, String>(0)).optional()?
    {
        found.push(Some(meter.clone()));
        after = meter;
    }
    Ok(found)
}

/// A statement put together from constant pieces, and its values: one text for each set of columns and filters, none with an `OR`, so that
/// the primary key finds the rows.
struct Question<'q> {
    meter: Option<&'q str>,
    text: String,
    values: Vec<(&'static str, Box<dyn ToSql + 'q>)>,
}

impl<'q> Question<'q> {
    fn new(query: &'q UsageQuery, part: Part, meter: Option<&'q str>) -> Self {
        let mut question = Self { meter, text: String::with_capacity(512), values: Vec::with_capacity(10) };
        question.select(query);
        let period = match part {
            Part::Hours(period) => {
                question.text.push_str(" FROM rollup_hour");
                period
            }
            Part::Days(period) => {
                question.text.push_str(" FROM rollup_day");
                period
            }
        };
        question.text.push_str(" WHERE bucket >= :from AND bucket < :to");
        question.values.push((":from", Box::new(period.start.as_micros())));
        question.values.push((":to", Box::new(period.end.as_micros())));
        question.filter_by(query);
        question
    }

    /// The columns that [`Sums::add`] reads.
    fn select(&mut self, query: &UsageQuery) {
        self.text.push_str("SELECT units, requests");
        if query.window.is_some() {
            self.text.push_str(", bucket");
        }
        if self.meter.is_none() {
            self.text.push_str(", meter");
        }
        for dimension in &query.group_by {
            self.text.push_str(match dimension {
                Dimension::Tenant => ", tenant",
                Dimension::User => ", user",
                Dimension::Key => ", key",
                Dimension::Route => ", route",
                Dimension::Outcome => ", outcome",
                Dimension::Environment => ", environment",
                Dimension::Limit => ", limit_name",
            });
        }
    }

    fn filter_by(&mut self, query: &'q UsageQuery) {
        if let Some(tenant) = query.tenant {
            self.filter(" AND tenant = :tenant", ":tenant", tenant.as_u128().to_be_bytes());
        }
        if let Some(meter) = self.meter {
            self.filter(" AND meter = :meter", ":meter", meter);
        }
        if let Some(user) = query.user {
            self.filter(" AND user = :user", ":user", user.as_u128().to_be_bytes());
        }
        if let Some(key) = query.key {
            self.filter(" AND key = :key", ":key", key.as_u128().to_be_bytes());
        }
        if let Some(route) = &query.route {
            self.filter(" AND route = :route", ":route", route.as_str());
        }
        if let Some(outcome) = &query.outcome {
            self.filter(" AND outcome = :outcome", ":outcome", outcome.as_str());
        }
        if let Some(environment) = query.environment {
            self.filter(" AND environment = :environment", ":environment", environment.as_str());
        }
    }

    fn filter(&mut self, condition: &'static str, name: &'static str, value: impl ToSql + 'q) {
        self.text.push_str(condition);
        self.values.push((name, Box::new(value)));
    }

    fn ask(&self, connection: &Connection, sums: &mut Sums<'_>) -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(&self.text)?;
        let values: Vec<(&str, &dyn ToSql)> = self.values.iter().map(|(name, value)| (*name, &**value)).collect();
        let mut found = statement.query(&*values)?;
        while let Some(row) = found.next()? {
            sums.add(row, self.meter)?;
        }
        Ok(())
    }
}
