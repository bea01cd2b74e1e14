//! What a handler sees of the gate: who calls, and where to state the cost.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use http::HeaderValue;
use smallvec::SmallVec;
use usage_gate_core::UsageGate;
use usage_gate_core::admission::Caller;
use usage_gate_core::model::{MeterIndex, RequestId};
use usage_gate_core::routes::{CompiledRoute, RouteIndex};

/// The gate's word on one request, in its extensions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GateContext {
    shared: Arc<Shared>,
}

/// One request's state, shared by handler, request body and response body.
#[derive(Debug)]
pub(crate) struct Shared {
    gate: UsageGate,
    caller: Option<Arc<Caller>>,
    route: RouteIndex,
    request: RequestId,
    request_value: HeaderValue,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) too_large: AtomicBool,
    /// What repetitions of the request have in common, once its body was read to its end.
    pub(crate) retry: OnceLock<u128>,
    any_stated: AtomicBool,
    stated: Mutex<Stated>,
}

pub(crate) type Stated = SmallVec<[(MeterIndex, u64); 2]>;

impl GateContext {
    pub(crate) fn new(
        gate: UsageGate,
        caller: Option<Arc<Caller>>,
        route: RouteIndex,
        request: RequestId,
        request_value: HeaderValue,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                gate,
                caller,
                route,
                request,
                request_value,
                bytes_in: AtomicU64::new(0),
                too_large: AtomicBool::new(false),
                retry: OnceLock::new(),
                any_stated: AtomicBool::new(false),
                stated: Mutex::default(),
            }),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Who calls; `None` on a public route.
    #[must_use]
    pub fn caller(&self) -> Option<&Arc<Caller>> {
        self.shared.caller.as_ref()
    }

    /// The route's rule.
    #[must_use]
    pub fn route(&self) -> Option<&CompiledRoute> {
        self.shared.gate.routes().route(self.shared.route)
    }

    /// The request's id.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        self.shared.request
    }

    /// The request's id as a header value.
    #[must_use]
    pub fn request_id_value(&self) -> HeaderValue {
        self.shared.request_value.clone()
    }

    /// Whether the request's body has passed the route's bound.
    #[must_use]
    pub fn body_too_large(&self) -> bool {
        self.shared.too_large.load(Ordering::Relaxed)
    }

    /// Where to state what the request costs.
    #[must_use]
    pub fn cost(&self) -> CostHandle<'_> {
        CostHandle { shared: &self.shared }
    }
}

/// States what one request costs.
#[derive(Debug, Clone, Copy)]
pub struct CostHandle<'a> {
    shared: &'a Arc<Shared>,
}

impl CostHandle<'_> {
    /// Replaces the units of a meter that this request takes, until its response ends. The last word counts.
    ///
    /// `false` if the meter is not declared: then nothing is counted but the mistake, in a metric.
    pub fn set(&self, meter: &str, units: u64) -> bool {
        let Some(index) = self.shared.gate.meters().index(meter) else {
            self.shared.gate.note_undeclared_meter();
            return false;
        };
        let mut stated = self.shared.stated.lock().unwrap_or_else(PoisonError::into_inner);
        stated.retain(|(known, _)| *known != index);
        stated.push((index, units));
        // Release pairs with the Acquire in `stated`.
        self.shared.any_stated.store(true, Ordering::Release);
        true
    }
}

impl Shared {
    /// Reads `rows=40, credits=3`; what is malformed or undeclared is left out and counted.
    pub(crate) fn state_by_header(self: &Arc<Self>, value: &HeaderValue) {
        let cost = CostHandle { shared: self };
        for part in value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let stated =
                part.split_once('=').and_then(|(meter, units)| Some((meter.trim(), units.trim().parse().ok()?)));
            match stated {
                Some((meter, units)) => {
                    cost.set(meter, units);
                }
                None => self.gate.note_undeclared_meter(),
            }
        }
    }

    /// Whether somebody has stated the units of this meter.
    pub(crate) fn states(&self, meter: MeterIndex) -> bool {
        self.any_stated.load(Ordering::Acquire) && self.stated().iter().any(|(known, _)| *known == meter)
    }

    pub(crate) fn stated(&self) -> Stated {
        if !self.any_stated.load(Ordering::Acquire) {
            return Stated::new();
        }
        self.stated.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
