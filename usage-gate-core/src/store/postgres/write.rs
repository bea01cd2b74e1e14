//! Accounts as they are written: a row that is there already is replaced, but for what never changes.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::fault::Fault;
use super::value::{Id, check_texts};
use crate::model::{Key, Plan, Tenant, Timestamp, User};
use crate::store::StoreError;

pub(super) async fn put_plan(client: &Client, plan: &Plan) -> Result<(), Fault> {
    client
        .execute_typed(
            "INSERT INTO plan (id, version, document) VALUES ($1, $2, $3)",
            &[
                (&plan.id, Type::TEXT),
                (&i64::from(plan.version), Type::INT8),
                (&serde_json::to_string(plan)?, Type::TEXT),
            ],
        )
        .await?;
    Ok(())
}

pub(super) async fn put_tenant(client: &Client, tenant: &Tenant) -> Result<(), Fault> {
    let calendar = &tenant.calendar;
    let next = calendar.next.as_ref();
    client
        .execute_typed(
            "INSERT INTO tenant (id, external_id, name, status, plan, plan_version, zone, anchor, next_zone, next_anchor,
                                 next_at, since, metadata, created_at, deleted_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
             ON CONFLICT (id) DO UPDATE SET
                 external_id = excluded.external_id, name = excluded.name, status = excluded.status,
                 plan = excluded.plan, plan_version = excluded.plan_version, zone = excluded.zone,
                 anchor = excluded.anchor, next_zone = excluded.next_zone, next_anchor = excluded.next_anchor,
                 next_at = excluded.next_at, since = excluded.since, metadata = excluded.metadata",
            &[
                (&Id(tenant.id.as_u128()), Type::UUID),
                (&tenant.external_id, Type::TEXT),
                (&tenant.name, Type::TEXT),
                (&tenant.status.as_str(), Type::TEXT),
                (&tenant.plan, Type::TEXT),
                (&i64::from(tenant.plan_version), Type::INT8),
                (&calendar.zone.name(), Type::TEXT),
                (&i16::from(calendar.anchor.get()), Type::INT2),
                (&next.map(|(zone, ..)| zone.name()), Type::TEXT),
                (&next.map(|(_, anchor, _)| i16::from(anchor.get())), Type::INT2),
                (&next.map(|(.., at)| at.as_micros()), Type::INT8),
                (&calendar.since.map(Timestamp::as_micros), Type::INT8),
                (&tenant.metadata, Type::TEXT),
                (&tenant.created_at.as_micros(), Type::INT8),
                (&tenant.deleted_at.map(Timestamp::as_micros), Type::INT8),
            ],
        )
        .await?;
    Ok(())
}

pub(super) async fn put_user(client: &Client, user: &User) -> Result<(), Fault> {
    client
        .execute_typed(
            "INSERT INTO account_user (id, tenant, external_id, email, email_folded, name, role, created_at, deleted_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (id) DO UPDATE SET
                 external_id = excluded.external_id, email = excluded.email, email_folded = excluded.email_folded,
                 name = excluded.name, role = excluded.role",
            &[
                (&Id(user.id.as_u128()), Type::UUID),
                (&Id(user.tenant.as_u128()), Type::UUID),
                (&user.external_id, Type::TEXT),
                (&user.email, Type::TEXT),
                (&user.email.to_lowercase(), Type::TEXT),
                (&user.name, Type::TEXT),
                (&user.role.as_str(), Type::TEXT),
                (&user.created_at.as_micros(), Type::INT8),
                (&user.deleted_at.map(Timestamp::as_micros), Type::INT8),
            ],
        )
        .await?;
    Ok(())
}

