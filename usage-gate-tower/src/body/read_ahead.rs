//! A request body whose beginning is read before the request is admitted.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::{NextFrame, RequestBodyError};
use crate::tokens::MOST_READ_AHEAD;

/// How long a body may take until it has been read. It is not admitted yet, so that no limit stops it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The beginning, and the body that the rest is in.
pub(crate) struct ReadAhead<B> {
    begin: BytesMut,
    /// The beginning, frozen, until it is handed over.
    front: Option<Bytes>,
    rest: Option<Pin<Box<B>>>,
    trailers: Option<HeaderMap>,
    broken: bool,
    /// Made at the first wait: a body that is there at once needs none.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> fmt::Debug for ReadAhead<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadAhead").field("read", &self.begin.len()).finish_non_exhaustive()
    }
}

impl<B: Body> ReadAhead<B> {
    pub(crate) fn new(body: B) -> Self {
        Self {
            begin: BytesMut::new(),
            front: None,
            rest: Some(Box::pin(body)),
            trailers: None,
            broken: false,
            timer: None,
        }
    }

    /// Reads until the body ends, is too large to be read whole, or has taken too long: then it counts as broken off.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_body(cx).is_pending() {
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
            ready!(timer.as_mut().poll(cx));
            self.broken = true;
            self.rest = None;
        }
        self.timer = None;
        Poll::Ready(())
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(body) = self.rest.as_mut() {
            if self.begin.len() > MOST_READ_AHEAD {
                break;
            }
            match ready!(body.as_mut().poll_frame(cx)) {
                None => self.rest = None,
                Some(Err(_)) => {
                    self.broken = true;
                    self.rest = None;
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(mut data) => {
                        while data.has_remaining() {
                            let chunk = data.chunk();
                            let length = chunk.len();
                            self.begin.extend_from_slice(chunk);
                            data.advance(length);
                        }
                        if body.is_end_stream() {
                            self.rest = None;
                        }
                    }
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok();
                        self.rest = None;
                    }
                },
            }
        }
        Poll::Ready(())
    }

    /// The whole body, if it was read to its end and is small enough to be looked at.
    pub(crate) fn whole(&self) -> Option<&[u8]> {
        (self.rest.is_none() && !self.broken && self.begin.len() <= MOST_READ_AHEAD).then_some(&self.begin)
    }

    /// Bytes that the body has at least.
    pub(crate) fn least(&self) -> u64 {
        let rest = self.rest.as_ref().map_or(0, |rest| rest.size_hint().lower());
        u64::try_from(self.begin.len()).unwrap_or(u64::MAX).saturating_add(rest)
    }

    /// From here on it is a body again; with another whole in place of what was read, if one is given.
    pub(crate) fn hand_over(&mut self, other: Option<Bytes>) {
        let front = other.unwrap_or_else(|| self.begin.split().freeze());
        self.front = (!front.is_empty()).then_some(front);
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.front.is_none() && self.rest.is_none() && self.trailers.is_none() && !self.broken
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let mut hint = self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), |rest| rest.size_hint());
        if self.broken {
            return SizeHint::default();
        }
        let front = self.front.as_ref().map_or(0, |front| u64::try_from(front.len()).unwrap_or(u64::MAX));
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(front));
        }
        hint.set_lower(hint.lower().saturating_add(front));
        hint
    }
}

impl<B> ReadAhead<B>
where
    B: Body,
    B::Data: From<Bytes>,
{
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<NextFrame<B::Data, RequestBodyError<B::Error>>> {
        if let Some(front) = self.front.take() {
            return Poll::Ready(Some(Ok(Frame::data(front.into()))));
        }
        if std::mem::take(&mut self.broken) {
            return Poll::Ready(Some(Err(RequestBodyError::BrokenOff)));
        }
        if let Some(rest) = self.rest.as_mut() {
            let frame = ready!(rest.as_mut().poll_frame(cx));
            if frame.is_none() {
                self.rest = None;
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(RequestBodyError::Inner)));
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }
}
