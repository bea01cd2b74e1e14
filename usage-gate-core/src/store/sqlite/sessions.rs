//! Portal links, sessions and tokens of operators. A link is used up by an `UPDATE` that finds it unused: the writer's one thread is what makes it happen once.

use rusqlite::{Connection, OptionalExtension, Row};

use super::SqliteStore;
use super::value::{Fault, id, instant, optional_instant, word};
use crate::model::{AdminToken, PortalLink, Session, Timestamp, TokenHash, UserId};
use crate::store::sessions::{MOST_SWEPT, REMEMBERED};
use crate::store::{Redemption, SessionStore, StoreError};

#[async_trait::async_trait]
impl SessionStore for SqliteStore {
    async fn create_link(&self, link: &PortalLink, now: Timestamp) -> Result<(), StoreError> {
        let link = link.clone();
        self.write("create a portal link", move |connection| {
            sweep(connection, now)?;
            connection
                .prepare_cached("INSERT INTO portal_link (hash, user, return_url, expires_at) VALUES (?1, ?2, ?3, ?4)")?
                .execute((
                    link.hash.0,
                    link.user.as_u128().to_be_bytes(),
                    &link.return_url,
                    link.expires_at.as_micros(),
                ))?;
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
        self.write("redeem a portal link", move |connection| {
            sweep(connection, now)?;
            let found = connection
                .prepare_cached("SELECT user, return_url, expires_at, used_at FROM portal_link WHERE hash = ?1")?
                .query_row([link.0], link_row)
                .optional()?;
            let (user, return_url) = match found {
                None => return Ok(Redemption::Unknown),
                Some((.., Some(_))) => return Ok(Redemption::Used),
                Some((.., expires_at, None)) if expires_at <= now => return Ok(Redemption::Expired),
                Some((user, return_url, ..)) => (user, return_url),
            };
            connection
                .prepare_cached("UPDATE portal_link SET used_at = ?2 WHERE hash = ?1")?
                .execute((link.0, now.as_micros()))?;
            let begun = Session { hash: session, user, return_url, created_at: now, last_seen_at: now, ends_at };
            put_session(connection, &begun)?;
            Ok(Redemption::Begun(begun))
        })
        .await
    }

    async fn session(&self, hash: TokenHash) -> Result<Option<Session>, StoreError> {
        self.read("read a session", move |connection| Ok(session(connection, hash)?)).await
    }

    async fn mark_seen(&self, hash: TokenHash, at: Timestamp) -> Result<(), StoreError> {
        self.write("mark a session", move |connection| {
            connection
                .prepare_cached("UPDATE portal_session SET last_seen_at = max(last_seen_at, ?2) WHERE hash = ?1")?
                .execute((hash.0, at.as_micros()))?;
            Ok(())
        })
        .await
    }

    async fn create_admin_token(&self, token: &AdminToken) -> Result<(), StoreError> {
        let token = token.clone();
        self.write("create an admin token", move |connection| {
            connection
                .prepare_cached(
                    "INSERT INTO admin_token (hash, role, name, created_at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
                )?
                .execute((token.hash.0, token.role.as_str(), &token.name, token.created_at.as_micros()))?;
            Ok(())
        })
        .await
    }

    async fn admin_token(&self, hash: TokenHash) -> Result<Option<AdminToken>, StoreError> {
        self.read("read an admin token", move |connection| {
            let found = connection
                .prepare_cached("SELECT role, name, created_at FROM admin_token WHERE hash = ?1")?
                .query_row([hash.0], |row| {
                    Ok(AdminToken { hash, role: word(row, 0)?, name: row.get(1)?, created_at: instant(row, 2)? })
                })
                .optional()?;
            Ok(found)
        })
        .await
    }

    async fn end_session(&self, hash: TokenHash) -> Result<Option<Session>, StoreError> {
        self.write("end a session", move |connection| {
            let ended = session(connection, hash)?;
            connection.prepare_cached("DELETE FROM portal_session WHERE hash = ?1")?.execute([hash.0])?;
            Ok(ended)
        })
        .await
    }
}

/// User, way back, end, and when it was used.
type LinkRow = (UserId, Option<String>, Timestamp, Option<Timestamp>);

fn link_row(row: &Row<'_>) -> rusqlite::Result<LinkRow> {
    Ok((UserId::from_u128(id(row, 0)?), row.get(1)?, instant(row, 2)?, optional_instant(row, 3)?))
}

fn session(connection: &Connection, hash: TokenHash) -> rusqlite::Result<Option<Session>> {
    connection
        .prepare_cached(
            "SELECT user, return_url, created_at, last_seen_at, ends_at FROM portal_session WHERE hash = ?1",
        )?
        .query_row([hash.0], |row| {
            Ok(Session {
                hash,
                user: UserId::from_u128(id(row, 0)?),
                return_url: row.get(1)?,
                created_at: instant(row, 2)?,
                last_seen_at: instant(row, 3)?,
                ends_at: instant(row, 4)?,
            })
        })
        .optional()
}

fn put_session(connection: &Connection, session: &Session) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO portal_session (hash, user, return_url, created_at, last_seen_at, ends_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute((
            session.hash.0,
            session.user.as_u128().to_be_bytes(),
            &session.return_url,
            session.created_at.as_micros(),
            session.last_seen_at.as_micros(),
            session.ends_at.as_micros(),
        ))?;
    Ok(())
}

fn sweep(connection: &Connection, now: Timestamp) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "DELETE FROM portal_link WHERE hash IN (SELECT hash FROM portal_link WHERE expires_at <= ?1 LIMIT ?2)",
        )?
        .execute((now.plus_micros(-REMEMBERED).as_micros(), MOST_SWEPT))?;
    connection
        .prepare_cached(
            "DELETE FROM portal_session WHERE hash IN (SELECT hash FROM portal_session WHERE ends_at <= ?1 LIMIT ?2)",
        )?
        .execute((now.as_micros(), MOST_SWEPT))?;
    Ok(())
}
