//! The way to the upstream and back, inside the gate's layer.
//!
//! 1. The head is made fit for the next hop: [`hop_by_hop`], then the key and forged identities go, then ours is added.
//! 2. It is sent to the route's upstream; a wait for the answer's head has an end.
//! 3. The answer's head is made fit for the client; its body streams through, [`watched`].
//!
//! What goes wrong becomes an answer here, inside the layer, so that it is recorded as not billed.

mod cookies;
mod hop_by_hop;
mod identity;
mod upstream;
mod watched;

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, ResponseFuture};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};
use usage_gate_core::UsageGate;
use usage_gate_core::admission::{Code, Refusal};
use usage_gate_core::model::RequestId;
use usage_gate_tower::{GateContext, RequestBody, problem};

use crate::config::{Config, HttpUrl};
use identity::KeyHeaders;
pub(crate) use identity::Peer;
use upstream::Targets;
pub(crate) use watched::BoxError;
use watched::{Progress, Watched};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

type SentBody = Watched<RequestBody<Incoming>>;

/// Forwards requests; the innermost service of the public listener.
#[derive(Debug, Clone)]
pub(crate) struct Forward(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Client<HttpConnector, SentBody>,
    targets: Targets,
    keys: KeyHeaders,
    head_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
}

impl Forward {
    /// For the routes of a gate.
    pub(crate) fn new(config: &Config, gate: &UsageGate) -> anyhow::Result<Self> {
        let default =
            config.upstream.url.clone().context("no upstream: give --upstream URL, or upstream.url in the config")?;
        let mut by_route = HashMap::new();
        for route in gate.routes().iter() {
            if let Some(url) = &route.upstream {
                let url: HttpUrl = url.parse().with_context(|| format!("route `{}`: upstream `{url}`", route.name))?;
                by_route.insert(Arc::clone(&route.name), url);
            }
        }
        Ok(Self(Arc::new(Shared {
            client: upstream::client(config),
            targets: Targets::new(default, by_route),
            keys: KeyHeaders::new(config.keys.headers.clone(), gate.key_prefix()),
            head_timeout: config.upstream.head_timeout,
            idle_timeout: config.upstream.idle_timeout,
        })))
    }

    /// Steps 1 and 2. `Err` is an answer in place of the upstream's.
    fn send(&self, request: Request<RequestBody<Incoming>>) -> ForwardFuture {
        let shared = &*self.0;
        let (mut head, body) = request.into_parts();
        let context = head.extensions.remove::<GateContext>();
        let peer = head.extensions.remove::<Peer>();
        // Neither hyper's leftovers nor ours go along.
        head.extensions.clear();

        let route = context.as_ref().and_then(GateContext::route).map_or("", |route| &route.name);
        let target = shared.targets.of(route).at(head.uri.path_and_query());
        hop_by_hop::strip_request(&mut head.headers);
        shared.keys.strip(&mut head.headers);
        identity::strip_claims(&mut head.headers);
        cookies::strip(&mut head.headers);
        if let Some(peer) = peer {
            identity::add_source(&mut head.headers, peer);
        }
        if let Some(context) = &context {
            head.headers.insert(X_REQUEST_ID, context.request_id_value());
            if let Some(caller) = context.caller() {
                identity::add_caller(&mut head.headers, caller);
            }
        }
        head.version = Version::HTTP_11;

        let progress = (!body.is_end_stream()).then(|| Arc::new(Progress::default()));
        let body = Watched::new(body, shared.idle_timeout, progress.clone());
        let state = match target {
            Ok(uri) => {
                head.uri = uri;
                State::Sent {
                    answer: shared.client.request(Request::from_parts(head, body)),
                    head_timeout: shared.head_timeout,
                    timer: None,
                    frames: 0,
                }
            }
            Err(_) => State::Refused,
        };
        ForwardFuture { state, context, progress, idle_timeout: shared.idle_timeout }
    }
}

impl tower_service::Service<Request<RequestBody<Incoming>>> for Forward {
    type Response = Response<UpstreamBody>;
    type Error = Infallible;
    type Future = ForwardFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody<Incoming>>) -> ForwardFuture {
        self.send(request)
    }
}

