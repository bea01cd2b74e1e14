//! Management: tenants, users, keys, plans.

use std::fmt;
use std::fmt::Debug;
use std::sync::Arc;

use super::StoreError;
use crate::management::Invalid;
use crate::model::{Key, KeyId, Plan, Tenant, TenantId, Timestamp, User, UserId};

/// Which part of a list is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// Items after this id (its text; for plans, the plan's id); from the start without.
    pub after: Option<String>,
    /// At most this many; 1 to 200.
    pub size: usize,
}

/// A part of a list, oldest first: inserts do not disturb it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Whether there are more after the last.
    pub more: bool,
}

/// Which users are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserFilter {
    /// Of this tenant.
    pub tenant: Option<TenantId>,
    /// With this id of the host's.
    pub external_id: Option<String>,
}

/// A rule that changes one entity inside the store's transaction, or refuses to.
///
/// Rules live in [`management`](crate::management); a store only reads, applies and writes, and may apply again after a conflict.
pub struct Change<T>(Arc<Rule<T>>);

type Rule<T> = dyn Fn(&mut T) -> Result<(), Invalid> + Send + Sync;

impl<T> Change<T> {
    /// Wraps a rule. It must not do anything but change what it is given.
    pub fn new(rule: impl Fn(&mut T) -> Result<(), Invalid> + Send + Sync + 'static) -> Self {
        Self(Arc::new(rule))
    }

    /// Applies it.
    ///
    /// # Errors
    /// [`Invalid`] as the rule says; then nothing is to be stored.
    pub fn apply(&self, entity: &mut T) -> Result<(), Invalid> {
        (self.0)(entity)
    }
}

impl Change<Tenant> {
    /// The tenant that comes of one that is not deleted, with what never changes as it was.
    pub(crate) fn made_of(&self, before: &Tenant) -> Result<Tenant, Invalid> {
        let mut tenant = before.clone();
        self.apply(&mut tenant)?;
        Ok(Tenant { id: before.id, created_at: before.created_at, deleted_at: None, ..tenant })
    }
}

impl Change<User> {
    /// The user that comes of one that is not deleted, with what never changes as it was.
    pub(crate) fn made_of(&self, before: &User) -> Result<User, Invalid> {
        let mut user = before.clone();
        self.apply(&mut user)?;
        Ok(User { id: before.id, tenant: before.tenant, created_at: before.created_at, deleted_at: None, ..user })
    }
}

impl Change<Key> {
    /// The key that comes of one, with what never changes as it was.
    pub(crate) fn made_of(&self, before: &Key) -> Result<Key, Invalid> {
        let mut key = before.clone();
        self.apply(&mut key)?;
        Ok(Key { id: before.id, tenant: before.tenant, created_at: before.created_at, ..key })
    }
}

impl<T> Clone for Change<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Change<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Change(…)")
    }
}

/// What came of a [`Change`].
#[derive(Debug, Clone, PartialEq)]
pub enum ChangeOutcome<T> {
    /// Stored; the entity as it is now.
    Changed(T),
    /// There is no such entity, or it is deleted.
    Missing,
    /// The rule refused; nothing changed.
    Refused(Invalid),
}

/// Keeps accounts.
///
/// # Contract
/// - A deleted tenant or user is neither read nor listed; what it used stays.
/// - Every write that changes what [`KeyStore::resolve`](super::KeyStore::resolve) gives puts its change into the feed in the same
///   transaction.
/// - Uniqueness (plan id and version, external ids of tenants and of users, email in a tenant) is the store's to keep:
///   [`Conflict`](super::StoreErrorKind::Conflict) with the field's name.
#[async_trait::async_trait]
pub trait AccountStore: Send + Sync + Debug + 'static {
    /// Stores a plan's first version.
    ///
    /// # Errors
    /// `Conflict` on `id`; `Unavailable`.
    async fn create_plan(&self, plan: &Plan) -> Result<(), StoreError>;

    /// Stores the next version of a plan, one above the latest, whatever `plan.version` says, and moves every tenant that has the plan to
    /// it if `move_tenants`. Gives the version stored; `None` if there is no such plan.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn replace_plan(&self, plan: &Plan, move_tenants: bool) -> Result<Option<u32>, StoreError>;

    /// A version of a plan; the latest for `None`.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn plan(&self, id: &str, version: Option<u32>) -> Result<Option<Plan>, StoreError>;

    /// The latest versions of all plans, by id.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn plans(&self, page: &PageRequest) -> Result<Page<Plan>, StoreError>;

    /// Stores a new tenant.
    ///
    /// # Errors
    /// `Conflict` on `external_id`; `Unavailable`.
    async fn create_tenant(&self, tenant: &Tenant) -> Result<(), StoreError>;

    /// A tenant.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, StoreError>;

    /// Tenants; with `external_id` at most the one that has it.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn tenants(&self, external_id: Option<&str>, page: &PageRequest) -> Result<Page<Tenant>, StoreError>;

    /// Changes a tenant. The rule may not change `id`, `created_at` or `deleted_at`.
    ///
    /// # Errors
    /// `Conflict` on `external_id`; `Unavailable`.
    async fn change_tenant(&self, id: TenantId, change: &Change<Tenant>) -> Result<ChangeOutcome<Tenant>, StoreError>;

    /// Deletes a tenant and its users, and revokes its keys. `false` if there is none.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn delete_tenant(&self, id: TenantId, now: Timestamp) -> Result<bool, StoreError>;

    /// Stores a new user.
    ///
    /// # Errors
    /// `Conflict` on `external_id` or `email`; `Unavailable`.
    async fn create_user(&self, user: &User) -> Result<(), StoreError>;

    /// A user.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn user(&self, id: UserId) -> Result<Option<User>, StoreError>;

    /// Users.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn users(&self, filter: &UserFilter, page: &PageRequest) -> Result<Page<User>, StoreError>;

    /// Changes a user. The rule may not change `id`, `tenant`, `created_at` or `deleted_at`.
    ///
    /// # Errors
    /// `Conflict` on `external_id` or `email`; `Unavailable`.
    async fn change_user(&self, id: UserId, change: &Change<User>) -> Result<ChangeOutcome<User>, StoreError>;

    /// Deletes a user and revokes their keys. `false` if there is none.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn delete_user(&self, id: UserId, now: Timestamp) -> Result<bool, StoreError>;

    /// Stores a new key with its secrets.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn create_key(&self, key: &Key) -> Result<(), StoreError>;

    /// A key, revoked ones too.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn key(&self, id: KeyId) -> Result<Option<Key>, StoreError>;

    /// Keys of a tenant, revoked ones too; of one user if given.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn keys(&self, tenant: TenantId, user: Option<UserId>, page: &PageRequest) -> Result<Page<Key>, StoreError>;

    /// Changes a key. The rule may not change `id`, `tenant` or `created_at`; secrets that it drops are deleted, new ones stored.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn change_key(&self, id: KeyId, change: &Change<Key>) -> Result<ChangeOutcome<Key>, StoreError>;
}
