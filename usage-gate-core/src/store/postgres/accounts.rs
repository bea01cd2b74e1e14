//! Tenants, users, keys and plans. What is unique is checked by a read first, so that the answer names the field; the unique indexes behind it decide
//! between calls at the same moment.
//!
//! Rows are locked in one order, so that no two calls wait for each other: the plan or the tenant, then a user, a key, its secrets, and last the feed.
//! What is changed is read after it was locked, by a statement of its own, since a statement sees what was committed before it began.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::PostgresStore;
use super::fault::Fault;
use super::keys::feed;
use super::rows::{self, key_row, key_sql, tenant_row, tenant_sql, user_row, user_sql};
use super::value::{Id, can_hold, check_texts, document, id};
use super::write::{put_key, put_plan, put_tenant, put_user};
use crate::management::Invalid;
use crate::model::{Key, KeyId, Plan, Tenant, TenantId, Timestamp, User, UserId};
use crate::store::feed::moved;
use crate::store::paging::{self, Begin, begin, one_too_many};
use crate::store::{AccountStore, Change, ChangeOutcome, Changed, Page, PageRequest, StoreError, UserFilter};

#[async_trait::async_trait]
impl AccountStore for PostgresStore {
    async fn create_plan(&self, plan: &Plan) -> Result<(), StoreError> {
        const WHAT: &str = "create a plan";
        check_texts(WHAT, [("id", Some(plan.id.as_str()))])?;
        self.change(WHAT, async |client| {
            if rows::plan(client, &plan.id, None).await?.is_some() {
                return Err(StoreError::conflict(WHAT, "id").into());
            }
            put_plan(client, plan).await.map_err(|fault| taken(fault, WHAT))
        })
        .await
    }

    async fn replace_plan(&self, plan: &Plan, move_tenants: bool) -> Result<Option<u32>, StoreError> {
        self.change("replace a plan", async |client| replace_plan(client, plan, move_tenants).await).await
    }

    async fn plan(&self, id: &str, version: Option<u32>) -> Result<Option<Plan>, StoreError> {
        self.ask("read a plan", async |client| rows::plan(client, id, version).await).await
    }

    async fn plans(&self, page: &PageRequest) -> Result<Page<Plan>, StoreError> {
        let after = page.after.as_deref().unwrap_or_default();
        if !can_hold(after) {
            return Ok(paging::empty());
        }
        self.ask("list plans", async |client| {
            let found = client
                .query_typed(
                    "SELECT DISTINCT ON (id) document FROM plan WHERE id > $1 ORDER BY id, version DESC LIMIT $2",
                    &[(&after, Type::TEXT), (&one_too_many(page), Type::INT8)],
                )
                .await?;
            page_of(&found, page, |row| document(row, 0))
        })
        .await
    }

    async fn create_tenant(&self, tenant: &Tenant) -> Result<(), StoreError> {
        const WHAT: &str = "create a tenant";
        self.change(WHAT, async |client| {
            check_tenant(client, tenant, WHAT).await?;
            put_tenant(client, tenant).await.map_err(|fault| taken(fault, WHAT))
        })
        .await
    }

    async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, StoreError> {
        self.ask("read a tenant", async |client| rows::living_tenant(client, id).await).await
    }

    async fn tenants(&self, external_id: Option<&str>, page: &PageRequest) -> Result<Page<Tenant>, StoreError> {
        let Some(after) = after(begin::<TenantId>(page), TenantId::as_u128) else { return Ok(paging::empty()) };
        if external_id.is_some_and(|text| !can_hold(text)) {
            return Ok(paging::empty());
        }
        self.ask("list tenants", async |client| {
            let sql = tenant_sql!(
                "WHERE ($1::uuid IS NULL OR id > $1) AND ($2::text IS NULL OR external_id = $2) AND deleted_at IS NULL
                 ORDER BY id LIMIT $3"
            );
            let found = client
                .query_typed(
                    sql,
                    &[(&after, Type::UUID), (&external_id, Type::TEXT), (&one_too_many(page), Type::INT8)],
                )
                .await?;
            page_of(&found, page, |row| tenant_row(row, 0))
        })
        .await
    }

    async fn change_tenant(&self, id: TenantId, change: &Change<Tenant>) -> Result<ChangeOutcome<Tenant>, StoreError> {
        const WHAT: &str = "change a tenant";
        self.change(WHAT, async |client| {
            lock(client, "SELECT FROM tenant WHERE id = $1 FOR NO KEY UPDATE", id.as_u128()).await?;
            let Some(before) = rows::living_tenant(client, id).await? else { return Ok(ChangeOutcome::Missing) };
            let tenant = match by_rule(WHAT, || change.made_of(&before))? {
                Ok(tenant) => tenant,
                Err(invalid) => return Ok(ChangeOutcome::Refused(invalid)),
            };
            check_tenant(client, &tenant, WHAT).await?;
            put_tenant(client, &tenant).await.map_err(|fault| taken(fault, WHAT))?;
            feed(client, &[Changed::Tenant(id)]).await?;
            Ok(ChangeOutcome::Changed(tenant))
        })
        .await
    }

