//! Plans: a named, versioned set of limits and prices.

use super::{Limit, Scope, Timestamp};
use crate::price::Price;

/// One version of a plan. A version never changes; a new one takes its place.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    /// The operator's word for it, such as `starter`.
    pub id: String,
    /// 1 for the first, one more for each change.
    pub version: u32,
    /// For people.
    pub name: String,
    /// ISO 4217 code of its prices.
    pub currency: String,
    /// Limits, in the order in which they are shown.
    pub limits: Vec<Limit>,
    /// Prices a meter.
    pub prices: Vec<Price>,
    /// Scopes that keys made by end users may hold; `None` for those that the gate's routes ask for. Operators are not bound by it.
    #[serde(default)]
    pub scopes: Option<Vec<Scope>>,
    /// When this version was made.
    pub created_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_stored_before_plans_had_scopes_is_read() {
        let stored = r#"{"id":"free","version":1,"name":"Free","currency":"USD","limits":[],"prices":[],
            "created_at":"2026-11-24T12:00:00Z"}"#;
        let plan: Plan = serde_json::from_str(stored).unwrap();
        assert_eq!((plan.id.as_str(), plan.scopes), ("free", None));
    }
}
