//! Accounts as rows: the columns of each noun, in one place, and how they are read. A row may hold several nouns; each is read from its first column on.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::fault::Fault;
use super::value::{
    Id, can_hold, document, hash, id, instant, optional_id, optional_instant, parsed, unreadable, word,
};
use crate::model::{
    AddressRange, Key, KeyId, Plan, Scope, Secret, SecretHash, Tenant, TenantId, Timestamp, User, UserId,
};
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
        concat!("SELECT id, tenant, external_id, email, name, role, created_at, deleted_at FROM account_user ", $rest)
    };
}
/// The secrets of a key are arrays, the newest first.
macro_rules! key_sql {
    ($rest:literal) => {
        concat!(
            "SELECT id, tenant, account_user, name, environment, scopes, allowed_addresses, api_key.expires_at, revoked_at,
                    revoke_reason, api_key.created_at, secrets.credential, secrets.hash, secrets.hint, secrets.created_at,
                    secrets.expires_at, secrets.last_used_at
             FROM api_key
             CROSS JOIN LATERAL (
                 SELECT array_agg(credential ORDER BY position) AS credential, array_agg(hash ORDER BY position) AS hash,
                        array_agg(hint ORDER BY position) AS hint, array_agg(created_at ORDER BY position) AS created_at,
                        array_agg(expires_at ORDER BY position) AS expires_at,
                        array_agg(last_used_at ORDER BY position) AS last_used_at
                 FROM secret WHERE secret.key = api_key.id
             ) AS secrets ",
            $rest
        )
    };
}
pub(super) use {key_sql, tenant_sql, user_sql};

/// Columns of a key.
pub(super) const KEY_COLUMNS: usize = 17;
/// Columns of a user.
pub(super) const USER_COLUMNS: usize = 8;
/// Columns of a tenant.
pub(super) const TENANT_COLUMNS: usize = 15;

pub(super) fn tenant_row(row: &Row, from: usize) -> Result<Tenant, Fault> {
    Ok(Tenant {
        id: TenantId::from_u128(id(row, from)?),
        external_id: row.try_get(from + 1)?,
        name: row.try_get(from + 2)?,
        status: word(row, from + 3)?,
        plan: row.try_get(from + 4)?,
        plan_version: u32::try_from(row.try_get::<_, i64>(from + 5)?).map_err(unreadable)?,
        calendar: calendar(row, from + 6)?,
        metadata: row.try_get(from + 12)?,
        created_at: instant(row, from + 13)?,
        deleted_at: optional_instant(row, from + 14)?,
    })
}

fn calendar(row: &Row, from: usize) -> Result<Calendar, Fault> {
    let zone = |at| parsed::<Zone>(row, at);
    let anchor = |at| -> Result<AnchorDay, Fault> {
        let day = u64::try_from(row.try_get::<_, i16>(at)?).map_err(unreadable)?;
        Ok(AnchorDay::new(day).map_err(unreadable)?)
    };
    let next = match optional_instant(row, from + 4)? {
        Some(at) => Some((zone(from + 2)?, anchor(from + 3)?, at)),
        None => None,
    };
    Ok(Calendar { zone: zone(from)?, anchor: anchor(from + 1)?, next, since: optional_instant(row, from + 5)? })
}

pub(super) fn user_row(row: &Row, from: usize) -> Result<User, Fault> {
    Ok(User {
        id: UserId::from_u128(id(row, from)?),
        tenant: TenantId::from_u128(id(row, from + 1)?),
        external_id: row.try_get(from + 2)?,
        email: row.try_get(from + 3)?,
        name: row.try_get(from + 4)?,
        role: word(row, from + 5)?,
        created_at: instant(row, from + 6)?,
        deleted_at: optional_instant(row, from + 7)?,
    })
}

