//! The service: the head is judged in `call`, synchronously where nothing needs a store.

use std::net::IpAddr;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Request, Response, request};
use http_body::Body;
use tower_service::Service;
use usage_gate_core::UsageGate;
use usage_gate_core::admission::{Admission, RequestHead};
use usage_gate_core::model::MeterIndex;

use crate::body::Source;
use crate::future::ResponseFuture;
use crate::{ClientAddress, RequestBody, ResponseBody};

/// A service behind a gate.
#[derive(Debug, Clone)]
pub struct UsageGateService<S> {
    gate: UsageGate,
    inner: S,
}

impl<S> UsageGateService<S> {
    pub(crate) const fn new(gate: UsageGate, inner: S) -> Self {
        Self { gate, inner }
    }
}

impl<S, B, R> Service<Request<B>> for UsageGateService<S>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>> + Clone,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: Body,
    R: Body + Send + 'static,
    R::Data: From<Bytes>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let length = content_length(&parts.headers).or_else(|| body.size_hint().exact());
        let head = head(&parts, length, &[]);
        if let Some(format) = self.gate.routes().token_format(&parts.method, parts.uri.path()) {
            // Strangers do not make us read their bodies.
            if let Some(refused) = self.gate.check_caller(&head) {
                return ResponseFuture::refused(self.gate.clone(), refused);
            }
            let ready = self.take_ready();
            return ResponseFuture::reading(self.gate.clone(), format, ready, parts, body);
        }
        match self.gate.admit(&head) {
            Admission::Refused(refused) => ResponseFuture::refused(self.gate.clone(), refused),
            Admission::Waiting(waiting) => {
                let ready = self.take_ready();
                ResponseFuture::waiting(self.gate.clone(), *waiting, ready, parts, body)
            }
            admitted => {
                if let Admission::Admitted(admitted) = &admitted {
                    admitted.sample_gate_time();
                }
                let source = Source::Untouched { body };
                ResponseFuture::forward(self.gate.clone(), admitted, &mut self.inner, parts, source)
            }
        }
    }
}

impl<S: Clone> UsageGateService<S> {
    /// The service that `poll_ready` was called on; the clone that takes its place may not be ready.
    fn take_ready(&mut self) -> S {
        let fresh = self.inner.clone();
        std::mem::replace(&mut self.inner, fresh)
    }
}

pub(crate) fn head<'a>(
    parts: &'a request::Parts,
    content_length: Option<u64>,
    bounds: &'a [(MeterIndex, u64)],
) -> RequestHead<'a> {
    RequestHead {
        method: &parts.method,
        path: parts.uri.path(),
        headers: &parts.headers,
        client: client(&parts.extensions),
        content_length,
        bounds,
    }
}

fn client(extensions: &http::Extensions) -> Option<IpAddr> {
    extensions.get::<ClientAddress>().map(|address| address.0)
}

pub(crate) fn content_length(headers: &http::HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
