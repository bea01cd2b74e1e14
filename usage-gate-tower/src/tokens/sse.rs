//! Server-sent events, cut out of a stream that may be split anywhere.
//!
//! Lines end in CRLF, LF or CR; an event ends with an empty line. Bytes are released when the event they are of is whole, since only then is it
//! known whether it is to be released. Comments between events are released line by line: they keep connections alive.
//! Source: HTML standard, "Server-sent events", 9.2.5 and 9.2.6.

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of an event that is read; a larger one passes unread.
const MOST: usize = 1 << 20;

/// Finds the ends of events.
#[derive(Debug)]
pub(super) struct SseReader {
    /// What came of the event that is not whole.
    pending: BytesMut,
    /// Nothing of the current line has come.
    at_line_start: bool,
    /// The current piece has no field so far.
    only_comments: bool,
    after_cr: bool,
    /// The last piece ended with a CR: an LF that follows is of it.
    tail: bool,
    /// The current event was too large, and what came of it has been released.
    oversized: bool,
}

/// A piece of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// An event, or comments; whole.
    Event(Bytes),
    /// A part of an event that is too large to be read.
    Unread(Bytes),
    /// The rest of the last line end of the piece before: released if that was.
    Tail(Bytes),
}

impl SseReader {
    pub(super) fn new() -> Self {
        Self {
            pending: BytesMut::new(),
            at_line_start: true,
            only_comments: true,
            after_cr: false,
            tail: false,
            oversized: false,
        }
    }

    /// Takes the next piece out of `input`; `None` once all of it is taken in.
    pub(super) fn next(&mut self, input: &mut Bytes) -> Option<Piece> {
        let first = *input.first()?;
        if std::mem::take(&mut self.tail) && first == b'\n' {
            self.after_cr = false;
            return Some(Piece::Tail(input.split_to(1)));
        }
        match self.find_end(input) {
            Some(length) => {
                self.tail = input.get(length - 1) == Some(&b'\r');
                let end = input.split_to(length);
                let oversized = std::mem::take(&mut self.oversized);
                let whole = self.with_pending(end);
                Some(if oversized || whole.len() > MOST { Piece::Unread(whole) } else { Piece::Event(whole) })
            }
            None if self.oversized || self.pending.len() + input.len() > MOST => {
                self.oversized = true;
                let rest = input.split_to(input.len());
                Some(Piece::Unread(self.with_pending(rest)))
            }
            None => {
                self.pending.extend_from_slice(input);
                input.advance(input.len());
                None
            }
        }
    }

    /// What is left when the stream ends without an empty line.
    pub(super) fn finish(&mut self) -> Option<Piece> {
        let left = self.pending.split().freeze();
        (!left.is_empty()).then_some(Piece::Event(left))
    }

    /// The length up to the end of a piece, with both bytes of a CRLF if they are here.
    fn find_end(&mut self, input: &[u8]) -> Option<usize> {
        for (at, byte) in input.iter().enumerate() {
            let after_cr = std::mem::replace(&mut self.after_cr, *byte == b'\r');
            match byte {
                // The second half of a line end.
                b'\n' if after_cr => {}
                b'\n' | b'\r' => {
                    let ends = self.at_line_start || self.only_comments;
                    self.at_line_start = true;
                    if ends {
                        self.only_comments = true;
                        let crlf = *byte == b'\r' && input.get(at + 1) == Some(&b'\n');
                        self.after_cr = *byte == b'\r' && !crlf;
                        return Some(at + 1 + usize::from(crlf));
                    }
                }
                _ if self.at_line_start => {
                    self.at_line_start = false;
                    self.only_comments &= *byte == b':';
                }
                _ => {}
            }
        }
        None
    }

    fn with_pending(&mut self, end: Bytes) -> Bytes {
        if self.pending.is_empty() {
            return end;
        }
        self.pending.extend_from_slice(&end);
        self.pending.split().freeze()
    }
}