    async fn delete_tenant(&self, id: TenantId, now: Timestamp) -> Result<bool, StoreError> {
        self.change("delete a tenant", async |client| delete_tenant(client, id, now).await).await
    }

    async fn create_user(&self, user: &User) -> Result<(), StoreError> {
        const WHAT: &str = "create a user";
        self.change(WHAT, async |client| {
            lock_tenant(client, user.tenant).await?;
            check_user(client, user, WHAT).await?;
            put_user(client, user).await.map_err(|fault| taken(fault, WHAT))
        })
        .await
    }

    async fn user(&self, id: UserId) -> Result<Option<User>, StoreError> {
        self.ask("read a user", async |client| rows::living_user(client, id).await).await
    }

    async fn users(&self, filter: &UserFilter, page: &PageRequest) -> Result<Page<User>, StoreError> {
        let Some(after) = after(begin::<UserId>(page), UserId::as_u128) else { return Ok(paging::empty()) };
        if filter.external_id.as_deref().is_some_and(|text| !can_hold(text)) {
            return Ok(paging::empty());
        }
        let tenant = filter.tenant.map(|tenant| Id(tenant.as_u128()));
        self.ask("list users", async |client| {
            let sql = user_sql!(
                "WHERE ($1::uuid IS NULL OR id > $1) AND ($2::uuid IS NULL OR tenant = $2)
                     AND ($3::text IS NULL OR external_id = $3) AND deleted_at IS NULL
                 ORDER BY id LIMIT $4"
            );
            let found = client
                .query_typed(
                    sql,
                    &[
                        (&after, Type::UUID),
                        (&tenant, Type::UUID),
                        (&filter.external_id, Type::TEXT),
                        (&one_too_many(page), Type::INT8),
                    ],
                )
                .await?;
            page_of(&found, page, |row| user_row(row, 0))
        })
        .await
    }

    async fn change_user(&self, id: UserId, change: &Change<User>) -> Result<ChangeOutcome<User>, StoreError> {
        const WHAT: &str = "change a user";
        self.change(WHAT, async |client| {
            let Some(found) = rows::living_user(client, id).await? else { return Ok(ChangeOutcome::Missing) };
            lock_tenant(client, found.tenant).await?;
            lock(client, "SELECT FROM account_user WHERE id = $1 FOR NO KEY UPDATE", id.as_u128()).await?;
            let Some(before) = rows::living_user(client, id).await? else { return Ok(ChangeOutcome::Missing) };
            let user = match by_rule(WHAT, || change.made_of(&before))? {
                Ok(user) => user,
                Err(invalid) => return Ok(ChangeOutcome::Refused(invalid)),
            };
            check_user(client, &user, WHAT).await?;
            put_user(client, &user).await.map_err(|fault| taken(fault, WHAT))?;
            feed(client, &keys_of(client, id).await?).await?;
            Ok(ChangeOutcome::Changed(user))
        })
        .await
    }

    async fn delete_user(&self, id: UserId, now: Timestamp) -> Result<bool, StoreError> {
        self.change("delete a user", async |client| delete_user(client, id, now).await).await
    }

    async fn create_key(&self, key: &Key) -> Result<(), StoreError> {
        const WHAT: &str = "create a key";
        self.change(WHAT, async |client| {
            lock_tenant(client, key.tenant).await?;
            let mut owned = rows::living_tenant(client, key.tenant).await?.is_some();
            if let Some(user) = key.user {
                lock(client, "SELECT FROM account_user WHERE id = $1 FOR SHARE", user.as_u128()).await?;
                owned = owned && rows::living_user(client, user).await?.is_some();
            }
            if !owned {
                return Err(StoreError::unavailable(WHAT, "there is no such tenant or user").into());
            }
            put_key(client, key, WHAT).await?;
            feed(client, &[Changed::Key(key.id)]).await
        })
        .await
    }

    async fn key(&self, id: KeyId) -> Result<Option<Key>, StoreError> {
        self.ask("read a key", async |client| rows::key(client, id).await).await
    }

