//! `GET /admin/v1/requests`: single requests of one tenant or of all.

use axum::extract::State;
use axum::response::Response;
use usage_gate_core::UsageGate;
use usage_gate_core::model::TenantId;

use crate::answer::{Problem, ok};
use crate::parameters::Parameters;
use crate::requests;
use crate::usage::freshen;

pub(super) async fn list(State(gate): State<UsageGate>, mut parameters: Parameters) -> Result<Response, Problem> {
    let tenant: Option<TenantId> = parameters.parsed("tenant");
    let query = requests::take(&mut parameters, tenant);
    parameters.finish()?;
    freshen(&gate).await;
    let reader = gate.reader().ok_or_else(|| Problem::not_found("request log"))?;
    Ok(ok(&requests::document(&reader.requests(&query).await?)))
}
