//! Reads usage: PostgreSQL sums rows, by days where those answer the question as well as hours, and the shared [`fold`] makes windows of the sums.

use deadpool_postgres::{Client, Transaction};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{IsolationLevel, Row};

use super::fault::Fault;
use super::value::{Id, id, instant, units};
use super::{PostgresStore, audit, days, requests};
use crate::model::{KeyId, TenantId, Timestamp, UserId};
use crate::store::days::{Part, cut};
use crate::store::reader::{UsageRow, fold};
use crate::store::{
    Audit, AuditQuery, Dimension, RequestPage, RequestQuery, StoreError, UsagePage, UsageQuery, UsageReader, Window,
};

/// A node whose usage came last so long before that of others is taken for gone: it does not hold back what is complete.
const GONE_AFTER_MICROS: i64 = 3_600 * 1_000_000;

#[async_trait::async_trait]
impl UsageReader for PostgresStore {
    async fn usage(&self, query: &UsageQuery) -> Result<UsagePage, StoreError> {
        self.run("read usage", async |client| usage(client, query).await).await
    }

    async fn requests(&self, query: &RequestQuery) -> Result<RequestPage, StoreError> {
        self.run("read the request log", async |client| requests::find(client, query).await).await
    }

    async fn audit(&self, query: &AuditQuery) -> Result<Audit, StoreError> {
        audit::audit(self, query).await
    }
}

/// Begins to read from one snapshot; dropped, it is over.
pub(super) async fn snapshot(client: &mut Client) -> Result<Transaction<'_>, Fault> {
    let repeatable = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    Ok(repeatable.start().await?)
}

async fn usage(client: &mut Client, query: &UsageQuery) -> Result<UsagePage, Fault> {
    let step = snapshot(client).await?;
    let (complete_through, parts, meters) =
        tokio::try_join!(biased; complete_through(&step), parts(&step, query), meters(&step, query))?;
    if asks_for_nothing(query) {
        return Ok(fold(query, [], complete_through));
    }
    answer(&step, query, &parts, meters.as_deref(), complete_through).await
}

/// Whether a name is asked for that no text of the server can be.
fn asks_for_nothing(query: &UsageQuery) -> bool {
    [&query.meter, &query.route, &query.outcome].into_iter().flatten().any(|name| name.contains('\0'))
}

/// Answers from these parts of the period.
pub(super) async fn answer(
    step: &Transaction<'_>,
    query: &UsageQuery,
    parts: &[Part],
    meters: Option<&[String]>,
    complete_through: Option<Timestamp>,
) -> Result<UsagePage, Fault> {
    let question = Question::new(query, parts, meters);
    let values: Vec<(&(dyn ToSql + Sync), Type)> =
        question.values.iter().map(|(value, kind)| (&**value as _, kind.clone())).collect();
    let rows = step.query_typed(&question.text, &values).await?;
    let rows = rows.iter().map(|row| sum(query, row)).collect::<Result<Vec<UsageRow>, Fault>>()?;
    Ok(fold(query, rows, complete_through))
}

/// How far the usage of all nodes is there: each has one living stream. Without nodes the newest stream is the one: ids sort by creation.
async fn complete_through(step: &Transaction<'_>) -> Result<Option<Timestamp>, Fault> {
    let sql = "SELECT coalesce(
            (SELECT min(through) FROM stream JOIN node ON node.boot = stream.stream
             WHERE through > (SELECT max(through) FROM stream) - $1),
            (SELECT through FROM stream ORDER BY stream DESC LIMIT 1))";
    let row = step.query_typed_one(sql, &[(&GONE_AFTER_MICROS, Type::INT8)]).await?;
    super::value::optional_instant(&row, 0)
}

/// Whole days of a tenant as far as they answer the question, and hours.
async fn parts(step: &Transaction<'_>, query: &UsageQuery) -> Result<Vec<Part>, Fault> {
    let tenant = match query.tenant {
        Some(tenant) if query.window != Some(Window::Hour) => [Id(tenant.as_u128())],
        _ => return Ok(vec![Part::Hours(query.period)]),
    };
    let (zones, newest) = tokio::try_join!(biased; days::zones(step, &tenant), days::newest_buckets(step, &tenant))?;
    let [Id(tenant)] = tenant;
    let zones = zones.get(&tenant).map_or(&[][..], |zones| zones);
    Ok(cut(zones, newest.get(&tenant).copied(), query.period, &query.zone))
}

/// The meters to look for one by one: those of a tenant, one step in the primary key each, however many rows there are. All tenants together are
/// read from end to end.
async fn meters(step: &Transaction<'_>, query: &UsageQuery) -> Result<Option<Vec<String>>, Fault> {
    let tenant = match (&query.meter, query.tenant) {
        (Some(meter), _) => return Ok(Some(vec![meter.clone()])),
        (None, None) => return Ok(None),
        (None, Some(tenant)) => Id(tenant.as_u128()),
    };
    // No meter has an empty name: it stands for the begin, and null for the end.
    let sql = "WITH RECURSIVE found (meter) AS (
            SELECT '' COLLATE \"C\"
            UNION ALL
            SELECT (SELECT rollup_hour.meter FROM rollup_hour
                    WHERE tenant = $1 AND rollup_hour.meter > found.meter ORDER BY rollup_hour.meter LIMIT 1)
            FROM found WHERE found.meter IS NOT NULL)
        SELECT meter FROM found WHERE meter <> ''";
    let rows = step.query_typed(sql, &[(&tenant, Type::UUID)]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect::<Result<_, Fault>>().map(Some)
}

