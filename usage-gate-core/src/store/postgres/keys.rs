//! Who a credential belongs to, and the feed of changes.

use std::sync::Arc;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::PostgresStore;
use super::fault::Fault;
use super::rows::{KEY_COLUMNS, TENANT_COLUMNS, USER_COLUMNS, key_row, tenant_row, user_row};
use super::value::{Id, document, optional_id, to_column, unreadable};
use crate::model::Plan;
use crate::secret::CredentialId;
use crate::store::feed::{self, After, MOST_ANSWERED, MOST_CHANGES, PATIENCE};
use crate::store::{Changed, Changes, FeedPosition, KeyStore, LastUse, ResolvedKey, StoreError};

#[async_trait::async_trait]
impl KeyStore for PostgresStore {
    fn backend(&self) -> &'static str {
        "postgres"
    }

    async fn resolve(&self, credential: &CredentialId) -> Result<Option<ResolvedKey>, StoreError> {
        self.ask("resolve a key", async |client| resolve(client, credential).await).await
    }

    async fn changes(&self, position: FeedPosition) -> Result<Changes, StoreError> {
        const WHAT: &str = "read the feed of changes";
        // Subscribed before reading, so that a change between the two is not slept through.
        let mut fed = self.inner.listener.bells().changes.subscribe();
        let deadline = tokio::time::sleep(PATIENCE);
        tokio::pin!(deadline);
        let mut rang = true;
        while rang {
            let found = self.ask(WHAT, async |client| changes(client, position).await).await?;
            if !found.items.is_empty() {
                return Ok(found);
            }
            // It may ring for nothing, hence the loop.
            rang = tokio::select! {
                () = &mut deadline => false,
                _ = fed.changed() => true,
            };
        }
        // Once more when the time is over: a bell may be lost with its connection, or not get through at all.
        self.ask(WHAT, async |client| changes(client, position).await).await
    }

    async fn position(&self) -> Result<FeedPosition, StoreError> {
        self.ask("read the feed's position", async |client| {
            let row = client.query_typed_one("SELECT max(seq) FROM change", &[]).await?;
            position(&row, 0)
        })
        .await
    }

    async fn pepper_fingerprint(&self, ours: u64) -> Result<u64, StoreError> {
        self.ask("compare peppers", async |client| {
            // What is updated to itself is answered too.
            let kept = client
                .query_typed_one(
                    "INSERT INTO pepper (fingerprint) VALUES ($1)
                     ON CONFLICT (one) DO UPDATE SET fingerprint = pepper.fingerprint RETURNING fingerprint",
                    &[(&ours.to_be_bytes().as_slice(), Type::BYTEA)],
                )
                .await?;
            let kept = <[u8; 8]>::try_from(kept.try_get::<_, &[u8]>(0)?).map_err(unreadable)?;
            Ok(u64::from_be_bytes(kept))
        })
        .await
    }

    async fn mark_used(&self, uses: &[LastUse]) -> Result<(), StoreError> {
        let credentials: Vec<&str> = uses.iter().map(|used| used.credential.as_str()).collect();
        let instants: Vec<i64> = uses.iter().map(|used| used.at.as_micros()).collect();
        self.ask("mark keys as used", async |client| {
            // Rows are locked in one order, so that nodes that mark the same ones do not wait for each other in a circle.
            client
                .execute_typed(
                    "UPDATE secret SET last_used_at = greatest(secret.last_used_at, used.at)
                     FROM (
                         SELECT secret.credential, latest.at
                         FROM (
                             SELECT credential, max(at) AS at FROM unnest($1, $2) AS mark (credential, at) GROUP BY credential
                         ) AS latest
                         JOIN secret ON secret.credential = latest.credential
                         WHERE secret.last_used_at IS NULL OR secret.last_used_at < latest.at
                         ORDER BY secret.credential
                         FOR UPDATE OF secret
                     ) AS used
                     WHERE secret.credential = used.credential",
                    &[(&credentials, Type::TEXT_ARRAY), (&instants, Type::INT8_ARRAY)],
                )
                .await?;
            Ok(())
        })
        .await
    }
}

/// Puts changes into the feed: the last that a transaction does, and part of the change itself.
pub(super) async fn feed(client: &Client, changes: &[Changed]) -> Result<(), Fault> {
    if changes.is_empty() {
        return Ok(());
    }
    let (kinds, ids): (Vec<&str>, Vec<Option<Id>>) =
        changes.iter().map(feed::to_columns).map(|(kind, id)| (kind, id.map(Id))).unzip();
    client
        .query_typed(
            "SELECT feed($1, $2, $3)",
            &[(&kinds, Type::TEXT_ARRAY), (&ids, Type::UUID_ARRAY), (&i64::from(MOST_CHANGES), Type::INT8)],
        )
        .await?;
    Ok(())
}

/// One round trip and one snapshot: nothing of it is older or newer than the position.
async fn resolve(client: &Client, credential: &CredentialId) -> Result<Option<ResolvedKey>, Fault> {
    // The columns of each noun are in the order in which `rows` has them.
    let sql = "SELECT * FROM resolve($1)";
    let Some(row) = client.query_typed_opt(sql, &[(&credential.as_str(), Type::TEXT)]).await? else { return Ok(None) };
    let key = key_row(&row, 0)?;
    let user = key.user.map(|_| user_row(&row, KEY_COLUMNS)).transpose()?;
    let tenant = tenant_row(&row, KEY_COLUMNS + USER_COLUMNS)?;
    let rest = KEY_COLUMNS + USER_COLUMNS + TENANT_COLUMNS;
    let plan: Plan = document(&row, rest)?;
    Ok(Some(ResolvedKey { key, user, tenant, plan: Arc::new(plan), position: position(&row, rest + 1)? }))
}

/// The number of the last change; 0 of an empty feed.
fn position(row: &Row, at: usize) -> Result<FeedPosition, Fault> {
    Ok(FeedPosition(number(row, at)?.unwrap_or(0)))
}

fn number(row: &Row, at: usize) -> Result<Option<u64>, Fault> {
    Ok(row.try_get::<_, Option<i64>>(at)?.map(u64::try_from).transpose().map_err(unreadable)?)
}

async fn changes(client: &Client, after: FeedPosition) -> Result<Changes, Fault> {
    // At least one row: without any change it has the bounds alone.
    let found = client
        .query_typed(
            "SELECT feed.first, feed.last, next.seq, next.kind, next.id
             FROM (SELECT min(seq) AS first, max(seq) AS last FROM change) AS feed
             LEFT JOIN LATERAL (SELECT * FROM change WHERE seq > $1 ORDER BY seq LIMIT $2) AS next ON true
             ORDER BY next.seq",
            &[(&to_column(after.0), Type::INT8), (&i64::from(MOST_ANSWERED), Type::INT8)],
        )
        .await?;
    let Some(bounds) = found.first() else { return Err(unreadable("the feed has no bounds").into()) };
    let (first, last) = (number(bounds, 0)?, position(bounds, 1)?);
    match feed::after(after, first, last) {
        After::Nothing => return Ok(Changes { items: Vec::new(), position: last }),
        After::Unknown => return Ok(Changes { items: vec![Changed::All], position: last }),
        After::Kept => {}
    }
    let mut changes = Changes { items: Vec::with_capacity(found.len()), position: after };
    for row in &found {
        let kind: &str = row.try_get(3)?;
        let change = feed::from_columns(kind, optional_id(row, 4)?);
        changes.items.push(change.ok_or_else(|| unreadable(kind.to_owned()))?);
        changes.position = position(row, 2)?;
    }
    Ok(changes)
}
