//! A body that may not stand still: an end to waiting for the next frame, and a note of how far it came.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How far a request body came; shared with whoever waits for the answer.
#[derive(Debug, Default)]
pub(super) struct Progress {
    frames: AtomicU64,
    failed: AtomicBool,
}

impl Progress {
    /// Grows with every frame. A hint for a timer: nothing else is ordered by it.
    pub(super) fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Whether the client's body broke off or stood still.
    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

/// The next frame did not come in time.
#[derive(Debug)]
struct StoodStill;

impl std::fmt::Display for StoodStill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the body stood still for longer than upstream.idle_timeout")
    }
}

impl std::error::Error for StoodStill {}

/// A body under watch.
#[derive(Debug)]
pub(crate) struct Watched<B> {
    body: B,
    idle: Option<Duration>,
    /// Made at the first wait: a body that is there at once needs none.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    progress: Option<Arc<Progress>>,
}

impl<B> Watched<B> {
    pub(super) const fn new(body: B, idle: Option<Duration>, progress: Option<Arc<Progress>>) -> Self {
        Self { body, idle, timer: None, waiting: false, progress }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(idle) = self.idle else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(idle)));
        if !self.waiting {
            self.waiting = true;
            timer.as_mut().reset(Instant::now() + idle);
        }
        timer.as_mut().poll(cx)
    }
}

impl<B> Body for Watched<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let frame = match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(frame) => frame.map(|frame| frame.map_err(Into::into)),
            Poll::Pending => {
                ready!(this.poll_idle(cx));
                Some(Err(StoodStill.into()))
            }
        };
        this.waiting = false;
        if let Some(progress) = &this.progress {
            match &frame {
                Some(Err(_)) => progress.failed.store(true, Ordering::Relaxed),
                _ => _ = progress.frames.fetch_add(1, Ordering::Relaxed),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stands_still_ends_with_an_error() {
        let progress = Arc::new(Progress::default());
        let mut body = Watched::new(Never, Some(Duration::from_secs(5)), Some(Arc::clone(&progress)));
        assert!(body.frame().await.unwrap().is_err());
        assert!(progress.failed());
    }

    #[tokio::test]
    async fn frames_are_counted_and_passed() {
        let progress = Arc::new(Progress::default());
        let body = Watched::new(Full::new(Bytes::from_static(b"abc")), None, Some(Arc::clone(&progress)));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
        assert!(progress.frames() >= 1 && !progress.failed());
    }

    struct Never;

    impl Body for Never {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Pending
        }
    }
}
