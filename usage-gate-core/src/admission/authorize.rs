//! Step 4: may this caller do this, now and from there?

use std::net::IpAddr;

use super::{Caller, Code, Refusal};
use crate::model::{Scope, TenantStatus, Timestamp};

/// Key and tenant usable, address allowed. The holder of the right secret is told why not.
pub(super) fn usable(caller: &Caller, client: Option<IpAddr>, at: Timestamp) -> Result<(), Refusal> {
    let resolved = &*caller.source;
    if resolved.key.revoked_at.is_some() || resolved.tenant.deleted_at.is_some() {
        return Err(Refusal::new(Code::RevokedKey, "this key was revoked: use another"));
    }
    if at >= caller.usable_until {
        return Err(Refusal::new(Code::ExpiredKey, "this key has expired: create or rotate it"));
    }
    if resolved.tenant.status == TenantStatus::Suspended {
        return Err(Refusal::new(Code::TenantSuspended, "this account is suspended: contact the operator"));
    }
    let ranges = &resolved.key.allowed_addresses;
    if !ranges.is_empty() && !client.is_some_and(|client| ranges.iter().any(|range| range.contains(client))) {
        return Err(Refusal::new(Code::AddressNotAllowed, "this key may not be used from your address"));
    }
    Ok(())
}

/// All scopes of the route held.
pub(super) fn permitted(caller: &Caller, needed: &[Scope]) -> Result<(), Refusal> {
    let missing = needed.iter().find(|scope| !caller.scopes.iter().any(|held| held.covers(scope)));
    match missing {
        None => Ok(()),
        Some(scope) => Err(Refusal::new(
            Code::InsufficientScope,
            format!("this route needs the scope {scope}, which the key does not hold"),
        )),
    }
}
