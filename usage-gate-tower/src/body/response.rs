//! The response's body: counts what is handed over, and settles before the last frame is released, or on drop.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use usage_gate_core::admission::{Admitted, End, Settlement};
use usage_gate_core::store::Measured;

use crate::context::Shared;

pin_project_lite::pin_project! {
    /// A response body behind the gate: a refusal, or the inner service's body, counted. Frames, trailers and size hints are
    /// those of the body inside.
    #[derive(Debug)]
    pub struct ResponseBody<R> {
        #[pin]
        kind: Kind<R>,
    }
}

pin_project_lite::pin_project! {
    #[project = KindProj]
    #[derive(Debug)]
    enum Kind<R> {
        Refusal { bytes: Option<Bytes> },
        Inner { #[pin] body: R, meter: Option<Meter> },
    }
}

/// What is needed to settle one request. Settles on drop with what was handed over until then.
#[derive(Debug)]
pub(crate) struct Meter {
    admitted: Option<Admitted>,
    shared: Arc<Shared>,
    status: Option<u16>,
    bytes_out: u64,
}

impl Meter {
    pub(crate) const fn new(admitted: Admitted, shared: Arc<Shared>) -> Self {
        Self { admitted: Some(admitted), shared, status: None, bytes_out: 0 }
    }

    pub(crate) const fn admitted(&self) -> Option<&Admitted> {
        self.admitted.as_ref()
    }

    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// B2: the head is about to be released with this status.
    pub(crate) const fn head(&mut self, status: u16) {
        self.status = Some(status);
    }

    fn settle(&mut self, end: End) {
        if let Some(admitted) = self.admitted.take() {
            let stated = self.shared.stated();
            admitted.settle(&Settlement {
                status: self.status,
                end,
                bytes_in: self.shared.bytes_in.load(Ordering::Relaxed),
                bytes_out: self.bytes_out,
                stated: &stated,
                measured: Measured::Exact,
                retry: None,
            });
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.settle(End::ClientLeft);
    }
}

impl<R: Body> ResponseBody<R> {
    pub(crate) const fn refusal(bytes: Bytes) -> Self {
        Self { kind: Kind::Refusal { bytes: Some(bytes) } }
    }

    /// The inner body, metered unless the route is public.
    pub(crate) fn inner(body: R, mut meter: Option<Meter>) -> Self {
        // A body without frames is over with its head, and may never be polled.
        if body.is_end_stream()
            && let Some(mut meter) = meter.take()
        {
            meter.settle(End::Completed);
        }
        Self { kind: Kind::Inner { body, meter } }
    }
}

impl<R> Body for ResponseBody<R>
where
    R: Body,
    R::Data: From<Bytes>,
{
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        match self.project().kind.project() {
            KindProj::Refusal { bytes } => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes.into())))),
            KindProj::Inner { mut body, meter } => {
                let frame = ready!(body.as_mut().poll_frame(cx));
                let Some(counting) = meter else { return Poll::Ready(frame) };
                match &frame {
                    Some(Ok(frame)) => {
                        if let Some(data) = frame.data_ref() {
                            let bytes = u64::try_from(data.remaining()).unwrap_or(u64::MAX);
                            counting.bytes_out = counting.bytes_out.saturating_add(bytes);
                        }
                        // B2: the record is published before the last frame is released. Trailers are always last.
                        if frame.is_trailers() || body.is_end_stream() {
                            counting.settle(End::Completed);
                            *meter = None;
                        }
                    }
                    // The upstream's failure ends the stream: what was handed over is what there was.
                    Some(Err(_)) | None => {
                        counting.settle(End::Completed);
                        *meter = None;
                    }
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Refusal { bytes } => bytes.is_none(),
            Kind::Inner { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Refusal { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX)))
            }
            Kind::Inner { body, .. } => body.size_hint(),
        }
    }
}
