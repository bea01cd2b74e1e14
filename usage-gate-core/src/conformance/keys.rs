//! What every [`KeyStore`] does.

use super::{account, credential, instant, key, plan, secret, user};
use crate::model::TenantStatus;
use crate::store::{AccountStore, Change, ChangeOutcome, Changed, FeedPosition, KeyStore, LastUse};

/// Runs every case of [`keys`](crate::conformance::keys).
#[macro_export]
macro_rules! key_store_tests {
    ($make:expr) => {
        $crate::conformance_cases! {
            keys, $make,
            a_key_is_resolved_with_all_that_hangs_on_it
            a_credential_that_was_never_issued_is_none
            every_secret_of_a_key_resolves_it
            a_dropped_secret_resolves_nothing
            a_revoked_key_is_resolved_all_the_same
            the_key_of_a_deleted_tenant_is_resolved_all_the_same
            the_key_of_a_deleted_user_is_revoked
            each_change_is_in_the_feed_after_the_position_read_before
            changes_are_in_the_order_of_their_commits
            changes_wait_for_one_that_comes_later
            changes_without_any_give_none_after_a_while
            a_position_of_another_life_is_told_that_all_changed
            use_is_marked_with_the_later_instant_and_is_no_change
            a_new_plan_version_moves_its_tenants_in_the_feed
        }
    };
}

/// Key, user, tenant and plan come whole.
pub async fn a_key_is_resolved_with_all_that_hangs_on_it<S: KeyStore + AccountStore>(store: &S) {
    let (plan, tenant, user, key) = account(store).await;
    let found = store.resolve(&key.secrets[0].credential).await.expect("the store is there").expect("it was issued");
    assert_eq!(*found.plan, plan);
    assert_eq!(found.tenant, tenant);
    assert_eq!(found.user, Some(user));
    assert_eq!(format!("{:?}", found.key), format!("{key:?}"));
    assert_eq!(found.key.secrets[0].hash.0, key.secrets[0].hash.0);
}

/// And leaves nothing behind.
pub async fn a_credential_that_was_never_issued_is_none<S: KeyStore + AccountStore>(store: &S) {
    account(store).await;
    let before = store.position().await.expect("the store is there");
    for _ in 0..3 {
        assert!(store.resolve(&credential()).await.expect("not an error").is_none());
    }
    assert_eq!(store.position().await.expect("the store is there"), before);
}

/// A key under rotation has two.
pub async fn every_secret_of_a_key_resolves_it<S: KeyStore + AccountStore>(store: &S) {
    let (_, _, _, key) = account(store).await;
    let old = key.secrets[0].credential;
    let new = secret(2);
    let rotated = new.clone();
    let rule = Change::new(move |key: &mut crate::model::Key| {
        key.secrets.insert(0, rotated.clone());
        key.secrets[1].expires_at = Some(instant().plus_micros(9));
        Ok(())
    });
    let outcome = store.change_key(key.id, &rule).await.expect("the store is there");
    assert!(matches!(outcome, ChangeOutcome::Changed(_)));
    for credential in [old, new.credential] {
        let found = store.resolve(&credential).await.expect("the store is there").expect("both are good");
        let credentials: Vec<_> = found.key.secrets.iter().map(|secret| secret.credential).collect();
        assert_eq!(credentials, [new.credential, old], "the newest first");
        assert_eq!(found.key.secrets[1].expires_at, Some(instant().plus_micros(9)));
    }
}

/// What a rule drops is deleted.
pub async fn a_dropped_secret_resolves_nothing<S: KeyStore + AccountStore>(store: &S) {
    let (_, _, _, key) = account(store).await;
    let rule = Change::new(|key: &mut crate::model::Key| {
        key.secrets = vec![secret(2)];
        Ok(())
    });
    store.change_key(key.id, &rule).await.expect("the store is there");
    assert!(store.resolve(&key.secrets[0].credential).await.expect("the store is there").is_none());
}

