//! The request's body: counts its bytes and holds them to the route's bound.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use usage_gate_core::admission::RetryHasher;

use super::{NextFrame, ReadAhead};
use crate::context::Shared;

pin_project_lite::pin_project! {
    /// A request body that counts. Frames, trailers and size hints are those of the body inside; on a token route its beginning is one frame.
    #[derive(Debug)]
    pub struct RequestBody<B> {
        #[pin]
        source: Source<B>,
        shared: Option<Arc<Shared>>,
        most: u64,
        seen: u64,
        // What the first frame counts as, where the gate has rewritten it.
        first: Option<u64>,
        retry: Option<Box<RetryHasher>>,
    }
}

pin_project_lite::pin_project! {
    /// Where the body comes from.
    #[project = SourceProj]
    #[derive(Debug)]
    pub(crate) enum Source<B> {
        Untouched { #[pin] body: B },
        Read { ahead: Box<ReadAhead<B>> },
    }
}

/// Why reading a request body ended early.
#[derive(Debug)]
#[non_exhaustive]
pub enum RequestBodyError<E> {
    /// The body's own error.
    Inner(E),
    /// It broke off while the gate read the beginning of it.
    BrokenOff,
    /// It has more bytes than the route takes.
    TooLarge {
        /// Bytes that the route takes.
        most: u64,
    },
}

impl<E> fmt::Display for RequestBodyError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inner(_) => f.write_str("reading the request body"),
            Self::BrokenOff => f.write_str("the request body broke off"),
            Self::TooLarge { most } => write!(f, "the request body has more than {most} bytes"),
        }
    }
}

impl<E: Error + 'static> Error for RequestBodyError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Inner(error) => Some(error),
            Self::BrokenOff | Self::TooLarge { .. } => None,
        }
    }
}

impl<B: Body> RequestBody<B> {
    pub(crate) fn new(
        source: Source<B>,
        first: Option<u64>,
        shared: &Arc<Shared>,
        most: Option<u64>,
        retry: Option<Box<RetryHasher>>,
    ) -> Self {
        let mut body = Self { source, shared: None, most: most.unwrap_or(u64::MAX), seen: 0, first, retry };
        // An empty body has nothing to count.
        if !body.source.is_end_stream() {
            body.shared = Some(Arc::clone(shared));
        } else if let Some(hasher) = body.retry.take() {
            let _ = shared.retry.set(hasher.finish());
        }
        body
    }
}

impl<B: Body> Source<B> {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Untouched { body } => body.is_end_stream(),
            Self::Read { ahead } => ahead.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Untouched { body } => body.size_hint(),
            Self::Read { ahead } => ahead.size_hint(),
        }
    }
}

impl<B> Source<B>
where
    B: Body,
    B::Data: From<Bytes>,
{
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<NextFrame<B::Data, RequestBodyError<B::Error>>> {
        match self.project() {
            SourceProj::Untouched { body } => {
                body.poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(RequestBodyError::Inner)))
            }
            SourceProj::Read { ahead } => ahead.poll_frame(cx),
        }
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body,
    B::Data: From<Bytes>,
{
    type Data = B::Data;
    type Error = RequestBodyError<B::Error>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        let mut this = self.project();
        let mut frame = match ready!(this.source.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => {
                finish_retry(this.retry, this.shared.as_ref());
                return Poll::Ready(None);
            }
        };
        if let (Some(shared), Some(data)) = (this.shared.as_ref(), frame.data_ref()) {
            let bytes = this.first.take().unwrap_or_else(|| u64::try_from(data.remaining()).unwrap_or(u64::MAX));
            *this.seen = this.seen.saturating_add(bytes);
            // Relaxed: read after the exchange has ended, which orders it.
            shared.bytes_in.store(*this.seen, Ordering::Relaxed);
            if *this.seen > *this.most {
                shared.too_large.store(true, Ordering::Relaxed);
                return Poll::Ready(Some(Err(RequestBodyError::TooLarge { most: *this.most })));
            }
        }
        if let Some(hasher) = this.retry.as_mut() {
            frame = hash(frame, hasher);
            // Who knows the length reads no further than that.
            if this.source.is_end_stream() {
                finish_retry(this.retry, this.shared.as_ref());
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}

fn hash<D: Buf + From<Bytes>>(frame: Frame<D>, hasher: &mut RetryHasher) -> Frame<D> {
    frame.map_data(|mut data| {
        let bytes = data.copy_to_bytes(data.remaining());
        hasher.update(&bytes);
        bytes.into()
    })
}

fn finish_retry(retry: &mut Option<Box<RetryHasher>>, shared: Option<&Arc<Shared>>) {
    if let (Some(hasher), Some(shared)) = (retry.take(), shared) {
        let _ = shared.retry.set(hasher.finish());
    }
}
