//! The request's body: counts its bytes and holds them to the route's bound.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};

use crate::context::Shared;

pin_project_lite::pin_project! {
    /// A request body that counts. Frames, trailers and size hints are those of the body inside.
    #[derive(Debug)]
    pub struct RequestBody<B> {
        #[pin]
        inner: B,
        shared: Option<Arc<Shared>>,
        most: u64,
        seen: u64,
    }
}

/// Why reading a request body ended early.
#[derive(Debug)]
#[non_exhaustive]
pub enum RequestBodyError<E> {
    /// The body's own error.
    Inner(E),
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
            Self::TooLarge { most } => write!(f, "the request body has more than {most} bytes"),
        }
    }
}

impl<E: Error + 'static> Error for RequestBodyError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Inner(error) => Some(error),
            Self::TooLarge { .. } => None,
        }
    }
}

impl<B: Body> RequestBody<B> {
    pub(crate) fn new(inner: B, shared: &Arc<Shared>, most: Option<u64>) -> Self {
        // An empty body has nothing to count.
        let shared = (!inner.is_end_stream()).then(|| Arc::clone(shared));
        Self { inner, shared, most: most.unwrap_or(u64::MAX), seen: 0 }
    }
}

impl<B: Body> Body for RequestBody<B> {
    type Data = B::Data;
    type Error = RequestBodyError<B::Error>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, Self::Error>>> {
        let this = self.project();
        let frame = match ready!(this.inner.poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(RequestBodyError::Inner(error)))),
            Some(Ok(frame)) => frame,
        };
        if let (Some(shared), Some(data)) = (this.shared, frame.data_ref()) {
            let bytes = u64::try_from(data.remaining()).unwrap_or(u64::MAX);
            *this.seen = this.seen.saturating_add(bytes);
            // Relaxed: read after the exchange has ended, which orders it.
            shared.bytes_in.store(*this.seen, Ordering::Relaxed);
            if *this.seen > *this.most {
                shared.too_large.store(true, Ordering::Relaxed);
                return Poll::Ready(Some(Err(RequestBodyError::TooLarge { most: *this.most })));
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
