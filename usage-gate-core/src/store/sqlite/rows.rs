//! Accounts as rows: the columns of each noun, in one place, and how they are read.

use rusqlite::{Connection, OptionalExtension, Row};

use super::value::{document, id, instant, optional_id, optional_instant, parsed, unreadable, word};
use crate::model::{AddressRange, Key, KeyId, Plan, Secret, SecretHash, Tenant, TenantId, User, UserId};
use crate::period::{AnchorDay, Calendar, Zone};
use crate::secret::CredentialId;

macro_rules! tenant_sql {
    ($rest:literal) => {
        concat!(
            "SELECT id, external_id, name, status, plan, plan_version, zone, anchor, next_zone, next_anchor, next_at,
                    since, metadata, created_at, deleted_at
             FROM tenant ",
            $rest
        )
    };
}
macro_rules! user_sql {
    ($rest:literal) => {
        concat!("SELECT id, tenant, external_id, email, name, role, created_at, deleted_at FROM user ", $rest)
    };
}
macro_rules! key_sql {
    ($rest:literal) => {
        concat!(
            "SELECT id, tenant, user, name, environment, scopes, allowed_addresses, expires_at, revoked_at,
                    revoke_reason, created_at
             FROM api_key ",
            $rest
        )
    };
}
pub(super) use {key_sql, tenant_sql, user_sql};

pub(super) fn tenant_row(row: &Row<'_>) -> rusqlite::Result<Tenant> {
    Ok(Tenant {
        id: TenantId::from_u128(id(row, 0)?),
        external_id: row.get(1)?,
        name: row.get(2)?,
        status: word(row, 3)?,
        plan: row.get(4)?,
        plan_version: row.get(5)?,
        calendar: calendar(row)?,
        metadata: row.get(12)?,
        created_at: instant(row, 13)?,
        deleted_at: optional_instant(row, 14)?,
    })
}

fn calendar(row: &Row<'_>) -> rusqlite::Result<Calendar> {
    let zone = |at| parsed::<Zone>(row, at);
    let anchor = |at| AnchorDay::new(row.get::<_, u8>(at)?.into()).map_err(|error| unreadable(at, error));
    let next = match optional_instant(row, 10)? {
        Some(at) => Some((zone(8)?, anchor(9)?, at)),
        None => None,
    };
    Ok(Calendar { zone: zone(6)?, anchor: anchor(7)?, next, since: optional_instant(row, 11)? })
}

pub(super) fn user_row(row: &Row<'_>) -> rusqlite::Result<User> {
    Ok(User {
        id: UserId::from_u128(id(row, 0)?),
        tenant: TenantId::from_u128(id(row, 1)?),
        external_id: row.get(2)?,
        email: row.get(3)?,
        name: row.get(4)?,
        role: word(row, 5)?,
        created_at: instant(row, 6)?,
        deleted_at: optional_instant(row, 7)?,
    })
}

/// A key without its secrets: [`with_secrets`] adds them.
pub(super) fn key_row(row: &Row<'_>) -> rusqlite::Result<Key> {
    let addresses: Vec<String> = document(row, 6)?;
    let addresses: Result<Vec<AddressRange>, _> = addresses.iter().map(|text| text.parse()).collect();
    Ok(Key {
        id: KeyId::from_u128(id(row, 0)?),
        tenant: TenantId::from_u128(id(row, 1)?),
        user: optional_id(row, 2)?.map(UserId::from_u128),
        name: row.get(3)?,
        environment: word(row, 4)?,
        scopes: document(row, 5)?,
        secrets: Vec::new(),
        allowed_addresses: addresses.map_err(|error| unreadable(6, error))?,
        expires_at: optional_instant(row, 7)?,
        revoked_at: optional_instant(row, 8)?,
        revoke_reason: row.get(9)?,
        created_at: instant(row, 10)?,
    })
}

/// Adds the secrets, the newest first.
pub(super) fn with_secrets(connection: &Connection, mut key: Key) -> rusqlite::Result<Key> {
    key.secrets = connection
        .prepare_cached(
            "SELECT credential, hash, hint, created_at, expires_at, last_used_at FROM secret
             WHERE key = ?1 ORDER BY position",
        )?
        .query_map([key.id.as_u128().to_be_bytes()], secret_row)?
        .collect::<Result<_, _>>()?;
    Ok(key)
}

fn secret_row(row: &Row<'_>) -> rusqlite::Result<Secret> {
    let credential = CredentialId::from_text(row.get_ref(0)?.as_str()?);
    Ok(Secret {
        credential: credential.ok_or_else(|| unreadable(0, "not the id of a credential"))?,
        hash: SecretHash(row.get(1)?),
        hint: row.get(2)?,
        created_at: instant(row, 3)?,
        expires_at: optional_instant(row, 4)?,
        last_used_at: optional_instant(row, 5)?,
    })
}

/// A tenant, deleted or not.
pub(super) fn tenant(connection: &Connection, id: TenantId) -> rusqlite::Result<Option<Tenant>> {
    connection
        .prepare_cached(tenant_sql!("WHERE id = ?1"))?
        .query_row([id.as_u128().to_be_bytes()], tenant_row)
        .optional()
}

/// A user, deleted or not.
pub(super) fn user(connection: &Connection, id: UserId) -> rusqlite::Result<Option<User>> {
    connection.prepare_cached(user_sql!("WHERE id = ?1"))?.query_row([id.as_u128().to_be_bytes()], user_row).optional()
}

/// A key with its secrets, revoked or not.
pub(super) fn key(connection: &Connection, id: KeyId) -> rusqlite::Result<Option<Key>> {
    let found = connection
        .prepare_cached(key_sql!("WHERE id = ?1"))?
        .query_row([id.as_u128().to_be_bytes()], key_row)
        .optional()?;
    found.map(|key| with_secrets(connection, key)).transpose()
}

/// A version of a plan; the latest for `None`.
pub(super) fn plan(connection: &Connection, id: &str, version: Option<u32>) -> rusqlite::Result<Option<Plan>> {
    connection
        .prepare_cached(
            "SELECT document FROM plan WHERE id = ?1 AND version = coalesce(?2, version) ORDER BY version DESC LIMIT 1",
        )?
        .query_row((id, version), |row| document(row, 0))
        .optional()
}
