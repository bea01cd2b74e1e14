//! What is seen of a request: one observation in the histogram, one line in the log at level debug.
//!
//! Both at its end, when the last byte was handed out or the client left: that is what a client waits for.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use anyhow::Context as _;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use metrics::{Histogram, Label};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use usage_gate_core::routes::{Matched, Routes};

const DURATION: &str = "http_server_request_duration_seconds";
/// OpenTelemetry's.
const BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Makes this process's recorder, which `/metrics` reads.
pub(crate) fn install() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(DURATION.into()), &BUCKETS)
        .context("metrics")?
        .install_recorder()
        .context("metrics")?;
    metrics::describe_histogram!(DURATION, metrics::Unit::Seconds, "From a request's head to the end of its answer.");
    metrics::describe_gauge!("usage_gate_build_info", "1, with the version as a label.");
    metrics::gauge!("usage_gate_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// Methods that have a name in metrics; the last stands for all others.
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "_OTHER"];
/// Statuses from 100.
const STATUSES: usize = 500;

type ByStatus = Box<[OnceLock<Histogram>]>;

/// Handles of the histogram by route, method and status, each made once: a look-up by labels would allocate.
#[derive(Debug)]
pub(super) struct Durations {
    /// Path templates: of each route, then of what no route has, then of our own pages.
    templates: Box<[Arc<str>]>,
    handles: Box<[OnceLock<ByStatus>]>,
}

impl Durations {
    pub(super) fn new(routes: &Routes, reserved: &str) -> Self {
        let ours: Arc<str> = format!("{reserved}/{{*rest}}").into();
        let templates: Box<[Arc<str>]> =
            routes.iter().map(|route| Arc::clone(&route.path)).chain(["".into(), ours]).collect();
        let handles = std::iter::repeat_with(OnceLock::new).take(templates.len() * METHODS.len()).collect();
        Self { templates, handles }
    }

    /// The place of a request's route.
    fn place(&self, routes: &Routes, request: &Request<impl Sized>) -> usize {
        match routes.find(request.method(), request.uri().path()) {
            Matched::Route(index, _) => index.position(),
            _ => self.templates.len() - 2,
        }
    }

    fn handle(&self, route: usize, method: usize, status: StatusCode) -> Option<&Histogram> {
        let by_status = self.handles.get(route * METHODS.len() + method)?;
        let by_status = by_status.get_or_init(|| std::iter::repeat_with(OnceLock::new).take(STATUSES).collect());
        let handle = by_status.get(usize::from(status.as_u16()).checked_sub(100)?)?;
        Some(handle.get_or_init(|| {
            let template = self.templates.get(route).map_or_else(String::new, |template| template.to_string());
            let mut labels = vec![
                Label::new("http_request_method", METHODS.get(method).copied().unwrap_or("_OTHER")),
                Label::new("http_route", template),
                Label::new("http_response_status_code", status.as_str().to_owned()),
                Label::new("url_scheme", "http"),
            ];
            if status.is_server_error() {
                labels.push(Label::new("error_type", status.as_str().to_owned()));
            }
            metrics::histogram!(DURATION, labels)
        }))
    }
}

fn method_place(method: &Method) -> usize {
    METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(METHODS.len() - 1)
}

/// A request under observation, from its head on.
#[derive(Debug)]
pub(super) struct Observation {
    durations: Arc<Durations>,
    begun: Instant,
    route: usize,
    method: usize,
}

impl Observation {
    pub(super) fn begin(
        durations: &Arc<Durations>,
        routes: &Routes,
        request: &Request<impl Sized>,
        ours: bool,
    ) -> Self {
        let route = if ours { durations.templates.len() - 1 } else { durations.place(routes, request) };
        Self { durations: Arc::clone(durations), begun: Instant::now(), route, method: method_place(request.method()) }
    }

    /// Goes on to the end of the answer's body.
    pub(super) fn follow<B>(self, response: Response<B>) -> Response<Observed<B>> {
        let request_id = if tracing::enabled!(tracing::Level::DEBUG) {
            response.headers().get("x-request-id").cloned()
        } else {
            None
        };
        let end = End { status: response.status(), request_id, observation: self };
        response.map(|body| Observed { body, end })
    }
}

/// Observes when it is dropped: with the body, however that ends.
#[derive(Debug)]
struct End {
    observation: Observation,
    status: StatusCode,
    request_id: Option<HeaderValue>,
}

impl Drop for End {
    fn drop(&mut self) {
        let Observation { durations, begun, route, method } = &self.observation;
        let elapsed = begun.elapsed();
        if let Some(handle) = durations.handle(*route, *method, self.status) {
            handle.record(elapsed.as_secs_f64());
        }
        // The id is ours and the route is a template: nothing of a client's text gets into the line.
        tracing::debug!(
            request_id = self.request_id.as_ref().and_then(|id| id.to_str().ok()),
            method = METHODS.get(*method).copied(),
            route = durations.templates.get(*route).map(|template| &**template),
            status = self.status.as_u16(),
            seconds = elapsed.as_secs_f64(),
            "answered"
        );
    }
}

pin_project! {
    /// A body whose end is observed.
    #[derive(Debug)]
    pub(crate) struct Observed<B> {
        #[pin]
        body: B,
        end: End,
    }
}

impl<B: Body> Body for Observed<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
