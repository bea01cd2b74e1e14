//! Keeps in which zone a tenant's days are counted; `store/days.rs` decides.
//!
//! A zone begins at a bucket that is newer than all that are stored. To know which those are, whoever begins one has a lock alone that
//! all who add usage share: what they add is committed then, or not begun.

use std::collections::HashMap;

use deadpool_postgres::Transaction;
use tokio_postgres::types::Type;

use super::fault::Fault;
use super::value::{Id, id, instant, optional_instant, parsed, unreadable};
use crate::model::{TenantId, Timestamp};
use crate::period::{AnchorDay, Calendar, Zone};
use crate::store::days::{DayZone, Days, TenantDays};

/// Any number that nobody else takes: `usagezon` in ASCII.
const LOCK: i64 = 0x7573_6167_657a_6f6e;

/// How the lock of zones is held, to the end of the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ZonesLock {
    /// Zones do not change meanwhile.
    Shared,
    /// Zones may be begun.
    Alone,
}

impl ZonesLock {
    async fn take(self, step: &Transaction<'_>) -> Result<(), Fault> {
        let sql = match self {
            Self::Shared => "SELECT pg_advisory_xact_lock_shared($1)",
            Self::Alone => "SELECT pg_advisory_xact_lock($1)",
        };
        step.query_typed(sql, &[(&LOCK, Type::INT8)]).await?;
        Ok(())
    }
}

/// The days of these buckets, which are ordered; `None` if one of them begins a zone and the lock is shared. Stores the zones that they begin.
pub(super) async fn begin(
    step: &Transaction<'_>,
    buckets: &[(TenantId, Timestamp)],
    lock: ZonesLock,
) -> Result<Option<Days>, Fault> {
    if buckets.is_empty() {
        return Ok(Some(Days::default()));
    }
    let of_tenants: Vec<_> = buckets.chunk_by(|(tenant, _), (next, _)| tenant == next).collect();
    let tenants: Vec<Id> = of_tenants.iter().filter_map(|of_tenant| Some(Id(of_tenant.first()?.0.as_u128()))).collect();
    // Sent together, and worked off in this order: behind the lock.
    let ((), mut zones, mut calendars) =
        tokio::try_join!(biased; lock.take(step), zones(step, &tenants), calendars(step, &tenants))?;
    let mut known: Vec<(TenantId, &[_], TenantDays)> = Vec::with_capacity(of_tenants.len());
    for (of_tenant, Id(tenant)) in of_tenants.into_iter().zip(&tenants) {
        let days = TenantDays::new(zones.remove(tenant).unwrap_or_default(), None, calendars.remove(tenant));
        known.push((TenantId::from_u128(*tenant), of_tenant, days));
    }
    // Hardly ever one: only where a zone may begin does it matter what is the newest that is stored.
    let may_begin = |of_tenant: &[(_, Timestamp)], days: &TenantDays| {
        of_tenant.iter().any(|(_, bucket)| days.other_zone(*bucket).is_some())
    };
    let unsure = known.iter().filter(|(_, of_tenant, days)| may_begin(of_tenant, days));
    let unsure: Vec<Id> = unsure.map(|(tenant, ..)| Id(tenant.as_u128())).collect();
    let newest = newest_buckets(step, &unsure).await?;
    let mut found = Days::with_capacity(buckets.len());
    let mut begun = Vec::new();
    for (tenant, of_tenant, days) in &mut known {
        days.know_newest(newest.get(&tenant.as_u128()).copied());
        found.extend(of_tenant.iter().map(|(tenant, bucket)| ((*tenant, *bucket), days.of(*bucket))));
        begun.extend(days.begun().iter().map(|zone| (*tenant, zone)));
    }
    if !begun.is_empty() {
        if lock == ZonesLock::Shared {
            return Ok(None);
        }
        store(step, &begun).await?;
    }
    Ok(Some(found))
}

/// The zones of tenants' days, the oldest first.
pub(super) async fn zones(step: &Transaction<'_>, tenants: &[Id]) -> Result<HashMap<u128, Vec<DayZone>>, Fault> {
    let sql = "SELECT tenant, since, zone FROM rollup_day_zone WHERE tenant = ANY($1) ORDER BY tenant, since";
    let mut zones = HashMap::<u128, Vec<DayZone>>::new();
    for row in step.query_typed(sql, &[(&tenants, Type::UUID_ARRAY)]).await? {
        let zone = DayZone { since: instant(&row, 1)?, zone: parsed(&row, 2)? };
        zones.entry(id(&row, 0)?).or_default().push(zone);
    }
    Ok(zones)
}

/// The newest hour of each tenant's usage: whatever else a call takes, it is counted in `requests`.
pub(super) async fn newest_buckets(step: &Transaction<'_>, tenants: &[Id]) -> Result<HashMap<u128, Timestamp>, Fault> {
    if tenants.is_empty() {
        return Ok(HashMap::new());
    }
    let sql = "SELECT asked.tenant, newest.bucket FROM unnest($1) AS asked (tenant), LATERAL
                   (SELECT bucket FROM rollup_hour WHERE tenant = asked.tenant AND meter = 'requests'
                    ORDER BY bucket DESC LIMIT 1) AS newest";
    let rows = step.query_typed(sql, &[(&tenants, Type::UUID_ARRAY)]).await?;
    rows.iter().map(|row| Ok((id(row, 0)?, instant(row, 1)?))).collect()
}

async fn calendars(step: &Transaction<'_>, tenants: &[Id]) -> Result<HashMap<u128, Calendar>, Fault> {
    let sql = "SELECT id, zone, anchor, next_zone, next_anchor, next_at, since FROM tenant WHERE id = ANY($1)";
    let mut calendars = HashMap::new();
    for row in step.query_typed(sql, &[(&tenants, Type::UUID_ARRAY)]).await? {
        let zone = |at| parsed::<Zone>(&row, at);
        let anchor = |at| -> Result<AnchorDay, Fault> {
            let day = u64::try_from(row.try_get::<_, i16>(at)?).map_err(unreadable)?;
            Ok(AnchorDay::new(day).map_err(unreadable)?)
        };
        let next = match optional_instant(&row, 5)? {
            Some(at) => Some((zone(3)?, anchor(4)?, at)),
            None => None,
        };
        let calendar = Calendar { zone: zone(1)?, anchor: anchor(2)?, next, since: optional_instant(&row, 6)? };
        calendars.insert(id(&row, 0)?, calendar);
    }
    Ok(calendars)
}

async fn store(step: &Transaction<'_>, begun: &[(TenantId, &DayZone)]) -> Result<(), Fault> {
    let tenants: Vec<Id> = begun.iter().map(|(tenant, _)| Id(tenant.as_u128())).collect();
    let since: Vec<i64> = begun.iter().map(|(_, zone)| zone.since.as_micros()).collect();
    let names: Vec<&str> = begun.iter().map(|(_, zone)| zone.zone.name()).collect();
    step.execute_typed(
        "INSERT INTO rollup_day_zone (tenant, since, zone) SELECT * FROM unnest($1, $2, $3)",
        &[(&tenants, Type::UUID_ARRAY), (&since, Type::INT8_ARRAY), (&names, Type::TEXT_ARRAY)],
    )
    .await?;
    Ok(())
}
