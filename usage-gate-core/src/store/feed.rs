//! The feed of changes as far as it is the same for every store: how much is kept, and what a reader is told.

use std::time::Duration;

use super::{Changed, FeedPosition};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use crate::model::KeyId;
use crate::model::TenantId;

/// Changes kept; who asks for older ones is told that everything may have changed.
pub(super) const MOST_CHANGES: u32 = 100_000;
/// Changes in one answer.
pub(super) const MOST_ANSWERED: u32 = 10_000;
/// How long a question waits for a change. One for which no bell rings here is seen after this time.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// Tenants that a new plan version moves one by one in the feed; beyond that it says that everything changed.
const MOST_MOVED: usize = 1_000;

/// What there is after a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing.
    Nothing,
    /// All of it is kept.
    Kept,
    /// What was trimmed meanwhile, or what another database had: one before it was restored from a backup.
    Unknown,
}

/// Judges a position by the number of the first change that is kept, if any, and that of the last, kept or not.
pub(super) fn after(position: FeedPosition, first: Option<u64>, last: FeedPosition) -> After {
    if position == last {
        After::Nothing
    } else if position < last && first.is_some_and(|first| first <= position.0.saturating_add(1)) {
        After::Kept
    } else {
        After::Unknown
    }
}

/// The changes of tenants that were moved to a new version of their plan.
pub(super) fn moved(tenants: Vec<TenantId>) -> Vec<Changed> {
    if tenants.len() > MOST_MOVED { vec![Changed::All] } else { tenants.into_iter().map(Changed::Tenant).collect() }
}

/// A change as a word and an id.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(super) const fn to_columns(change: &Changed) -> (&'static str, Option<u128>) {
    match change {
        Changed::Key(key) => ("key", Some(key.as_u128())),
        Changed::Tenant(tenant) => ("tenant", Some(tenant.as_u128())),
        Changed::All => ("all", None),
    }
}

/// What [`to_columns`] gave; `None` if this version has no such change.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(super) fn from_columns(kind: &str, id: Option<u128>) -> Option<Changed> {
    match (kind, id) {
        ("key", Some(id)) => Some(Changed::Key(KeyId::from_u128(id))),
        ("tenant", Some(id)) => Some(Changed::Tenant(TenantId::from_u128(id))),
        ("all", _) => Some(Changed::All),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_judged_by_what_is_kept() {
        let check = |position, first, last| after(FeedPosition(position), first, FeedPosition(last));
        assert_eq!(check(0, None, 0), After::Nothing, "a new database");
        assert_eq!(check(0, Some(1), 3), After::Kept);
        assert_eq!(check(3, Some(1), 3), After::Nothing);
        assert_eq!(check(4, Some(5), 9), After::Kept, "the next one is the first that is kept");
        assert_eq!(check(3, Some(5), 9), After::Unknown, "the next one was trimmed");
        assert_eq!(check(10, Some(5), 9), After::Unknown, "a position of another database");
    }
}
