//! `GET <prefix>/v1/requests`: single requests of the tenant, as far as the user's role tells them apart.

use axum::extract::State;
use axum::response::Response;
use usage_gate_core::UsageGate;
use usage_gate_core::management;

use crate::answer::{Problem, ok};
use crate::parameters::Parameters;
use crate::requests;
use crate::session::SignedIn;
use crate::usage::freshen;

pub(super) async fn list(
    State(gate): State<UsageGate>,
    signed_in: SignedIn,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let query = requests::take(&mut parameters, Some(signed_in.tenant.id));
    parameters.finish()?;
    freshen(&gate).await;
    let page = management::requests_as(&gate, &signed_in.actor(), query).await?;
    Ok(ok(&requests::document(&page)))
}
