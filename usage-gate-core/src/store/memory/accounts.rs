//! Tenants, users, keys and plans in memory.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::MemoryStore;
use super::keys::Feed;
use crate::model::{Key, KeyId, Plan, Secret, Tenant, TenantId, Timestamp, User, UserId};
use crate::secret::CredentialId;
use crate::store::feed;
use crate::store::paging::{self, Begin, begin};
use crate::store::{
    AccountStore, Change, ChangeOutcome, Changed, Page, PageRequest, ResolvedKey, StoreError, UserFilter,
};

/// All accounts and the feed of their changes, under one lock.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    plans: BTreeMap<String, BTreeMap<u32, Arc<Plan>>>,
    tenants: BTreeMap<TenantId, Tenant>,
    users: BTreeMap<UserId, User>,
    keys: BTreeMap<KeyId, Key>,
    credentials: HashMap<CredentialId, KeyId>,
    pub(super) feed: Feed,
    /// Of the pepper that all of them are hashed with.
    pub(super) pepper: Option<u64>,
}

impl Accounts {
    pub(super) fn resolve(&self, credential: &CredentialId) -> Result<Option<ResolvedKey>, StoreError> {
        let Some(key) = self.credentials.get(credential).and_then(|id| self.keys.get(id)) else { return Ok(None) };
        let incomplete = || StoreError::unusable("resolve a key", "its tenant or plan is missing");
        let tenant = self.tenants.get(&key.tenant).ok_or_else(incomplete)?;
        let plan = self.plan(&tenant.plan, tenant.plan_version).ok_or_else(incomplete)?;
        Ok(Some(ResolvedKey {
            key: key.clone(),
            user: key.user.and_then(|user| self.users.get(&user)).cloned(),
            tenant: tenant.clone(),
            plan: Arc::clone(plan),
            position: self.feed.position(),
        }))
    }

    pub(super) fn secret(&mut self, credential: &CredentialId) -> Option<&mut Secret> {
        let key = self.keys.get_mut(self.credentials.get(credential)?)?;
        key.secrets.iter_mut().find(|secret| secret.credential == *credential)
    }

    fn plan(&self, id: &str, version: u32) -> Option<&Arc<Plan>> {
        self.plans.get(id)?.get(&version)
    }

    fn replace_plan(&mut self, plan: &Plan, move_tenants: bool) -> Option<u32> {
        let versions = self.plans.get_mut(&plan.id)?;
        let version = versions.last_key_value().map_or(0, |(version, _)| *version).saturating_add(1);
        versions.insert(version, Arc::new(Plan { version, ..plan.clone() }));
        if move_tenants {
            let mut moved = Vec::new();
            for tenant in
                self.tenants.values_mut().filter(|tenant| tenant.plan == plan.id && tenant.deleted_at.is_none())
            {
                tenant.plan_version = version;
                moved.push(tenant.id);
            }
            feed::moved(moved).into_iter().for_each(|change| self.feed.push(change));
        }
        Some(version)
    }

    fn living_tenant(&self, id: TenantId) -> Option<&Tenant> {
        self.tenants.get(&id).filter(|tenant| tenant.deleted_at.is_none())
    }

    fn living_user(&self, id: UserId) -> Option<&User> {
        self.users.get(&id).filter(|user| user.deleted_at.is_none())
    }

    fn check_tenant(&self, tenant: &Tenant, what: &'static str) -> Result<(), StoreError> {
        let taken = |other: &Tenant| {
            other.id != tenant.id
                && other.deleted_at.is_none()
                && tenant.external_id.is_some()
                && other.external_id == tenant.external_id
        };
        if self.tenants.values().any(taken) {
            return Err(StoreError::conflict(what, "external_id"));
        }
        if self.plan(&tenant.plan, tenant.plan_version).is_none() {
            return Err(StoreError::unavailable(what, "there is no such plan"));
        }
        Ok(())
    }

    fn check_user(&self, user: &User, what: &'static str) -> Result<(), StoreError> {
        let email = user.email.to_lowercase();
        for other in self.users.values().filter(|other| other.id != user.id && other.deleted_at.is_none()) {
            if user.external_id.is_some() && other.external_id == user.external_id {
                return Err(StoreError::conflict(what, "external_id"));
            }
            if other.tenant == user.tenant && other.email.to_lowercase() == email {
                return Err(StoreError::conflict(what, "email"));
            }
        }
        if self.living_tenant(user.tenant).is_none() {
            return Err(StoreError::unavailable(what, "there is no such tenant"));
        }
        Ok(())
    }

