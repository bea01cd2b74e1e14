//! Scopes: what a key may do.

use std::fmt;
use std::str::FromStr;

/// A permission such as `search:read`. `search:*` covers everything that starts with `search:`, `*` covers all.
///
/// ```
/// # use usage_gate_core::model::Scope;
/// let held: Scope = "search:*".parse()?;
/// assert!(held.covers(&"search:read".parse()?));
/// assert!(!held.covers(&"searching:read".parse()?));
/// # Ok::<(), usage_gate_core::model::ParseScopeError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope(Box<str>);

/// Text that is not a scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a scope: 1 to 128 of letters, digits and `.:_-/`, with `*` alone or as the last part after `:`")]
pub struct ParseScopeError;

impl Scope {
    /// Whether holding `self` permits what needs `needed`.
    #[must_use]
    pub fn covers(&self, needed: &Self) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => needed.0.starts_with(prefix),
            None => self.0 == needed.0,
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Scope {
    type Err = ParseScopeError;

    fn from_str(text: &str) -> Result<Self, ParseScopeError> {
        let fixed = text.strip_suffix(":*").unwrap_or(if text == "*" { "all" } else { text });
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b".:_-/".contains(&b);
        if fixed.is_empty() || text.len() > 128 || !fixed.bytes().all(allowed) {
            return Err(ParseScopeError);
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for Scope {
    type Error = ParseScopeError;

    fn try_from(text: String) -> Result<Self, ParseScopeError> {
        text.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.0.into()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_counts_only_as_a_whole_last_part() {
        for text in ["search:*", "*", "a.b:c-d_e/f"] {
            assert!(text.parse::<Scope>().is_ok(), "{text}");
        }
        for text in ["", "sea*", "a:*:b", "a b", ":*", "**"] {
            assert!(text.parse::<Scope>().is_err(), "{text}");
        }
    }
}
