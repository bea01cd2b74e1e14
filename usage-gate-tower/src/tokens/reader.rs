//! The response of a token route as it passes: counted, with the usage chunk taken out, ended where the quota ends.

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use serde_json::Value;
use usage_gate_core::routes::TokenFormat;
use usage_gate_core::store::Measured;

use super::member::MemberScan;
use super::sse::{Piece, SseReader, data};
use super::tally::{BYTES_A_TOKEN, Tally};
use super::{Asked, TokenCount, anthropic, openai};

const USED_UP: &str = "The token quota is used up: this answer ends here.";

/// Reads one response.
#[derive(Debug)]
pub(crate) struct TokenReader {
    format: TokenFormat,
    asked: Asked,
    status: Option<u16>,
    form: Form,
    tally: Tally,
    /// Bytes of the response, in the form in which it came.
    seen: u64,
}

/// What a response is read as.
#[derive(Debug)]
enum Form {
    /// The head is not there, or the body is in a form that is not read.
    Unread,
    Document(Box<MemberScan>),
    Stream {
        reader: Box<SseReader>,
        /// The last event was taken out.
        took_out: bool,
    },
}

/// What becomes of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    /// What goes on to the client; may be empty.
    pub(crate) bytes: Bytes,
    /// The quota is used up, the bytes end with the format's error, and nothing follows.
    pub(crate) ended: bool,
}

impl TokenReader {
    pub(crate) const fn new(format: TokenFormat, asked: Asked) -> Self {
        Self { format, asked, status: None, form: Form::Unread, tally: Tally::EMPTY, seen: 0 }
    }

    /// What the decision held of the output.
    pub(crate) fn held(&self) -> u64 {
        self.asked.most_output.unwrap_or(1)
    }

    /// The head tells how the body is to be read.
    pub(crate) fn head(&mut self, status: u16, headers: &HeaderMap) {
        self.status = Some(status);
        let encoded = headers.get_all(CONTENT_ENCODING).iter().any(|encoding| encoding != "identity");
        let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let ends_with =
            |end: &[u8]| kind.len() >= end.len() && kind[kind.len() - end.len()..].eq_ignore_ascii_case(end);
        if encoded {
            self.form = Form::Unread;
        } else if kind.eq_ignore_ascii_case(b"text/event-stream") {
            self.form = Form::Stream { reader: Box::new(SseReader::new()), took_out: false };
        } else if ends_with(b"/json") || ends_with(b"+json") {
            self.form = Form::Document(Box::new(MemberScan::new("usage")));
        }
    }

    /// Whether the response may have other bytes for the client than it came with.
    pub(crate) const fn may_change(&self) -> bool {
        matches!(self.form, Form::Stream { .. })
    }

    /// Takes bytes in. `may_make` is asked, with the output so far, whether the quota has it; after `false` nothing more is taken in.
    pub(crate) fn read(&mut self, mut input: Bytes, mut may_make: impl FnMut(u64) -> bool) -> Passed {
        self.seen = self.seen.saturating_add(u64::try_from(input.len()).unwrap_or(u64::MAX));
        let (reader, took_out) = match &mut self.form {
            Form::Unread => return Passed { bytes: input, ended: false },
            Form::Document(scan) => {
                scan.read(&input);
                return Passed { bytes: input, ended: false };
            }
            Form::Stream { reader, took_out } => (reader, took_out),
        };
        let whole = input.clone();
        let mut passed = Passing::new(&whole);
        while let Some(piece) = reader.next(&mut input) {
            let event = match piece {
                Piece::Tail(bytes) => {
                    if !*took_out {
                        passed.put(bytes);
                    }
                    continue;
                }
                Piece::Unread(bytes) => {
                    *took_out = false;
                    passed.put(bytes);
                    continue;
                }
                Piece::Event(event) => event,
            };
            let before = self.tally;
            *took_out = take_in(self.format, &event, &mut self.tally) && self.asked.hide_usage;
            if self.tally.made_more_than(&before) && !may_make(self.tally.output()) {
                // What is not handed over is not counted.
                self.tally = before;
                passed.put(end(self.format));
                return Passed { bytes: passed.finish(), ended: true };
            }
            if !*took_out {
                passed.put(event);
            }
        }
        Passed { bytes: passed.finish(), ended: false }
    }

    /// The upstream has ended: what is left goes on.
    pub(crate) fn finish(&mut self) -> Bytes {
        let Form::Stream { reader, .. } = &mut self.form else { return Bytes::new() };
        match reader.finish() {
            Some(Piece::Event(event)) if take_in(self.format, &event, &mut self.tally) && self.asked.hide_usage => {
                Bytes::new()
            }
            Some(Piece::Event(bytes) | Piece::Unread(bytes) | Piece::Tail(bytes)) => bytes,
            None => Bytes::new(),
        }
    }

    /// The tokens as they are known now.
    pub(crate) fn count(&self) -> (TokenCount, Measured) {
        let mut tally = self.tally;
        if let Form::Document(scan) = &self.form
            && let Some((value, _)) = scan.found()
            && let Ok(usage) = serde_json::from_slice::<Value>(value)
        {
            match self.format {
                TokenFormat::Anthropic => anthropic::report(&usage, &mut tally),
                _ => openai::report(&usage, &mut tally),
            }
        }
        let served = self.status.is_some_and(|status| (200..300).contains(&status));
        match (&self.form, self.status) {
            _ if !tally.is_empty() => tally.count(self.asked.input),
            // An upstream that refuses has made nothing.
            (_, Some(_)) if !served => (TokenCount::default(), Measured::Counted),
            (Form::Stream { .. }, _) => (TokenCount { input: self.asked.input, output: 0 }, Measured::Counted),
            _ => (TokenCount { input: self.asked.input, output: self.seen / BYTES_A_TOKEN }, Measured::Estimated),
        }
    }
}

/// Takes an event in; whether it is the usage chunk.
fn take_in(format: TokenFormat, event: &[u8], tally: &mut Tally) -> bool {
    let data = data(event);
    if data.is_empty() {
        return false;
    }
    match format {
        TokenFormat::Anthropic => {
            anthropic::event(&data, tally);
            false
        }
        _ => openai::event(&data, tally) == openai::Kind::UsageOnly,
    }
}

fn end(format: TokenFormat) -> Bytes {
    match format {
        TokenFormat::Anthropic => anthropic::end(USED_UP),
        _ => openai::end(USED_UP),
    }
}

/// Puts the pieces that go on together; without a copy as long as they are what came.
struct Passing<'a> {
    whole: &'a Bytes,
    /// How much of `whole` has passed as it is.
    same: usize,
    other: Option<BytesMut>,
}

impl<'a> Passing<'a> {
    const fn new(whole: &'a Bytes) -> Self {
        Self { whole, same: 0, other: None }
    }

    fn put(&mut self, piece: Bytes) {
        if let Some(other) = &mut self.other {
            other.extend_from_slice(&piece);
            return;
        }
        // The same memory, not only the same bytes: what was taken out may have been the same.
        let here = self.whole.get(self.same..self.same + piece.len());
        if here.is_some_and(|here| std::ptr::eq(here.as_ptr(), piece.as_ptr())) {
            self.same += piece.len();
        } else {
            let mut other = BytesMut::from(self.whole.get(..self.same).unwrap_or_default());
            other.extend_from_slice(&piece);
            self.other = Some(other);
        }
    }

    fn finish(self) -> Bytes {
        match self.other {
            Some(other) => other.freeze(),
            None => self.whole.slice(..self.same),
        }
    }
}
