//! Reads usage from the rollups in memory.

use super::MemoryStore;
use crate::store::reader::{UsageRow, fold};
use crate::store::request_log::search;
use crate::store::{
    Audit, AuditQuery, Dimension, RequestPage, RequestQuery, RollupDelta, RollupKey, StoreError, UsagePage, UsageQuery,
    UsageReader,
};

#[async_trait::async_trait]
impl UsageReader for MemoryStore {
    async fn usage(&self, query: &UsageQuery) -> Result<UsagePage, StoreError> {
        let usage = self.kept_usage();
        // A process has one living stream, the newest: ids sort by creation.
        let complete_through = usage.streams.last_key_value().map(|(_, stream)| stream.through);
        let rows =
            usage.rollups.iter().filter(|(key, _)| wanted(query, key)).map(|(key, delta)| row(query, key, *delta));
        Ok(fold(query, rows, complete_through))
    }

    async fn requests(&self, query: &RequestQuery) -> Result<RequestPage, StoreError> {
        let usage = self.kept_usage();
        search(query, usage.blocks.iter()).map_err(|error| StoreError::unusable("read the request log", error))
    }

    async fn audit(&self, query: &AuditQuery) -> Result<Audit, StoreError> {
        let usage = self.kept_usage();
        Ok(super::audit::audit(&usage, &self.ledger(), query))
    }
}

fn wanted(query: &UsageQuery, key: &RollupKey) -> bool {
    query.period.contains(key.bucket)
        && query.tenant.is_none_or(|tenant| tenant == key.tenant)
        && query.user.is_none_or(|user| Some(user) == key.user)
        && query.key.is_none_or(|wanted| wanted == key.key)
        && query.environment.is_none_or(|environment| environment == key.environment)
        && query.route.as_deref().is_none_or(|route| *route == *key.route)
        && query.meter.as_deref().is_none_or(|meter| *meter == *key.meter)
        && query.outcome.as_deref().is_none_or(|outcome| *outcome == *key.outcome)
}

fn row(query: &UsageQuery, key: &RollupKey, delta: RollupDelta) -> UsageRow {
    let group = query.group_by.iter().map(|dimension| match dimension {
        Dimension::Tenant => Some(key.tenant.to_string()),
        Dimension::User => key.user.map(|user| user.to_string()),
        // The nil key of what was forfeited is none.
        Dimension::Key => (key.key.as_u128() != 0).then(|| key.key.to_string()),
        Dimension::Route => Some(key.route.to_string()),
        Dimension::Outcome => Some(key.outcome.to_string()),
        Dimension::Environment => Some(key.environment.as_str().to_owned()),
        Dimension::Limit => key.limit.as_ref().map(ToString::to_string),
    });
    UsageRow {
        bucket: key.bucket,
        meter: key.meter.to_string(),
        group: group.collect(),
        units: delta.units,
        requests: delta.requests,
    }
}
