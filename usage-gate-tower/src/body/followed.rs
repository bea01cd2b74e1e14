//! A response body that is more than counted: its tokens are read, or it is read to its end though the client has left.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use usage_gate_core::UsageGate;
use usage_gate_core::admission::End;
use usage_gate_core::journal::Synced;

use super::{Meter, NextFrame};

/// Bytes that are read of an answer whose client has left.
const MOST_DRAINED: u64 = 16 << 20;

/// The body, until it ends or its client leaves.
pub(crate) struct Followed<R>(Option<Box<Rest<R>>>);

/// What is left of an exchange.
struct Rest<R> {
    body: Pin<Box<R>>,
    meter: Meter,
    may_change: bool,
    /// Bytes that are still to come, where the head says how many there are.
    left: Option<u64>,
    /// Comes after what was handed over last.
    trailers: Option<HeaderMap>,
    ended: bool,
    on_hang_up: Option<(UsageGate, Drain<R>)>,
}

/// Known where the body's type can be spawned, and called where nothing is known of it.
type Drain<R> = fn(Box<Rest<R>>, &UsageGate);

impl<R> fmt::Debug for Followed<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Followed").field("ended", &self.0.is_none()).finish_non_exhaustive()
    }
}

impl<R> Followed<R> {
    /// Follows `body` as long as there is a client.
    pub(crate) fn new(body: R, meter: Meter, may_change: bool, left: Option<u64>) -> Self {
        let body = Box::pin(body);
        Self(Some(Box::new(Rest { body, meter, may_change, left, trailers: None, ended: false, on_hang_up: None })))
    }
}

impl<R> Followed<R>
where
    R: Body + Send + 'static,
    R::Data: From<Bytes>,
{
    /// Follows it to its end even if the client leaves.
    pub(crate) fn reading_on(mut self, gate: UsageGate) -> Self {
        if let Some(rest) = &mut self.0 {
            rest.on_hang_up = Some((gate, drain_in_background));
        }
        self
    }
}

impl<R> Followed<R>
where
    R: Body,
    R::Data: From<Bytes>,
{
    /// Reads it to its end, within bounds, for a client that has left.
    pub(crate) async fn drain(mut self) {
        if let Some(rest) = self.0.take() {
            rest.drain().await;
        }
    }

    /// The next frame. Before the last one is released there may be something to wait for.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        synced: &mut Option<Synced>,
    ) -> Poll<NextFrame<R::Data, R::Error>> {
        let Some(rest) = &mut self.0 else { return Poll::Ready(None) };
        let frame = ready!(rest.poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            rest.meter.hand_over(u64::try_from(data.remaining()).unwrap_or(u64::MAX));
        }
        let over = rest.is_over() || !matches!(frame, Some(Ok(_)));
        if over || rest.left == Some(0) {
            // B2: the record is published before the last frame is released.
            *synced = rest.meter.settle(End::Completed);
            // Trailers may follow, or nobody asks again.
            rest.on_hang_up = None;
        }
        if over {
            self.0 = None;
        }
        Poll::Ready(frame)
    }
}

impl<R: Body> Followed<R> {
    pub(super) fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match &self.0 {
            None => SizeHint::with_exact(0),
            Some(rest) if rest.may_change => SizeHint::default(),
            Some(rest) => rest.body.size_hint(),
        }
    }
}

impl<R: Body> Rest<R> {
    /// Nothing comes any more.
    fn is_over(&self) -> bool {
        self.ended && self.trailers.is_none()
    }
}

impl<R> Rest<R>
where
    R: Body,
    R::Data: From<Bytes>,
{
    /// The next frame for the client.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<NextFrame<R::Data, R::Error>> {
        loop {
            if self.ended {
                return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            let bytes = match ready!(self.body.as_mut().poll_frame(cx)) {
                Some(Err(error)) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    self.ended = true;
                    self.meter.finish_tokens()
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.read(data),
                    Err(frame) => {
                        // Trailers are always last.
                        self.ended = true;
                        self.trailers = frame.into_trailers().ok();
                        self.meter.finish_tokens()
                    }
                },
            };
            // What is held back until its event is whole makes no frame.
            if !bytes.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(bytes.into()))));
            }
        }
    }

    fn read(&mut self, mut data: R::Data) -> Bytes {
        let size = u64::try_from(data.remaining()).unwrap_or(u64::MAX);
        self.left = self.left.map(|left| left.saturating_sub(size));
        let (bytes, cut) = self.meter.read_tokens(data.copy_to_bytes(data.remaining()));
        self.ended = cut || self.body.is_end_stream();
        if !cut && (self.ended || self.left == Some(0)) {
            let left = self.meter.finish_tokens();
            if !left.is_empty() {
                return [&*bytes, &*left].concat().into();
            }
        }
        bytes
    }

    /// Reads on without a client.
    async fn drain(mut self: Box<Self>) {
        let mut read = 0;
        while read <= MOST_DRAINED
            && let Some(Ok(frame)) = std::future::poll_fn(|cx| self.poll_frame(cx)).await
        {
            let bytes = frame.data_ref().map_or(0, Buf::remaining);
            read = read.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        }
        // Settled by drop, here or where time is up: the client has left.
    }
}

fn drain_in_background<R>(rest: Box<Rest<R>>, gate: &UsageGate)
where
    R: Body + Send + 'static,
    R::Data: From<Bytes>,
{
    // Without room the work is dropped, which cancels the upstream and settles what was measured.
    let _ = gate.in_background(rest.drain());
}

impl<R> Drop for Followed<R> {
    fn drop(&mut self) {
        if let Some(mut rest) = self.0.take()
            && let Some((gate, drain)) = rest.on_hang_up.take()
        {
            drain(rest, &gate);
        }
    }
}
