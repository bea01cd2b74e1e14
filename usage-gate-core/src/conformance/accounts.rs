//! What every [`AccountStore`] does.

use super::{account, instant, key, plan, tenant, user};
use crate::management::Invalid;
use crate::model::{Key, Tenant, User};
use crate::store::{
    AccountStore, Change, ChangeOutcome, KeyStore, PageRequest, StoreError, StoreErrorKind, UserFilter,
};

/// Runs every case of [`accounts`](crate::conformance::accounts).
#[macro_export]
macro_rules! account_store_tests {
    ($make:expr) => {
        $crate::conformance_cases! {
            accounts, $make,
            what_was_stored_is_read_back
            a_plan_keeps_its_versions
            lists_go_on_after_the_last_item
            a_rule_that_refuses_changes_nothing
            a_rule_cannot_change_what_never_changes
            a_change_of_nothing_is_missing
            an_external_id_is_unique_until_its_tenant_is_deleted
            an_email_is_unique_in_its_tenant_whatever_its_case
            a_deleted_tenant_takes_its_users_along
            nothing_is_added_to_a_deleted_tenant
            a_users_keys_are_listed
        }
    };
}

fn first(size: usize) -> PageRequest {
    PageRequest { after: None, size }
}

#[track_caller]
fn check_conflict<T: std::fmt::Debug>(outcome: Result<T, StoreError>, field: &str) {
    let error = outcome.expect_err("it is taken");
    assert_eq!((error.kind(), error.field()), (StoreErrorKind::Conflict, Some(field)));
}

/// To the last field.
pub async fn what_was_stored_is_read_back<S: KeyStore + AccountStore>(store: &S) {
    let (plan, tenant, user, key) = account(store).await;
    assert_eq!(store.plan("starter", Some(1)).await.expect("the store is there"), Some(plan));
    assert_eq!(store.tenant(tenant.id).await.expect("the store is there"), Some(tenant));
    assert_eq!(store.user(user.id).await.expect("the store is there"), Some(user));
    let found = store.key(key.id).await.expect("the store is there").expect("it is there");
    assert_eq!(format!("{found:?}"), format!("{key:?}"));
}

/// The latest is given without a version.
pub async fn a_plan_keeps_its_versions<S: KeyStore + AccountStore>(store: &S) {
    let (starter, tenant, _, _) = account(store).await;
    check_conflict(store.create_plan(&starter).await, "id");
    let mut next = starter.clone();
    next.name = "Second".to_owned();
    assert_eq!(store.replace_plan(&next, false).await.expect("the store is there"), Some(2));
    assert_eq!(store.plan("starter", Some(1)).await.expect("the store is there"), Some(starter));
    let latest = store.plan("starter", None).await.expect("the store is there").expect("it is there");
    assert_eq!((latest.version, latest.name.as_str()), (2, "Second"));
    let kept = store.tenant(tenant.id).await.expect("the store is there").expect("it is there");
    assert_eq!(kept.plan_version, 1);
    assert_eq!(store.replace_plan(&plan("unknown"), true).await.expect("the store is there"), None);
    assert_eq!(store.plans(&first(10)).await.expect("the store is there").items, [latest]);
}

/// Without a gap or an item twice.
pub async fn lists_go_on_after_the_last_item<S: KeyStore + AccountStore>(store: &S) {
    let plans = ["a", "b", "c"].map(plan);
    let mut tenants = Vec::new();
    for plan in &plans {
        store.create_plan(plan).await.expect("it is new");
        let tenant = tenant(plan);
        store.create_tenant(&tenant).await.expect("it is new");
        tenants.push(tenant);
    }
    tenants.sort_by_key(|tenant| tenant.id);
    let page = store.tenants(None, &first(2)).await.expect("the store is there");
    assert_eq!((page.items.as_slice(), page.more), (&tenants[..2], true));
    let rest = PageRequest { after: Some(tenants[1].id.to_string()), size: 2 };
    let page = store.tenants(None, &rest).await.expect("the store is there");
    assert_eq!((page.items.as_slice(), page.more), (&tenants[2..], false));
    let page = store.plans(&PageRequest { after: Some("a".to_owned()), size: 1 }).await.expect("the store is there");
    assert_eq!((page.items.as_slice(), page.more), (&plans[1..2], true));
    let nowhere = PageRequest { after: Some("nonsense".to_owned()), size: 2 };
    assert!(store.tenants(None, &nowhere).await.expect("the store is there").items.is_empty());
}

