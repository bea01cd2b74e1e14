//! Tenants: made, changed, suspended, deleted.

use super::fields::{self, Patch};
use super::{Invalid, ManagementError, accounts, outcome};
use crate::gate::UsageGate;
use crate::model::{Tenant, TenantId, TenantStatus};
use crate::period::{AnchorDay, Calendar, Zone};
use crate::store::{Change, Changed};

/// A tenant as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the members are those of `Tenant`")]
pub struct TenantDraft {
    pub external_id: Option<String>,
    pub name: String,
    pub plan: String,
    pub time_zone: Option<String>,
    pub anchor_day: Option<u64>,
    /// A JSON object, as text.
    pub metadata: Option<String>,
}

impl TenantDraft {
    /// A tenant on a plan, in UTC, its months from the first.
    #[must_use]
    pub fn new(name: impl Into<String>, plan: impl Into<String>) -> Self {
        Self {
            external_id: None,
            name: name.into(),
            plan: plan.into(),
            time_zone: None,
            anchor_day: None,
            metadata: None,
        }
    }
}

/// A change of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the members are those of `Tenant`")]
pub struct TenantPatch {
    pub external_id: Patch<Option<String>>,
    pub name: Patch<String>,
    /// Another plan, in force at once; use is kept.
    pub plan: Patch<String>,
    /// From the next month on.
    pub time_zone: Patch<String>,
    /// From the next month on.
    pub anchor_day: Patch<u64>,
    pub metadata: Patch<String>,
}

/// Makes a tenant.
///
/// # Errors
/// [`ManagementError::Invalid`] with every fault, `Conflict` on `external_id`, `Store`.
pub async fn create_tenant(gate: &UsageGate, draft: TenantDraft) -> Result<Tenant, ManagementError> {
    let mut invalid = Invalid::default();
    let name = fields::name(&draft.name, "/name", &mut invalid);
    let external_id = fields::external_id(draft.external_id, &mut invalid);
    let zone = draft.time_zone.map_or(Zone::UTC, |text| zone(&text, &mut invalid));
    let anchor = draft.anchor_day.map_or(AnchorDay::FIRST, |day| anchor(day, &mut invalid));
    let metadata = fields::metadata(draft.metadata.unwrap_or_else(|| "{}".to_owned()), &mut invalid);
    let plan_version = latest_version(gate, &draft.plan, &mut invalid).await?;
    invalid.into_result()?;
    let tenant = Tenant {
        id: TenantId::generate(),
        external_id,
        name,
        status: TenantStatus::Active,
        plan: draft.plan,
        plan_version,
        calendar: Calendar::new(zone, anchor),
        metadata,
        created_at: gate.clock().wall(),
        deleted_at: None,
    };
    accounts(gate)?.create_tenant(&tenant).await?;
    Ok(tenant)
}

/// Changes a tenant.
///
/// # Errors
/// As [`create_tenant`], and `NotFound`.
pub async fn change_tenant(gate: &UsageGate, id: TenantId, patch: TenantPatch) -> Result<Tenant, ManagementError> {
    let mut invalid = Invalid::default();
    let name = patch.name.map(|text| fields::name(&text, "/name", &mut invalid));
    let external_id = patch.external_id.map(|id| fields::external_id(id, &mut invalid));
    let metadata = patch.metadata.map(|text| fields::metadata(text, &mut invalid));
    let zone = patch.time_zone.map(|text| zone(&text, &mut invalid));
    let anchor = patch.anchor_day.map(|day| anchor(day, &mut invalid));
    let plan = match patch.plan {
        Patch::Keep => Patch::Keep,
        Patch::Set(plan) => {
            let version = latest_version(gate, &plan, &mut invalid).await?;
            Patch::Set((plan, version))
        }
    };
    invalid.into_result()?;
    let now = gate.clock().wall();
    let change = Change::new(move |tenant: &mut Tenant| {
        name.clone().apply(&mut tenant.name);
        external_id.clone().apply(&mut tenant.external_id);
        metadata.clone().apply(&mut tenant.metadata);
        if let Patch::Set((plan, version)) = &plan {
            tenant.plan.clone_from(plan);
            tenant.plan_version = *version;
        }
        let mut wanted = tenant.calendar.latest();
        zone.clone().apply(&mut wanted.0);
        anchor.clone().apply(&mut wanted.1);
        if wanted != tenant.calendar.latest() {
            tenant.calendar = tenant.calendar.changed(wanted.0, wanted.1, now);
        }
        Ok(())
    });
    apply(gate, id, &change).await
}

/// Suspends a tenant, or resumes it; again is no error.
///
/// # Errors
/// `NotFound`, `Store`.
pub async fn set_tenant_status(
    gate: &UsageGate,
    id: TenantId,
    status: TenantStatus,
) -> Result<Tenant, ManagementError> {
    let change = Change::new(move |tenant: &mut Tenant| {
        tenant.status = status;
        Ok(())
    });
    apply(gate, id, &change).await
}

/// Deletes a tenant and its users, and revokes its keys; what it used stays.
///
/// # Errors
/// `NotFound`, `Store`.
pub async fn delete_tenant(gate: &UsageGate, id: TenantId) -> Result<(), ManagementError> {
    let found = accounts(gate)?.delete_tenant(id, gate.clock().wall()).await?;
    gate.changed(&Changed::Tenant(id));
    if found { Ok(()) } else { Err(ManagementError::NotFound("tenant")) }
}

async fn apply(gate: &UsageGate, id: TenantId, change: &Change<Tenant>) -> Result<Tenant, ManagementError> {
    let tenant = outcome(accounts(gate)?.change_tenant(id, change).await?, "tenant")?;
    gate.changed(&Changed::Tenant(id));
    Ok(tenant)
}

async fn latest_version(gate: &UsageGate, plan: &str, invalid: &mut Invalid) -> Result<u32, ManagementError> {
    let found = accounts(gate)?.plan(plan, None).await?;
    if found.is_none() {
        invalid.add("/plan", "there is no plan with this id: create it first");
    }
    Ok(found.map_or(0, |plan| plan.version))
}

fn zone(text: &str, invalid: &mut Invalid) -> Zone {
    text.parse().unwrap_or_else(|error: crate::period::UnknownZone| {
        invalid.add("/time_zone", error.to_string());
        Zone::UTC
    })
}

fn anchor(day: u64, invalid: &mut Invalid) -> AnchorDay {
    AnchorDay::new(day).unwrap_or_else(|error| {
        invalid.add("/anchor_day", error.to_string());
        AnchorDay::FIRST
    })
}
