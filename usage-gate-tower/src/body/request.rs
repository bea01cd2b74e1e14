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

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use http_body_util::BodyExt;
    use usage_gate_core::UsageGate;
    use usage_gate_core::admission::Caller;
    use usage_gate_core::clock::Clock;
    use usage_gate_core::management::{self, KeyDraft, PlanDraft, TenantDraft};
    use usage_gate_core::model::RequestId;
    use usage_gate_core::routes::{Matched, RouteIndex};
    use usage_gate_core::secret::Pepper;
    use usage_gate_core::store::memory::MemoryStore;

    use super::*;
    use crate::GateContext;

    /// A body that knows when it ends.
    struct Parts(Vec<&'static str>);

    impl Body for Parts {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            let next = (!self.0.is_empty()).then(|| self.0.remove(0));
            Poll::Ready(next.map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes())))))
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }
    }

    struct Stage {
        gate: UsageGate,
        route: RouteIndex,
        callers: [Arc<Caller>; 2],
    }

    impl Stage {
        async fn new() -> Self {
            let store = MemoryStore::new(Clock::system());
            let gate = UsageGate::builder().store(store).pepper(Pepper::new(&[7; 32])).build().await.unwrap();
            management::create_plan(&gate, PlanDraft::new("plan", Vec::new())).await.unwrap();
            let tenant = management::create_tenant(&gate, TenantDraft::new("Acme", "plan")).await.unwrap();
            let caller = async || {
                let key = management::create_key(&gate, tenant.id, KeyDraft::new("key")).await.unwrap();
                let value = HeaderValue::from_str(&key.text).unwrap();
                gate.authenticate(&HeaderMap::from_iter([("x-api-key".parse().unwrap(), value)]), None).await.unwrap()
            };
            let callers = [caller().await, caller().await];
            let Matched::Route(route, _) = gate.routes().find(&http::Method::POST, "/") else { panic!("no route") };
            Self { gate, route, callers }
        }

        /// What a request has in common with its repetitions, once the first `read` frames of its body were read.
        async fn retry(&self, caller: usize, head: [&str; 3], body: &[&'static str], read: usize) -> Option<u128> {
            let body = Parts(body.to_vec());
            let id = RequestId::generate();
            let context = GateContext::new(self.gate.clone(), None, self.route, id, HeaderValue::from_static(""));
            let hasher = RetryHasher::new(&self.callers[caller], head[0].as_bytes(), head[1], head[2]);
            let source = Source::Untouched { body };
            let mut body = RequestBody::new(source, None, context.shared(), None, Some(Box::new(hasher)));
            for _ in 0..read {
                body.frame().await;
            }
            context.shared().retry.get().copied()
        }
    }

    const HEAD: [&str; 3] = ["order-7", "POST", "/v1/orders?a=1"];

    #[tokio::test]
    async fn repetitions_have_a_number_in_common_however_their_frames_are_cut() {
        let stage = Stage::new().await;
        let whole = stage.retry(0, HEAD, &["abcd"], 1).await;
        assert!(whole.is_some(), "who knows that it is the last frame reads no further");
        assert_eq!(stage.retry(0, HEAD, &["ab", "cd"], 3).await, whole);
        assert!(stage.retry(0, HEAD, &[], 0).await.is_some(), "an empty body is whole from the start");
    }

    #[tokio::test]
    async fn what_differs_in_any_part_is_no_repetition() {
        let stage = Stage::new().await;
        let first = stage.retry(0, HEAD, &["abcd"], 1).await;
        assert_ne!(stage.retry(1, HEAD, &["abcd"], 1).await, first, "another key");
        assert_ne!(stage.retry(0, HEAD, &["abce"], 1).await, first);
        for head in [["order-8", HEAD[1], HEAD[2]], [HEAD[0], "PUT", HEAD[2]], [HEAD[0], HEAD[1], "/v1/orders?a=2"]] {
            assert_ne!(stage.retry(0, head, &["abcd"], 1).await, first, "{head:?}");
        }
        assert_ne!(stage.retry(0, ["order-", "7POST", HEAD[2]], &["abcd"], 1).await, first);
    }

    #[tokio::test]
    async fn a_body_that_was_not_read_to_its_end_has_no_number() {
        let stage = Stage::new().await;
        assert_eq!(stage.retry(0, HEAD, &["ab", "cd"], 1).await, None);
    }
}
