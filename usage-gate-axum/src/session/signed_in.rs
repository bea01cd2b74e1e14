//! The user who makes a request.

use axum::extract::FromRequestParts;
use http::request::Parts;
use usage_gate_core::admission::Code;
use usage_gate_core::management::{self, Actor};
use usage_gate_core::model::{Plan, Tenant, User};
use usage_gate_core::{ManagementError, UsageGate};

use super::cookie;
use crate::answer::Problem;
use crate::portal_state::PortalState;

/// Who is signed in, read for this request: a role that was changed a moment ago is the new one.
#[derive(Debug, Clone)]
pub(crate) struct SignedIn {
    pub(crate) user: User,
    pub(crate) tenant: Tenant,
    /// Signed in by the host's own login, which we cannot end.
    pub(crate) by_host: bool,
    /// Where the user came from; `None` for users of the host's own login.
    pub(crate) return_url: Option<String>,
}

/// Why nobody is signed in.
#[derive(Debug)]
pub(crate) enum NotSignedIn {
    /// There is no session's cookie.
    Missing,
    /// There is one, or a user of the host, but no session or user of ours any more.
    Ended,
    /// It is not known.
    Store(ManagementError),
}

impl SignedIn {
    /// Finds out who makes a request.
    pub(crate) async fn find(state: &PortalState, request: &Parts) -> Result<Self, NotSignedIn> {
        if let Some(known) = request.extensions.get::<Self>() {
            return Ok(known.clone());
        }
        if let Some(identity) = &state.options().identity
            && let Some(user) = identity.user(request).await
        {
            let Some(accounts) = state.gate().accounts() else {
                return Err(NotSignedIn::Store(ManagementError::NoAccounts));
            };
            let away = |error| NotSignedIn::Store(ManagementError::Store(error));
            let user = accounts.user(user).await.map_err(away)?.ok_or(NotSignedIn::Ended)?;
            let tenant = accounts.tenant(user.tenant).await.map_err(away)?.ok_or(NotSignedIn::Ended)?;
            return Ok(Self { user, tenant, by_host: true, return_url: None });
        }
        let token = cookie::session(state, &request.headers).ok_or(NotSignedIn::Missing)?;
        let open = management::session(state.gate(), &token).await.map_err(NotSignedIn::Store)?;
        let open = open.ok_or(NotSignedIn::Ended)?;
        Ok(Self { user: open.user, tenant: open.tenant, by_host: false, return_url: open.session.return_url })
    }

    /// The plan that holds for their tenant.
    pub(crate) async fn plan(&self, gate: &UsageGate) -> Result<Plan, ManagementError> {
        let accounts = gate.accounts().ok_or(ManagementError::NoAccounts)?;
        let plan = accounts.plan(&self.tenant.plan, Some(self.tenant.plan_version)).await?;
        plan.ok_or(ManagementError::NotFound("plan"))
    }

    /// For whom permissions are asked.
    pub(crate) const fn actor(&self) -> Actor {
        Actor::new(&self.user, &self.tenant)
    }
}

impl From<NotSignedIn> for Problem {
    fn from(reason: NotSignedIn) -> Self {
        match reason {
            NotSignedIn::Missing => {
                Self::new(Code::MissingToken, "nobody is signed in: come by a link from the account's own pages")
            }
            NotSignedIn::Ended => Self::new(Code::InvalidToken, "the session has ended: sign in again"),
            NotSignedIn::Store(error) => error.into(),
        }
    }
}

impl FromRequestParts<PortalState> for SignedIn {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &PortalState) -> Result<Self, Problem> {
        Ok(Self::find(state, parts).await?)
    }
}