/// Writes a key and all of its secrets.
pub(super) async fn put_key(client: &Client, key: &Key, what: &'static str) -> Result<(), Fault> {
    let hints = key.secrets.iter().map(|secret| ("hint", Some(secret.hint.as_str())));
    let texts = [("name", Some(key.name.as_str())), ("revoke_reason", key.revoke_reason.as_deref())];
    check_texts(what, texts.into_iter().chain(hints))?;
    let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
    let addresses: Vec<String> = key.allowed_addresses.iter().map(ToString::to_string).collect();
    client
        .execute_typed(
            "INSERT INTO api_key (id, tenant, account_user, name, environment, scopes, allowed_addresses, expires_at,
                                  revoked_at, revoke_reason, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             ON CONFLICT (id) DO UPDATE SET
                 account_user = excluded.account_user, name = excluded.name, environment = excluded.environment,
                 scopes = excluded.scopes, allowed_addresses = excluded.allowed_addresses,
                 expires_at = excluded.expires_at, revoked_at = excluded.revoked_at,
                 revoke_reason = excluded.revoke_reason",
            &[
                (&Id(key.id.as_u128()), Type::UUID),
                (&Id(key.tenant.as_u128()), Type::UUID),
                (&key.user.map(|user| Id(user.as_u128())), Type::UUID),
                (&key.name, Type::TEXT),
                (&key.environment.as_str(), Type::TEXT),
                (&scopes, Type::TEXT_ARRAY),
                (&addresses, Type::TEXT_ARRAY),
                (&key.expires_at.map(Timestamp::as_micros), Type::INT8),
                (&key.revoked_at.map(Timestamp::as_micros), Type::INT8),
                (&key.revoke_reason, Type::TEXT),
                (&key.created_at.as_micros(), Type::INT8),
            ],
        )
        .await?;
    put_secrets(client, key, what).await
}

/// Deletes the secrets that a key has no more and writes those that it has.
async fn put_secrets(client: &Client, key: &Key, what: &'static str) -> Result<(), Fault> {
    let id = Id(key.id.as_u128());
    let credentials: Vec<&str> = key.secrets.iter().map(|secret| secret.credential.as_str()).collect();
    client
        .execute_typed(
            "DELETE FROM secret WHERE key = $1 AND credential <> ALL ($2)",
            &[(&id, Type::UUID), (&credentials, Type::TEXT_ARRAY)],
        )
        .await?;
    let hashes: Vec<&[u8]> = key.secrets.iter().map(|secret| secret.hash.0.as_slice()).collect();
    let hints: Vec<&str> = key.secrets.iter().map(|secret| secret.hint.as_str()).collect();
    let created: Vec<i64> = key.secrets.iter().map(|secret| secret.created_at.as_micros()).collect();
    let expires: Vec<Option<i64>> =
        key.secrets.iter().map(|secret| secret.expires_at.map(Timestamp::as_micros)).collect();
    let used: Vec<Option<i64>> =
        key.secrets.iter().map(|secret| secret.last_used_at.map(Timestamp::as_micros)).collect();
    let written = client
        .execute_typed(
            "INSERT INTO secret (credential, key, position, hash, hint, created_at, expires_at, last_used_at)
             SELECT credential, $1, number - 1, hash, hint, created_at, expires_at, last_used_at
             FROM unnest($2, $3, $4, $5, $6, $7) WITH ORDINALITY
                 AS given (credential, hash, hint, created_at, expires_at, last_used_at, number)
             ON CONFLICT (credential) DO UPDATE SET
                 position = excluded.position, hash = excluded.hash, hint = excluded.hint,
                 created_at = excluded.created_at, expires_at = excluded.expires_at,
                 last_used_at = excluded.last_used_at
             WHERE secret.key = excluded.key",
            &[
                (&id, Type::UUID),
                (&credentials, Type::TEXT_ARRAY),
                (&hashes, Type::BYTEA_ARRAY),
                (&hints, Type::TEXT_ARRAY),
                (&created, Type::INT8_ARRAY),
                (&expires, Type::INT8_ARRAY),
                (&used, Type::INT8_ARRAY),
            ],
        )
        .await?;
    if usize::try_from(written).ok() != Some(key.secrets.len()) {
        return Err(StoreError::unavailable(what, "the credential exists already").into());
    }
    Ok(())
}