pin_project! {
    /// Waits for the answer's head.
    pub(crate) struct ForwardFuture {
        #[pin]
        state: State,
        context: Option<GateContext>,
        progress: Option<Arc<Progress>>,
        idle_timeout: Option<Duration>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State {
        Sent {
            #[pin]
            answer: ResponseFuture,
            head_timeout: Option<Duration>,
            #[pin]
            timer: Option<Sleep>,
            // What the request body had reached when the timer was set.
            frames: u64,
        },
        // The target makes no URL with the upstream's: nothing was sent.
        Refused,
    }
}

impl Future for ForwardFuture {
    type Output = Result<Response<UpstreamBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = match this.state.project() {
            StateProjection::Refused => {
                Err(Refusal::new(Code::InvalidRequest, "the request target is not a path that can be forwarded"))
            }
            StateProjection::Sent { answer, head_timeout, timer, frames } => match answer.poll(cx) {
                Poll::Ready(Ok(response)) => accept(response, *this.idle_timeout),
                Poll::Ready(Err(fault)) => Err(explain(&fault, this.context.as_ref(), this.progress.as_deref())),
                Poll::Pending => {
                    ready!(poll_head_timeout(cx, *head_timeout, timer, frames, this.progress.as_deref()));
                    Err(Refusal::new(Code::UpstreamTimeout, "the upstream did not begin its answer in time"))
                }
            },
        };
        Poll::Ready(Ok(response.unwrap_or_else(|refusal| refuse(&refusal, this.context.as_ref()))))
    }
}

/// The wait for the head begins when the request has been sent: while its body makes progress, it begins anew.
fn poll_head_timeout(
    cx: &mut Context<'_>,
    head_timeout: Option<Duration>,
    mut timer: Pin<&mut Option<Sleep>>,
    frames: &mut u64,
    progress: Option<&Progress>,
) -> Poll<()> {
    let Some(head_timeout) = head_timeout else { return Poll::Pending };
    if timer.is_none() {
        timer.set(Some(sleep(head_timeout)));
    }
    let Some(mut timer) = timer.as_pin_mut() else { return Poll::Pending };
    loop {
        ready!(timer.as_mut().poll(cx));
        let now = progress.map_or(0, Progress::frames);
        if now == *frames {
            return Poll::Ready(());
        }
        *frames = now;
        timer.as_mut().reset(Instant::now() + head_timeout);
    }
}

/// Step 3.
fn accept(response: Response<Incoming>, idle: Option<Duration>) -> Result<Response<UpstreamBody>, Refusal> {
    let (mut head, body) = response.into_parts();
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        // No upgrade was asked for; bytes after this head belong to nobody (CVE-2026-2833).
        return Err(Refusal::new(Code::UpstreamUnavailable, "the upstream switched protocols without being asked"));
    }
    hop_by_hop::strip_response(&mut head.headers);
    head.extensions.clear();
    head.version = Version::HTTP_11;
    Ok(Response::from_parts(head, UpstreamBody::Streamed { body: Watched::new(body, idle, None) }))
}

/// Why there is no answer. Nothing of the upstream's address or of the system's words reaches the client.
fn explain(
    fault: &hyper_util::client::legacy::Error,
    context: Option<&GateContext>,
    progress: Option<&Progress>,
) -> Refusal {
    if context.is_some_and(GateContext::body_too_large) {
        return Refusal::new(Code::PayloadTooLarge, "the request body is larger than this route takes");
    }
    if progress.is_some_and(Progress::failed) {
        return Refusal::new(Code::InvalidRequest, "the request body broke off or stood still");
    }
    let reason = causes(fault);
    let request_id = context.map(|context| context.request_id().to_string());
    tracing::warn!(request_id, reason, "upstream unavailable");
    let detail = if fault.is_connect() {
        "the upstream cannot be reached"
    } else {
        "the upstream closed the connection without a complete answer"
    };
    Refusal::new(Code::UpstreamUnavailable, detail)
}

fn causes(fault: &dyn Error) -> String {
    let mut text = fault.to_string();
    let mut source = fault.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn refuse(refusal: &Refusal, context: Option<&GateContext>) -> Response<UpstreamBody> {
    // Without the layer around it there is no id of the request's own.
    let request_id = context.map_or_else(RequestId::generate, GateContext::request_id);
    problem::response::<Bytes>(refusal, &request_id.to_string()).map(|body| UpstreamBody::Own { body: Full::new(body) })
}

pin_project! {
    /// The upstream's body, or an answer of ours.
    #[project = UpstreamBodyProjection]
    #[derive(Debug)]
    pub(crate) enum UpstreamBody {
        Streamed { #[pin] body: Watched<Incoming> },
        Own { #[pin] body: Full<Bytes> },
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project() {
            UpstreamBodyProjection::Streamed { body } => body.poll_frame(cx),
            UpstreamBodyProjection::Own { body } => body.poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Streamed { body } => body.is_end_stream(),
            Self::Own { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Streamed { body } => body.size_hint(),
            Self::Own { body } => body.size_hint(),
        }
    }
}