/// What that means is decided by the gate.
pub async fn a_revoked_key_is_resolved_all_the_same<S: KeyStore + AccountStore>(store: &S) {
    let (_, _, _, key) = account(store).await;
    let rule = Change::new(|key: &mut crate::model::Key| {
        key.revoked_at = Some(instant());
        key.revoke_reason = Some("leaked".to_owned());
        Ok(())
    });
    store.change_key(key.id, &rule).await.expect("the store is there");
    let found = store.resolve(&key.secrets[0].credential).await.expect("the store is there").expect("still known");
    assert_eq!(found.key.revoked_at, Some(instant()));
    assert_eq!(found.key.revoke_reason.as_deref(), Some("leaked"));
}

/// Its key is revoked, and its tenant says that it is deleted.
pub async fn the_key_of_a_deleted_tenant_is_resolved_all_the_same<S: KeyStore + AccountStore>(store: &S) {
    let (_, tenant, _, key) = account(store).await;
    assert!(store.delete_tenant(tenant.id, instant()).await.expect("the store is there"));
    let found = store.resolve(&key.secrets[0].credential).await.expect("the store is there").expect("still known");
    assert_eq!(found.tenant.deleted_at, Some(instant()));
    assert_eq!(found.key.revoked_at, Some(instant()));
    assert_eq!(found.key.revoke_reason.as_deref(), Some("tenant deleted"));
}

/// With the reason; a key of nobody is left alone.
pub async fn the_key_of_a_deleted_user_is_revoked<S: KeyStore + AccountStore>(store: &S) {
    let (_, tenant, user, owned) = account(store).await;
    let other = key(&tenant, None);
    store.create_key(&other).await.expect("it is new");
    assert!(store.delete_user(user.id, instant()).await.expect("the store is there"));
    let found = store.resolve(&owned.secrets[0].credential).await.expect("the store is there").expect("still known");
    assert_eq!(found.key.revoke_reason.as_deref(), Some("user deleted"));
    let found = store.resolve(&other.secrets[0].credential).await.expect("the store is there").expect("known");
    assert_eq!(found.key.revoked_at, None);
}

/// Else a cached caller would outlive the change.
pub async fn each_change_is_in_the_feed_after_the_position_read_before<S: KeyStore + AccountStore>(store: &S) {
    let (_, tenant, user, key) = account(store).await;
    let credential = key.secrets[0].credential;
    let read = || async { store.resolve(&credential).await.expect("the store is there").expect("known").position };
    let after = |position| async move { store.changes(position).await.expect("the store is there").items };

    let before = read().await;
    let rename = Change::new(|key: &mut crate::model::Key| {
        key.name = "other".to_owned();
        Ok(())
    });
    store.change_key(key.id, &rename).await.expect("the store is there");
    assert!(after(before).await.contains(&Changed::Key(key.id)), "a key changed");

    let before = read().await;
    let rename = Change::new(|user: &mut crate::model::User| {
        user.name = "Grace".to_owned();
        Ok(())
    });
    store.change_user(user.id, &rename).await.expect("the store is there");
    assert!(after(before).await.contains(&Changed::Key(key.id)), "a user's name is in what a key resolves to");

    let before = read().await;
    let suspend = Change::new(|tenant: &mut crate::model::Tenant| {
        tenant.status = TenantStatus::Suspended;
        Ok(())
    });
    store.change_tenant(tenant.id, &suspend).await.expect("the store is there");
    assert!(after(before).await.contains(&Changed::Tenant(tenant.id)), "a tenant was suspended");

    let before = read().await;
    store.delete_user(user.id, instant()).await.expect("the store is there");
    assert!(after(before).await.contains(&Changed::Key(key.id)), "a user was deleted");

    let before = read().await;
    store.delete_tenant(tenant.id, instant()).await.expect("the store is there");
    assert!(after(before).await.contains(&Changed::Tenant(tenant.id)), "a tenant was deleted");
}