/// And its faults come back.
pub async fn a_rule_that_refuses_changes_nothing<S: KeyStore + AccountStore>(store: &S) {
    let (_, tenant, _, _) = account(store).await;
    let rule = Change::new(|tenant: &mut Tenant| {
        tenant.name = "never".to_owned();
        Err(Invalid::at("/name", "is taken"))
    });
    let outcome = store.change_tenant(tenant.id, &rule).await.expect("the store is there");
    assert_eq!(outcome, ChangeOutcome::Refused(Invalid::at("/name", "is taken")));
    assert_eq!(store.tenant(tenant.id).await.expect("the store is there"), Some(tenant));
}

/// Ids, owners, instants.
pub async fn a_rule_cannot_change_what_never_changes<S: KeyStore + AccountStore>(store: &S) {
    let (_, tenant, user, _) = account(store).await;
    let rule = Change::new(|user: &mut User| {
        user.id = crate::model::UserId::generate();
        user.tenant = crate::model::TenantId::generate();
        user.deleted_at = Some(instant());
        user.name = "Grace".to_owned();
        Ok(())
    });
    let changed = User { name: "Grace".to_owned(), ..user };
    let outcome = store.change_user(changed.id, &rule).await.expect("the store is there");
    assert_eq!(outcome, ChangeOutcome::Changed(changed.clone()));
    assert_eq!(store.user(changed.id).await.expect("the store is there"), Some(changed));
    assert_eq!(store.tenant(tenant.id).await.expect("the store is there"), Some(tenant));
}

/// Not an error.
pub async fn a_change_of_nothing_is_missing<S: KeyStore + AccountStore>(store: &S) {
    let (_, tenant, user, _) = account(store).await;
    let id = crate::model::KeyId::generate();
    let outcome = store.change_key(id, &Change::new(|_: &mut Key| Ok(()))).await.expect("the store is there");
    assert!(matches!(outcome, ChangeOutcome::Missing));
    assert!(store.delete_user(user.id, instant()).await.expect("the store is there"));
    assert!(!store.delete_user(user.id, instant()).await.expect("the store is there"));
    let outcome = store.change_user(user.id, &Change::new(|_: &mut User| Ok(()))).await.expect("the store is there");
    assert_eq!(outcome, ChangeOutcome::Missing);
    assert!(store.delete_tenant(tenant.id, instant()).await.expect("the store is there"));
    assert!(!store.delete_tenant(tenant.id, instant()).await.expect("the store is there"));
}

/// Then another may have it.
pub async fn an_external_id_is_unique_until_its_tenant_is_deleted<S: KeyStore + AccountStore>(store: &S) {
    let (plan, tenant, ..) = account(store).await;
    let named = |id: &str| Tenant { external_id: Some(id.to_owned()), ..super::tenant(&plan) };
    let (one, two) = (named("crm-1"), named("crm-1"));
    store.create_tenant(&one).await.expect("it is new");
    check_conflict(store.create_tenant(&two).await, "external_id");
    let take = Change::new(|tenant: &mut Tenant| {
        tenant.external_id = Some("crm-1".to_owned());
        Ok(())
    });
    check_conflict(store.change_tenant(tenant.id, &take).await, "external_id");
    store.change_tenant(one.id, &take).await.expect("it has it already");
    let found = store.tenants(Some("crm-1"), &first(10)).await.expect("the store is there");
    assert_eq!(found.items, std::slice::from_ref(&one));
    store.delete_tenant(one.id, instant()).await.expect("the store is there");
    store.create_tenant(&two).await.expect("nobody has it now");
    assert_eq!(store.tenants(Some("crm-1"), &first(10)).await.expect("the store is there").items, [two]);
}

