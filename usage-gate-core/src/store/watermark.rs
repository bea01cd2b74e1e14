//! What of a batch still counts: a sequence counts once (B3).

use std::borrow::Cow;

use super::Batch;

/// The batch without the items at or below the watermark. Its items are numbered from `first`: records, then refusals.
pub(crate) fn after_watermark(batch: &Batch, watermark: u64) -> Cow<'_, Batch> {
    if watermark < batch.first {
        return Cow::Borrowed(batch);
    }
    let known = usize::try_from(watermark - batch.first).unwrap_or(usize::MAX).saturating_add(1);
    let records = batch.records.get(known.min(batch.records.len())..).unwrap_or_default().to_vec();
    let known = known.saturating_sub(batch.records.len());
    let refusals = batch.refusals.get(known.min(batch.refusals.len())..).unwrap_or_default().to_vec();
    Cow::Owned(Batch { first: watermark.saturating_add(1), meters: batch.meters.clone(), records, refusals, ..*batch })
}
