//! A caller as a line of JSON: everything that the key store knows of it, but for its plan, which is a line of its own for all callers.

use std::sync::Arc;

use crate::model::{
    AddressRange, Environment, Key, KeyId, Plan, Role, Scope, Secret, SecretHash, Tenant, TenantId, TenantStatus,
    Timestamp, User, UserId,
};
use crate::period::{AnchorDay, Calendar, Zone};
use crate::secret::CredentialId;
use crate::store::{FeedPosition, ResolvedKey};

#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct StoredCaller {
    credential: String,
    key: StoredKey,
    user: Option<StoredUser>,
    tenant: StoredTenant,
    plan: (String, u32),
    position: u64,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct StoredKey {
    id: KeyId,
    tenant: TenantId,
    user: Option<UserId>,
    name: String,
    environment: Environment,
    scopes: Vec<Scope>,
    secrets: Vec<StoredSecret>,
    allowed_addresses: Vec<String>,
    expires_at: Option<i64>,
    revoked_at: Option<i64>,
    revoke_reason: Option<String>,
    created_at: i64,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct StoredSecret {
    credential: String,
    /// What the key is compared with; not the key.
    hash: [u8; 32],
    hint: String,
    created_at: i64,
    expires_at: Option<i64>,
    last_used_at: Option<i64>,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct StoredUser {
    id: UserId,
    tenant: TenantId,
    external_id: Option<String>,
    email: String,
    name: String,
    role: Role,
    created_at: i64,
    deleted_at: Option<i64>,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct StoredTenant {
    id: TenantId,
    external_id: Option<String>,
    name: String,
    status: TenantStatus,
    plan: String,
    plan_version: u32,
    zone: String,
    anchor: u8,
    next: Option<(String, u8, i64)>,
    since: Option<i64>,
    metadata: String,
    created_at: i64,
    deleted_at: Option<i64>,
}

impl StoredCaller {
    pub(super) fn new(credential: CredentialId, resolved: &ResolvedKey) -> Self {
        Self {
            credential: credential.as_str().to_owned(),
            key: StoredKey::new(&resolved.key),
            user: resolved.user.as_ref().map(StoredUser::new),
            tenant: StoredTenant::new(&resolved.tenant),
            plan: (resolved.plan.id.clone(), resolved.plan.version),
            position: resolved.position.0,
        }
    }

    /// The caller; `None` if something in it is not what this version writes.
    pub(super) fn into_resolved(
        self,
        plan: impl FnOnce(&str, u32) -> Option<Arc<Plan>>,
    ) -> Option<(CredentialId, ResolvedKey)> {
        let resolved = ResolvedKey {
            key: self.key.into_key()?,
            user: self.user.map(StoredUser::into_user),
            tenant: self.tenant.into_tenant()?,
            plan: plan(&self.plan.0, self.plan.1)?,
            position: FeedPosition(self.position),
        };
        Some((CredentialId::from_text(&self.credential)?, resolved))
    }
}

impl StoredKey {
    fn new(key: &Key) -> Self {
        Self {
            id: key.id,
            tenant: key.tenant,
            user: key.user,
            name: key.name.clone(),
            environment: key.environment,
            scopes: key.scopes.clone(),
            secrets: key.secrets.iter().map(StoredSecret::new).collect(),
            allowed_addresses: key.allowed_addresses.iter().map(ToString::to_string).collect(),
            expires_at: key.expires_at.map(Timestamp::as_micros),
            revoked_at: key.revoked_at.map(Timestamp::as_micros),
            revoke_reason: key.revoke_reason.clone(),
            created_at: key.created_at.as_micros(),
        }
    }

    fn into_key(self) -> Option<Key> {
        let addresses = self.allowed_addresses.iter().map(|text| text.parse::<AddressRange>().ok());
        Some(Key {
            id: self.id,
            tenant: self.tenant,
            user: self.user,
            name: self.name,
            environment: self.environment,
            scopes: self.scopes,
            secrets: self.secrets.into_iter().map(StoredSecret::into_secret).collect::<Option<_>>()?,
            // A range that is left out would let everybody in.
            allowed_addresses: addresses.collect::<Option<_>>()?,
            expires_at: self.expires_at.map(Timestamp::from_micros),
            revoked_at: self.revoked_at.map(Timestamp::from_micros),
            revoke_reason: self.revoke_reason,
            created_at: Timestamp::from_micros(self.created_at),
        })
    }
}

impl StoredSecret {
    fn new(secret: &Secret) -> Self {
        Self {
            credential: secret.credential.as_str().to_owned(),
            hash: secret.hash.0,
            hint: secret.hint.clone(),
            created_at: secret.created_at.as_micros(),
            expires_at: secret.expires_at.map(Timestamp::as_micros),
            last_used_at: secret.last_used_at.map(Timestamp::as_micros),
        }
    }

    fn into_secret(self) -> Option<Secret> {
        Some(Secret {
            credential: CredentialId::from_text(&self.credential)?,
            hash: SecretHash(self.hash),
            hint: self.hint,
            created_at: Timestamp::from_micros(self.created_at),
            expires_at: self.expires_at.map(Timestamp::from_micros),
            last_used_at: self.last_used_at.map(Timestamp::from_micros),
        })
    }
}

impl StoredUser {
    fn new(user: &User) -> Self {
        Self {
            id: user.id,
            tenant: user.tenant,
            external_id: user.external_id.clone(),
            email: user.email.clone(),
            name: user.name.clone(),
            role: user.role,
            created_at: user.created_at.as_micros(),
            deleted_at: user.deleted_at.map(Timestamp::as_micros),
        }
    }

    fn into_user(self) -> User {
        User {
            id: self.id,
            tenant: self.tenant,
            external_id: self.external_id,
            email: self.email,
            name: self.name,
            role: self.role,
            created_at: Timestamp::from_micros(self.created_at),
            deleted_at: self.deleted_at.map(Timestamp::from_micros),
        }
    }
}

impl StoredTenant {
    fn new(tenant: &Tenant) -> Self {
        let Calendar { zone, anchor, next, since } = &tenant.calendar;
        let next = next.as_ref().map(|(zone, anchor, at)| (zone.to_string(), anchor.get(), at.as_micros()));
        Self {
            id: tenant.id,
            external_id: tenant.external_id.clone(),
            name: tenant.name.clone(),
            status: tenant.status,
            plan: tenant.plan.clone(),
            plan_version: tenant.plan_version,
            zone: zone.to_string(),
            anchor: anchor.get(),
            next,
            since: since.map(Timestamp::as_micros),
            metadata: tenant.metadata.clone(),
            created_at: tenant.created_at.as_micros(),
            deleted_at: tenant.deleted_at.map(Timestamp::as_micros),
        }
    }

    fn into_tenant(self) -> Option<Tenant> {
        let zone = |name: &str| name.parse::<Zone>().ok();
        let anchor = |day: u8| AnchorDay::new(day.into()).ok();
        let next = match self.next {
            Some((name, day, at)) => Some((zone(&name)?, anchor(day)?, Timestamp::from_micros(at))),
            None => None,
        };
        let since = self.since.map(Timestamp::from_micros);
        Some(Tenant {
            id: self.id,
            external_id: self.external_id,
            name: self.name,
            status: self.status,
            plan: self.plan,
            plan_version: self.plan_version,
            calendar: Calendar { zone: zone(&self.zone)?, anchor: anchor(self.anchor)?, next, since },
            metadata: self.metadata,
            created_at: Timestamp::from_micros(self.created_at),
            deleted_at: self.deleted_at.map(Timestamp::from_micros),
        })
    }
}