    async fn keys(&self, tenant: TenantId, user: Option<UserId>, page: &PageRequest) -> Result<Page<Key>, StoreError> {
        let Some(after) = after(begin::<KeyId>(page), KeyId::as_u128) else { return Ok(paging::empty()) };
        let (tenant, user) = (Id(tenant.as_u128()), user.map(|user| Id(user.as_u128())));
        self.ask("list keys", async |client| {
            let sql = key_sql!(
                "WHERE tenant = $1 AND ($2::uuid IS NULL OR account_user = $2) AND ($3::uuid IS NULL OR id > $3)
                 ORDER BY id LIMIT $4"
            );
            let found = client
                .query_typed(
                    sql,
                    &[
                        (&tenant, Type::UUID),
                        (&user, Type::UUID),
                        (&after, Type::UUID),
                        (&one_too_many(page), Type::INT8),
                    ],
                )
                .await?;
            page_of(&found, page, |row| key_row(row, 0))
        })
        .await
    }

    async fn change_key(&self, id: KeyId, change: &Change<Key>) -> Result<ChangeOutcome<Key>, StoreError> {
        const WHAT: &str = "change a key";
        self.change(WHAT, async |client| {
            lock(client, "SELECT FROM api_key WHERE id = $1 FOR NO KEY UPDATE", id.as_u128()).await?;
            // So that a note of their use, which waits for this, is not undone by what is read here.
            lock(client, "SELECT FROM secret WHERE key = $1 ORDER BY credential FOR UPDATE", id.as_u128()).await?;
            let Some(before) = rows::key(client, id).await? else { return Ok(ChangeOutcome::Missing) };
            let key = match by_rule(WHAT, || change.made_of(&before))? {
                Ok(key) => key,
                Err(invalid) => return Ok(ChangeOutcome::Refused(invalid)),
            };
            put_key(client, &key, WHAT).await?;
            feed(client, &[Changed::Key(id)]).await?;
            Ok(ChangeOutcome::Changed(key))
        })
        .await
    }
}

/// The id that wanted ones are greater than, if any. `None` for nothing at all.
fn after<T>(from: Begin<T>, number: impl Fn(T) -> u128) -> Option<Option<Id>> {
    match from {
        Begin::First => Some(None),
        Begin::After(id) => Some(Some(Id(number(id)))),
        Begin::Nowhere => None,
    }
}

fn page_of<T>(found: &[Row], page: &PageRequest, read: impl Fn(&Row) -> Result<T, Fault>) -> Result<Page<T>, Fault> {
    let items = found.iter().map(read).collect::<Result<Vec<T>, Fault>>()?;
    Ok(paging::page(items, page))
}

/// Locks rows until the end of the transaction.
async fn lock(client: &Client, sql: &str, id: u128) -> Result<(), Fault> {
    client.query_typed(sql, &[(&Id(id), Type::UUID)]).await?;
    Ok(())
}

/// Keeps a tenant from being deleted meanwhile; others may add to it at the same time.
async fn lock_tenant(client: &Client, id: TenantId) -> Result<(), Fault> {
    lock(client, "SELECT FROM tenant WHERE id = $1 FOR SHARE", id.as_u128()).await
}

/// Applies a rule. One that panics is a call that failed: the transaction is rolled back, and the connection goes on.
fn by_rule<T>(what: &'static str, rule: impl FnOnce() -> Result<T, Invalid>) -> Result<Result<T, Invalid>, StoreError> {
    catch_unwind(AssertUnwindSafe(rule)).map_err(|_| StoreError::unavailable(what, "the rule panicked"))
}

/// What another call has taken at the same moment is the conflict that the read before it did not see.
fn taken(fault: Fault, what: &'static str) -> Fault {
    let field = match fault.taken_index() {
        Some("plan_pkey") => "id",
        Some("tenant_external_id" | "account_user_external_id") => "external_id",
        Some("account_user_email") => "email",
        _ => return fault,
    };
    StoreError::conflict(what, field).into()
}

async fn replace_plan(client: &Client, plan: &Plan, move_tenants: bool) -> Result<Option<u32>, Fault> {
    if !can_hold(&plan.id) {
        return Ok(None);
    }
    // Its first version stands for the plan: of calls at the same moment one after the other reads which is the latest.
    let sql = "SELECT FROM plan WHERE id = $1 ORDER BY version LIMIT 1 FOR NO KEY UPDATE";
    client.query_typed(sql, &[(&plan.id, Type::TEXT)]).await?;
    let Some(latest) = rows::plan(client, &plan.id, None).await? else { return Ok(None) };
    let plan = Plan { version: latest.version.saturating_add(1), ..plan.clone() };
    put_plan(client, &plan).await?;
    if move_tenants {
        let found = client
            .query_typed(
                "UPDATE tenant SET plan_version = $2 WHERE plan = $1 AND deleted_at IS NULL RETURNING id",
                &[(&plan.id, Type::TEXT), (&i64::from(plan.version), Type::INT8)],
            )
            .await?;
        let tenants = found.iter().map(|row| Ok(TenantId::from_u128(id(row, 0)?)));
        let mut tenants = tenants.collect::<Result<Vec<TenantId>, Fault>>()?;
        tenants.sort_unstable();
        feed(client, &moved(tenants)).await?;
    }
    Ok(Some(plan.version))
}

