//! Which repeats of a request are free: of those with one tag, the first is billed, and up to three within a day of it are not. Pure.

use super::{Batch, Outcome, UsageRecord};
use crate::model::Timestamp;

/// How long after a billed request a repeat of it is free.
const DAY_MICROS: i64 = 86_400 * 1_000_000;
/// Repeats of one billed request that are free.
const MOST_FREE: u8 = 3;

/// What is kept of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Repeats {
    /// When the request that was billed was admitted.
    pub(crate) at: Timestamp,
    /// How many have been free since.
    pub(crate) free: u8,
}

/// Tags from before this instant are forgotten: nothing is a repeat of them any more.
pub(crate) const fn kept_since(through: Timestamp) -> Timestamp {
    through.plus_micros(-DAY_MICROS)
}

/// What is kept of a tag after a request that was admitted at `at`, and whether that one is free.
fn next(known: Option<Repeats>, at: Timestamp) -> (Repeats, bool) {
    match known {
        // Requests are settled in another order than they were admitted: the billed one may be the later of two.
        Some(Repeats { at: billed, free })
            if at.as_micros().abs_diff(billed.as_micros()) < DAY_MICROS.unsigned_abs() && free < MOST_FREE =>
        {
            (Repeats { at: billed, free: free + 1 }, true)
        }
        _ => (Repeats { at, free: 0 }, false),
    }
}

/// The tag by which a request may be a repeat of another; none where it would not be billed.
fn tag_of(record: &UsageRecord) -> Option<u128> {
    record.retry.filter(|_| matches!(record.outcome, Outcome::Billed | Outcome::Aborted))
}

/// Every tag of a batch that [`make_free`] asks for and keeps, in order: for stores that ask for all at once.
#[cfg(feature = "postgres")]
pub(crate) fn tags(batch: &Batch) -> std::collections::BTreeSet<u128> {
    batch.records.iter().filter_map(tag_of).collect()
}

/// Makes the repeats of a batch free, and gives their places. `known` tells what is kept of a tag, `keep` what is to be kept from now on.
pub(crate) fn make_free<E>(
    batch: &mut Batch,
    mut known: impl FnMut(u128) -> Result<Option<Repeats>, E>,
    mut keep: impl FnMut(u128, Repeats) -> Result<(), E>,
) -> Result<Vec<u64>, E> {
    let mut freed = Vec::new();
    for record in &mut batch.records {
        let Some(tag) = tag_of(record) else { continue };
        let (repeats, free) = next(known(tag)?, record.at);
        keep(tag, repeats)?;
        if free {
            record.outcome = Outcome::Unbilled;
            freed.push(record.sequence);
        }
    }
    Ok(freed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(hours: &[i64], free: &[bool]) {
        let mut known = None;
        let found: Vec<bool> = hours
            .iter()
            .map(|hour| {
                let at = Timestamp::from_micros(1_790_000_000_000_000).plus_micros(hour * 3_600_000_000);
                let (kept, free) = next(known, at);
                known = Some(kept);
                free
            })
            .collect();
        assert_eq!(found, free);
    }

    #[test]
    fn three_repeats_are_free_and_the_fourth_begins_anew() {
        check(&[0, 1, 2, 3, 4, 5], &[false, true, true, true, false, true]);
    }

    #[test]
    fn after_a_day_it_is_another_request() {
        check(&[0, 23, 24, 47], &[false, true, false, true]);
        check(&[24, 1, 0], &[false, true, false]);
    }
}