/// A key with its secrets.
pub(super) fn key_row(row: &Row, from: usize) -> Result<Key, Fault> {
    let scopes: Vec<&str> = row.try_get(from + 5)?;
    let scopes: Result<Vec<Scope>, _> = scopes.iter().map(|text| text.parse()).collect();
    let addresses: Vec<&str> = row.try_get(from + 6)?;
    let addresses: Result<Vec<AddressRange>, _> = addresses.iter().map(|text| text.parse()).collect();
    Ok(Key {
        id: KeyId::from_u128(id(row, from)?),
        tenant: TenantId::from_u128(id(row, from + 1)?),
        user: optional_id(row, from + 2)?.map(UserId::from_u128),
        name: row.try_get(from + 3)?,
        environment: word(row, from + 4)?,
        scopes: scopes.map_err(unreadable)?,
        secrets: secrets(row, from + 11)?,
        allowed_addresses: addresses.map_err(unreadable)?,
        expires_at: optional_instant(row, from + 7)?,
        revoked_at: optional_instant(row, from + 8)?,
        revoke_reason: row.try_get(from + 9)?,
        created_at: instant(row, from + 10)?,
    })
}

fn secrets(row: &Row, from: usize) -> Result<Vec<Secret>, Fault> {
    // Of no secrets at all the arrays are null.
    let Some(credentials) = row.try_get::<_, Option<Vec<&str>>>(from)? else { return Ok(Vec::new()) };
    let hashes: Vec<&[u8]> = row.try_get(from + 1)?;
    let hints: Vec<String> = row.try_get(from + 2)?;
    let created: Vec<i64> = row.try_get(from + 3)?;
    let expires: Vec<Option<i64>> = row.try_get(from + 4)?;
    let used: Vec<Option<i64>> = row.try_get(from + 5)?;
    let texts = credentials.into_iter().zip(hashes).zip(hints);
    let instants = created.into_iter().zip(expires).zip(used);
    let secrets = texts.zip(instants).map(|(((credential, bytes), hint), ((created_at, expires_at), last_used_at))| {
        Ok(Secret {
            credential: CredentialId::from_text(credential).ok_or_else(|| unreadable("not the id of a credential"))?,
            hash: SecretHash(hash(bytes)?),
            hint,
            created_at: Timestamp::from_micros(created_at),
            expires_at: expires_at.map(Timestamp::from_micros),
            last_used_at: last_used_at.map(Timestamp::from_micros),
        })
    });
    secrets.collect()
}

/// A tenant, unless it is deleted.
pub(super) async fn living_tenant(client: &Client, id: TenantId) -> Result<Option<Tenant>, Fault> {
    let sql = tenant_sql!("WHERE id = $1 AND deleted_at IS NULL");
    let found = client.query_typed(sql, &[(&Id(id.as_u128()), Type::UUID)]).await?;
    found.first().map(|row| tenant_row(row, 0)).transpose()
}

/// A user, unless they are deleted.
pub(super) async fn living_user(client: &Client, id: UserId) -> Result<Option<User>, Fault> {
    let sql = user_sql!("WHERE id = $1 AND deleted_at IS NULL");
    let found = client.query_typed(sql, &[(&Id(id.as_u128()), Type::UUID)]).await?;
    found.first().map(|row| user_row(row, 0)).transpose()
}

/// A key with its secrets, revoked or not.
pub(super) async fn key(client: &Client, id: KeyId) -> Result<Option<Key>, Fault> {
    let sql = key_sql!("WHERE id = $1");
    let found = client.query_typed(sql, &[(&Id(id.as_u128()), Type::UUID)]).await?;
    found.first().map(|row| key_row(row, 0)).transpose()
}

/// A version of a plan; the latest for `None`.
pub(super) async fn plan(client: &Client, id: &str, version: Option<u32>) -> Result<Option<Plan>, Fault> {
    if !can_hold(id) {
        return Ok(None);
    }
    let sql =
        "SELECT document FROM plan WHERE id = $1 AND ($2::int8 IS NULL OR version = $2) ORDER BY version DESC LIMIT 1";
    let version = version.map(i64::from);
    let found = client.query_typed(sql, &[(&id, Type::TEXT), (&version, Type::INT8)]).await?;
    found.first().map(|row| document(row, 0)).transpose()
}
