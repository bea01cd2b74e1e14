//! What of a batch still counts: a sequence counts once (B3).

use std::borrow::Cow;

use super::Batch;

/// The batch without the items at or below the watermark.
pub(crate) fn after_watermark(batch: &Batch, watermark: u64) -> Cow<'_, Batch> {
    if watermark < batch.first {
        return Cow::Borrowed(batch);
    }
    let records = batch.records.iter().filter(|record| record.sequence > watermark).cloned().collect();
    let refusals = batch.refusals.iter().filter(|refusal| refusal.sequence > watermark).cloned().collect();
    Cow::Owned(Batch { first: watermark.saturating_add(1), meters: batch.meters.clone(), records, refusals, ..*batch })
}
