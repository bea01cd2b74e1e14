//! What every route under the reserved prefix works with.

use std::sync::Arc;

use axum::extract::FromRef;
use usage_gate_core::UsageGate;

use crate::options::Portal;

/// The gate and the portal's options. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct PortalState {
    gate: UsageGate,
    options: Arc<Portal>,
}

impl PortalState {
    pub(crate) fn new(gate: &UsageGate, options: &Portal) -> Self {
        Self { gate: gate.clone(), options: Arc::new(options.clone()) }
    }

    pub(crate) const fn gate(&self) -> &UsageGate {
        &self.gate
    }

    pub(crate) fn options(&self) -> &Portal {
        &self.options
    }

    /// A path under the prefix; `rest` begins with a slash.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("{}{rest}", self.options.prefix)
    }

    /// Whether cookies are sent over TLS only.
    pub(crate) fn secure(&self) -> bool {
        self.options.public_url.as_ref().is_some_and(crate::options::PublicUrl::secure)
    }
}

impl FromRef<PortalState> for UsageGate {
    fn from_ref(state: &PortalState) -> Self {
        state.gate.clone()
    }
}
