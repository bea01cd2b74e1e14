//! A gate over the memory store, one tenant with one key, and services that do what a script says.

use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt};
use usage_gate_core::admission::LimitView;
use usage_gate_core::clock::Clock;
use usage_gate_core::management::{self, KeyDraft, LimitDraft, PlanDraft, TenantDraft};
use usage_gate_core::model::{LimitKind, Per, Plan, Tenant, Timestamp};
use usage_gate_core::period::{Period, Zone};
use usage_gate_core::routes::Route;
use usage_gate_core::secret::Pepper;
use usage_gate_core::store::memory::MemoryStore;
use usage_gate_core::store::{Dimension, UsageQuery};
use usage_gate_core::{JournalConfig, JournalDurability, UsageGate, UsageGateBuilder};
use usage_gate_tower::{RequestBody, ResponseBody, UsageGateLayer};

pub(crate) struct Stage {
    pub(crate) gate: UsageGate,
    pub(crate) key: String,
    tenant: Tenant,
    plan: Plan,
    calls: Arc<AtomicUsize>,
}

/// A frame of a scripted body.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    Data(&'static str),
    Trailers,
    Error,
    /// Nothing more comes.
    Silence,
}

/// A response by script.
#[derive(Debug, Clone)]
pub(crate) struct Scripted {
    parts: Vec<Part>,
    exact: Option<u64>,
    status: u16,
    header: Option<(&'static str, &'static str)>,
    tells_end: bool,
}

impl Scripted {
    pub(crate) fn of(parts: impl IntoIterator<Item = Part>) -> Self {
        Self { parts: parts.into_iter().collect(), exact: None, status: 200, header: None, tells_end: true }
    }

    pub(crate) fn sized(mut self, bytes: u64) -> Self {
        self.exact = Some(bytes);
        self
    }

    /// Like a body made of a stream: which frame is the last it knows only after it.
    pub(crate) fn unaware(mut self) -> Self {
        self.tells_end = false;
        self
    }