/// A statement put together from constant pieces, and its values: one text for each set of parts, columns and filters, none with an `OR`, so that
/// the primary key finds the rows. Columns are units, requests, the instant if there are windows, the meter if none is asked for, and the
/// dimensions in their order.
struct Question {
    text: String,
    values: Vec<(Box<dyn ToSql + Sync + Send>, Type)>,
}

impl Question {
    fn new(query: &UsageQuery, parts: &[Part], meters: Option<&[String]>) -> Self {
        let mut question = Self { text: String::with_capacity(1_024), values: Vec::with_capacity(12) };
        let mut columns: Vec<&str> = Vec::with_capacity(9);
        columns.extend(query.window.map(|_| "bucket"));
        columns.extend(query.meter.is_none().then_some("meter"));
        columns.extend(query.group_by.iter().map(|dimension| column(*dimension)));
        let filters = question.filters(query, meters);
        for (at, part) in parts.iter().enumerate() {
            let (table, period) = match part {
                Part::Hours(period) => ("rollup_hour", period),
                Part::Days(period) => ("rollup_day", period),
            };
            if at > 0 {
                question.text.push_str(" UNION ALL ");
            }
            // A sum ends at the largest number that a column holds, as it does in a row.
            question.text.push_str(
                "SELECT least(sum(units), 9223372036854775807)::int8, least(sum(requests), 9223372036854775807)::int8",
            );
            for column in &columns {
                question.text.push_str(", ");
                question.text.push_str(column);
            }
            question.text.push_str(" FROM ");
            question.text.push_str(table);
            question.text.push_str(" WHERE bucket >= ");
            question.value(period.start.as_micros(), Type::INT8);
            question.text.push_str(" AND bucket < ");
            question.value(period.end.as_micros(), Type::INT8);
            question.text.push_str(&filters);
            if columns.is_empty() {
                // Without columns there is a row even of nothing.
                question.text.push_str(" HAVING count(*) > 0");
            } else {
                question.text.push_str(" GROUP BY ");
                question.text.push_str(&columns.join(", "));
            }
        }
        question
    }

    /// The conditions that all parts share.
    fn filters(&mut self, query: &UsageQuery, meters: Option<&[String]>) -> String {
        let outer = std::mem::take(&mut self.text);
        if let Some(tenant) = query.tenant {
            self.filter(" AND tenant = ", Id(tenant.as_u128()), Type::UUID);
        }
        match meters {
            Some([meter]) => self.filter(" AND meter = ", meter.clone(), Type::TEXT),
            Some(meters) => {
                self.filter(" AND meter = ANY(", meters.to_vec(), Type::TEXT_ARRAY);
                self.text.push(')');
            }
            None => {}
        }
        if let Some(user) = query.user {
            self.filter(" AND user_id = ", Id(user.as_u128()), Type::UUID);
        }
        if let Some(key) = query.key {
            self.filter(" AND key = ", Id(key.as_u128()), Type::UUID);
        }
        if let Some(route) = &query.route {
            self.filter(" AND route = ", route.clone(), Type::TEXT);
        }
        if let Some(outcome) = &query.outcome {
            self.filter(" AND outcome = ", outcome.clone(), Type::TEXT);
        }
        if let Some(environment) = query.environment {
            self.filter(" AND environment = ", environment.as_str(), Type::TEXT);
        }
        std::mem::replace(&mut self.text, outer)
    }

    fn filter(&mut self, condition: &'static str, value: impl ToSql + Sync + Send + 'static, kind: Type) {
        self.text.push_str(condition);
        self.value(value, kind);
    }

    fn value(&mut self, value: impl ToSql + Sync + Send + 'static, kind: Type) {
        self.values.push((Box::new(value), kind));
        self.text.push('$');
        self.text.push_str(&self.values.len().to_string());
    }
}

const fn column(dimension: Dimension) -> &'static str {
    match dimension {
        Dimension::Tenant => "tenant",
        Dimension::User => "user_id",
        Dimension::Key => "key",
        Dimension::Route => "route",
        Dimension::Outcome => "outcome",
        Dimension::Environment => "environment",
        Dimension::Limit => "limit_name",
    }
}

fn sum(query: &UsageQuery, row: &Row) -> Result<UsageRow, Fault> {
    let mut columns = 2..;
    let mut next = || columns.next().unwrap_or_default();
    // Without windows every row is of the one piece.
    let bucket = match query.window {
        Some(_) => instant(row, next())?,
        None => query.period.start,
    };
    let meter = match &query.meter {
        Some(meter) => meter.clone(),
        None => row.try_get(next())?,
    };
    let group = query.group_by.iter().map(|dimension| value(*dimension, row, next())).collect::<Result<_, _>>()?;
    Ok(UsageRow { bucket, meter, group, units: units(row, 0)?, requests: units(row, 1)? })
}

fn value(dimension: Dimension, row: &Row, at: usize) -> Result<Option<String>, Fault> {
    // A key without a user is counted under the nil one, and what was forfeited under the nil key.
    let some = |id: u128| Some(id).filter(|id| *id != 0);
    Ok(match dimension {
        Dimension::Tenant => Some(TenantId::from_u128(id(row, at)?).to_string()),
        Dimension::Key => some(id(row, at)?).map(|key| KeyId::from_u128(key).to_string()),
        Dimension::User => some(id(row, at)?).map(|user| UserId::from_u128(user).to_string()),
        Dimension::Limit => Some(row.try_get::<_, String>(at)?).filter(|limit| !limit.is_empty()),
        Dimension::Route | Dimension::Outcome | Dimension::Environment => Some(row.try_get(at)?),
    })
}
