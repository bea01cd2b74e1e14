//! Tenants: the customer accounts of the operator.

use super::{TenantId, Timestamp};
use crate::period::Calendar;

/// Whether a tenant's keys are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TenantStatus {
    /// Served.
    Active,
    /// Refused with 403 `tenant_suspended`.
    Suspended,
}

impl TenantStatus {
    /// The word in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
        }
    }
}

/// A customer account.
#[derive(Debug, Clone, PartialEq)]
pub struct Tenant {
    /// Ours.
    pub id: TenantId,
    /// The host's own id of it; unique where set.
    pub external_id: Option<String>,
    /// For people.
    pub name: String,
    /// Whether its keys are served.
    pub status: TenantStatus,
    /// The plan it is subscribed to.
    pub plan: String,
    /// The version of the plan that holds for it.
    pub plan_version: u32,
    /// Its time zone and the day its months begin.
    pub calendar: Calendar,
    /// A JSON object of the operator's own, kept as it came.
    pub metadata: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Set once it is deleted: then it is no longer listed or served, and its usage stays.
    pub deleted_at: Option<Timestamp>,
}
