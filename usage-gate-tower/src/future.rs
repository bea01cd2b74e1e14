//! The response's future: refused, forwarding, or waiting for a store first.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, request};
use http_body::Body;
use tower_service::Service;
use usage_gate_core::UsageGate;
use usage_gate_core::admission::{Admission, Code, Refusal, Refused, Waiting};

use crate::body::Meter;
use crate::{GateContext, RequestBody, ResponseBody, problem, rate_limit};

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static COST: HeaderName = HeaderName::from_static("x-usage-gate-cost");

pin_project_lite::pin_project! {
    /// The future of an answer.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S: Service<Request<RequestBody<B>>>, B> {
        #[pin]
        state: State<S, B, S::Future>,
        gate: UsageGate,
    }
}

pin_project_lite::pin_project! {
    #[project = StateProj]
    enum State<S, B, F> {
        Refused { refused: Option<Box<Refused>> },
        Forwarding { #[pin] inner: F, meter: Option<Meter>, request: Option<HeaderValue> },
        /// Off the common path, hence the box.
        Waiting { waiting: Pin<Box<dyn Future<Output = Admission> + Send>>, kept: Option<Box<Kept<S, B>>> },
    }
}

/// What is needed to forward once the decision is there.
struct Kept<S, B> {
    service: S,
    parts: request::Parts,
    body: B,
}

impl<S: Service<Request<RequestBody<B>>>, B> std::fmt::Debug for ResponseFuture<S, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<RequestBody<B>>>,
    B: Body,
{
    pub(crate) const fn refused(gate: UsageGate, refused: Box<Refused>) -> Self {
        Self { gate, state: State::Refused { refused: Some(refused) } }
    }

    pub(crate) fn waiting(gate: UsageGate, waiting: Waiting, service: S, parts: request::Parts, body: B) -> Self {
        let waiting = Box::pin(waiting.finish());
        Self { gate, state: State::Waiting { waiting, kept: Some(Box::new(Kept { service, parts, body })) } }
    }

    /// Calls the inner service with what was admitted.
    pub(crate) fn forward(
        gate: UsageGate,
        admission: Admission,
        service: &mut S,
        parts: request::Parts,
        body: B,
    ) -> Self {
        let state = forward(&gate, admission, service, parts, body);
        Self { gate, state }
    }
}

fn forward<S, B>(
    gate: &UsageGate,
    admission: Admission,
    service: &mut S,
    mut parts: request::Parts,
    body: B,
) -> State<S, B, S::Future>
where
    S: Service<Request<RequestBody<B>>>,
    B: Body,
{
    let (route, request, admitted) = match admission {
        Admission::Admitted(admitted) => (admitted.route(), admitted.request(), Some(admitted)),
        Admission::Public(route, request) => (route, request, None),
        Admission::Refused(refused) => return State::Refused { refused: Some(refused) },
        // A decision that has waited for its store does not wait again.
        Admission::Waiting(_) => return State::Refused { refused: None },
    };
    let value = HeaderValue::from_bytes(&request.text()).unwrap_or(HeaderValue::from_static(""));
    let caller = admitted.as_ref().map(|admitted| std::sync::Arc::clone(admitted.caller()));
    let context = GateContext::new(gate.clone(), caller, route, request, value.clone());
    let most = gate.routes().route(route).and_then(|route| route.max_body);
    let body = RequestBody::new(body, context.shared(), most);
    let meter = admitted.map(|admitted| Meter::new(admitted, std::sync::Arc::clone(context.shared())));
    parts.extensions.insert(context);
    let inner = service.call(Request::from_parts(parts, body));
    State::Forwarding { inner, meter, request: Some(value) }
}

impl<S, B, R> Future for ResponseFuture<S, B>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>>,
    B: Body,
    R: Body,
    R::Data: From<Bytes>,
{
    type Output = Result<Response<ResponseBody<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Refused { refused } => {
                    let refused = refused.take();
                    return Poll::Ready(Ok(refusal(this.gate, refused)));
                }
                StateProj::Forwarding { inner, meter, request } => {
                    let answer = ready!(inner.poll(cx));
                    // An error of the inner service drops the meter: forwarded, no head, `indeterminate`.
                    let meter = meter.take();
                    return Poll::Ready(answer.map(|answer| release(this.gate, answer, meter, request.take())));
                }
                StateProj::Waiting { waiting, kept } => {
                    let admission = ready!(waiting.as_mut().poll(cx));
                    let next = match kept.take() {
                        Some(kept) => {
                            let Kept { mut service, parts, body } = *kept;
                            forward(this.gate, admission, &mut service, parts, body)
                        }
                        None => State::Refused { refused: None },
                    };
                    this.state.set(next);
                }
            }
        }
    }
}

/// The head of the inner service's response, made ready for the client.
fn release<R: Body>(
    gate: &UsageGate,
    answer: Response<R>,
    mut meter: Option<Meter>,
    request: Option<HeaderValue>,
) -> Response<ResponseBody<R>> {
    let (mut parts, body) = answer.into_parts();
    // Room for our fields in one step.
    parts.headers.reserve(4);
    let mut stated = meter.is_none();
    if let Some(meter) = &mut meter {
        for value in parts.headers.get_all(&COST) {
            meter.shared().state_by_header(value);
            stated = true;
        }
        meter.head(parts.status.as_u16());
        if let Some(admitted) = meter.admitted() {
            rate_limit::on_served(&mut parts.headers, admitted, gate.legacy_headers());
        }
    }
    if stated {
        parts.headers.remove(&COST);
    }
    if let Some(request) = request {
        parts.headers.insert(REQUEST_ID.clone(), request);
    }
    Response::from_parts(parts, ResponseBody::inner(body, meter))
}

fn refusal<R: Body>(gate: &UsageGate, refused: Option<Box<Refused>>) -> Response<ResponseBody<R>> {
    let Some(refused) = refused else {
        // Polled after completion; an answer all the same, since a panic would take the connection's other requests along.
        let refusal = Refusal::new(Code::Overloaded, "the request was decided already").retry_after(1);
        return problem::response(&refusal, "").map(ResponseBody::refusal);
    };
    let text = refused.request.text();
    let instance = str::from_utf8(&text).unwrap_or_default();
    let mut response = problem::response::<Bytes>(&refused.refusal, instance);
    rate_limit::on_refused(response.headers_mut(), &refused, gate.legacy_headers());
    response.map(ResponseBody::refusal)
}
