//! Reads usage: SQLite sums by bucket and dimension, the shared [`fold`] makes windows of it.

use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::SqliteStore;
use super::value::{Fault, instant, units};
use crate::model::{KeyId, TenantId, Timestamp, UserId};
use crate::store::reader::{UsageRow, fold};
use crate::store::{Dimension, StoreError, UsagePage, UsageQuery, UsageReader};

/// Two texts of one question: with a tenant the primary key finds the rows, which an `OR` would prevent.
macro_rules! usage_sql {
    ($tenant:literal) => {
        concat!(
            "SELECT CASE WHEN :by_bucket THEN bucket ELSE :from END AS part, meter,
                 CASE WHEN :by_tenant THEN tenant END, CASE WHEN :by_user THEN user END,
                 CASE WHEN :by_key THEN key END, CASE WHEN :by_route THEN route END,
                 CASE WHEN :by_outcome THEN outcome END, CASE WHEN :by_environment THEN environment END,
                 CASE WHEN :by_limit THEN limit_name END,
                 sum(units), sum(requests)
             FROM rollup WHERE ",
            $tenant,
            " AND bucket >= :from AND bucket < :to
                 AND (:user IS NULL OR user = :user) AND (:key IS NULL OR key = :key)
                 AND (:route IS NULL OR route = :route) AND (:meter IS NULL OR meter = :meter)
                 AND (:outcome IS NULL OR outcome = :outcome)
                 AND (:environment IS NULL OR environment = :environment)
             GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9"
        )
    };
}
const OF_ONE_TENANT: &str = usage_sql!("tenant = :tenant");
const OF_ALL_TENANTS: &str = usage_sql!("(:tenant IS NULL)");
/// The column of the first dimension; the others follow in the order of [`Dimension::ALL`].
const FIRST_DIMENSION: usize = 2;
const UNITS: usize = 9;
const REQUESTS: usize = 10;

#[async_trait::async_trait]
impl UsageReader for SqliteStore {
    async fn usage(&self, query: &UsageQuery) -> Result<UsagePage, StoreError> {
        let query = query.clone();
        self.read("read usage", move |connection| usage(connection, &query)).await
    }
}

fn usage(connection: &Connection, query: &UsageQuery) -> Result<UsagePage, Fault> {
    // One node has one living stream, the newest: ids sort by creation.
    let complete_through: Option<Timestamp> = connection
        .prepare_cached("SELECT through FROM stream ORDER BY stream DESC LIMIT 1")?
        .query_row([], |row| instant(row, 0))
        .optional()?;
    let by = |dimension| query.group_by.contains(&dimension);
    let mut statement =
        connection.prepare_cached(if query.tenant.is_some() { OF_ONE_TENANT } else { OF_ALL_TENANTS })?;
    let mut found = statement.query(named_params! {
        ":by_bucket": query.window.is_some(),
        ":by_tenant": by(Dimension::Tenant),
        ":by_user": by(Dimension::User),
        ":by_key": by(Dimension::Key),
        ":by_route": by(Dimension::Route),
        ":by_outcome": by(Dimension::Outcome),
        ":by_environment": by(Dimension::Environment),
        ":by_limit": by(Dimension::Limit),
        ":tenant": query.tenant.map(|tenant| tenant.as_u128().to_be_bytes()),
        ":from": query.period.start.as_micros(),
        ":to": query.period.end.as_micros(),
        ":user": query.user.map(|user| user.as_u128().to_be_bytes()),
        ":key": query.key.map(|key| key.as_u128().to_be_bytes()),
        ":route": query.route,
        ":meter": query.meter,
        ":outcome": query.outcome,
        ":environment": query.environment.map(|environment| environment.as_str()),
    })?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        rows.push(usage_row(query, row)?);
    }
    Ok(fold(query, rows, complete_through))
}

fn usage_row(query: &UsageQuery, row: &Row<'_>) -> rusqlite::Result<UsageRow> {
    let mut group = Vec::with_capacity(query.group_by.len());
    for (at, dimension) in (FIRST_DIMENSION..).zip(Dimension::ALL) {
        if query.group_by.contains(&dimension) {
            group.push(value(dimension, row, at)?);
        }
    }
    Ok(UsageRow {
        bucket: instant(row, 0)?,
        meter: row.get(1)?,
        group,
        units: units(row, UNITS)?,
        requests: units(row, REQUESTS)?,
    })
}

fn value(dimension: Dimension, row: &Row<'_>, at: usize) -> rusqlite::Result<Option<String>> {
    let id = |row: &Row<'_>| row.get(at).map(u128::from_be_bytes);
    Ok(match dimension {
        Dimension::Tenant => Some(TenantId::from_u128(id(row)?).to_string()),
        Dimension::Key => Some(KeyId::from_u128(id(row)?).to_string()),
        // A key without a user is counted under an empty one.
        Dimension::User if row.get_ref(at)?.as_blob()?.is_empty() => None,
        Dimension::User => Some(UserId::from_u128(id(row)?).to_string()),
        Dimension::Limit => Some(row.get::<_, String>(at)?).filter(|limit| !limit.is_empty()),
        Dimension::Route | Dimension::Outcome | Dimension::Environment => Some(row.get(at)?),
    })
}
