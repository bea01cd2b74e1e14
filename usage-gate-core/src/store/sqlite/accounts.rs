//! Tenants, users, keys and plans. What is unique is checked by a read in the writer's own transaction, so that the answer names
//! the field; the unique indexes stand behind it.

use rusqlite::{Connection, Row};

use super::SqliteStore;
use super::keys::feed;
use super::rows::{self, key_row, key_sql, tenant_row, tenant_sql, user_row, user_sql};
use super::value::{Fault, document, id};
use crate::model::{Key, KeyId, Plan, Tenant, TenantId, Timestamp, User, UserId};
use crate::store::feed::moved as moved_in_feed;
use crate::store::paging::{self, Begin, begin, one_too_many};
use crate::store::{AccountStore, Change, ChangeOutcome, Changed, Page, PageRequest, StoreError, UserFilter};

#[async_trait::async_trait]
impl AccountStore for SqliteStore {
    async fn create_plan(&self, plan: &Plan) -> Result<(), StoreError> {
        let plan = plan.clone();
        self.write("create a plan", move |connection| {
            if rows::plan(connection, &plan.id, None)?.is_some() {
                return Err(StoreError::conflict("create a plan", "id").into());
            }
            put_plan(connection, &plan)
        })
        .await
    }

    async fn replace_plan(&self, plan: &Plan, move_tenants: bool) -> Result<Option<u32>, StoreError> {
        let plan = plan.clone();
        self.write("replace a plan", move |connection| replace_plan(connection, plan, move_tenants)).await
    }

    async fn plan(&self, id: &str, version: Option<u32>) -> Result<Option<Plan>, StoreError> {
        let id = id.to_owned();
        self.read("read a plan", move |connection| Ok(rows::plan(connection, &id, version)?)).await
    }

    async fn plans(&self, page: &PageRequest) -> Result<Page<Plan>, StoreError> {
        let page = page.clone();
        self.read("list plans", move |connection| {
            let after = page.after.as_deref().unwrap_or_default();
            let plans = connection
                .prepare_cached(
                    "SELECT document, max(version) FROM plan WHERE id > ?1 GROUP BY id ORDER BY id LIMIT ?2",
                )?
                .query_map((after, one_too_many(&page)), |row| document(row, 0))?
                .collect::<Result<Vec<Plan>, _>>()?;
            Ok(paging::page(plans, &page))
        })
        .await
    }

    async fn create_tenant(&self, tenant: &Tenant) -> Result<(), StoreError> {
        let tenant = tenant.clone();
        self.write("create a tenant", move |connection| {
            check_tenant(connection, &tenant, "create a tenant")?;
            put_tenant(connection, &tenant)
        })
        .await
    }

    async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, StoreError> {
        self.read("read a tenant", move |connection| Ok(living_tenant(connection, id)?)).await
    }

    async fn tenants(&self, external_id: Option<&str>, page: &PageRequest) -> Result<Page<Tenant>, StoreError> {
        let (external_id, page) = (external_id.map(ToOwned::to_owned), page.clone());
        self.read("list tenants", move |connection| {
            let Some(after) = after(begin::<TenantId>(&page), TenantId::as_u128) else { return Ok(paging::empty()) };
            let size = one_too_many(&page);
            let tenants: Vec<Tenant> = match &external_id {
                Some(external_id) => connection
                    .prepare_cached(tenant_sql!("WHERE external_id = ?1 AND id > ?2 AND deleted_at IS NULL LIMIT ?3"))?
                    .query_map((external_id, after, size), tenant_row)?
                    .collect::<Result<_, _>>()?,
                None => connection
                    .prepare_cached(tenant_sql!("WHERE id > ?1 AND deleted_at IS NULL ORDER BY id LIMIT ?2"))?
                    .query_map((after, size), tenant_row)?
                    .collect::<Result<_, _>>()?,
            };
            Ok(paging::page(tenants, &page))
        })
        .await
    }

