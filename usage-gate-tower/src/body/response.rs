//! The response's body: counts what is handed over, and settles before the last frame is released, or on drop.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use usage_gate_core::admission::End;

use super::held::Held;
use super::{Followed, Meter};

pin_project_lite::pin_project! {
    /// A response body behind the gate: a refusal, or the inner service's body, counted. Frames, trailers and size hints are
    /// those of the body inside.
    #[derive(Debug)]
    pub struct ResponseBody<R> {
        #[pin]
        kind: Kind<R>,
        held: Option<Box<Held>>,
    }
}

pin_project_lite::pin_project! {
    #[project = KindProj]
    #[derive(Debug)]
    enum Kind<R> {
        Refusal { bytes: Option<Bytes> },
        Inner { #[pin] body: R, counting: Option<Counting> },
        Followed { followed: Followed<R> },
    }
}

/// A body that is only counted.
#[derive(Debug)]
pub(crate) struct Counting {
    pub(crate) meter: Meter,
    /// Bytes that are still to come, where the head says how many there are. Who sends the answer asks for nothing after the last of them,
    /// and not every body knows which frame that is.
    pub(crate) left: Option<u64>,
}

impl Counting {
    /// Counts a frame; whether the head promised nothing after it.
    fn hand_over(&mut self, bytes: u64) -> bool {
        self.meter.hand_over(bytes);
        self.left = self.left.map(|left| left.saturating_sub(bytes));
        self.left == Some(0)
    }
}

impl<R: Body> ResponseBody<R> {
    pub(crate) const fn refusal(bytes: Bytes) -> Self {
        Self { kind: Kind::Refusal { bytes: Some(bytes) }, held: None }
    }

    /// The inner body, counted unless the route is public or the answer is over with its head.
    pub(crate) const fn inner(body: R, counting: Option<Counting>) -> Self {
        Self { kind: Kind::Inner { body, counting }, held: None }
    }

    /// A body whose tokens are read, or that is read to its end.
    pub(crate) const fn followed(followed: Followed<R>) -> Self {
        Self { kind: Kind::Followed { followed }, held: None }
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
        let this = self.project();
        if let Some(held) = this.held {
            let last = ready!(held.poll(cx));
            *this.held = None;
            return Poll::Ready(last.map(Ok));
        }
        let mut synced = None;
        let frame = match this.kind.project() {
            KindProj::Refusal { bytes } => bytes.take().map(|bytes| Ok(Frame::data(bytes.into()))),
            KindProj::Followed { followed } => ready!(followed.poll_frame(cx, &mut synced)),
            KindProj::Inner { mut body, counting } => {
                let frame = ready!(body.as_mut().poll_frame(cx));
                let Some(counted) = counting else { return Poll::Ready(frame) };
                let is_last = match &frame {
                    Some(Ok(frame)) => {
                        let whole = frame
                            .data_ref()
                            .is_some_and(|data| counted.hand_over(u64::try_from(data.remaining()).unwrap_or(u64::MAX)));
                        // Trailers are always last.
                        whole || frame.is_trailers() || body.is_end_stream()
                    }
                    // The upstream's failure ends the stream: what was handed over is what there was.
                    Some(Err(_)) | None => true,
                };
                if is_last {
                    // B2: the record is published before the last frame is released.
                    synced = counted.meter.settle(End::Completed);
                    *counting = None;
                }
                frame
            }
        };
        match (synced, frame) {
            (Some(synced), Some(Ok(frame))) => {
                let held = this.held.insert(Box::new(Held::new(Some(frame), synced)));
                let last = ready!(held.poll(cx));
                *this.held = None;
                Poll::Ready(last.map(Ok))
            }
            (Some(synced), None) => {
                let held = this.held.insert(Box::new(Held::new::<Bytes>(None, synced)));
                ready!(held.poll::<Bytes>(cx));
                *this.held = None;
                Poll::Ready(None)
            }
            // An error completes nothing.
            (_, frame) => Poll::Ready(frame),
        }
    }

    fn is_end_stream(&self) -> bool {
        if self.held.is_some() {
            return false;
        }
        match &self.kind {
            Kind::Refusal { bytes } => bytes.is_none(),
            Kind::Inner { body, .. } => body.is_end_stream(),
            Kind::Followed { followed } => followed.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        if let Some(held) = &self.held {
            return SizeHint::with_exact(held.bytes());
        }
        match &self.kind {
            Kind::Refusal { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX)))
            }
            Kind::Inner { body, .. } => body.size_hint(),
            Kind::Followed { followed } => followed.size_hint(),
        }
    }
}
