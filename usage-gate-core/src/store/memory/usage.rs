//! Usage in memory: rollups and what proves them, the request log, and a watermark a stream.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::convert::Infallible;

use super::MemoryStore;
use crate::flush::{Chain, quota_use, totals};
use crate::model::{StreamId, TenantId, Timestamp};
use crate::store::repeats::{self, Repeats, make_free};
use crate::store::request_block::{Block, blocks};
use crate::store::watermark::after_watermark;
use crate::store::{
    AuditKey, Batch, CounterTag, RollupDelta, RollupKey, StoreError, UsageSink, digests_kept_since,
    quota_use_kept_since, requests,
};

/// Blocks of the request log at most: some tens of megabytes.
const MOST_BLOCKS: usize = 8_192;

/// What was taken in.
#[derive(Debug, Default)]
pub(super) struct Usage {
    pub(super) rollups: BTreeMap<RollupKey, RollupDelta>,
    pub(super) streams: BTreeMap<StreamId, Stream>,
    pub(super) digests: BTreeMap<(StreamId, u64), Digest>,
    digests_by_age: BTreeSet<(Timestamp, (StreamId, u64))>,
    /// By the start of the period and the counter.
    pub(super) quota_use: BTreeMap<(Timestamp, CounterTag), (TenantId, i64)>,
    /// Records that were made free as repeats.
    pub(super) freed: BTreeSet<(StreamId, u64)>,
    /// In the order in which they came.
    pub(super) blocks: VecDeque<Block>,
    repeats: HashMap<u128, Repeats>,
    repeats_by_age: BTreeSet<(Timestamp, u128)>,
}

/// How far a stream was taken in.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Stream {
    pub(super) watermark: u64,
    pub(super) through: Timestamp,
}

/// What was taken in of a segment.
#[derive(Debug)]
pub(super) struct Digest {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) items: u64,
    pub(super) chain: Chain,
    /// When it was last added to.
    until: Timestamp,
    pub(super) totals: BTreeMap<AuditKey, RollupDelta>,
}

#[async_trait::async_trait]
impl UsageSink for MemoryStore {
    fn backend(&self) -> &'static str {
        "memory"
    }

    async fn accept(&self, batch: Batch) -> Result<u64, StoreError> {
        // B4: all of it in one critical section.
        Ok(self.kept_usage().accept(batch))
    }

    async fn watermark(&self, stream: StreamId) -> Result<u64, StoreError> {
        Ok(self.kept_usage().streams.get(&stream).map_or(0, |stream| stream.watermark))
    }
}

impl Usage {
    /// The steps of the contract, in their order.
    fn accept(&mut self, batch: Batch) -> u64 {
        let before = self.streams.get(&batch.stream).map_or(0, |stream| stream.watermark);
        let Some(mut batch) = after_watermark(batch, before) else { return before };
        let segment = (batch.stream, batch.segment);
        // Of the items as they came, before any is made free: as the journal has them.
        let mut chain = self.digests.get(&segment).map_or(Chain::new(segment.0, segment.1), |digest| digest.chain);
        let items = chain.take(&batch);
        self.make_free(&mut batch);
        let rows = batch.rollups();
        for (key, delta) in &rows {
            self.rollups.entry(key.clone()).or_default().add(*delta);
        }
        for ((tag, period), (tenant, units)) in quota_use(&batch) {
            let sum = self.quota_use.entry((period, tag)).or_insert((tenant, 0));
            sum.1 = sum.1.saturating_add(units);
        }
        if items > 0 {
            let (first, last, until) = (batch.first, batch.last, batch.through);
            let new = Digest { first, last, items: 0, chain, until, totals: BTreeMap::new() };
            let digest = self.digests.entry(segment).or_insert(new);
            self.digests_by_age.remove(&(digest.until, segment));
            (digest.last, digest.chain, digest.until) = (last, chain, until.max(digest.until));
            self.digests_by_age.insert((digest.until, segment));
            digest.items = digest.items.saturating_add(items);
            for (key, delta) in totals(&rows) {
                digest.totals.entry(key).or_default().add(delta);
            }
        }
        self.blocks.extend(blocks(&batch));
        let stream = self.streams.entry(batch.stream).or_default();
        stream.watermark = before.max(batch.last);
        stream.through = stream.through.max(batch.through);
        let after = stream.watermark;
        self.forget(batch.through);
        after
    }

    fn make_free(&mut self, batch: &mut Batch) {
        let known = std::cell::RefCell::new((&mut self.repeats, &mut self.repeats_by_age));
        let freed = make_free::<Infallible>(
            batch,
            |tag| Ok(known.borrow().0.get(&tag).copied()),
            |tag, kept| {
                let (repeats, by_age) = &mut *known.borrow_mut();
                if let Some(before) = repeats.insert(tag, kept) {
                    by_age.remove(&(before.at, tag));
                }
                by_age.insert((kept.at, tag));
                Ok(())
            },
        );
        let Ok(freed) = freed;
        self.freed.extend(freed.into_iter().map(|sequence| (batch.stream, sequence)));
    }

    fn forget(&mut self, through: Timestamp) {
        while let Some((at, tag)) = self.repeats_by_age.first().copied()
            && at < repeats::kept_since(through)
        {
            self.repeats_by_age.pop_first();
            self.repeats.remove(&tag);
        }
        while let Some((until, segment)) = self.digests_by_age.first().copied()
            && until < digests_kept_since(through)
        {
            self.digests_by_age.pop_first();
            let Some(Digest { first, last, .. }) = self.digests.remove(&segment) else { continue };
            let free: Vec<_> = self.freed.range((segment.0, first)..=(segment.0, last)).copied().collect();
            free.iter().for_each(|place| _ = self.freed.remove(place));
        }
        while let Some(oldest) = self.quota_use.first_entry()
            && oldest.key().0 < quota_use_kept_since(through)
        {
            oldest.remove();
        }
        while self.blocks.len() > MOST_BLOCKS
            || self.blocks.front().is_some_and(|block| block.at_last < requests::kept_since(through))
        {
            self.blocks.pop_front();
        }
    }
}