    async fn change_tenant(&self, id: TenantId, change: &Change<Tenant>) -> Result<ChangeOutcome<Tenant>, StoreError> {
        let change = change.clone();
        self.write("change a tenant", move |connection| {
            let Some(before) = living_tenant(connection, id)? else { return Ok(ChangeOutcome::Missing) };
            let tenant = match change.made_of(&before) {
                Ok(tenant) => tenant,
                Err(invalid) => return Ok(ChangeOutcome::Refused(invalid)),
            };
            check_tenant(connection, &tenant, "change a tenant")?;
            put_tenant(connection, &tenant)?;
            feed(connection, &Changed::Tenant(id))?;
            Ok(ChangeOutcome::Changed(tenant))
        })
        .await
    }

    async fn delete_tenant(&self, id: TenantId, now: Timestamp) -> Result<bool, StoreError> {
        self.write("delete a tenant", move |connection| Ok(delete_tenant(connection, id, now)?)).await
    }

    async fn create_user(&self, user: &User) -> Result<(), StoreError> {
        let user = user.clone();
        self.write("create a user", move |connection| {
            check_user(connection, &user, "create a user")?;
            Ok(put_user(connection, &user)?)
        })
        .await
    }

    async fn user(&self, id: UserId) -> Result<Option<User>, StoreError> {
        self.read("read a user", move |connection| Ok(living_user(connection, id)?)).await
    }

    async fn users(&self, filter: &UserFilter, page: &PageRequest) -> Result<Page<User>, StoreError> {
        let (filter, page) = (filter.clone(), page.clone());
        self.read("list users", move |connection| Ok(users(connection, &filter, &page)?)).await
    }

    async fn change_user(&self, id: UserId, change: &Change<User>) -> Result<ChangeOutcome<User>, StoreError> {
        let change = change.clone();
        self.write("change a user", move |connection| {
            let Some(before) = living_user(connection, id)? else { return Ok(ChangeOutcome::Missing) };
            let user = match change.made_of(&before) {
                Ok(user) => user,
                Err(invalid) => return Ok(ChangeOutcome::Refused(invalid)),
            };
            check_user(connection, &user, "change a user")?;
            put_user(connection, &user)?;
            feed_keys_of(connection, id)?;
            Ok(ChangeOutcome::Changed(user))
        })
        .await
    }

    async fn delete_user(&self, id: UserId, now: Timestamp) -> Result<bool, StoreError> {
        self.write("delete a user", move |connection| Ok(delete_user(connection, id, now)?)).await
    }

    async fn create_key(&self, key: &Key) -> Result<(), StoreError> {
        let key = key.clone();
        self.write("create a key", move |connection| {
            let mut owned = living_tenant(connection, key.tenant)?.is_some();
            if let Some(user) = key.user {
                owned = owned && living_user(connection, user)?.is_some();
            }
            if !owned {
                return Err(StoreError::unavailable("create a key", "there is no such tenant or user").into());
            }
            put_key(connection, &key)
        })
        .await
    }

    async fn key(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        self.read("read a key", move |connection| Ok(rows::key(connection, id)?)).await
    }

    async fn keys(&self, tenant: TenantId, user: Option<UserId>, page: &PageRequest) -> Result<Page<Key>, StoreError> {
        let page = page.clone();
        self.read("list keys", move |connection| Ok(keys(connection, tenant, user, &page)?)).await
    }

    async fn change_key(&self, id: KeyId, change: &Change<Key>) -> Result<ChangeOutcome<Key>, StoreError> {
        let change = change.clone();
        self.write("change a key", move |connection| {
            let Some(before) = rows::key(connection, id)? else { return Ok(ChangeOutcome::Missing) };
            let key = match change.made_of(&before) {
                Ok(key) => key,
                Err(invalid) => return Ok(ChangeOutcome::Refused(invalid)),
            };
            put_key(connection, &key)?;
            Ok(ChangeOutcome::Changed(key))
        })
        .await
    }
}

/// The bytes that wanted ids are greater than: none is less than the empty string. `None` for nothing at all.
fn after<T>(from: Begin<T>, number: impl Fn(T) -> u128) -> Option<Vec<u8>> {
    match from {
        Begin::First => Some(Vec::new()),
        Begin::After(id) => Some(number(id).to_be_bytes().to_vec()),
        Begin::Nowhere => None,
    }
}