async fn check_tenant(client: &Client, tenant: &Tenant, what: &'static str) -> Result<(), Fault> {
    check_texts(
        what,
        [
            ("external_id", tenant.external_id.as_deref()),
            ("name", Some(&tenant.name)),
            ("plan", Some(&tenant.plan)),
            ("metadata", Some(&tenant.metadata)),
        ],
    )?;
    let taken = client
        .query_typed(
            "SELECT FROM tenant WHERE external_id = $1 AND id <> $2 AND deleted_at IS NULL",
            &[(&tenant.external_id, Type::TEXT), (&Id(tenant.id.as_u128()), Type::UUID)],
        )
        .await?;
    if !taken.is_empty() {
        return Err(StoreError::conflict(what, "external_id").into());
    }
    if rows::plan(client, &tenant.plan, Some(tenant.plan_version)).await?.is_none() {
        return Err(StoreError::unavailable(what, "there is no such plan").into());
    }
    Ok(())
}

async fn delete_tenant(client: &Client, id: TenantId, now: Timestamp) -> Result<bool, Fault> {
    let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&Id(id.as_u128()), Type::UUID), (&now.as_micros(), Type::INT8)];
    let deleted =
        client.execute_typed("UPDATE tenant SET deleted_at = $2 WHERE id = $1 AND deleted_at IS NULL", &values).await?;
    if deleted == 0 {
        return Ok(false);
    }
    client
        .execute_typed("UPDATE account_user SET deleted_at = $2 WHERE tenant = $1 AND deleted_at IS NULL", &values)
        .await?;
    client
        .execute_typed(
            "UPDATE api_key SET revoked_at = $2, revoke_reason = 'tenant deleted'
             WHERE tenant = $1 AND revoked_at IS NULL",
            &values,
        )
        .await?;
    feed(client, &[Changed::Tenant(id)]).await?;
    Ok(true)
}

async fn check_user(client: &Client, user: &User, what: &'static str) -> Result<(), Fault> {
    check_texts(
        what,
        [
            ("external_id", user.external_id.as_deref()),
            ("email", Some(user.email.as_str())),
            ("name", Some(user.name.as_str())),
        ],
    )?;
    let id = Id(user.id.as_u128());
    let taken = client
        .query_typed(
            "SELECT FROM account_user WHERE external_id = $1 AND id <> $2 AND deleted_at IS NULL",
            &[(&user.external_id, Type::TEXT), (&id, Type::UUID)],
        )
        .await?;
    if !taken.is_empty() {
        return Err(StoreError::conflict(what, "external_id").into());
    }
    let taken = client
        .query_typed(
            "SELECT FROM account_user WHERE tenant = $1 AND email_folded = $2 AND id <> $3 AND deleted_at IS NULL",
            &[(&Id(user.tenant.as_u128()), Type::UUID), (&user.email.to_lowercase(), Type::TEXT), (&id, Type::UUID)],
        )
        .await?;
    if !taken.is_empty() {
        return Err(StoreError::conflict(what, "email").into());
    }
    if rows::living_tenant(client, user.tenant).await?.is_none() {
        return Err(StoreError::unavailable(what, "there is no such tenant").into());
    }
    Ok(())
}

async fn delete_user(client: &Client, id: UserId, now: Timestamp) -> Result<bool, Fault> {
    let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&Id(id.as_u128()), Type::UUID), (&now.as_micros(), Type::INT8)];
    let deleted = client
        .execute_typed("UPDATE account_user SET deleted_at = $2 WHERE id = $1 AND deleted_at IS NULL", &values)
        .await?;
    if deleted == 0 {
        return Ok(false);
    }
    client
        .execute_typed(
            "UPDATE api_key SET revoked_at = $2, revoke_reason = 'user deleted'
             WHERE account_user = $1 AND revoked_at IS NULL",
            &values,
        )
        .await?;
    feed(client, &keys_of(client, id).await?).await?;
    Ok(true)
}

/// The keys of a user, as changes.
async fn keys_of(client: &Client, user: UserId) -> Result<Vec<Changed>, Fault> {
    let sql = "SELECT id FROM api_key WHERE account_user = $1 ORDER BY id";
    let found = client.query_typed(sql, &[(&Id(user.as_u128()), Type::UUID)]).await?;
    found.iter().map(|row| Ok(Changed::Key(KeyId::from_u128(id(row, 0)?)))).collect()
}
