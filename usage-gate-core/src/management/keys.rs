//! Keys: issued, changed, rotated, revoked.

use zeroize::Zeroizing;

use super::fields::{self, Patch};
use super::{Invalid, ManagementError, accounts, outcome};
use crate::gate::UsageGate;
use crate::model::{Environment, Key, KeyId, Secret, TenantId, Timestamp, UserId};
use crate::store::{Change, Changed};

/// A key as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the members are those of `Key`")]
pub struct KeyDraft {
    pub name: String,
    pub user: Option<UserId>,
    /// Default: live.
    pub environment: Option<Environment>,
    pub scopes: Vec<String>,
    pub allowed_addresses: Vec<String>,
    pub expires_at: Option<Timestamp>,
}

impl KeyDraft {
    /// A live key without a user, scopes or end.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            user: None,
            environment: None,
            scopes: Vec::new(),
            allowed_addresses: Vec::new(),
            expires_at: None,
        }
    }
}

/// A change of a key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the members are those of `Key`")]
pub struct KeyPatch {
    pub name: Patch<String>,
    pub scopes: Patch<Vec<String>>,
    pub allowed_addresses: Patch<Vec<String>>,
    pub expires_at: Patch<Option<Timestamp>>,
}

/// A key with its text, which is shown this once.
#[derive(Debug)]
pub struct IssuedToCaller {
    /// The key as it is stored.
    pub key: Key,
    /// The whole text; wiped from memory on drop.
    pub text: Zeroizing<String>,
}

/// The longest time for which an old secret goes on beside the new one: 30 days, in seconds.
const LONGEST_OVERLAP: u64 = 30 * 86_400;

/// Issues a key.
///
/// # Errors
/// [`ManagementError::Invalid`] with every fault, `NotFound` for the tenant, `Random`, `Store`.
pub async fn create_key(
    gate: &UsageGate,
    tenant: TenantId,
    draft: KeyDraft,
) -> Result<IssuedToCaller, ManagementError> {
    let now = gate.clock().wall();
    let mut invalid = Invalid::default();
    let name = fields::name(&draft.name, "/name", &mut invalid);
    let scopes = fields::scopes(&draft.scopes, &mut invalid);
    let allowed_addresses = fields::addresses(&draft.allowed_addresses, &mut invalid);
    let expires_at = expiry(draft.expires_at, now, &mut invalid);
    let accounts = accounts(gate)?;
    if accounts.tenant(tenant).await?.is_none() {
        return Err(ManagementError::NotFound("tenant"));
    }
    if let Some(user) = draft.user
        && accounts.user(user).await?.is_none_or(|user| user.tenant != tenant)
    {
        invalid.add("/user", "there is no user with this id in the tenant");
    }
    invalid.into_result()?;
    let environment = draft.environment.unwrap_or(Environment::Live);
    let (secret, text) = issue(gate, environment, now).await?;
    let key = Key {
        id: KeyId::generate(),
        tenant,
        user: draft.user,
        name,
        environment,
        scopes,
        secrets: vec![secret],
        allowed_addresses,
        expires_at,
        revoked_at: None,
        revoke_reason: None,
        created_at: now,
    };
    accounts.create_key(&key).await?;
    Ok(IssuedToCaller { key, text })
}

/// Changes a key.
///
/// # Errors
/// [`ManagementError::Invalid`] with every fault, `NotFound`, `Store`.
pub async fn change_key(gate: &UsageGate, id: KeyId, patch: KeyPatch) -> Result<Key, ManagementError> {
    let now = gate.clock().wall();
    let mut invalid = Invalid::default();
    let name = patch.name.map(|text| fields::name(&text, "/name", &mut invalid));
    let scopes = patch.scopes.map(|texts| fields::scopes(&texts, &mut invalid));
    let addresses = patch.allowed_addresses.map(|texts| fields::addresses(&texts, &mut invalid));
    let expires_at = patch.expires_at.map(|at| expiry(at, now, &mut invalid));
    invalid.into_result()?;
    let change = Change::new(move |key: &mut Key| {
        refuse_revoked(key)?;
        name.clone().apply(&mut key.name);
        scopes.clone().apply(&mut key.scopes);
        addresses.clone().apply(&mut key.allowed_addresses);
        expires_at.clone().apply(&mut key.expires_at);
        Ok(())
    });
    apply(gate, id, &change).await
}