fn put_plan(connection: &Connection, plan: &Plan) -> Result<(), Fault> {
    connection.prepare_cached("INSERT INTO plan (id, version, document) VALUES (?1, ?2, ?3)")?.execute((
        &plan.id,
        plan.version,
        serde_json::to_string(plan)?,
    ))?;
    Ok(())
}

fn replace_plan(connection: &Connection, plan: Plan, move_tenants: bool) -> Result<Option<u32>, Fault> {
    let Some(latest) = rows::plan(connection, &plan.id, None)? else { return Ok(None) };
    let plan = Plan { version: latest.version.saturating_add(1), ..plan };
    put_plan(connection, &plan)?;
    if move_tenants {
        let moved: Vec<u128> = connection
            .prepare_cached("UPDATE tenant SET plan_version = ?2 WHERE plan = ?1 AND deleted_at IS NULL RETURNING id")?
            .query_map((&plan.id, plan.version), |row| id(row, 0))?
            .collect::<Result<_, _>>()?;
        for change in moved_in_feed(moved.into_iter().map(TenantId::from_u128).collect()) {
            feed(connection, &change)?;
        }
    }
    Ok(Some(plan.version))
}

fn living_tenant(connection: &Connection, id: TenantId) -> rusqlite::Result<Option<Tenant>> {
    Ok(rows::tenant(connection, id)?.filter(|tenant| tenant.deleted_at.is_none()))
}

fn living_user(connection: &Connection, id: UserId) -> rusqlite::Result<Option<User>> {
    Ok(rows::user(connection, id)?.filter(|user| user.deleted_at.is_none()))
}

fn check_tenant(connection: &Connection, tenant: &Tenant, what: &'static str) -> Result<(), Fault> {
    let taken = connection
        .prepare_cached("SELECT 1 FROM tenant WHERE external_id = ?1 AND id <> ?2 AND deleted_at IS NULL")?
        .exists((&tenant.external_id, tenant.id.as_u128().to_be_bytes()))?;
    if taken {
        return Err(StoreError::conflict(what, "external_id").into());
    }
    if rows::plan(connection, &tenant.plan, Some(tenant.plan_version))?.is_none() {
        return Err(StoreError::unavailable(what, "there is no such plan").into());
    }
    Ok(())
}

fn put_tenant(connection: &Connection, tenant: &Tenant) -> Result<(), Fault> {
    let calendar = &tenant.calendar;
    let next = calendar.next.as_ref();
    connection
        .prepare_cached(
            "INSERT INTO tenant (id, external_id, name, status, plan, plan_version, zone, anchor, next_zone, next_anchor,
                                 next_at, since, metadata, created_at, deleted_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
             ON CONFLICT (id) DO UPDATE SET
                 external_id = excluded.external_id, name = excluded.name, status = excluded.status,
                 plan = excluded.plan, plan_version = excluded.plan_version, zone = excluded.zone,
                 anchor = excluded.anchor, next_zone = excluded.next_zone, next_anchor = excluded.next_anchor,
                 next_at = excluded.next_at, since = excluded.since, metadata = excluded.metadata",
        )?
        .execute((
            tenant.id.as_u128().to_be_bytes(),
            &tenant.external_id,
            &tenant.name,
            tenant.status.as_str(),
            &tenant.plan,
            tenant.plan_version,
            calendar.zone.name(),
            calendar.anchor.get(),
            next.map(|(zone, ..)| zone.name()),
            next.map(|(_, anchor, _)| anchor.get()),
            next.map(|(.., at)| at.as_micros()),
            calendar.since.map(Timestamp::as_micros),
            &tenant.metadata,
            tenant.created_at.as_micros(),
            tenant.deleted_at.map(Timestamp::as_micros),
        ))?;
    Ok(())
}

