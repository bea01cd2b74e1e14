//! UsageGate as a tower layer: authentication, limits and metering around any HTTP service.
//!
//! [`UsageGateLayer`] wraps a service that takes `http::Request` and gives `http::Response`; it is generic over both bodies and the inner
//! error, and adds no error of its own: what it refuses is an answer.
//!
//! 1. The head is admitted by [`UsageGate`](usage_gate_core::UsageGate) (steps 1 to 5 there); refusals become [`problem`] details.
//! 2. A [`GateContext`] goes into the request's extensions: who calls, and where a handler states its cost.
//! 3. The inner service runs, with a request body that counts its bytes.
//! 4. The response gets its `RateLimit` headers, and a body that counts, and settles before the last frame is released, or on drop.
//!
//! # Deployment caveat
//! Limits counted by address need [`ClientAddress`] in the request's extensions. Whoever accepts the connection puts it there;
//! see [`source::client_address`] for hosts behind proxies.

mod body;
mod context;
mod future;
mod hang_up;
mod layer;
pub mod problem;
mod rate_limit;
mod service;
pub mod source;
mod tokens;

pub use body::{RequestBody, RequestBodyError, ResponseBody};
pub use context::{CostHandle, GateContext};
pub use future::ResponseFuture;
pub use layer::UsageGateLayer;
pub use service::UsageGateService;
pub use source::ClientAddress;
