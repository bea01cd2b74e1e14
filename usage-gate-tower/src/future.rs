//! The response's future: refused, forwarding, or reading the body or waiting for a store first.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, request, response};
use http_body::Body;
use tower_service::Service;
use usage_gate_core::UsageGate;
use usage_gate_core::admission::{Admission, Admitted, Code, Refusal, Refused, RetryHasher, Waiting};
use usage_gate_core::journal::Synced;
use usage_gate_core::routes::{BillRetries, CompiledRoute, OnHangUp, TokenFormat};

use crate::body::{Counting, Followed, Meter, ReadAhead, Source};
use crate::hang_up::Awaited;
use crate::service::{content_length, head};
use crate::tokens::{Asked, TokenReader};
use crate::{GateContext, RequestBody, ResponseBody, problem, rate_limit};

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
static COST: HeaderName = HeaderName::from_static("x-usage-gate-cost");

pin_project_lite::pin_project! {
    /// The future of an answer.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S: Service<Request<RequestBody<B>>>, B> {
        #[pin]
        state: State<S, B, S::Future, S::Response>,
        gate: UsageGate,
    }
}

pin_project_lite::pin_project! {
    #[project = StateProj]
    enum State<S, B, F, A> {
        Refused { refused: Option<Box<Refused>> },
        Forwarding { #[pin] inner: F, meter: Option<Meter>, request: Option<HeaderValue> },
        /// A route that drains.
        Awaiting { awaited: Awaited<F>, request: Option<HeaderValue> },
        /// A token route: what the body asks for is needed to decide.
        Reading { reading: Option<Box<Reading<S, B>>> },
        /// Off the common path, hence the box.
        Waiting { waiting: Pin<Box<dyn Future<Output = Admission> + Send>>, kept: Option<Box<Kept<S, B>>> },
        /// An answer without a body: its head is the last that is released, and its record must survive power loss before that.
        Syncing { settled: Option<Box<Settled<A>>> },
    }
}

/// An answer that is over with its head.
struct Settled<A> {
    answer: A,
    synced: Synced,
}

/// What is needed to forward once the decision is there.
struct Kept<S, B> {
    service: S,
    parts: request::Parts,
    source: Source<B>,
    tokens: Option<Tokens>,
}

/// A request whose body is read before it is admitted.
struct Reading<S, B> {
    service: S,
    parts: request::Parts,
    ahead: Box<ReadAhead<B>>,
    format: TokenFormat,
}

/// What was read of a request on a token route.
#[derive(Clone, Copy)]
struct Tokens {
    format: TokenFormat,
    asked: Asked,
    /// Bytes of the client's body, where another is forwarded.
    rewritten: Option<u64>,
}

impl<S: Service<Request<RequestBody<B>>>, B> std::fmt::Debug for ResponseFuture<S, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<S, B, R> ResponseFuture<S, B>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: Body,
    R: Body + Send + 'static,
    R::Data: From<Bytes>,
{
    pub(crate) const fn refused(gate: UsageGate, refused: Box<Refused>) -> Self {
        Self { gate, state: State::Refused { refused: Some(refused) } }
    }

    pub(crate) fn waiting(gate: UsageGate, waiting: Waiting, service: S, parts: request::Parts, body: B) -> Self {
        let kept = Kept { service, parts, source: Source::Untouched { body }, tokens: None };
        Self { gate, state: wait(waiting, kept) }
    }

    pub(crate) fn reading(gate: UsageGate, format: TokenFormat, service: S, parts: request::Parts, body: B) -> Self {
        let reading = Reading { service, parts, ahead: Box::new(ReadAhead::new(body)), format };
        Self { gate, state: State::Reading { reading: Some(Box::new(reading)) } }
    }

    /// Calls the inner service with what was admitted.
    pub(crate) fn forward(
        gate: UsageGate,
        admission: Admission,
        service: &mut S,
        parts: request::Parts,
        source: Source<B>,
    ) -> Self {
        let state = forward(&gate, admission, service, parts, source, None);
        Self { gate, state }
    }
}

fn wait<S, B, F, A>(waiting: Waiting, kept: Kept<S, B>) -> State<S, B, F, A> {
    State::Waiting { waiting: Box::pin(waiting.finish()), kept: Some(Box::new(kept)) }
}

/// Decides once the body is read.
fn decide<S, B, R>(gate: &UsageGate, reading: Reading<S, B>) -> State<S, B, S::Future, Response<R>>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: Body,
    R: Body + Send + 'static,
    R::Data: From<Bytes>,
{
    let Reading { mut service, mut parts, mut ahead, format } = reading;
    let unread = Asked::unread(content_length(&parts.headers).unwrap_or(0).max(ahead.least()));
    let length = ahead.whole().map(|whole| u64::try_from(whole.len()).unwrap_or(u64::MAX));
    let (asked, other) = match ahead.whole() {
        Some(whole) if !parts.headers.contains_key(CONTENT_ENCODING) => Asked::read(format, whole),
        _ => (unread, None),
    };
    let rewritten = other.is_some().then_some(length).flatten();
    if let Some(other) = &other
        && parts.headers.contains_key(CONTENT_LENGTH)
    {
        parts.headers.insert(CONTENT_LENGTH, other.len().into());
    }
    let bounds = asked.bounds();
    let least = length.or_else(|| content_length(&parts.headers)).unwrap_or_else(|| ahead.least());
    let admission = gate.admit(&head(&parts, Some(least), &bounds));
    ahead.hand_over(other);
    // An answer that is compressed could not be read.
    parts.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let (source, tokens) = (Source::Read { ahead }, Some(Tokens { format, asked, rewritten }));
    match admission {
        Admission::Waiting(waiting) => wait(*waiting, Kept { service, parts, source, tokens }),
        admission => forward(gate, admission, &mut service, parts, source, tokens),
    }
}

fn forward<S, B, R>(
    gate: &UsageGate,
    admission: Admission,
    service: &mut S,
    mut parts: request::Parts,
    source: Source<B>,
    tokens: Option<Tokens>,
) -> State<S, B, S::Future, Response<R>>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: Body,
    R: Body + Send + 'static,
    R::Data: From<Bytes>,
{
    let (route, request, admitted) = match admission {
        Admission::Admitted(admitted) => (admitted.route(), admitted.request(), Some(admitted)),
        Admission::Public(route, request) => (route, request, None),
        Admission::Refused(refused) => return State::Refused { refused: Some(refused) },
        // A decision that has waited for its store does not wait again.
        Admission::Waiting(_) => return State::Refused { refused: None },
    };
    // One allocation, which its clones share: it goes to the handler and into the answer.
    let value = HeaderValue::from_maybe_shared(Bytes::from_owner(request.text()));
    let value = value.unwrap_or(HeaderValue::from_static(""));
    let caller = admitted.as_ref().map(|admitted| std::sync::Arc::clone(admitted.caller()));
    let context = GateContext::new(gate.clone(), caller, route, request, value.clone());
    let rule = gate.routes().route(route);
    let retry = admitted.as_ref().zip(rule).and_then(|(admitted, rule)| retry(admitted, rule, &parts));
    let rewritten = tokens.and_then(|tokens| tokens.rewritten);
    let most = rule.and_then(|rule| rule.max_body);
    let body = RequestBody::new(source, rewritten, context.shared(), most, retry);
    let is_head = parts.method == Method::HEAD;
    let drains = rule.is_some_and(|rule| rule.on_hang_up == OnHangUp::Drain);
    let meter = admitted.map(|admitted| {
        let tokens = tokens.map(|tokens| TokenReader::new(tokens.format, tokens.asked));
        Meter::new(admitted, std::sync::Arc::clone(context.shared()), tokens, drains, is_head)
    });
    parts.extensions.insert(context);
    let inner = service.call(Request::from_parts(parts, body));
    match meter {
        Some(meter) if meter.drains() => {
            State::Awaiting { awaited: Awaited::new(inner, meter, gate.clone()), request: Some(value) }
        }
        meter => State::Forwarding { inner, meter, request: Some(value) },
    }
}

/// What recognises repetitions of the request, on a route that bills them once.
fn retry(admitted: &Admitted, rule: &CompiledRoute, parts: &request::Parts) -> Option<Box<RetryHasher>> {
    if rule.bill_retries == BillRetries::Each {
        return None;
    }
    let key = parts.headers.get(&IDEMPOTENCY_KEY)?;
    let target = parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    Some(Box::new(RetryHasher::new(admitted.caller(), key.as_bytes(), parts.method.as_str(), target)))
}

impl<S, B, R> Future for ResponseFuture<S, B>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: Body,
    R: Body + Send + 'static,
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
                    let answer = match answer {
                        Ok(answer) => release(this.gate, answer, meter, request.take()),
                        Err(error) => return Poll::Ready(Err(error)),
                    };
                    match answer {
                        Released::Now(response) => return Poll::Ready(Ok(response)),
                        Released::Synced(settled) => this.state.set(State::Syncing { settled: Some(settled) }),
                    }
                }
                StateProj::Awaiting { awaited, request } => {
                    let (answer, meter) = ready!(awaited.poll(cx));
                    let answer = match answer {
                        Ok(answer) => release(this.gate, answer, Some(meter), request.take()),
                        Err(error) => return Poll::Ready(Err(error)),
                    };
                    match answer {
                        Released::Now(response) => return Poll::Ready(Ok(response)),
                        Released::Synced(settled) => this.state.set(State::Syncing { settled: Some(settled) }),
                    }
                }
                StateProj::Syncing { settled } => {
                    if let Some(settled) = settled {
                        ready!(Pin::new(&mut settled.synced).poll(cx));
                    }
                    let response = match settled.take() {
                        Some(settled) => settled.answer.map(|body| ResponseBody::inner(body, None)),
                        None => refusal(this.gate, None),
                    };
                    return Poll::Ready(Ok(response));
                }
                StateProj::Reading { reading } => {
                    if let Some(reading) = reading {
                        ready!(reading.ahead.poll_read(cx));
                    }
                    let next = match reading.take() {
                        Some(reading) => decide(this.gate, *reading),
                        None => State::Refused { refused: None },
                    };
                    this.state.set(next);
                }
                StateProj::Waiting { waiting, kept } => {
                    let admission = ready!(waiting.as_mut().poll(cx));
                    let next = match kept.take() {
                        Some(kept) => {
                            let Kept { mut service, parts, source, tokens } = *kept;
                            forward(this.gate, admission, &mut service, parts, source, tokens)
                        }
                        None => State::Refused { refused: None },
                    };
                    this.state.set(next);
                }
            }
        }
    }
}

