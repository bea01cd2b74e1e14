//! The layer.

use tower_layer::Layer;
use usage_gate_core::UsageGate;

use crate::UsageGateService;

/// Puts a gate around a service.
///
/// ```
/// # use usage_gate_core::{UsageGate, clock::Clock, model::Meters, secret::Pepper, store::memory::MemoryStore};
/// # use usage_gate_tower::{UsageGateLayer, RequestBody, ResponseBody};
/// # use http::{Request, Response}; use tower::{ServiceBuilder, ServiceExt}; use http_body_util::Full; use bytes::Bytes;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let gate = UsageGate::builder().store(MemoryStore::new(Clock::system())).pepper(Pepper::new(&[7; 32])).build().await?;
/// let hello = tower::service_fn(|_: Request<RequestBody<Full<Bytes>>>| async {
///     Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from("hello"))))
/// });
/// let service = ServiceBuilder::new().layer(UsageGateLayer::new(&gate)).service(hello);
/// let answer = service.oneshot(Request::new(Full::default())).await?;
/// assert_eq!(answer.status(), 401, "no key, no answer");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct UsageGateLayer {
    gate: UsageGate,
}

impl UsageGateLayer {
    /// A layer of this gate.
    #[must_use]
    pub fn new(gate: &UsageGate) -> Self {
        Self { gate: gate.clone() }
    }
}

impl<S> Layer<S> for UsageGateLayer {
    type Service = UsageGateService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        UsageGateService::new(self.gate.clone(), inner)
    }
}