fn delete_tenant(connection: &Connection, id: TenantId, now: Timestamp) -> rusqlite::Result<bool> {
    let tenant = id.as_u128().to_be_bytes();
    let deleted = connection
        .prepare_cached("UPDATE tenant SET deleted_at = ?2 WHERE id = ?1 AND deleted_at IS NULL")?
        .execute((tenant, now.as_micros()))?;
    if deleted == 0 {
        return Ok(false);
    }
    connection
        .prepare_cached("UPDATE user SET deleted_at = ?2 WHERE tenant = ?1 AND deleted_at IS NULL")?
        .execute((tenant, now.as_micros()))?;
    connection
        .prepare_cached(
            "UPDATE api_key SET revoked_at = ?2, revoke_reason = 'tenant deleted'
             WHERE tenant = ?1 AND revoked_at IS NULL",
        )?
        .execute((tenant, now.as_micros()))?;
    feed(connection, &Changed::Tenant(id))?;
    Ok(true)
}

fn check_user(connection: &Connection, user: &User, what: &'static str) -> Result<(), Fault> {
    let id = user.id.as_u128().to_be_bytes();
    let taken = connection
        .prepare_cached("SELECT 1 FROM user WHERE external_id = ?1 AND id <> ?2 AND deleted_at IS NULL")?
        .exists((&user.external_id, id))?;
    if taken {
        return Err(StoreError::conflict(what, "external_id").into());
    }
    let taken = connection
        .prepare_cached(
            "SELECT 1 FROM user WHERE tenant = ?1 AND email_folded = ?2 AND id <> ?3 AND deleted_at IS NULL",
        )?
        .exists((user.tenant.as_u128().to_be_bytes(), user.email.to_lowercase(), id))?;
    if taken {
        return Err(StoreError::conflict(what, "email").into());
    }
    if living_tenant(connection, user.tenant)?.is_none() {
        return Err(StoreError::unavailable(what, "there is no such tenant").into());
    }
    Ok(())
}

fn put_user(connection: &Connection, user: &User) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO user (id, tenant, external_id, email, email_folded, name, role, created_at, deleted_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (id) DO UPDATE SET
                 external_id = excluded.external_id, email = excluded.email, email_folded = excluded.email_folded,
                 name = excluded.name, role = excluded.role",
        )?
        .execute((
            user.id.as_u128().to_be_bytes(),
            user.tenant.as_u128().to_be_bytes(),
            &user.external_id,
            &user.email,
            user.email.to_lowercase(),
            &user.name,
            user.role.as_str(),
            user.created_at.as_micros(),
            user.deleted_at.map(Timestamp::as_micros),
        ))?;
    Ok(())
}

fn users(connection: &Connection, filter: &UserFilter, page: &PageRequest) -> rusqlite::Result<Page<User>> {
    let Some(after) = after(begin::<UserId>(page), UserId::as_u128) else { return Ok(paging::empty()) };
    let size = one_too_many(page);
    let tenant = filter.tenant.map(|tenant| tenant.as_u128().to_be_bytes());
    let users: Vec<User> = match (&filter.external_id, tenant) {
        (Some(external_id), tenant) => connection
            .prepare_cached(user_sql!(
                "WHERE external_id = ?1 AND id > ?2 AND tenant = coalesce(?3, tenant) AND deleted_at IS NULL LIMIT ?4"
            ))?
            .query_map((external_id, after, tenant, size), user_row)?
            .collect::<Result<_, _>>()?,
        (None, Some(tenant)) => connection
            .prepare_cached(user_sql!("WHERE tenant = ?1 AND id > ?2 AND deleted_at IS NULL ORDER BY id LIMIT ?3"))?
            .query_map((tenant, after, size), user_row)?
            .collect::<Result<_, _>>()?,
        (None, None) => connection
            .prepare_cached(user_sql!("WHERE id > ?1 AND deleted_at IS NULL ORDER BY id LIMIT ?2"))?
            .query_map((after, size), user_row)?
            .collect::<Result<_, _>>()?,
    };
    Ok(paging::page(users, page))
}

