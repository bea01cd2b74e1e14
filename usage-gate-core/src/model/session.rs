//! Portal links and sessions: how a user of a tenant comes to the portal and stays signed in.

use std::fmt;

use sha2::{Digest, Sha256};

use super::{Timestamp, UserId};

/// The SHA-256 of a link's or session's token: what is stored in its place, so that a copy of the database opens nothing.
///
/// Not salted and not slow: a token is 256 random bits, which nobody guesses.
///
/// ```
/// # use usage_gate_core::model::TokenHash;
/// assert_eq!(TokenHash::of("a token"), TokenHash::of("a token"));
/// assert_ne!(TokenHash::of("a token"), TokenHash::of("another"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// The hash of a token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

/// A one-time link into the portal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortalLink {
    /// Of the token in it.
    pub hash: TokenHash,
    /// Who is signed in by it.
    pub user: UserId,
    /// Where the user came from, and goes back to.
    pub return_url: Option<String>,
    /// When it opens nothing any more.
    pub expires_at: Timestamp,
}

/// A user who is signed in to the portal, in one browser.
///
/// Role and tenant are not in it: they are read anew for each request, so that a change of them holds at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Of the token in the browser's cookie.
    pub hash: TokenHash,
    /// Who.
    pub user: UserId,
    /// Where the user came from, and goes back to.
    pub return_url: Option<String>,
    /// When the user signed in.
    pub created_at: Timestamp,
    /// When it was last used, to about a minute.
    pub last_seen_at: Timestamp,
    /// When it ends, however much it is used.
    pub ends_at: Timestamp,
}
