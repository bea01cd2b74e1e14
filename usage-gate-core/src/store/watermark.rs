//! What of a batch still counts: a sequence counts once (B3), and none is passed over (B8).

use super::Batch;

/// The batch without the items at or below the watermark; `None` if it begins beyond the place after it, so that it cannot be taken in.
pub(crate) fn after_watermark(mut batch: Batch, watermark: u64) -> Option<Batch> {
    if watermark.saturating_add(1) < batch.first {
        return None;
    }
    if watermark >= batch.first {
        batch.records.retain(|record| record.sequence > watermark);
        batch.refusals.retain(|refusal| refusal.sequence > watermark);
        // Whatever brought the watermark here may have brought them too.
        batch.samples.clear();
        batch.first = watermark.saturating_add(1);
    }
    batch.samples.truncate(Batch::MOST_SAMPLES);
    Some(batch)
}
