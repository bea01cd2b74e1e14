//! The service: the head is judged in `call`, synchronously where nothing needs a store.

use std::net::IpAddr;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;
use usage_gate_core::UsageGate;
use usage_gate_core::admission::{Admission, RequestHead};

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
    B: Body,
    R: Body,
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
        let admission = self.gate.admit(&RequestHead {
            method: &parts.method,
            path: parts.uri.path(),
            headers: &parts.headers,
            client: client(&parts.extensions),
            content_length: content_length(&parts.headers).or_else(|| body.size_hint().exact()),
            bounds: &[],
        });
        match admission {
            Admission::Refused(refused) => ResponseFuture::refused(self.gate.clone(), refused),
            Admission::Waiting(waiting) => {
                // The clone may not be ready; the one that `poll_ready` was called on is the one to use.
                let fresh = self.inner.clone();
                let ready = std::mem::replace(&mut self.inner, fresh);
                ResponseFuture::waiting(self.gate.clone(), *waiting, ready, parts, body)
            }
            admitted => {
                if let Admission::Admitted(admitted) = &admitted {
                    admitted.sample_gate_time();
                }
                ResponseFuture::forward(self.gate.clone(), admitted, &mut self.inner, parts, body)
            }
        }
    }
}

fn client(extensions: &http::Extensions) -> Option<IpAddr> {
    extensions.get::<ClientAddress>().map(|address| address.0)
}

fn content_length(headers: &http::HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
