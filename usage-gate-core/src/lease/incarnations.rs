//! When each incarnation of a rate store was first seen, by the clock of the authority of quotas. Pure: class R of the protocols asks it (R3).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::Timestamp;

/// How long one is remembered at least.
const KEPT_MICROS: i64 = 400 * 86_400 * 1_000_000;
/// So many of the newest are remembered however old they are: one that serves for years must not seem new.
pub(crate) const MOST_OLD: u16 = 1_000;

/// How old the first is that is ever heard of: older than any bucket of a rate takes to fill. Nothing was lent before it, so that what it does not know was never used.
pub(crate) const FIRST_EVER: Duration = Duration::from_secs(3_600);

/// Since when one counts as seen that is asked about for the first time.
pub(crate) fn seen_since(is_first_ever: bool, now: Timestamp) -> Timestamp {
    let before = if is_first_ever { FIRST_EVER } else { Duration::ZERO };
    now.plus_micros(-i64::try_from(before.as_micros()).unwrap_or(0))
}

/// Incarnations that were first seen before this instant may be forgotten.
pub(crate) const fn incarnations_kept_since(now: Timestamp) -> Timestamp {
    now.plus_micros(-KEPT_MICROS)
}

/// How long ago that was; nothing if the clock was set back since.
pub(crate) fn age(first_seen: Timestamp, now: Timestamp) -> Duration {
    Duration::from_micros(first_seen.micros_until(now))
}

/// What is remembered.
#[derive(Debug, Default)]
pub(crate) struct Incarnations(BTreeMap<String, Timestamp>);

impl Incarnations {
    /// The age of one, which is noted if it is new.
    pub(crate) fn age(&mut self, incarnation: &str, now: Timestamp) -> Duration {
        if let Some(first_seen) = self.0.get(incarnation) {
            return age(*first_seen, now);
        }
        let first_seen = seen_since(self.0.is_empty(), now);
        self.0.insert(incarnation.to_owned(), first_seen);
        self.forget(now);
        age(first_seen, now)
    }

    fn forget(&mut self, now: Timestamp) {
        let mut newest: Vec<(Timestamp, String)> = self.0.iter().map(|(id, at)| (*at, id.clone())).collect();
        newest.sort_unstable_by(|one, other| other.cmp(one));
        for (first_seen, id) in newest.into_iter().skip(MOST_OLD.into()) {
            if first_seen < incarnations_kept_since(now) {
                self.0.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400 * 1_000_000;

    #[test]
    fn the_newest_are_kept_and_what_is_not_old() {
        let mut incarnations = Incarnations::default();
        let at = |day: i64| Timestamp::from_micros(day * DAY);
        assert_eq!(incarnations.age("first", at(0)), FIRST_EVER);
        for day in 0..1_500 {
            assert_eq!(incarnations.age(&format!("{day:04}"), at(day)), Duration::ZERO);
        }
        assert_eq!(incarnations.0.len(), 1_000);
        let age = |day| Duration::from_micros(u64::try_from(day * DAY).unwrap());
        assert_eq!(incarnations.age("1499", at(1_600)), age(101));
        assert_eq!(incarnations.age("1499", at(0)), Duration::ZERO, "the clock was set back");
        for number in 0..2_000 {
            incarnations.age(&format!("many {number}"), at(1_600));
        }
        assert_eq!(incarnations.age("1300", at(1_600)), age(300));
        assert_eq!(incarnations.age("0600", at(1_600)), Duration::ZERO, "it was forgotten");
    }
}
