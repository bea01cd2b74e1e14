//! Usage in memory: rollups, and a watermark a stream.

use std::collections::BTreeMap;

use super::MemoryStore;
use crate::model::{StreamId, Timestamp};
use crate::store::watermark::after_watermark;
use crate::store::{Batch, RollupDelta, RollupKey, StoreError, UsageSink};

/// What was taken in.
#[derive(Debug, Default)]
pub(super) struct Usage {
    pub(super) rollups: BTreeMap<RollupKey, RollupDelta>,
    pub(super) streams: BTreeMap<StreamId, Stream>,
}

/// How far a stream was taken in.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Stream {
    watermark: u64,
    pub(super) through: Timestamp,
}

#[async_trait::async_trait]
impl UsageSink for MemoryStore {
    async fn accept(&self, batch: &Batch) -> Result<u64, StoreError> {
        let mut usage = self.kept_usage();
        let usage = &mut *usage;
        let stream = usage.streams.entry(batch.stream).or_default();
        for (key, delta) in after_watermark(batch, stream.watermark).rollups() {
            let row = usage.rollups.entry(key).or_default();
            row.units = row.units.saturating_add(delta.units);
            row.requests = row.requests.saturating_add(delta.requests);
        }
        // B4: in the same critical section as the usage.
        stream.watermark = stream.watermark.max(batch.last);
        stream.through = stream.through.max(batch.through);
        Ok(stream.watermark)
    }

    async fn watermark(&self, stream: StreamId) -> Result<u64, StoreError> {
        Ok(self.kept_usage().streams.get(&stream).map_or(0, |stream| stream.watermark))
    }
}
