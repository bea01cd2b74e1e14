//! Users: people inside a tenant.

use super::{TenantId, Timestamp, UserId};

/// What a user may do in the portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// All of the tenant, users included.
    Owner,
    /// Keys, limits on keys, alerts.
    Admin,
    /// Own keys, the tenant's usage.
    Member,
    /// Reads.
    Viewer,
}

impl Role {
    /// The word in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Member => "member",
            Self::Viewer => "viewer",
        }
    }
}

/// A person inside a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Ours.
    pub id: UserId,
    /// Whose.
    pub tenant: TenantId,
    /// The host's own id of them; unique where set.
    pub external_id: Option<String>,
    /// Unique in its tenant, compared without case.
    pub email: String,
    /// For people.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// When they were added.
    pub created_at: Timestamp,
    /// Set once removed; their keys are revoked then.
    pub deleted_at: Option<Timestamp>,
}
