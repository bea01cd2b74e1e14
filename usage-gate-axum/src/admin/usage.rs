//! `GET /admin/v1/usage`: of one tenant or of all.

use axum::extract::State;
use axum::response::Response;
use usage_gate_core::UsageGate;
use usage_gate_core::model::TenantId;
use usage_gate_core::period::{AnchorDay, Calendar, Zone};
use usage_gate_core::store::Dimension;

use super::accounts;
use crate::answer::Problem;
use crate::parameters::Parameters;
use crate::usage::{Question, freshen};

pub(super) async fn read(State(gate): State<UsageGate>, mut parameters: Parameters) -> Result<Response, Problem> {
    let tenant: Option<TenantId> = parameters.parsed("tenant");
    let question = Question::take(&mut parameters, tenant, &Dimension::ALL);
    parameters.finish()?;
    let calendar = match tenant {
        None => Calendar::new(Zone::UTC, AnchorDay::FIRST),
        Some(id) => accounts(&gate)?.tenant(id).await?.ok_or_else(|| Problem::not_found("tenant"))?.calendar,
    };
    let asked = question.settle(&calendar, gate.clock().wall())?;
    freshen(&gate).await;
    let reader = gate.reader().ok_or_else(|| Problem::not_found("usage reader"))?;
    Ok(asked.answer(&reader.usage(&asked.query).await?))
}
