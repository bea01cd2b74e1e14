//! The request log as users of a tenant see it: confined as usage is, and without what their role does not tell apart.

use super::own_usage::check_subjects;
use super::{Actor, ManagementError, Reach};
use crate::gate::UsageGate;
use crate::store::{RequestPage, RequestQuery};

/// Answers a question about single requests, confined to the actor's tenant and, for a role that sees only its own usage, to keys that were the
/// actor's when the request was made.
///
/// # Errors
/// `NotFound` for a key or user that they may not tell apart or that is not the tenant's, and where the gate reads no usage; `Store`.
pub async fn requests_as(gate: &UsageGate, actor: &Actor, query: RequestQuery) -> Result<RequestPage, ManagementError> {
    check_subjects(gate, actor, query.user, query.key).await?;
    let reader = gate.reader().ok_or(ManagementError::NotFound("request log"))?;
    let user = match actor.sees_usage() {
        Reach::All => query.user,
        Reach::Own => Some(actor.user),
        Reach::Nothing => return Err(ManagementError::NotFound("request log")),
    };
    Ok(reader.requests(&RequestQuery { tenant: Some(actor.tenant), user, ..query }).await?)
}