    fn put_key(&mut self, key: Key, what: &'static str) -> Result<(), StoreError> {
        let foreign = |secret: &Secret| self.credentials.get(&secret.credential).is_some_and(|id| *id != key.id);
        if key.secrets.iter().any(foreign) {
            return Err(StoreError::unavailable(what, "the credential exists already"));
        }
        if let Some(before) = self.keys.get(&key.id) {
            for secret in &before.secrets {
                self.credentials.remove(&secret.credential);
            }
        }
        for secret in &key.secrets {
            self.credentials.insert(secret.credential, key.id);
        }
        self.feed.push(Changed::Key(key.id));
        self.keys.insert(key.id, key);
        Ok(())
    }

    fn delete_user(&mut self, id: UserId, now: Timestamp) -> bool {
        match self.users.get_mut(&id).filter(|user| user.deleted_at.is_none()) {
            Some(user) => user.deleted_at = Some(now),
            None => return false,
        }
        for key in self.keys.values_mut().filter(|key| key.user == Some(id)) {
            revoke(key, now, "user deleted");
            self.feed.push(Changed::Key(key.id));
        }
        true
    }

    fn delete_tenant(&mut self, id: TenantId, now: Timestamp) -> bool {
        match self.tenants.get_mut(&id).filter(|tenant| tenant.deleted_at.is_none()) {
            Some(tenant) => tenant.deleted_at = Some(now),
            None => return false,
        }
        for user in self.users.values_mut().filter(|user| user.tenant == id && user.deleted_at.is_none()) {
            user.deleted_at = Some(now);
        }
        for key in self.keys.values_mut().filter(|key| key.tenant == id) {
            revoke(key, now, "tenant deleted");
        }
        self.feed.push(Changed::Tenant(id));
        true
    }
}

fn revoke(key: &mut Key, now: Timestamp, reason: &str) {
    if key.revoked_at.is_none() {
        key.revoked_at = Some(now);
        key.revoke_reason = Some(reason.to_owned());
    }
}

/// Items of a map after a point.
fn after<K: Ord, V>(map: &BTreeMap<K, V>, from: Begin<K>) -> Option<impl Iterator<Item = (&K, &V)>> {
    let lower = match from {
        Begin::First => Bound::Unbounded,
        Begin::After(id) => Bound::Excluded(id),
        Begin::Nowhere => return None,
    };
    Some(map.range((lower, Bound::Unbounded)))
}

#[async_trait::async_trait]
impl AccountStore for MemoryStore {
    async fn create_plan(&self, plan: &Plan) -> Result<(), StoreError> {
        self.change(|accounts| {
            if accounts.plans.contains_key(&plan.id) {
                return Err(StoreError::conflict("create a plan", "id"));
            }
            accounts.plans.entry(plan.id.clone()).or_default().insert(plan.version, Arc::new(plan.clone()));
            Ok(())
        })
    }

    async fn replace_plan(&self, plan: &Plan, move_tenants: bool) -> Result<Option<u32>, StoreError> {
        Ok(self.change(|accounts| accounts.replace_plan(plan, move_tenants)))
    }

    async fn plan(&self, id: &str, version: Option<u32>) -> Result<Option<Plan>, StoreError> {
        let accounts = self.accounts();
        let Some(versions) = accounts.plans.get(id) else { return Ok(None) };
        let found = match version {
            Some(version) => versions.get(&version),
            None => versions.last_key_value().map(|(_, plan)| plan),
        };
        Ok(found.map(|plan| Plan::clone(plan)))
    }

    async fn plans(&self, page: &PageRequest) -> Result<Page<Plan>, StoreError> {
        let accounts = self.accounts();
        let Some(plans) = after(&accounts.plans, begin(page)) else { return Ok(paging::empty()) };
        Ok(paging::page(
            plans.filter_map(|(_, versions)| versions.values().next_back()).map(|plan| Plan::clone(plan)),
            page,
        ))
    }

    async fn create_tenant(&self, tenant: &Tenant) -> Result<(), StoreError> {
        self.change(|accounts| {
            accounts.check_tenant(tenant, "create a tenant")?;
            accounts.tenants.insert(tenant.id, tenant.clone());
            Ok(())
        })
    }

    async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, StoreError> {
        Ok(self.accounts().living_tenant(id).cloned())
    }

    async fn tenants(&self, external_id: Option<&str>, page: &PageRequest) -> Result<Page<Tenant>, StoreError> {
        let accounts = self.accounts();
        let Some(tenants) = after(&accounts.tenants, begin(page)) else { return Ok(paging::empty()) };
        let wanted = tenants
            .map(|(_, tenant)| tenant)
            .filter(|tenant| tenant.deleted_at.is_none())
            .filter(|tenant| external_id.is_none_or(|wanted| tenant.external_id.as_deref() == Some(wanted)));
        Ok(paging::page(wanted.cloned(), page))
    }

