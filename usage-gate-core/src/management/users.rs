//! Users: added, changed, removed.

use super::fields::{self, Patch};
use super::{Invalid, ManagementError, accounts, outcome};
use crate::gate::UsageGate;
use crate::model::{Role, TenantId, User, UserId};
use crate::store::{Change, Changed};

/// A user as they are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the members are those of `User`")]
pub struct UserDraft {
    pub external_id: Option<String>,
    pub email: String,
    /// Default: the part of the address before the @.
    pub name: Option<String>,
    /// Default: member.
    pub role: Option<Role>,
}

/// A change of a user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the members are those of `User`")]
pub struct UserPatch {
    pub external_id: Patch<Option<String>>,
    pub email: Patch<String>,
    pub name: Patch<String>,
    pub role: Patch<Role>,
}

/// Adds a user to a tenant.
///
/// # Errors
/// [`ManagementError::Invalid`] with every fault, `NotFound` for the tenant, `Conflict` on `email` or `external_id`, `Store`.
pub async fn create_user(gate: &UsageGate, tenant: TenantId, draft: UserDraft) -> Result<User, ManagementError> {
    let mut invalid = Invalid::default();
    let email = email(&draft.email, &mut invalid);
    let name = draft.name.unwrap_or_else(|| email.split('@').next().unwrap_or_default().to_owned());
    let name = fields::name(&name, "/name", &mut invalid);
    let external_id = fields::external_id(draft.external_id, &mut invalid);
    invalid.into_result()?;
    let accounts = accounts(gate)?;
    if accounts.tenant(tenant).await?.is_none() {
        return Err(ManagementError::NotFound("tenant"));
    }
    let user = User {
        id: UserId::generate(),
        tenant,
        external_id,
        email,
        name,
        role: draft.role.unwrap_or(Role::Member),
        created_at: gate.clock().wall(),
        deleted_at: None,
    };
    accounts.create_user(&user).await?;
    Ok(user)
}

/// Changes a user.
///
/// # Errors
/// As [`create_user`].
pub async fn change_user(gate: &UsageGate, id: UserId, patch: UserPatch) -> Result<User, ManagementError> {
    let mut invalid = Invalid::default();
    let email = patch.email.map(|text| email(&text, &mut invalid));
    let name = patch.name.map(|text| fields::name(&text, "/name", &mut invalid));
    let external_id = patch.external_id.map(|id| fields::external_id(id, &mut invalid));
    let role = patch.role;
    invalid.into_result()?;
    let change = Change::new(move |user: &mut User| {
        email.clone().apply(&mut user.email);
        name.clone().apply(&mut user.name);
        external_id.clone().apply(&mut user.external_id);
        role.clone().apply(&mut user.role);
        Ok(())
    });
    let user = outcome(accounts(gate)?.change_user(id, &change).await?, "user")?;
    gate.changed(&Changed::Tenant(user.tenant));
    Ok(user)
}

/// Removes a user and revokes their keys; what they used stays.
///
/// # Errors
/// `NotFound`, `Store`.
pub async fn delete_user(gate: &UsageGate, id: UserId) -> Result<(), ManagementError> {
    let accounts = accounts(gate)?;
    let user = accounts.user(id).await?.ok_or(ManagementError::NotFound("user"))?;
    let found = accounts.delete_user(id, gate.clock().wall()).await?;
    gate.changed(&Changed::Tenant(user.tenant));
    if found { Ok(()) } else { Err(ManagementError::NotFound("user")) }
}

/// Not a proof that the address exists, only that it is one: a local part, one @, a domain.
fn email(text: &str, invalid: &mut Invalid) -> String {
    let text = text.trim();
    let parts =
        text.split_once('@').filter(|(local, domain)| !local.is_empty() && !domain.is_empty() && !domain.contains('@'));
    if parts.is_none() || text.len() > 254 || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        invalid.add("/email", "must be an email address such as ann@example.com");
    }
    text.to_owned()
}
