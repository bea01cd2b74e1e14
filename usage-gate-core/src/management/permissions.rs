//! Who may do what in the portal: one table.
//!
//! What a user may not see does not exist for them (`NotFound`), so that ids cannot be tried; what they see and may not do is `Forbidden`.
//! A user of a suspended tenant sees what they saw before and may revoke keys, which is never wrong; nothing else is changed.

use super::ManagementError;
use crate::model::{Key, Role, Tenant, TenantId, TenantStatus, User, UserId};

/// Whose things a right is about, always within the tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reach {
    /// Nobody's.
    Nothing,
    /// The user's own.
    Own,
    /// Everybody's.
    All,
}

/// The rights of a role.
struct Rights {
    /// Keys that are listed and shown.
    see_keys: Reach,
    /// Keys that are made, changed, rotated and revoked.
    change_keys: Reach,
    /// Usage and limits in which keys and users are told apart. The tenant's totals everybody sees.
    see_usage: Reach,
}

const fn rights(role: Role) -> Rights {
    use Reach::{All, Nothing, Own};
    match role {
        Role::Owner | Role::Admin => Rights { see_keys: All, change_keys: All, see_usage: All },
        Role::Member => Rights { see_keys: Own, change_keys: Own, see_usage: Own },
        Role::Viewer => Rights { see_keys: All, change_keys: Nothing, see_usage: All },
    }
}

/// A user who asks for something, as they are at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Actor {
    /// The tenant to which everything they ask for is confined.
    pub tenant: TenantId,
    /// Who.
    pub user: UserId,
    /// What they may do.
    pub role: Role,
    /// Whether the tenant may change anything.
    pub status: TenantStatus,
}

impl Actor {
    /// A user of a tenant.
    #[must_use]
    pub const fn new(user: &User, tenant: &Tenant) -> Self {
        Self { tenant: tenant.id, user: user.id, role: user.role, status: tenant.status }
    }

    /// Whose keys they see.
    #[must_use]
    pub const fn sees_keys(&self) -> Reach {
        rights(self.role).see_keys
    }

    /// Whose keys they may make, change, rotate and revoke.
    #[must_use]
    pub const fn changes_keys(&self) -> Reach {
        rights(self.role).change_keys
    }

    /// Whose usage they see apart from the tenant's totals.
    #[must_use]
    pub const fn sees_usage(&self) -> Reach {
        rights(self.role).see_usage
    }

    /// Whether they see this key.
    #[must_use]
    pub fn sees(&self, key: &Key) -> bool {
        self.covers(self.sees_keys(), key)
    }

    /// Whether they may change and rotate this key.
    ///
    /// # Errors
    /// `NotFound` if they do not see it, `Forbidden`, `Suspended`.
    pub fn may_change(&self, key: &Key) -> Result<(), ManagementError> {
        self.may_revoke(key)?;
        self.active()
    }

    /// Whether they may revoke this key, which a suspended tenant may as well.
    ///
    /// # Errors
    /// `NotFound` if they do not see it, `Forbidden`.
    pub fn may_revoke(&self, key: &Key) -> Result<(), ManagementError> {
        if !self.sees(key) {
            return Err(ManagementError::NotFound("key"));
        }
        if !self.covers(self.changes_keys(), key) {
            return Err(ManagementError::Forbidden("your role sees keys and changes none: ask an owner or admin"));
        }
        Ok(())
    }

    /// Whether they may make keys at all.
    ///
    /// # Errors
    /// `Forbidden`, `Suspended`.
    pub fn may_create(&self) -> Result<(), ManagementError> {
        if self.changes_keys() == Reach::Nothing {
            return Err(ManagementError::Forbidden("your role sees keys and makes none: ask an owner or admin"));
        }
        self.active()
    }

    fn active(&self) -> Result<(), ManagementError> {
        match self.status {
            TenantStatus::Active => Ok(()),
            TenantStatus::Suspended => Err(ManagementError::Suspended),
        }
    }

    fn covers(&self, reach: Reach, key: &Key) -> bool {
        key.tenant == self.tenant
            && match reach {
                Reach::Nothing => false,
                Reach::Own => key.user == Some(self.user),
                Reach::All => true,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    /// Sees, may change, may revoke: `y`, `404` (n), `403` (f) or suspended (s).
    #[track_caller]
    fn check(actor: &Actor, key: &Key, expected: &str) {
        let word = |outcome: Result<(), ManagementError>| match outcome {
            Ok(()) => 'y',
            Err(ManagementError::NotFound(_)) => 'n',
            Err(ManagementError::Forbidden(_)) => 'f',
            Err(_) => 's',
        };
        let sees = if actor.sees(key) { 'y' } else { 'n' };
        let found = String::from_iter([sees, word(actor.may_change(key)), word(actor.may_revoke(key))]);
        assert_eq!(found, expected, "{actor:?}");
    }

    #[test]
    fn the_table_holds_for_own_and_foreign_keys() {
        let plan = conformance::plan("starter");
        let (tenant, stranger) = (conformance::tenant(&plan), conformance::tenant(&plan));
        let user = conformance::user(&tenant, "ann@example.com");
        let own = conformance::key(&tenant, Some(&user));
        let (shared, foreign) = (conformance::key(&tenant, None), conformance::key(&stranger, None));
        let cases = [
            (Role::Owner, "yyy", "yyy"),
            (Role::Admin, "yyy", "yyy"),
            (Role::Member, "yyy", "nnn"),
            (Role::Viewer, "yff", "yff"),
        ];
        for (role, of_own, of_shared) in cases {
            let actor = Actor { role, ..Actor::new(&user, &tenant) };
            check(&actor, &own, of_own);
            check(&actor, &shared, of_shared);
            check(&actor, &foreign, "nnn");
            let suspended = Actor { status: TenantStatus::Suspended, ..actor };
            check(&suspended, &own, &of_own.replacen("yyy", "ysy", 1));
            assert_eq!(actor.may_create().is_ok(), role != Role::Viewer);
            assert!(suspended.may_create().is_err());
        }
    }
}