/// And positions only grow.
pub async fn changes_are_in_the_order_of_their_commits<S: KeyStore + AccountStore>(store: &S) {
    let (_, tenant, _, _) = account(store).await;
    let before = store.position().await.expect("the store is there");
    let keys: Vec<_> = (0..5).map(|_| key(&tenant, None)).collect();
    for key in &keys {
        store.create_key(key).await.expect("it is new");
    }
    let changes = store.changes(before).await.expect("the store is there");
    assert_eq!(changes.items, keys.iter().map(|key| Changed::Key(key.id)).collect::<Vec<_>>());
    assert_eq!(changes.position, store.position().await.expect("the store is there"));
    assert!(changes.position > before);
}

/// It does not have to be asked again and again.
pub async fn changes_wait_for_one_that_comes_later<S: KeyStore + AccountStore>(store: &S) {
    let (_, tenant, _, _) = account(store).await;
    let before = store.position().await.expect("the store is there");
    let later = key(&tenant, None);
    let (changes, created) = tokio::join!(store.changes(before), async {
        tokio::task::yield_now().await;
        store.create_key(&later).await
    });
    created.expect("it is new");
    assert_eq!(changes.expect("the store is there").items, [Changed::Key(later.id)]);
}

/// The position stays.
pub async fn changes_without_any_give_none_after_a_while<S: KeyStore + AccountStore>(store: &S) {
    account(store).await;
    let before = store.position().await.expect("the store is there");
    let changes = store.changes(before).await.expect("the store is there");
    assert!(changes.items.is_empty());
    assert_eq!(changes.position, before);
}

/// Such as that of a database before it was restored.
pub async fn a_position_of_another_life_is_told_that_all_changed<S: KeyStore + AccountStore>(store: &S) {
    account(store).await;
    let changes = store.changes(FeedPosition(1_000_000)).await.expect("the store is there");
    assert_eq!(changes.items, [Changed::All]);
    assert_eq!(changes.position, store.position().await.expect("the store is there"));
}

/// Marks come late and out of order.
pub async fn use_is_marked_with_the_later_instant_and_is_no_change<S: KeyStore + AccountStore>(store: &S) {
    let (_, _, _, key) = account(store).await;
    let secret = key.secrets[0].credential;
    let before = store.position().await.expect("the store is there");
    let later = instant().plus_micros(60_000_000);
    for at in [later, instant()] {
        let uses = [LastUse { credential: secret, at }, LastUse { credential: credential(), at }];
        store.mark_used(&uses).await.expect("an unknown credential is no error");
    }
    let found = store.resolve(&secret).await.expect("the store is there").expect("known");
    assert_eq!(found.key.last_used_at(), Some(later));
    assert_eq!(store.position().await.expect("the store is there"), before);
}

/// And the tenant has it.
pub async fn a_new_plan_version_moves_its_tenants_in_the_feed<S: KeyStore + AccountStore>(store: &S) {
    let (starter, tenant, _, key) = account(store).await;
    store.create_plan(&plan("other")).await.expect("it is new");
    store.create_user(&user(&tenant, "other@example.com")).await.expect("it is new");
    let before = store.position().await.expect("the store is there");
    let mut wider = starter.clone();
    wider.limits[0].units = 2_000;
    assert_eq!(store.replace_plan(&wider, true).await.expect("the store is there"), Some(2));
    let changes = store.changes(before).await.expect("the store is there");
    assert_eq!(changes.items, [Changed::Tenant(tenant.id)]);
    let found = store.resolve(&key.secrets[0].credential).await.expect("the store is there").expect("known");
    assert_eq!((found.plan.version, found.plan.limits[0].units), (2, 2_000));
}

/// For stores that keep one.
pub async fn the_first_pepper_is_kept<S: KeyStore>(store: &S) {
    for ours in [1, u64::MAX, 1] {
        assert_eq!(store.pepper_fingerprint(ours).await.expect("the store is there"), 1);
    }
}
