//! Why calls were refused, and what to do about it.

use std::collections::BTreeMap;

use usage_gate_core::store::{Dimension, UsageItem};

use crate::portal::locale::{Language, Words, grouped, share};

/// A row of the table of refusals.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: &'static str,
    pub(crate) code: String,
    /// What refused, or what to do.
    pub(crate) advice: String,
    pub(crate) calls: u64,
    pub(crate) share: String,
    /// The key that was refused most, by id.
    pub(crate) mostly: Option<String>,
}

impl Refusal {
    pub(crate) fn shown_calls(&self) -> String {
        grouped(self.calls)
    }
}

/// All of them, the most frequent first, with the number of refused calls and of all calls.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusals {
    pub(crate) rows: Vec<Refusal>,
    pub(crate) refused: u64,
    pub(crate) calls: u64,
}

/// Refused calls, by key.
type ByKey<'a> = BTreeMap<Option<&'a str>, u64>;

impl Refusals {
    /// Sorts usage of the meter `requests`, grouped by outcome, limit and key.
    pub(crate) fn of(items: &[UsageItem], language: Language) -> Self {
        let words = language.words();
        let mut kinds: BTreeMap<(&str, Option<&str>), ByKey<'_>> = BTreeMap::new();
        let mut calls = 0u64;
        for item in items {
            calls = calls.saturating_add(item.requests);
            let value = |wanted| {
                item.group.iter().find(|(dimension, _)| *dimension == wanted).and_then(|(_, value)| value.as_deref())
            };
            let Some(code) = value(Dimension::Outcome).and_then(|outcome| outcome.strip_prefix("refused:")) else {
                continue;
            };
            let by_key = kinds.entry((code, value(Dimension::Limit))).or_default();
            let sum = by_key.entry(value(Dimension::Key)).or_default();
            *sum = sum.saturating_add(item.requests);
        }
        let total =
            |by_key: &BTreeMap<Option<&str>, u64>| by_key.values().fold(0u64, |sum, one| sum.saturating_add(*one));
        let refused = kinds.values().fold(0u64, |sum, by_key| sum.saturating_add(total(by_key)));
        let mut rows: Vec<Refusal> = kinds
            .iter()
            .map(|((code, limit), by_key)| {
                let (reason, advice) = reason(code, words);
                let calls = total(by_key);
                let named = limit.map(|limit| language.limit_named(limit));
                let advice = [named.as_deref().unwrap_or_default(), advice]
                    .iter()
                    .filter(|part| !part.is_empty())
                    .copied()
                    .collect::<Vec<_>>();
                Refusal {
                    reason,
                    code: (*code).to_owned(),
                    advice: advice.join(if language == Language::Japanese { "・" } else { "; " }),
                    calls,
                    share: share(calls, refused),
                    mostly: by_key
                        .iter()
                        .max_by_key(|(_, calls)| **calls)
                        .and_then(|(key, _)| key.map(ToOwned::to_owned)),
                }
            })
            .collect();
        rows.sort_by(|a, b| b.calls.cmp(&a.calls).then_with(|| a.code.cmp(&b.code)));
        Self { rows, refused, calls }
    }
}

/// A code in words, and what to do.
fn reason(code: &str, words: &'static Words) -> (&'static str, &'static str) {
    match code {
        "rate_limited" => (words.too_fast, words.too_fast_advice),
        "quota_exceeded" => (words.limit_reached, ""),
        "concurrency_limited" => (words.too_many_at_once, words.too_many_advice),
        "insufficient_scope" => (words.scope_missing, words.scope_missing_advice),
        "revoked_key" => (words.key_revoked, words.use_another_key),
        "expired_key" => (words.key_expired, words.use_another_key),
        "address_not_allowed" => (words.address_refused, words.address_advice),
        "tenant_suspended" => (words.suspended, words.suspended_advice),
        "route_not_found" | "method_not_allowed" => (words.no_such_route, words.no_such_route_advice),
        "payload_too_large" => (words.too_large, words.too_large_advice),
        "store_unavailable" | "journal_unavailable" | "overloaded" | "draining" => {
            (words.not_now, words.not_now_advice)
        }
        _ => (words.other_reason, ""),
    }
}

#[cfg(test)]
mod tests {
    use usage_gate_core::model::Timestamp;
    use usage_gate_core::period::Period;

    use super::*;

    fn item(outcome: &str, limit: Option<&str>, key: &str, requests: u64) -> UsageItem {
        let start = Timestamp::default();
        UsageItem {
            period: Period { start, end: start },
            meter: "requests".into(),
            group: vec![
                (Dimension::Key, Some(key.into())),
                (Dimension::Outcome, Some(outcome.into())),
                (Dimension::Limit, limit.map(ToOwned::to_owned)),
            ],
            units: 0,
            requests,
        }
    }

    #[test]
    fn reasons_stand_by_frequency_with_the_key_they_hit_most() {
        let items = [
            item("billed", None, "key_a", 90),
            item("refused:rate_limited", Some("burst"), "key_a", 2),
            item("refused:rate_limited", Some("burst"), "key_b", 5),
            item("refused:insufficient_scope", None, "key_a", 3),
        ];
        let found = Refusals::of(&items, Language::English);
        assert_eq!((found.refused, found.calls), (10, 100));
        let rows: Vec<_> =
            found.rows.iter().map(|row| (row.reason, row.calls, row.share.as_str(), row.mostly.as_deref())).collect();
        assert_eq!(rows, [("Too fast", 7, "70.0%", Some("key_b")), ("Scope missing", 3, "30.0%", Some("key_a"))]);
        assert_eq!(found.rows[0].advice, "limit burst; wait as long as Retry-After says");
    }
}
