//! `GET <prefix>/v1/usage`, `limits` and `periods`: what the tenant used, how much is left, and its months.

use axum::extract::State;
use axum::response::Response;
use serde_json::json;
use usage_gate_core::UsageGate;
use usage_gate_core::management;
use usage_gate_core::store::Dimension;
use usage_gate_tower::problem;

use crate::answer::{Problem, ok};
use crate::parameters::Parameters;
use crate::session::SignedIn;
use crate::usage::{Question, freshen};

/// There is one tenant: nothing to split by.
const DIMENSIONS: [Dimension; 6] =
    [Dimension::User, Dimension::Key, Dimension::Route, Dimension::Outcome, Dimension::Environment, Dimension::Limit];

pub(super) async fn read(
    State(gate): State<UsageGate>,
    signed_in: SignedIn,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let question = Question::take(&mut parameters, Some(signed_in.tenant.id), &DIMENSIONS);
    parameters.finish()?;
    let asked = question.settle(&signed_in.tenant.calendar, gate.clock().wall())?;
    freshen(&gate).await;
    let page = management::usage_as(&gate, &signed_in.actor(), asked.query.clone()).await?;
    Ok(asked.answer(&page))
}

pub(super) async fn limits(
    State(gate): State<UsageGate>,
    signed_in: SignedIn,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let (user, key) = (parameters.parsed("user"), parameters.parsed("key"));
    parameters.finish()?;
    let view = management::limit_view_as(&gate, &signed_in.actor(), user, key).await?;
    let states = gate.limit_states(&signed_in.tenant, &signed_in.plan(&gate).await?, view).await?;
    let items: Vec<_> = states.iter().map(problem::limit_state).collect();
    Ok(ok(&json!({"items": items, "next_cursor": null, "as_of": gate.clock().wall()})))
}

pub(super) async fn periods(
    State(gate): State<UsageGate>,
    signed_in: SignedIn,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.finish()?;
    let now = gate.clock().wall();
    let items = management::periods(&signed_in.tenant, now).into_iter().map(|month| {
        let current = month.period.contains(now);
        json!({"name": month.name, "start": month.period.start, "end": month.period.end, "current": current})
    });
    Ok(ok(&json!({"items": items.collect::<Vec<_>>(), "next_cursor": null})))
}