fn delete_user(connection: &Connection, id: UserId, now: Timestamp) -> rusqlite::Result<bool> {
    let user = id.as_u128().to_be_bytes();
    let deleted = connection
        .prepare_cached("UPDATE user SET deleted_at = ?2 WHERE id = ?1 AND deleted_at IS NULL")?
        .execute((user, now.as_micros()))?;
    if deleted == 0 {
        return Ok(false);
    }
    connection
        .prepare_cached(
            "UPDATE api_key SET revoked_at = ?2, revoke_reason = 'user deleted' WHERE user = ?1 AND revoked_at IS NULL",
        )?
        .execute((user, now.as_micros()))?;
    feed_keys_of(connection, id)?;
    Ok(true)
}

fn feed_keys_of(connection: &Connection, user: UserId) -> rusqlite::Result<()> {
    let keys: Vec<u128> = connection
        .prepare_cached("SELECT id FROM api_key WHERE user = ?1 ORDER BY id")?
        .query_map([user.as_u128().to_be_bytes()], |row: &Row<'_>| id(row, 0))?
        .collect::<Result<_, _>>()?;
    keys.into_iter().try_for_each(|key| feed(connection, &Changed::Key(KeyId::from_u128(key))))
}

fn keys(
    connection: &Connection,
    tenant: TenantId,
    user: Option<UserId>,
    page: &PageRequest,
) -> rusqlite::Result<Page<Key>> {
    let Some(after) = after(begin::<KeyId>(page), KeyId::as_u128) else { return Ok(paging::empty()) };
    let (tenant, size) = (tenant.as_u128().to_be_bytes(), one_too_many(page));
    let found: Vec<Key> = match user {
        Some(user) => connection
            .prepare_cached(key_sql!("WHERE user = ?1 AND id > ?2 AND tenant = ?3 ORDER BY id LIMIT ?4"))?
            .query_map((user.as_u128().to_be_bytes(), after, tenant, size), key_row)?
            .collect::<Result<_, _>>()?,
        None => connection
            .prepare_cached(key_sql!("WHERE tenant = ?1 AND id > ?2 ORDER BY id LIMIT ?3"))?
            .query_map((tenant, after, size), key_row)?
            .collect::<Result<_, _>>()?,
    };
    let found = found.into_iter().map(|key| rows::with_secrets(connection, key)).collect::<Result<Vec<_>, _>>()?;
    Ok(paging::page(found, page))
}

/// Writes a key, all of its secrets, and its change.
fn put_key(connection: &Connection, key: &Key) -> Result<(), Fault> {
    let id = key.id.as_u128().to_be_bytes();
    let addresses: Vec<String> = key.allowed_addresses.iter().map(ToString::to_string).collect();
    connection
        .prepare_cached(
            "INSERT INTO api_key (id, tenant, user, name, environment, scopes, allowed_addresses, expires_at,
                                  revoked_at, revoke_reason, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
             ON CONFLICT (id) DO UPDATE SET
                 user = excluded.user, name = excluded.name, environment = excluded.environment,
                 scopes = excluded.scopes, allowed_addresses = excluded.allowed_addresses,
                 expires_at = excluded.expires_at, revoked_at = excluded.revoked_at,
                 revoke_reason = excluded.revoke_reason",
        )?
        .execute((
            id,
            key.tenant.as_u128().to_be_bytes(),
            key.user.map(|user| user.as_u128().to_be_bytes()),
            &key.name,
            key.environment.as_str(),
            serde_json::to_string(&key.scopes)?,
            serde_json::to_string(&addresses)?,
            key.expires_at.map(Timestamp::as_micros),
            key.revoked_at.map(Timestamp::as_micros),
            &key.revoke_reason,
            key.created_at.as_micros(),
        ))?;
    connection.prepare_cached("DELETE FROM secret WHERE key = ?1")?.execute([id])?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO secret (credential, key, position, hash, hint, created_at, expires_at, last_used_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    for (position, secret) in (0i64..).zip(&key.secrets) {
        insert.execute((
            secret.credential.as_str(),
            id,
            position,
            secret.hash.0,
            &secret.hint,
            secret.created_at.as_micros(),
            secret.expires_at.map(Timestamp::as_micros),
            secret.last_used_at.map(Timestamp::as_micros),
        ))?;
    }
    feed(connection, &Changed::Key(key.id))?;
    Ok(())
}
