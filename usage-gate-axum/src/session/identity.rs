//! The host's own login.

use http::request::Parts;
use usage_gate_core::model::UserId;

/// Tells who is signed in to the host, so that its users need no link into the portal.
///
/// Asked for each request under the portal's prefix, before our own cookie is looked at. What it says is believed: it must check a session
/// of the host's, never a plain header or cookie that a browser can set as it likes. The user must exist in the gate's account store; a
/// host usually finds its own id there as `external_id`.
///
/// ```
/// # use http::request::Parts; use usage_gate_axum::Identity; use usage_gate_core::model::UserId;
/// #[derive(Debug, Clone)]
/// struct SignedInToHost(UserId);
///
/// struct HostLogin;
///
/// #[async_trait::async_trait]
/// impl Identity for HostLogin {
///     async fn user(&self, request: &Parts) -> Option<UserId> {
///         // The host's own middleware has checked its session and put this here.
///         request.extensions.get::<SignedInToHost>().map(|user| user.0)
///     }
/// }
/// ```
#[async_trait::async_trait]
pub trait Identity: Send + Sync + 'static {
    /// The user who makes this request; `None` if nobody is signed in to the host.
    async fn user(&self, request: &Parts) -> Option<UserId>;
}
