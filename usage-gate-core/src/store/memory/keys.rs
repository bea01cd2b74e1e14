//! Who a credential belongs to, in memory, and the feed of changes.

use std::collections::VecDeque;

use super::MemoryStore;
use crate::secret::CredentialId;
use crate::store::feed::{self, After, MOST_ANSWERED, MOST_CHANGES, PATIENCE};
use crate::store::{Changed, Changes, FeedPosition, KeyStore, LastUse, ResolvedKey, StoreError};

/// The last changes, numbered from 1.
#[derive(Debug, Default)]
pub(super) struct Feed {
    kept: VecDeque<Changed>,
    /// Number of the last one.
    last: u64,
}

impl Feed {
    pub(super) fn push(&mut self, change: Changed) {
        if self.kept.len() >= MOST_CHANGES as usize {
            self.kept.pop_front();
        }
        self.kept.push_back(change);
        self.last += 1;
    }

    pub(super) const fn position(&self) -> FeedPosition {
        FeedPosition(self.last)
    }

    fn after(&self, position: FeedPosition) -> Changes {
        let (first, last) = (self.last + 1 - u64::try_from(self.kept.len()).unwrap_or(0), self.position());
        match feed::after(position, Some(first), last) {
            After::Nothing => Changes { items: Vec::new(), position: last },
            After::Unknown => Changes { items: vec![Changed::All], position: last },
            After::Kept => {
                let known = usize::try_from(position.0 + 1 - first).unwrap_or(usize::MAX);
                let items: Vec<Changed> = self.kept.iter().skip(known).take(MOST_ANSWERED as usize).cloned().collect();
                let answered = u64::try_from(items.len()).unwrap_or(0);
                Changes { items, position: FeedPosition(position.0 + answered) }
            }
        }
    }
}

#[async_trait::async_trait]
impl KeyStore for MemoryStore {
    fn backend(&self) -> &'static str {
        "memory"
    }

    fn is_local(&self) -> bool {
        true
    }

    async fn resolve(&self, credential: &CredentialId) -> Result<Option<ResolvedKey>, StoreError> {
        self.accounts().resolve(credential)
    }

    async fn changes(&self, position: FeedPosition) -> Result<Changes, StoreError> {
        // Subscribed before reading, so that a change between the two is not slept through.
        let mut fed = self.inner.fed.subscribe();
        let deadline = tokio::time::sleep(PATIENCE);
        tokio::pin!(deadline);
        loop {
            let found = self.accounts().feed.after(position);
            if !found.items.is_empty() {
                return Ok(found);
            }
            // The sender lives as long as `self`; an account may change without a change of the feed, hence the loop.
            tokio::select! {
                () = &mut deadline => return Ok(found),
                _ = fed.changed() => {}
            }
        }
    }

    async fn position(&self) -> Result<FeedPosition, StoreError> {
        Ok(self.accounts().feed.position())
    }

    async fn pepper_fingerprint(&self, ours: u64) -> Result<u64, StoreError> {
        Ok(*self.accounts().pepper.get_or_insert(ours))
    }

    async fn mark_used(&self, uses: &[LastUse]) -> Result<(), StoreError> {
        let mut accounts = self.accounts();
        for LastUse { credential, at } in uses {
            if let Some(secret) = accounts.secret(credential) {
                secret.last_used_at = secret.last_used_at.max(Some(*at));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::KeyId;

    #[test]
    fn a_reader_that_fell_behind_what_is_kept_is_told_that_all_changed() {
        let mut feed = Feed::default();
        for _ in 0..=MOST_CHANGES {
            feed.push(Changed::Key(KeyId::generate()));
        }
        assert_eq!(feed.after(FeedPosition(0)).items, [Changed::All]);
        assert_eq!(feed.after(FeedPosition(1)).items.len(), MOST_ANSWERED as usize);
        assert_eq!(feed.after(FeedPosition(u64::MAX)).items, [Changed::All], "a feed that was reset");
        assert!(feed.after(feed.position()).items.is_empty());
    }
}
