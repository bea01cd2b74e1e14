//! A body in pieces with pauses between them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Sleep, sleep};

/// The same piece a number of times. It does not say how long it is, so it is sent in chunks.
#[derive(Debug)]
pub(super) struct Paced {
    piece: Bytes,
    left: u64,
    pause: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    /// A piece, so many times, with a pause after each.
    pub(super) fn new(piece: Bytes, times: u64, pause: Duration) -> Self {
        Self { piece, left: times, pause, timer: None }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(timer) = &mut self.timer {
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        if !self.pause.is_zero() {
            self.timer = Some(Box::pin(sleep(self.pause)));
        }
        Poll::Ready(Some(Ok(Frame::data(self.piece.clone()))))
    }
}
