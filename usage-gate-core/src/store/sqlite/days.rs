//! Keeps in which zone a tenant's days are counted; `store/days.rs` decides.

use rusqlite::{Connection, OptionalExtension};

use super::rows;
use super::value::{instant, parsed};
use crate::model::{TenantId, Timestamp};
use crate::period::{Period, Zone};
use crate::store::days::{DayZone, Days, Part, TenantDays, cut};
use crate::store::{RollupDelta, RollupKey};

/// The zones of a tenant's days, the oldest first.
fn zones(connection: &Connection, tenant: TenantId) -> rusqlite::Result<Vec<DayZone>> {
    connection
        .prepare_cached("SELECT since, zone FROM rollup_day_zone WHERE tenant = ?1 ORDER BY since")?
        .query_map([tenant.as_u128().to_be_bytes()], |row| {
            Ok(DayZone { since: instant(row, 0)?, zone: parsed(row, 1)? })
        })?
        .collect()
}

/// The newest hour of a tenant's usage: whatever else a call takes, it is counted in `requests`.
fn newest_bucket(connection: &Connection, tenant: TenantId) -> rusqlite::Result<Option<Timestamp>> {
    connection
        .prepare_cached(
            "SELECT bucket FROM rollup_hour WHERE tenant = ?1 AND meter = 'requests' ORDER BY bucket DESC LIMIT 1",
        )?
        .query_row([tenant.as_u128().to_be_bytes()], |row| instant(row, 0))
        .optional()
}

/// The days of all buckets of these rows. To be called before the rows are stored; stores the zones that they begin.
pub(super) fn begin(connection: &Connection, rows: &[(RollupKey, RollupDelta)]) -> rusqlite::Result<Days> {
    let mut buckets: Vec<(TenantId, Timestamp)> = rows.iter().map(|(key, _)| (key.tenant, key.bucket)).collect();
    buckets.sort_unstable();
    buckets.dedup();
    let mut found = Days::with_capacity(buckets.len());
    for of_tenant in buckets.chunk_by(|(tenant, _), (next, _)| tenant == next) {
        let Some((tenant, _)) = of_tenant.first().copied() else { continue };
        let calendar = rows::tenant(connection, tenant)?.map(|tenant| tenant.calendar);
        let mut days = TenantDays::new(zones(connection, tenant)?, newest_bucket(connection, tenant)?, calendar);
        found.extend(of_tenant.iter().map(|(tenant, bucket)| ((*tenant, *bucket), days.of(*bucket))));
        store(connection, tenant, days.begun())?;
    }
    Ok(found)
}

fn store(connection: &Connection, tenant: TenantId, begun: &[DayZone]) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare_cached("INSERT INTO rollup_day_zone (tenant, since, zone) VALUES (?1, ?2, ?3)")?;
    for DayZone { since, zone } in begun {
        statement.execute((tenant.as_u128().to_be_bytes(), since.as_micros(), zone.name()))?;
    }
    Ok(())
}

/// Cuts the period of a question about a tenant into whole days and hours.
pub(super) fn parts(
    connection: &Connection,
    tenant: TenantId,
    period: Period,
    zone: &Zone,
) -> rusqlite::Result<Vec<Part>> {
    Ok(cut(&zones(connection, tenant)?, newest_bucket(connection, tenant)?, period, zone))
}
