//! `POST /admin/v1/portal-sessions`: a link that signs a user in, once.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json as document;
use usage_gate_core::UsageGate;
use usage_gate_core::admission::Code;
use usage_gate_core::management;
use usage_gate_core::model::UserId;

use crate::answer::{Problem, json};
use crate::document::Document;
use crate::options::Portal;

/// What links begin with; `None` if the service does not know where it is reached.
#[derive(Debug, Clone)]
pub(super) struct LinkBase(Option<String>);

impl LinkBase {
    pub(super) fn new(portal: &Portal) -> Self {
        Self(portal.public_url.as_ref().map(|url| format!("{}{}/enter/", url.origin(), portal.prefix)))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    user: UserId,
    return_url: Option<String>,
}

pub(super) async fn create(
    State(gate): State<UsageGate>,
    Extension(LinkBase(base)): Extension<LinkBase>,
    Document(asked): Document<Asked>,
) -> Result<Response, Problem> {
    let Some(base) = base else {
        return Err(Problem::new(Code::NotFound, "this service has no public URL: set Portal::public_url"));
    };
    let made = management::create_portal_link(&gate, asked.user, asked.return_url).await?;
    let url = format!("{base}{}", made.token.as_str());
    Ok(json(StatusCode::CREATED, &document!({"url": url, "expires_at": made.expires_at})))
}