/// Another tenant may have the same person.
pub async fn an_email_is_unique_in_its_tenant_whatever_its_case<S: KeyStore + AccountStore>(store: &S) {
    let (plan, tenant, ada, _) = account(store).await;
    check_conflict(store.create_user(&user(&tenant, "ADA@example.com")).await, "email");
    let other = super::tenant(&plan);
    store.create_tenant(&other).await.expect("it is new");
    store.create_user(&user(&other, "ada@example.com")).await.expect("another tenant");
    let own = Change::new(|user: &mut User| {
        user.email = "Ada@Example.com".to_owned();
        Ok(())
    });
    store.change_user(ada.id, &own).await.expect("it is their own");
    let linked = User { external_id: Some("u-1".to_owned()), ..user(&tenant, "b@example.com") };
    store.create_user(&linked).await.expect("it is new");
    let again = User { external_id: Some("u-1".to_owned()), ..user(&other, "c@example.com") };
    check_conflict(store.create_user(&again).await, "external_id");
    let filter = UserFilter { tenant: Some(tenant.id), external_id: Some("u-1".to_owned()) };
    assert_eq!(store.users(&filter, &first(10)).await.expect("the store is there").items, [linked]);
    let filter = UserFilter { tenant: Some(other.id), external_id: Some("u-1".to_owned()) };
    assert!(store.users(&filter, &first(10)).await.expect("the store is there").items.is_empty());
    store.delete_user(ada.id, instant()).await.expect("the store is there");
    store.create_user(&user(&tenant, "ada@example.com")).await.expect("nobody has it now");
}

/// None is read or listed.
pub async fn a_deleted_tenant_takes_its_users_along<S: KeyStore + AccountStore>(store: &S) {
    let (_, tenant, user, key) = account(store).await;
    store.delete_tenant(tenant.id, instant()).await.expect("the store is there");
    assert_eq!(store.tenant(tenant.id).await.expect("the store is there"), None);
    assert!(store.tenants(None, &first(10)).await.expect("the store is there").items.is_empty());
    assert_eq!(store.user(user.id).await.expect("the store is there"), None);
    for filter in [UserFilter::default(), UserFilter { tenant: Some(tenant.id), external_id: None }] {
        assert!(store.users(&filter, &first(10)).await.expect("the store is there").items.is_empty());
    }
    let found = store.key(key.id).await.expect("the store is there").expect("revoked keys are read");
    assert_eq!(found.revoke_reason.as_deref(), Some("tenant deleted"));
}

/// A request that was under way when it was deleted.
pub async fn nothing_is_added_to_a_deleted_tenant<S: KeyStore + AccountStore>(store: &S) {
    let (_, tenant, _, _) = account(store).await;
    store.delete_tenant(tenant.id, instant()).await.expect("the store is there");
    store.create_user(&user(&tenant, "late@example.com")).await.expect_err("the tenant is gone");
    store.create_key(&key(&tenant, None)).await.expect_err("the tenant is gone");
}

/// Revoked ones too; a tenant's all together.
pub async fn a_users_keys_are_listed<S: KeyStore + AccountStore>(store: &S) {
    let (_, tenant, user, owned) = account(store).await;
    let shared = key(&tenant, None);
    store.create_key(&shared).await.expect("it is new");
    let ids = |page: crate::store::Page<Key>| page.items.iter().map(|key| key.id).collect::<Vec<_>>();
    let mut all = vec![owned.id, shared.id];
    all.sort();
    let found = store.keys(tenant.id, None, &first(10)).await.expect("the store is there");
    assert!(found.items.iter().all(|key| key.secrets.len() == 1));
    assert_eq!(ids(found), all);
    assert_eq!(ids(store.keys(tenant.id, Some(user.id), &first(10)).await.expect("the store is there")), [owned.id]);
    let other = crate::model::TenantId::generate();
    assert!(ids(store.keys(other, Some(user.id), &first(10)).await.expect("the store is there")).is_empty());
}
