//! Tokens of operators.

use super::{Timestamp, TokenHash};

/// What an operator may do with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminRole {
    /// Everything.
    Full,
    /// Only look.
    Read,
}

impl AdminRole {
    /// The word in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Read => "read",
        }
    }
}

/// A token for the admin API, kept by its hash: all nodes of a gate accept it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminToken {
    /// Of the token.
    pub hash: TokenHash,
    /// What it may do.
    pub role: AdminRole,
    /// What people call it.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
}
