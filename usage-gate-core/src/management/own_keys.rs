//! Keys as users of a tenant manage them: [permission](Actor), then the same rules as for operators.
//!
//! An operator gives a key any scope. A user gives at most what the tenant's plan lets users give: the plan's `scopes`, or without them those
//! that the gate's routes ask for.

use std::collections::BTreeSet;

use super::fields::{ENTRIES, Patch};
use super::own_usage::visible_user;
use super::{
    Actor, Invalid, IssuedToCaller, KeyDraft, KeyPatch, ManagementError, Reach, accounts, change_key, create_key,
    revoke_key, rotate_key,
};
use crate::gate::UsageGate;
use crate::model::{Key, KeyId, Plan, Scope, UserId};
use crate::store::{Page, PageRequest};

/// Scopes that users on this plan may give to keys, in order.
#[must_use]
pub fn grantable_scopes(gate: &UsageGate, plan: &Plan) -> Vec<Scope> {
    match &plan.scopes {
        Some(scopes) => scopes.clone(),
        None => {
            let asked = gate.routes().iter().flat_map(|route| route.scopes.iter().cloned());
            asked.collect::<BTreeSet<Scope>>().into_iter().collect()
        }
    }
}

/// The keys that a user sees, revoked ones too; of one user of the tenant if asked for.
///
/// # Errors
/// `NotFound` for a user who is not the tenant's, or whose keys are not shown; `NoAccounts`, `Store`.
pub async fn keys_as(
    gate: &UsageGate,
    actor: &Actor,
    of: Option<UserId>,
    page: &PageRequest,
) -> Result<Page<Key>, ManagementError> {
    if let Some(user) = of {
        visible_user(gate, actor, user).await?;
    }
    let of = match actor.sees_keys() {
        Reach::All => of,
        Reach::Own => Some(actor.user),
        Reach::Nothing => return Ok(Page { items: Vec::new(), more: false }),
    };
    Ok(accounts(gate)?.keys(actor.tenant, of, page).await?)
}

/// A key that a user sees.
///
/// # Errors
/// `NotFound`, `NoAccounts`, `Store`.
pub async fn key_as(gate: &UsageGate, actor: &Actor, id: KeyId) -> Result<Key, ManagementError> {
    let key = accounts(gate)?.key(id).await?;
    key.filter(|key| actor.sees(key)).ok_or(ManagementError::NotFound("key"))
}

/// Issues a key: for the user who asks, unless the draft names another of the tenant, whom only owners and admins may name.
/// `shared` makes it one of the tenant and of nobody, as only they may.
///
/// # Errors
/// As [`create_key`], and `Forbidden`, `Suspended`.
pub async fn create_key_as(
    gate: &UsageGate,
    actor: &Actor,
    mut draft: KeyDraft,
    shared: bool,
) -> Result<IssuedToCaller, ManagementError> {
    actor.may_create()?;
    let mut invalid = Invalid::default();
    let for_another = shared || draft.user.is_some_and(|user| user != actor.user);
    if for_another && actor.changes_keys() != Reach::All {
        // The same for every id: whether somebody has it is not told.
        invalid.add("/user", "your role makes keys for yourself only: leave it out");
    } else if !shared {
        draft.user = draft.user.or(Some(actor.user));
    }
    check_scopes(gate, actor, &draft.scopes, &mut invalid).await?;
    invalid.into_result()?;
    create_key(gate, actor.tenant, draft).await
}

/// Changes a key.
///
/// # Errors
/// As [`change_key`], and `Forbidden`, `Suspended`.
pub async fn change_key_as(
    gate: &UsageGate,
    actor: &Actor,
    id: KeyId,
    patch: KeyPatch,
) -> Result<Key, ManagementError> {
    actor.may_change(&key_as(gate, actor, id).await?)?;
    if let Patch::Set(scopes) = &patch.scopes {
        let mut invalid = Invalid::default();
        check_scopes(gate, actor, scopes, &mut invalid).await?;
        invalid.into_result()?;
    }
    change_key(gate, id, patch).await
}

/// Gives a key a new secret.
///
/// # Errors
/// As [`rotate_key`], and `Forbidden`, `Suspended`.
pub async fn rotate_key_as(
    gate: &UsageGate,
    actor: &Actor,
    id: KeyId,
    overlap_seconds: u64,
) -> Result<IssuedToCaller, ManagementError> {
    actor.may_change(&key_as(gate, actor, id).await?)?;
    rotate_key(gate, id, overlap_seconds).await
}

/// Revokes a key for good; again is no error.
///
/// # Errors
/// As [`revoke_key`], and `Forbidden`.
pub async fn revoke_key_as(
    gate: &UsageGate,
    actor: &Actor,
    id: KeyId,
    reason: Option<String>,
) -> Result<Key, ManagementError> {
    actor.may_revoke(&key_as(gate, actor, id).await?)?;
    revoke_key(gate, id, reason).await
}

/// Each wanted scope must be covered by one that users of the plan may give. What is no scope is left to the rules for all keys.
async fn check_scopes(
    gate: &UsageGate,
    actor: &Actor,
    wanted: &[String],
    invalid: &mut Invalid,
) -> Result<(), ManagementError> {
    // Too many are refused by the rules for all keys, in one line and not in one for each.
    if wanted.is_empty() || wanted.len() > ENTRIES {
        return Ok(());
    }
    let accounts = accounts(gate)?;
    let tenant = accounts.tenant(actor.tenant).await?.ok_or(ManagementError::NotFound("tenant"))?;
    let plan = accounts.plan(&tenant.plan, Some(tenant.plan_version)).await?;
    let grantable = grantable_scopes(gate, &plan.ok_or(ManagementError::NotFound("plan"))?);
    for (at, text) in wanted.iter().enumerate() {
        let Ok(scope) = text.parse::<Scope>() else { continue };
        if !grantable.iter().any(|held| held.covers(&scope)) {
            invalid.add(format!("/scopes/{at}"), remedy(&grantable));
        }
    }
    Ok(())
}

fn remedy(grantable: &[Scope]) -> String {
    if grantable.is_empty() {
        return "your plan lets keys have no scopes: leave it out".to_owned();
    }
    let known: Vec<&str> = grantable.iter().map(Scope::as_str).collect();
    format!("your plan does not include it: use one of {}", known.join(", "))
}
