//! The rules for plans, tenants, users, keys and who may do what in the portal. Web layers translate to and from these; stores keep what comes of them.
//!
//! Every operation takes the gate, so that a committed change is dropped from its caches before the answer leaves.

mod fields;
mod invalid;
mod keys;
mod own_keys;
mod own_requests;
mod own_usage;
mod permissions;
mod plans;
mod sessions;
mod tenants;
mod users;

pub use fields::Patch;
pub use invalid::{Fault, Invalid};
pub use keys::{IssuedToCaller, KeyDraft, KeyPatch, change_key, create_key, revoke_key, rotate_key};
pub use own_keys::{change_key_as, create_key_as, grantable_scopes, key_as, keys_as, revoke_key_as, rotate_key_as};
pub use own_requests::requests_as;
pub use own_usage::{NamedPeriod, limit_view_as, month_before, periods, usage_as};
pub use permissions::{Actor, Reach};
pub use plans::{Apply, LimitDraft, PlanDraft, create_plan, replace_plan};
pub use sessions::{
    BegunSession, LinkError, MadeLink, OpenSession, create_portal_link, end_session, redeem_portal_link, session,
};
pub use tenants::{TenantDraft, TenantPatch, change_tenant, create_tenant, delete_tenant, set_tenant_status};
pub use users::{UserDraft, UserPatch, change_user, create_user, delete_user};

use std::sync::Arc;

use crate::gate::UsageGate;
use crate::secret::NoRandomness;
use crate::store::{AccountStore, ChangeOutcome, SessionStore, StoreError, StoreErrorKind};

/// Why an operation was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManagementError {
    /// The input cannot be used.
    #[error("{0}")]
    Invalid(Invalid),
    /// There is no such thing.
    #[error("there is no {0} with this id")]
    NotFound(&'static str),
    /// Something unique exists already.
    #[error("{field}: exists already")]
    Conflict {
        /// The member.
        field: &'static str,
    },
    /// The role of the user who asks does not permit it.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The tenant of the user who asks is suspended.
    #[error("the account is suspended: its users may look and revoke, and change nothing else")]
    Suspended,
    /// The gate was built without a session store.
    #[error("this gate keeps no portal sessions: build it with a session store")]
    NoSessions,
    /// The gate was built without an account store.
    #[error("this gate manages no accounts: build it with an account store")]
    NoAccounts,
    /// The store did not answer.
    #[error("the account store did not answer")]
    Store(#[source] StoreError),
    /// The system gave no random bytes.
    #[error(transparent)]
    Random(#[from] NoRandomness),
}

impl From<StoreError> for ManagementError {
    fn from(error: StoreError) -> Self {
        match (error.kind(), error.field()) {
            (StoreErrorKind::Conflict, Some(field)) => Self::Conflict { field },
            _ => Self::Store(error),
        }
    }
}

impl From<Invalid> for ManagementError {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

fn accounts(gate: &UsageGate) -> Result<&Arc<dyn AccountStore>, ManagementError> {
    gate.accounts().ok_or(ManagementError::NoAccounts)
}

fn sessions(gate: &UsageGate) -> Result<&Arc<dyn SessionStore>, ManagementError> {
    gate.sessions().ok_or(ManagementError::NoSessions)
}

fn outcome<T>(outcome: ChangeOutcome<T>, what: &'static str) -> Result<T, ManagementError> {
    match outcome {
        ChangeOutcome::Changed(entity) => Ok(entity),
        ChangeOutcome::Missing => Err(ManagementError::NotFound(what)),
        ChangeOutcome::Refused(invalid) => Err(invalid.into()),
    }
}
