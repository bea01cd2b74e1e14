//! Portal links, sessions and tokens of operators in memory.

use std::collections::HashMap;

use super::MemoryStore;
use crate::model::{AdminToken, PortalLink, Session, Timestamp, TokenHash};
use crate::store::sessions::REMEMBERED;
use crate::store::{Redemption, SessionStore, StoreError};

/// Links, each with whether it was used, and sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    links: HashMap<TokenHash, (PortalLink, bool)>,
    sessions: HashMap<TokenHash, Session>,
    admin_tokens: HashMap<TokenHash, AdminToken>,
    /// When rows that have ended were last looked for.
    swept_at: Timestamp,
}

impl Sessions {
    /// Deletes what has ended; at most once a minute, because it looks at every row.
    fn sweep(&mut self, now: Timestamp) {
        if self.swept_at.micros_until(now) < 60_000_000 {
            return;
        }
        self.swept_at = now;
        self.links.retain(|_, (link, _)| link.expires_at.plus_micros(REMEMBERED) > now);
        self.sessions.retain(|_, session| session.ends_at > now);
    }

    fn redeem(&mut self, link: TokenHash, session: TokenHash, now: Timestamp, ends_at: Timestamp) -> Redemption {
        let Some((link, used)) = self.links.get_mut(&link) else { return Redemption::Unknown };
        if *used {
            return Redemption::Used;
        }
        if link.expires_at <= now {
            return Redemption::Expired;
        }
        *used = true;
        let begun = Session {
            hash: session,
            user: link.user,
            return_url: link.return_url.clone(),
            created_at: now,
            last_seen_at: now,
            ends_at,
        };
        self.sessions.insert(session, begun.clone());
        Redemption::Begun(begun)
    }
}

#[async_trait::async_trait]
impl SessionStore for MemoryStore {
    async fn create_link(&self, link: &PortalLink, now: Timestamp) -> Result<(), StoreError> {
        let mut kept = self.kept_sessions();
        kept.sweep(now);
        kept.links.insert(link.hash, (link.clone(), false));
        Ok(())
    }

    async fn redeem_link(
        &self,
        link: TokenHash,
        session: TokenHash,
        now: Timestamp,
        ends_at: Timestamp,
    ) -> Result<Redemption, StoreError> {
        let mut kept = self.kept_sessions();
        kept.sweep(now);
        Ok(kept.redeem(link, session, now, ends_at))
    }

    async fn session(&self, hash: TokenHash) -> Result<Option<Session>, StoreError> {
        Ok(self.kept_sessions().sessions.get(&hash).cloned())
    }

    async fn mark_seen(&self, hash: TokenHash, at: Timestamp) -> Result<(), StoreError> {
        if let Some(session) = self.kept_sessions().sessions.get_mut(&hash) {
            session.last_seen_at = session.last_seen_at.max(at);
        }
        Ok(())
    }

    async fn create_admin_token(&self, token: &AdminToken) -> Result<(), StoreError> {
        self.kept_sessions().admin_tokens.entry(token.hash).or_insert_with(|| token.clone());
        Ok(())
    }

    async fn admin_token(&self, hash: TokenHash) -> Result<Option<AdminToken>, StoreError> {
        Ok(self.kept_sessions().admin_tokens.get(&hash).cloned())
    }

    async fn end_session(&self, hash: TokenHash) -> Result<Option<Session>, StoreError> {
        Ok(self.kept_sessions().sessions.remove(&hash))
    }
}
