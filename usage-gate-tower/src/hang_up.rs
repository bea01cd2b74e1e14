//! An answer that is awaited though its client has left before the head, on routes that drain.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use usage_gate_core::UsageGate;

use crate::body::{Followed, Meter};
use crate::future::read_head;

/// The inner service's future, until it is ready or the client leaves.
pub(crate) struct Awaited<F>(Option<Box<Await<F>>>);

struct Await<F> {
    inner: Pin<Box<F>>,
    meter: Meter,
    gate: UsageGate,
    on_hang_up: fn(Box<Self>),
}

impl<F, R, E> Awaited<F>
where
    F: Future<Output = Result<Response<R>, E>> + Send + 'static,
    R: Body + Send + 'static,
    E: 'static,
    R::Data: From<Bytes>,
{
    pub(crate) fn new(inner: F, meter: Meter, gate: UsageGate) -> Self {
        let on_hang_up = |awaited: Box<Await<F>>| {
            let gate = awaited.gate.clone();
            // Without room the work is dropped, which cancels the upstream: `indeterminate`.
            let _ = gate.in_background(drain(awaited));
        };
        Self(Some(Box::new(Await { inner: Box::pin(inner), meter, gate, on_hang_up })))
    }
}

impl<F: Future> Awaited<F> {
    /// The answer, and what settles it; pending for ever after that.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(F::Output, Meter)> {
        let Some(awaited) = &mut self.0 else { return Poll::Pending };
        let answer = ready!(awaited.inner.as_mut().poll(cx));
        match self.0.take() {
            Some(awaited) => Poll::Ready((answer, awaited.meter)),
            None => Poll::Pending,
        }
    }
}

async fn drain<F, R, E>(awaited: Box<Await<F>>)
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
    R::Data: From<Bytes>,
{
    let Await { inner, mut meter, .. } = *awaited;
    let body = match inner.await {
        Ok(answer) => {
            let (mut parts, body) = answer.into_parts();
            read_head(&mut parts, &mut meter);
            body
        }
        Err(_) => return,
    };
    Followed::new(body, meter, false, None).drain().await;
}

impl<F> Drop for Awaited<F> {
    fn drop(&mut self) {
        if let Some(awaited) = self.0.take() {
            (awaited.on_hang_up)(awaited);
        }
    }
}
