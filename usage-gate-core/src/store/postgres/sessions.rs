//! Portal links, sessions and tokens of operators. A link is used up under a lock of its row: that is what makes it happen once.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::PostgresStore;
use super::fault::Fault;
use super::value::{Id, check_texts, id, instant, optional_instant, word};
use crate::model::{AdminToken, PortalLink, Session, Timestamp, TokenHash, UserId};
use crate::store::sessions::{MOST_SWEPT, REMEMBERED};
use crate::store::{Redemption, SessionStore, StoreError};

#[async_trait::async_trait]
impl SessionStore for PostgresStore {
    async fn create_link(&self, link: &PortalLink, now: Timestamp) -> Result<(), StoreError> {
        const WHAT: &str = "create a portal link";
        check_texts(WHAT, [("return_url", link.return_url.as_deref())])?;
        self.change(WHAT, async |client| {
            sweep(client, now).await?;
            client
                .execute_typed(
                    "INSERT INTO portal_link (hash, account_user, return_url, expires_at) VALUES ($1, $2, $3, $4)",
                    &[
                        (&link.hash.0.as_slice(), Type::BYTEA),
                        (&Id(link.user.as_u128()), Type::UUID),
                        (&link.return_url, Type::TEXT),
                        (&link.expires_at.as_micros(), Type::INT8),
                    ],
                )
                .await?;
            Ok(())
        })
        .await
    }

    async fn redeem_link(
        &self,
        link: TokenHash,
        session: TokenHash,
        now: Timestamp,
        ends_at: Timestamp,
    ) -> Result<Redemption, StoreError> {
        self.change("redeem a portal link", async |client| {
            sweep(client, now).await?;
            let found = client
                .query_typed_opt(
                    "SELECT account_user, return_url, expires_at, used_at FROM portal_link WHERE hash = $1 FOR UPDATE",
                    &[(&link.0.as_slice(), Type::BYTEA)],
                )
                .await?;
            let (user, return_url) = match found.as_ref().map(link_row).transpose()? {
                None => return Ok(Redemption::Unknown),
                Some((.., Some(_))) => return Ok(Redemption::Used),
                Some((.., expires_at, None)) if expires_at <= now => return Ok(Redemption::Expired),
                Some((user, return_url, ..)) => (user, return_url),
            };
            client
                .execute_typed(
                    "UPDATE portal_link SET used_at = $2 WHERE hash = $1",
                    &[(&link.0.as_slice(), Type::BYTEA), (&now.as_micros(), Type::INT8)],
                )
                .await?;
            let begun = Session { hash: session, user, return_url, created_at: now, last_seen_at: now, ends_at };
            put_session(client, &begun).await?;
            Ok(Redemption::Begun(begun))
        })
        .await
    }

    async fn session(&self, hash: TokenHash) -> Result<Option<Session>, StoreError> {
        self.ask("read a session", async |client| {
            let found = client
                .query_typed_opt(
                    "SELECT account_user, return_url, created_at, last_seen_at, ends_at FROM portal_session WHERE hash = $1",
                    &[(&hash.0.as_slice(), Type::BYTEA)],
                )
                .await?;
            found.map(|row| session_row(&row, hash)).transpose()
        })
        .await
    }

    async fn mark_seen(&self, hash: TokenHash, at: Timestamp) -> Result<(), StoreError> {
        self.ask("mark a session", async |client| {
            client
                .execute_typed(
                    "UPDATE portal_session SET last_seen_at = greatest(last_seen_at, $2) WHERE hash = $1",
                    &[(&hash.0.as_slice(), Type::BYTEA), (&at.as_micros(), Type::INT8)],
                )
                .await?;
            Ok(())
        })
        .await
    }

    async fn create_admin_token(&self, token: &AdminToken) -> Result<(), StoreError> {
        const WHAT: &str = "create an admin token";
        check_texts(WHAT, [("name", Some(&*token.name))])?;
        self.ask(WHAT, async |client| {
            client
                .execute_typed(
                    "INSERT INTO admin_token (hash, role, name, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
                    &[
                        (&token.hash.0.as_slice(), Type::BYTEA),
                        (&token.role.as_str(), Type::TEXT),
                        (&token.name, Type::TEXT),
                        (&token.created_at.as_micros(), Type::INT8),
                    ],
                )
                .await?;
            Ok(())
        })
        .await
    }

    async fn admin_token(&self, hash: TokenHash) -> Result<Option<AdminToken>, StoreError> {
        self.ask("read an admin token", async |client| {
            let found = client
                .query_typed_opt(
                    "SELECT role, name, created_at FROM admin_token WHERE hash = $1",
                    &[(&hash.0.as_slice(), Type::BYTEA)],
                )
                .await?;
            let token = |row: &Row| {
                Ok(AdminToken { hash, role: word(row, 0)?, name: row.try_get(1)?, created_at: instant(row, 2)? })
            };
            found.as_ref().map(token).transpose()
        })
        .await
    }

    async fn end_session(&self, hash: TokenHash) -> Result<Option<Session>, StoreError> {
        self.change("end a session", async |client| {
            let found = client
                .query_typed_opt(
                    "DELETE FROM portal_session WHERE hash = $1
                     RETURNING account_user, return_url, created_at, last_seen_at, ends_at",
                    &[(&hash.0.as_slice(), Type::BYTEA)],
                )
                .await?;
            found.map(|row| session_row(&row, hash)).transpose()
        })
        .await
    }
}

/// User, way back, end, and when it was used.
type LinkRow = (UserId, Option<String>, Timestamp, Option<Timestamp>);

fn link_row(row: &Row) -> Result<LinkRow, Fault> {
    Ok((UserId::from_u128(id(row, 0)?), row.try_get(1)?, instant(row, 2)?, optional_instant(row, 3)?))
}

fn session_row(row: &Row, hash: TokenHash) -> Result<Session, Fault> {
    Ok(Session {
        hash,
        user: UserId::from_u128(id(row, 0)?),
        return_url: row.try_get(1)?,
        created_at: instant(row, 2)?,
        last_seen_at: instant(row, 3)?,
        ends_at: instant(row, 4)?,
    })
}

async fn put_session(client: &Client, session: &Session) -> Result<(), Fault> {
    client
        .execute_typed(
            "INSERT INTO portal_session (hash, account_user, return_url, created_at, last_seen_at, ends_at)
             VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                (&session.hash.0.as_slice(), Type::BYTEA),
                (&Id(session.user.as_u128()), Type::UUID),
                (&session.return_url, Type::TEXT),
                (&session.created_at.as_micros(), Type::INT8),
                (&session.last_seen_at.as_micros(), Type::INT8),
                (&session.ends_at.as_micros(), Type::INT8),
            ],
        )
        .await?;
    Ok(())
}

/// Deletes some of what has ended. Rows that another call is about to delete, or to use, are left to it.
async fn sweep(client: &Client, now: Timestamp) -> Result<(), Fault> {
    let most = i64::from(MOST_SWEPT);
    client
        .execute_typed(
            "DELETE FROM portal_link WHERE hash IN
                 (SELECT hash FROM portal_link WHERE expires_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)",
            &[(&now.plus_micros(-REMEMBERED).as_micros(), Type::INT8), (&most, Type::INT8)],
        )
        .await?;
    client
        .execute_typed(
            "DELETE FROM portal_session WHERE hash IN
                 (SELECT hash FROM portal_session WHERE ends_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)",
            &[(&now.as_micros(), Type::INT8), (&most, Type::INT8)],
        )
        .await?;
    Ok(())
}