/// An answer that may be given to the client now, or once its record is safe.
enum Released<R> {
    Now(Response<ResponseBody<R>>),
    Synced(Box<Settled<Response<R>>>),
}

/// The head of the inner service's response, made ready for the client.
fn release<R>(
    gate: &UsageGate,
    answer: Response<R>,
    mut meter: Option<Meter>,
    request: Option<HeaderValue>,
) -> Released<R>
where
    R: Body + Send + 'static,
    R::Data: From<Bytes>,
{
    let (mut parts, body) = answer.into_parts();
    // Room for our fields in one step.
    parts.headers.reserve(4);
    let mut may_change = false;
    if let Some(meter) = &mut meter {
        may_change = read_head(&mut parts, meter);
        if let Some(admitted) = meter.admitted() {
            rate_limit::on_served(&mut parts.headers, admitted, gate.legacy_headers());
        }
    }
    if meter.is_none() {
        parts.headers.remove(&COST);
    }
    if let Some(request) = request {
        parts.headers.insert(REQUEST_ID.clone(), request);
    }
    // Asked before the field goes: a body of no bytes has none to change.
    let length = content_length(&parts.headers).or_else(|| body.size_hint().exact());
    if let Some(over) = meter.take_if(|meter| meter.is_head() || has_no_body(parts.status, length, &body)) {
        // Nobody polls such a body, so nothing of it could wait: the head does.
        let synced = over.finish();
        let answer = Response::from_parts(parts, body);
        return match synced {
            Some(synced) => Released::Synced(Box::new(Settled { answer, synced })),
            None => Released::Now(answer.map(|body| ResponseBody::inner(body, None))),
        };
    }
    if may_change {
        parts.headers.remove(CONTENT_LENGTH);
    }
    let left = length.filter(|_| !may_change);
    let body = match meter {
        Some(meter) if meter.follows() => {
            let drains = meter.drains();
            let followed = Followed::new(body, meter, may_change, left);
            ResponseBody::followed(if drains { followed.reading_on(gate.clone()) } else { followed })
        }
        meter => ResponseBody::inner(body, meter.map(|meter| Counting { meter, left })),
    };
    Released::Now(Response::from_parts(parts, body))
}

/// Whether the head is all there is of an answer.
fn has_no_body<R: Body>(status: StatusCode, length: Option<u64>, body: &R) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) || length == Some(0) || body.is_end_stream()
}

/// Takes in what the head says of cost and status, and takes the cost out. Whether the body may change on its way.
pub(crate) fn read_head(parts: &mut response::Parts, meter: &mut Meter) -> bool {
    let mut stated = false;
    for value in parts.headers.get_all(&COST) {
        meter.shared().state_by_header(value);
        stated = true;
    }
    if stated {
        parts.headers.remove(&COST);
    }
    meter.head(parts.status.as_u16(), &parts.headers)
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