/// Revokes a key for good; again is no error and changes nothing.
///
/// # Errors
/// `NotFound`, `Store`.
pub async fn revoke_key(gate: &UsageGate, id: KeyId, reason: Option<String>) -> Result<Key, ManagementError> {
    let now = gate.clock().wall();
    let mut invalid = Invalid::default();
    let reason = reason.map(|reason| fields::name(&reason, "/reason", &mut invalid));
    invalid.into_result()?;
    let change = Change::new(move |key: &mut Key| {
        if key.revoked_at.is_none() {
            key.revoked_at = Some(now);
            key.revoke_reason.clone_from(&reason);
        }
        Ok(())
    });
    apply(gate, id, &change).await
}

/// Gives a key a new secret. The present one goes on for `overlap_seconds`; older ones end now, so that there are two at most.
///
/// # Errors
/// [`ManagementError::Invalid`] for a revoked key or too long an overlap, `NotFound`, `Random`, `Store`.
pub async fn rotate_key(gate: &UsageGate, id: KeyId, overlap_seconds: u64) -> Result<IssuedToCaller, ManagementError> {
    let now = gate.clock().wall();
    if overlap_seconds > LONGEST_OVERLAP {
        return Err(Invalid::at("/overlap_seconds", format!("must be at most {LONGEST_OVERLAP}")).into());
    }
    let present = accounts(gate)?.key(id).await?.ok_or(ManagementError::NotFound("key"))?;
    let (secret, text) = issue(gate, present.environment, now).await?;
    let overlap_end = now.plus_micros(i64::try_from(overlap_seconds).unwrap_or(0).saturating_mul(1_000_000));
    let change = Change::new(move |key: &mut Key| {
        refuse_revoked(key)?;
        key.secrets.truncate(1);
        for old in &mut key.secrets {
            old.expires_at = Some(old.expires_at.map_or(overlap_end, |end| end.min(overlap_end)));
        }
        key.secrets.insert(0, secret.clone());
        Ok(())
    });
    let key = apply(gate, id, &change).await?;
    Ok(IssuedToCaller { key, text })
}

async fn issue(
    gate: &UsageGate,
    environment: Environment,
    now: Timestamp,
) -> Result<(Secret, Zeroizing<String>), ManagementError> {
    // Another node would not know the key.
    gate.check_pepper().await?;
    let issued = gate.pepper().issue(gate.key_prefix(), environment)?;
    let secret = Secret {
        credential: issued.credential,
        hash: issued.hash,
        hint: issued.hint,
        created_at: now,
        expires_at: None,
        last_used_at: None,
    };
    Ok((secret, issued.text))
}

async fn apply(gate: &UsageGate, id: KeyId, change: &Change<Key>) -> Result<Key, ManagementError> {
    let key = outcome(accounts(gate)?.change_key(id, change).await?, "key")?;
    gate.changed(&Changed::Key(id));
    Ok(key)
}

fn refuse_revoked(key: &Key) -> Result<(), Invalid> {
    match key.revoked_at {
        None => Ok(()),
        Some(_) => Err(Invalid::at("", "this key is revoked for good: create another")),
    }
}

fn expiry(at: Option<Timestamp>, now: Timestamp, invalid: &mut Invalid) -> Option<Timestamp> {
    if at.is_some_and(|at| at <= now) {
        invalid.add("/expires_at", "must be in the future");
    }
    at
}
