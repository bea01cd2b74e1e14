//! Who a credential belongs to, and the feed of changes.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::SqliteStore;
use super::rows;
use super::value::{Fault, id, optional_id, to_column, units, unreadable};
use crate::model::KeyId;
use crate::secret::CredentialId;
use crate::store::feed::{self, After, MOST_ANSWERED, MOST_CHANGES, PATIENCE};
use crate::store::{Changed, Changes, FeedPosition, KeyStore, LastUse, ResolvedKey, StoreError};

#[async_trait::async_trait]
impl KeyStore for SqliteStore {
    fn backend(&self) -> &'static str {
        "sqlite"
    }

    fn is_local(&self) -> bool {
        true
    }

    async fn resolve(&self, credential: &CredentialId) -> Result<Option<ResolvedKey>, StoreError> {
        let credential = *credential;
        self.read("resolve a key", move |connection| resolve(connection, &credential)).await
    }

    async fn changes(&self, position: FeedPosition) -> Result<Changes, StoreError> {
        const WHAT: &str = "read the feed of changes";
        // Subscribed before reading, so that a change between the two is not slept through.
        let mut fed = self.inner.fed.subscribe();
        let found = self.read(WHAT, move |connection| Ok(changes(connection, position)?)).await?;
        if !found.items.is_empty() {
            return Ok(found);
        }
        // Whether it rang or the time is over, the feed is read once more: another process rings no bell.
        let _ = tokio::time::timeout(PATIENCE, fed.changed()).await;
        self.read(WHAT, move |connection| Ok(changes(connection, position)?)).await
    }

    async fn position(&self) -> Result<FeedPosition, StoreError> {
        self.read("read the feed's position", |connection| Ok(position(connection)?)).await
    }

    async fn pepper_fingerprint(&self, ours: u64) -> Result<u64, StoreError> {
        self.write("compare peppers", move |connection| {
            connection
                .prepare_cached("INSERT INTO pepper (fingerprint) SELECT ?1 WHERE NOT EXISTS (SELECT 1 FROM pepper)")?
                .execute([ours.to_be_bytes()])?;
            let kept = connection.prepare_cached("SELECT fingerprint FROM pepper")?.query_row([], |row| row.get(0))?;
            Ok(u64::from_be_bytes(kept))
        })
        .await
    }

    async fn mark_used(&self, uses: &[LastUse]) -> Result<(), StoreError> {
        let uses = uses.to_vec();
        self.write("mark keys as used", move |connection| {
            let mut statement = connection.prepare_cached(
                "UPDATE secret SET last_used_at = ?2
                 WHERE credential = ?1 AND (last_used_at IS NULL OR last_used_at < ?2)",
            )?;
            for used in &uses {
                statement.execute((used.credential.as_str(), used.at.as_micros()))?;
            }
            Ok(())
        })
        .await
    }
}

/// Puts a change into the feed: in the transaction of the change itself.
pub(super) fn feed(connection: &Connection, change: &Changed) -> rusqlite::Result<()> {
    let (kind, id) = feed::to_columns(change);
    connection
        .prepare_cached("INSERT INTO change (kind, id) VALUES (?1, ?2)")?
        .execute((kind, id.map(u128::to_be_bytes)))?;
    connection
        .prepare_cached("DELETE FROM change WHERE seq <= ?1")?
        .execute([connection.last_insert_rowid().saturating_sub(MOST_CHANGES.into())])?;
    Ok(())
}

fn resolve(connection: &Connection, credential: &CredentialId) -> Result<Option<ResolvedKey>, Fault> {
    // The snapshot begins with this read: nothing read below is older or newer.
    let position = position(connection)?;
    let key = connection
        .prepare_cached("SELECT key FROM secret WHERE credential = ?1")?
        .query_row([credential.as_str()], |row| id(row, 0))
        .optional()?;
    let Some(key) = key.map(KeyId::from_u128) else { return Ok(None) };
    let incomplete = || StoreError::unusable("resolve a key", "its tenant or plan is missing");
    let key = rows::key(connection, key)?.ok_or_else(incomplete)?;
    let tenant = rows::tenant(connection, key.tenant)?.ok_or_else(incomplete)?;
    let plan = rows::plan(connection, &tenant.plan, Some(tenant.plan_version))?.ok_or_else(incomplete)?;
    let user = match key.user {
        Some(user) => rows::user(connection, user)?,
        None => None,
    };
    Ok(Some(ResolvedKey { key, user, tenant, plan: Arc::new(plan), position }))
}

/// The number of the last change, trimmed or not.
fn position(connection: &Connection) -> rusqlite::Result<FeedPosition> {
    let last = connection
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'change'")?
        .query_row([], |row| units(row, 0))
        .optional()?;
    Ok(FeedPosition(last.unwrap_or(0)))
}

fn changes(connection: &Connection, after: FeedPosition) -> rusqlite::Result<Changes> {
    let last = position(connection)?;
    let first: Option<u64> = connection
        .prepare_cached("SELECT seq FROM change ORDER BY seq LIMIT 1")?
        .query_row([], |row| units(row, 0))
        .optional()?;
    match feed::after(after, first, last) {
        After::Nothing => return Ok(Changes { items: Vec::new(), position: last }),
        After::Unknown => return Ok(Changes { items: vec![Changed::All], position: last }),
        After::Kept => {}
    }
    let mut statement =
        connection.prepare_cached("SELECT seq, kind, id FROM change WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
    let mut found = statement.query((to_column(after.0), MOST_ANSWERED))?;
    let mut changes = Changes { items: Vec::new(), position: after };
    while let Some(row) = found.next()? {
        changes.position = FeedPosition(units(row, 0)?);
        let kind = row.get_ref(1)?.as_str()?;
        let change = feed::from_columns(kind, optional_id(row, 2)?);
        changes.items.push(change.ok_or_else(|| unreadable(1, kind.to_owned()))?);
    }
    Ok(changes)
}