    pub(crate) fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.header = Some((name, value));
        self
    }

    pub(crate) fn response(self) -> Response<Self> {
        let mut response = Response::new(self.clone());
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        if self.parts.is_empty() {
            return Poll::Ready(None);
        }
        if matches!(self.parts[0], Part::Silence) {
            return Poll::Pending;
        }
        Poll::Ready(Some(match self.parts.remove(0) {
            Part::Data(text) => Ok(Frame::data(Bytes::from_static(text.as_bytes()))),
            Part::Trailers => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                Ok(Frame::trailers(trailers))
            }
            Part::Error | Part::Silence => Err("the body broke"),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.tells_end && self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

pub(crate) fn limit_quota(name: &str, units: u64) -> LimitDraft {
    LimitDraft { per: Some(Per::Month), ..LimitDraft::new(name, LimitKind::Quota, units) }
}

pub(crate) fn limit_rate(name: &str, units: u64, burst: u64) -> LimitDraft {
    LimitDraft { per: Some(Per::Hour), burst: Some(burst), ..LimitDraft::new(name, LimitKind::Rate, units) }
}

pub(crate) fn limit_open(name: &str, units: u64) -> LimitDraft {
    LimitDraft::new(name, LimitKind::Concurrency, units)
}

/// A request with a body of `text`, its length announced or not.
pub(crate) fn post(key: &str, text: &'static str, sized: bool) -> Request<Scripted> {
    let body = Scripted::of([Part::Data(text)]);
    let body = if sized { body.sized(u64::try_from(text.len()).unwrap()) } else { body };
    Request::post("/v1/echo").header("x-api-key", key).body(body).unwrap()
}

impl Stage {
    pub(crate) async fn new(limits: Vec<LimitDraft>) -> Self {
        Self::with_routes(limits, Vec::new()).await
    }

    pub(crate) async fn with_routes(limits: Vec<LimitDraft>, routes: Vec<Route>) -> Self {
        Self::over(UsageGate::builder().meter("rows").routes(routes), limits).await
    }

    /// A gate whose records survive power loss.
    pub(crate) async fn on_disk(folder: &Path) -> Self {
        let mut journal = JournalConfig::default();
        journal.durability = JournalDurability::Disk;
        Self::over(UsageGate::builder().data_dir(folder).journal(journal), vec![]).await
    }

    async fn over(gate: UsageGateBuilder, limits: Vec<LimitDraft>) -> Self {
        let store = MemoryStore::new(Clock::system());
        let gate = gate.store(store).pepper(Pepper::new(&[7; 32])).build().await.unwrap();
        let plan = management::create_plan(&gate, PlanDraft::new("plan", limits)).await.unwrap();
        let tenant = management::create_tenant(&gate, TenantDraft::new("Acme", "plan")).await.unwrap();
        let issued = management::create_key(&gate, tenant.id, KeyDraft::new("key")).await.unwrap();
        Self { gate, key: issued.text.to_string(), tenant, plan, calls: Arc::default() }
    }

    /// The response of a service that answers by script.
    pub(crate) async fn response<B>(&self, request: Request<B>, scripted: Scripted) -> Response<ResponseBody<Scripted>>
    where
        B: Body + Send + 'static,
    {
        let calls = Arc::clone(&self.calls);
        let inner = tower::service_fn(move |_: Request<RequestBody<B>>| {
            calls.fetch_add(1, Ordering::Relaxed);
            let scripted = scripted.clone();
            async move { Ok::<_, Infallible>(scripted.response()) }
        });
        UsageGateLayer::new(&self.gate).layer(inner).oneshot(request).await.unwrap()
    }

    /// Status and JSON (or null) of the whole answer.
    pub(crate) async fn call<B>(&self, request: Request<B>, scripted: Scripted) -> (StatusCode, serde_json::Value)
    where
        B: Body + Send + 'static,
    {
        let response = self.response(request, scripted).await;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// The error of a service that fails.
    pub(crate) async fn failing<B: Body + Send + 'static>(&self, request: Request<B>) -> &'static str {
        let inner =
            tower::service_fn(|_: Request<RequestBody<B>>| async { Err::<Response<Scripted>, _>("the service broke") });
        UsageGateLayer::new(&self.gate).layer(inner).oneshot(request).await.unwrap_err()
    }

    /// A service that never answers.
    pub(crate) async fn stuck<B: Body + Send + 'static>(&self, request: Request<B>) {
        let inner = tower::service_fn(|_: Request<RequestBody<B>>| async {
            std::future::pending::<Result<Response<Scripted>, Infallible>>().await
        });
        let _ = UsageGateLayer::new(&self.gate).layer(inner).oneshot(request).await;
    }

    /// What a service that reads the whole request body read, or why it could not.
    pub(crate) async fn echo(&self, request: Request<Scripted>) -> Result<String, String> {
        let (send, receive) = std::sync::mpsc::channel();
        let inner = tower::service_fn(move |request: Request<RequestBody<Scripted>>| {
            let send = send.clone();
            async move {
                let read = request.into_body().collect().await;
                let read = read.map(|read| String::from_utf8(read.to_bytes().to_vec()).unwrap());
                send.send(read.map_err(|error| error.to_string())).unwrap();
                Ok::<_, Infallible>(Scripted::of([]).response())
            }
        });
        UsageGateLayer::new(&self.gate).layer(inner).oneshot(request).await.unwrap();
        receive.recv().unwrap()
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Outcome, units and calls of a meter, as shipped.
    pub(crate) async fn usage(&self, meter: &str) -> Vec<(String, u64, u64)> {
        self.gate.ship().await.unwrap();
        let query = UsageQuery {
            period: Period { start: Timestamp::from_micros(0), end: Timestamp::from_micros(i64::MAX) },
            zone: Zone::UTC,
            window: None,
            group_by: [Dimension::Outcome].into(),
            tenant: Some(self.tenant.id),
            user: None,
            key: None,
            route: None,
            meter: Some(meter.into()),
            outcome: None,
            environment: None,
            skip: 0,
            size: 100,
        };
        let page = self.gate.reader().unwrap().usage(&query).await.unwrap();
        let outcome = |item: &usage_gate_core::store::UsageItem| item.group[0].1.clone().unwrap();
        page.items.iter().map(|item| (outcome(item), item.units, item.requests)).collect()
    }

    /// Units used of a limit.
    pub(crate) async fn used(&self, limit: &str) -> u64 {
        let states = self.gate.limit_states(&self.tenant, &self.plan, LimitView::default()).await.unwrap();
        states.iter().find(|state| state.limit.name == limit).unwrap().used
    }
}