/// The data of an event, its lines joined; empty for comments.
pub(super) fn data(event: &[u8]) -> Cow<'_, [u8]> {
    let event = event.strip_prefix(b"\xef\xbb\xbf").unwrap_or(event);
    let mut data: Option<Cow<'_, [u8]>> = None;
    // An empty line between CR and LF is nothing to this.
    for line in event.split(|byte| matches!(byte, b'\r' | b'\n')) {
        let Some(value) = line.strip_prefix(b"data") else { continue };
        let value = match value.strip_prefix(b":") {
            Some(value) => value.strip_prefix(b" ").unwrap_or(value),
            None if value.is_empty() => value,
            None => continue,
        };
        data = Some(match data {
            None => Cow::Borrowed(value),
            Some(before) => {
                let mut joined = before.into_owned();
                joined.push(b'\n');
                joined.extend_from_slice(value);
                Cow::Owned(joined)
            }
        });
    }
    data.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(parts: &[&[u8]]) -> Vec<Piece> {
        let mut reader = SseReader::new();
        let mut found = Vec::new();
        for part in parts {
            let mut input = Bytes::copy_from_slice(part);
            found.extend(std::iter::from_fn(|| reader.next(&mut input)));
        }
        found.extend(reader.finish());
        found
    }

    /// The data of each event that has some, and all bytes.
    fn read(parts: &[&[u8]]) -> (Vec<String>, Vec<u8>) {
        let (mut events, mut bytes) = (Vec::new(), Vec::new());
        for piece in pieces(parts) {
            let (Piece::Event(raw) | Piece::Unread(raw) | Piece::Tail(raw)) = &piece;
            bytes.extend_from_slice(raw);
            if let Piece::Event(raw) = &piece {
                let data = data(raw);
                if !data.is_empty() {
                    events.push(String::from_utf8(data.into_owned()).unwrap());
                }
            }
        }
        (events, bytes)
    }

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let whole = text.as_bytes();
        for at in 0..=whole.len() {
            let (events, bytes) = read(&[&whole[..at], &whole[at..]]);
            assert_eq!(events, expected, "{text:?} split at {at}");
            assert_eq!(bytes, whole, "{text:?} split at {at}");
        }
        let single: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(read(&single), (expected.iter().map(|&e| e.to_owned()).collect(), whole.to_vec()));
    }

    #[test]
    fn events_end_with_an_empty_line_of_any_kind() {
        for end in ["\n", "\r\n", "\r"] {
            check(&format!("data: a{end}{end}data: b{end}{end}"), &["a", "b"]);
            check(&format!("event: x{end}data: a{end}data:b{end}id: 3{end}{end}"), &["a\nb"]);
        }
        check("data: a\n\r\ndata: b\r\n\n", &["a", "b"]);
    }

    #[test]
    fn comments_pings_and_a_byte_order_mark_are_no_data() {
        check(": hello\n\n:\ndata: a\n: in between\ndata: b\n\n", &["a\nb"]);
        check("\u{feff}data: a\n\nevent: ping\n\ndata\n\ndatabase: no\n\n", &["a"]);
    }

    #[test]
    fn an_event_without_its_empty_line_is_read_at_the_end() {
        check("data: a\n\ndata: [DONE]", &["a", "[DONE]"]);
    }

    #[test]
    fn a_comment_is_released_before_an_event_follows() {
        let mut reader = SseReader::new();
        let mut input = Bytes::from_static(b": still here\n");
        assert_eq!(reader.next(&mut input), Some(Piece::Event(Bytes::from_static(b": still here\n"))));
        assert_eq!(reader.next(&mut input), None);
    }

    #[test]
    fn an_event_that_is_too_large_passes_unread_and_the_next_is_read() {
        let large = format!("data: {}\n\n", "x".repeat(MOST));
        let text = format!("{large}data: a\n\n");
        for size in [1 << 10, 1 << 16, text.len()] {
            let parts: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            assert_eq!(read(&parts), (vec!["a".to_owned()], text.clone().into_bytes()));
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events_and_bytes(
            lines in proptest::collection::vec(prop_oneof!["", "data: [a-c]{0,4}", ":[a-c]{0,2}", "event: x", "data"], 0..12),
            ends in proptest::collection::vec(prop_oneof![Just("\n"), Just("\r"), Just("\r\n")], 12),
            cuts in proptest::collection::vec(0usize..80, 0..8),
        ) {
            let text: String = lines.iter().zip(&ends).map(|(line, end)| format!("{line}{end}")).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let parts: Vec<&[u8]> = cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            let (events, bytes) = read(&parts);
            let (whole, _) = read(&[text.as_bytes()]);
            prop_assert_eq!(events, whole);
            prop_assert_eq!(bytes, text.as_bytes());
        }
    }
}
