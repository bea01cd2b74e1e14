//! The last frame of a response whose record must survive power loss: it is held until it does.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::Frame;
use usage_gate_core::journal::Synced;

/// What is held, and what for.
#[derive(Debug)]
pub(super) struct Held {
    synced: Synced,
    last: Last,
}

#[derive(Debug)]
enum Last {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The end itself.
    End,
}

impl Held {
    /// Holds a frame, or the end of the body.
    pub(super) fn new<D: Buf>(frame: Option<Frame<D>>, synced: Synced) -> Self {
        let last = match frame.map(Frame::into_data) {
            None => Last::End,
            Some(Ok(mut data)) => Last::Data(data.copy_to_bytes(data.remaining())),
            Some(Err(frame)) => frame.into_trailers().map_or(Last::End, Last::Trailers),
        };
        Self { synced, last }
    }

    /// Lets it go once the record is safe.
    pub(super) fn poll<D: From<Bytes>>(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<D>>> {
        ready!(Pin::new(&mut self.synced).poll(cx));
        Poll::Ready(match std::mem::replace(&mut self.last, Last::End) {
            Last::Data(bytes) => Some(Frame::data(bytes.into())),
            Last::Trailers(trailers) => Some(Frame::trailers(trailers)),
            Last::End => None,
        })
    }

    /// Bytes that are still to come.
    pub(super) fn bytes(&self) -> u64 {
        match &self.last {
            Last::Data(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Last::Trailers(_) | Last::End => 0,
        }
    }
}
