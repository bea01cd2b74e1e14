//! What tests of rates ask with.

use super::bucket::Incarnation;
use crate::model::{Per, TenantId};
use crate::store::{CounterId, RateLeaseId, RateReport, RateRequest, RateTerms, SlotRequest, Subject};

/// The same counter every time.
pub(crate) fn counter() -> CounterId {
    CounterId {
        tenant: TenantId::from_u128(1),
        subject: Subject::Tenant,
        limit: "bursts".into(),
        meter: "requests".into(),
        per: Per::Second,
    }
}

pub(crate) fn request(terms: RateTerms, lease: u128, want: u64) -> RateRequest {
    let (spent, returned) = (Vec::new(), Vec::new());
    RateRequest { counter: counter(), terms, spent, returned, lease: RateLeaseId::from_u128(lease), want }
}

pub(crate) fn report(lease: u128, spent: u64) -> RateReport {
    RateReport { lease: RateLeaseId::from_u128(lease), spent }
}

pub(crate) fn slots(sequence: u64, limit: u64, keep: u64, more: u64) -> SlotRequest {
    SlotRequest { counter: counter(), sequence, limit, keep, more }
}

pub(crate) const fn incarnation(id: u64, age: u64) -> Option<Incarnation> {
    Some(Incarnation { id, age })
}
