//! Portal links, sessions, and the tokens of operators.

use std::fmt::Debug;

use super::StoreError;
use crate::model::{AdminToken, PortalLink, Session, Timestamp, TokenHash};

/// How long a link is remembered after its end, in microseconds: a day.
pub(super) const REMEMBERED: i64 = 86_400 * 1_000_000;
/// Rows of each kind that one write deletes in passing: more than it adds, so that they do not pile up.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(super) const MOST_SWEPT: u32 = 100;

/// What came of a portal link that was presented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redemption {
    /// It was good, is used up now, and this session has begun.
    Begun(Session),
    /// It was used before.
    Used,
    /// Its time has passed.
    Expired,
    /// There is no such link, or it has been forgotten.
    Unknown,
}

/// Keeps portal links, sessions and tokens of operators, all under the hash of their token.
///
/// # Contract
/// - A link is redeemed once: of calls at the same moment one gets [`Begun`](Redemption::Begun), the others [`Used`](Redemption::Used). Using it
///   up and beginning the session are one step, so that a failure costs nobody their link.
/// - Whether a session still holds, and for whom, is not decided here: [`management`](crate::management) reads the user and the tenant anew.
/// - Rows that have ended are deleted in passing, some at a time, by the writes of others: sessions after `ends_at`, links a day after
///   `expires_at`, so that for a day a link can be told to be used or expired.
#[async_trait::async_trait]
pub trait SessionStore: Send + Sync + Debug + 'static {
    /// Stores a link.
    ///
    /// # Errors
    /// [`Unavailable`](super::StoreErrorKind::Unavailable).
    async fn create_link(&self, link: &PortalLink, now: Timestamp) -> Result<(), StoreError>;

    /// Uses a link up and begins a session under the hash `session`, for the link's user and with its `return_url`, from `now` to `ends_at`.
    ///
    /// # Errors
    /// `Unavailable`: the outcome is unknown; the user asks for another link.
    async fn redeem_link(
        &self,
        link: TokenHash,
        session: TokenHash,
        now: Timestamp,
        ends_at: Timestamp,
    ) -> Result<Redemption, StoreError>;

    /// A session, whether it has ended by the clock or not.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn session(&self, hash: TokenHash) -> Result<Option<Session>, StoreError>;

    /// Notes that a session was used; an earlier instant than the one known changes nothing, nor does a session that is not there.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn mark_seen(&self, hash: TokenHash, at: Timestamp) -> Result<(), StoreError>;

    /// Stores a token of an operator; one that is there already stays as it is.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn create_admin_token(&self, token: &AdminToken) -> Result<(), StoreError>;

    /// A token of an operator.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn admin_token(&self, hash: TokenHash) -> Result<Option<AdminToken>, StoreError>;

    /// Ends a session and gives what it was; `None` if there is none.
    ///
    /// # Errors
    /// `Unavailable`: it may go on; repeat.
    async fn end_session(&self, hash: TokenHash) -> Result<Option<Session>, StoreError>;
}