    async fn change_tenant(&self, id: TenantId, change: &Change<Tenant>) -> Result<ChangeOutcome<Tenant>, StoreError> {
        self.change(|accounts| {
            let Some(before) = accounts.living_tenant(id) else { return Ok(ChangeOutcome::Missing) };
            let tenant = match change.made_of(before) {
                Ok(tenant) => tenant,
                Err(invalid) => return Ok(ChangeOutcome::Refused(invalid)),
            };
            accounts.check_tenant(&tenant, "change a tenant")?;
            accounts.tenants.insert(id, tenant.clone());
            accounts.feed.push(Changed::Tenant(id));
            Ok(ChangeOutcome::Changed(tenant))
        })
    }

    async fn delete_tenant(&self, id: TenantId, now: Timestamp) -> Result<bool, StoreError> {
        Ok(self.change(|accounts| accounts.delete_tenant(id, now)))
    }

    async fn create_user(&self, user: &User) -> Result<(), StoreError> {
        self.change(|accounts| {
            accounts.check_user(user, "create a user")?;
            accounts.users.insert(user.id, user.clone());
            Ok(())
        })
    }

    async fn user(&self, id: UserId) -> Result<Option<User>, StoreError> {
        Ok(self.accounts().living_user(id).cloned())
    }

    async fn users(&self, filter: &UserFilter, page: &PageRequest) -> Result<Page<User>, StoreError> {
        let accounts = self.accounts();
        let Some(users) = after(&accounts.users, begin(page)) else { return Ok(paging::empty()) };
        let wanted = users
            .map(|(_, user)| user)
            .filter(|user| user.deleted_at.is_none() && filter.tenant.is_none_or(|tenant| tenant == user.tenant))
            .filter(|user| filter.external_id.is_none() || filter.external_id == user.external_id);
        Ok(paging::page(wanted.cloned(), page))
    }

    async fn change_user(&self, id: UserId, change: &Change<User>) -> Result<ChangeOutcome<User>, StoreError> {
        self.change(|accounts| {
            let Some(before) = accounts.living_user(id) else { return Ok(ChangeOutcome::Missing) };
            let user = match change.made_of(before) {
                Ok(user) => user,
                Err(invalid) => return Ok(ChangeOutcome::Refused(invalid)),
            };
            accounts.check_user(&user, "change a user")?;
            accounts.users.insert(id, user.clone());
            for key in accounts.keys.values().filter(|key| key.user == Some(id)) {
                accounts.feed.push(Changed::Key(key.id));
            }
            Ok(ChangeOutcome::Changed(user))
        })
    }

    async fn delete_user(&self, id: UserId, now: Timestamp) -> Result<bool, StoreError> {
        Ok(self.change(|accounts| accounts.delete_user(id, now)))
    }

    async fn create_key(&self, key: &Key) -> Result<(), StoreError> {
        self.change(|accounts| {
            if accounts.living_tenant(key.tenant).is_none()
                || key.user.is_some_and(|user| accounts.living_user(user).is_none())
            {
                return Err(StoreError::unavailable("create a key", "there is no such tenant or user"));
            }
            accounts.put_key(key.clone(), "create a key")
        })
    }

    async fn key(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        Ok(self.accounts().keys.get(&id).cloned())
    }

    async fn keys(&self, tenant: TenantId, user: Option<UserId>, page: &PageRequest) -> Result<Page<Key>, StoreError> {
        let accounts = self.accounts();
        let Some(keys) = after(&accounts.keys, begin(page)) else { return Ok(paging::empty()) };
        let wanted =
            keys.map(|(_, key)| key).filter(|key| key.tenant == tenant && (user.is_none() || key.user == user));
        Ok(paging::page(wanted.cloned(), page))
    }

    async fn change_key(&self, id: KeyId, change: &Change<Key>) -> Result<ChangeOutcome<Key>, StoreError> {
        self.change(|accounts| {
            let Some(before) = accounts.keys.get(&id) else { return Ok(ChangeOutcome::Missing) };
            let key = match change.made_of(before) {
                Ok(key) => key,
                Err(invalid) => return Ok(ChangeOutcome::Refused(invalid)),
            };
            accounts.put_key(key.clone(), "change a key")?;
            Ok(ChangeOutcome::Changed(key))
        })
    }
}
