//! The way out of a stream: what is published, in order, a segment at a time.
//!
//! A reader stops at the first slot where nothing is published, whatever is behind it: what was appended earlier may still be under way there.
//! Only recovery knows that nothing is, and fills such slots with pads; so a stream of a dead process is read in the same way.

use std::convert::Infallible;
use std::error::Error;
use std::io;

use super::known::KnownSegment;
use super::record::Item;
use super::schema::Schema;
use super::segment::{Found, Segment, SegmentError};
use super::slot::Kind;
use crate::invariant::invariant;
use crate::mapped::{Area, Words};
use crate::model::{StreamId, Timestamp};
use crate::store::{Batch, RefusalSum, UsageRecord};

/// Items of one segment that follow one another.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) stream: StreamId,
    /// The first sequence of the segment.
    pub(crate) segment: u64,
    /// The sequence that was asked for, or the first behind it that there is.
    pub(crate) first: u64,
    /// The last sequence of the last item, or of what is passed over behind it.
    pub(crate) last: u64,
    /// The names of what is in it.
    pub(crate) schema: Schema,
    pub(crate) records: Vec<UsageRecord>,
    pub(crate) refusals: Vec<RefusalSum>,
}

impl Chunk {
    /// The chunk for the sink. Everything that was settled before `through` must be in it or before it.
    pub(crate) fn into_batch(self, through: Timestamp) -> Batch {
        Batch {
            stream: self.stream,
            segment: self.segment,
            first: self.first,
            last: self.last,
            through,
            meters: self.schema.meters,
            records: self.records,
            refusals: self.refusals,
            samples: Vec::new(),
        }
    }
}

/// Reads up to `most` items from a sequence on, out of segments in order; `None` if nothing is published there.
pub(crate) fn read(segments: &[Segment], from: u64, most: usize) -> Option<Chunk> {
    let map = |segment: &Segment| Ok::<_, Infallible>(Some(segment.clone()));
    let Ok(chunk) = read_mapping(segments, Segment::end, map, from, most);
    chunk
}

/// The same where segments are mapped to be read, by `map`; those that it has nothing for are passed over.
pub(super) fn read_mapping<S, E>(
    segments: &[S],
    end: impl Fn(&S) -> u64,
    map: impl Fn(&S) -> Result<Option<Segment>, E>,
    from: u64,
    most: usize,
) -> Result<Option<Chunk>, E> {
    let mut following = segments.iter().skip_while(|segment| end(segment) <= from).peekable();
    while let Some(segment) = following.next() {
        let Some(segment) = map(segment)? else { continue };
        let first = from.max(segment.first());
        let last_of_all = following.peek().is_none();
        if let Some(chunk) = read_one(&segment, first, most, last_of_all) {
            return Ok(Some(chunk));
        }
        // An empty end is passed over; a slot that is not published is not.
        if segment.at(first) != Found::End {
            break;
        }
    }
    Ok(None)
}

fn read_one(segment: &Segment, first: u64, most: usize, last_of_all: bool) -> Option<Chunk> {
    let mut items = Vec::new();
    let mut at = first;
    while items.len() < most {
        match segment.at(at) {
            Found::Item(head) => {
                items.push((at, head));
                at = at.saturating_add(head.slots);
            }
            Found::End if !last_of_all && at > first => {
                // Nothing comes between here and the next segment.
                at = segment.end();
                break;
            }
            Found::End | Found::Unpublished => break,
        }
    }
    if at == first {
        return None;
    }
    let mut chunk = Chunk {
        stream: StreamId::from_u128(segment.stream()),
        segment: segment.first(),
        first,
        last: at.saturating_sub(1),
        schema: Schema::from_text(&segment.text())?,
        records: Vec::new(),
        refusals: Vec::new(),
    };
    for (sequence, head) in items.into_iter().filter(|(_, head)| head.kind != Kind::Pad) {
        let item = Item::decode(head.kind, &segment.read(sequence, head.slots), sequence, &chunk.schema);
        invariant!(B8, item.is_some());
        match item {
            Some(Item::Record(record)) => chunk.records.push(record),
            Some(Item::Refusals(sum)) => chunk.refusals.push(sum),
            None => {}
        }
    }
    Some(chunk)
}

/// A stream by its segments.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    /// In order; the oldest may be gone.
    pub(crate) segments: Vec<KnownSegment>,
    area: Area,
}

impl Stream {
    /// Puts segments together by stream; they come in order.
    pub(crate) fn group(area: &Area, segments: impl IntoIterator<Item = KnownSegment>) -> Vec<Self> {
        let mut streams: Vec<Self> = Vec::new();
        for segment in segments {
            let id = StreamId::from_u128(segment.stream());
            match streams.last_mut() {
                Some(stream) if stream.id == id => stream.segments.push(segment),
                _ => streams.push(Self { id, segments: vec![segment], area: area.clone() }),
            }
        }
        streams
    }

    /// Reads up to `most` items from a sequence on; `None` at the end. Segments that rest are mapped for it; those that have gone since are passed over.
    ///
    /// # Errors
    /// What the system says, such as too many open files: it may be tried again.
    pub(crate) fn read(&self, from: u64, most: usize) -> io::Result<Option<Chunk>> {
        let map = |segment: &KnownSegment| match segment.map(&self.area) {
            Ok(segment) => Ok(Some(segment)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // As at the start: what is in it cannot be read, and the rest is not held back by that.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::error!(error = &error as &dyn Error, "a file of the journal is damaged: it is passed over");
                Ok(None)
            }
            Err(error) => Err(error),
        };
        read_mapping(&self.segments, KnownSegment::end, map, from, most)
    }

    /// The sequence at which it ended; `None` if it was not sealed.
    pub(crate) fn sealed(&self) -> Option<u64> {
        self.segments.last().and_then(KnownSegment::ended)
    }

    /// The last sequence that the sink is known to have; 0 for none.
    pub(crate) fn acked(&self) -> u64 {
        self.segments.iter().map(KnownSegment::acked).max().unwrap_or(0)
    }

    /// Remembers that the sink has everything up to a sequence.
    pub(crate) fn ack(&self, through: u64, now: Timestamp) {
        for segment in &self.segments {
            segment.ack(through, super::files::micros(now));
        }
    }
}

/// Remembers in segments that the sink has everything up to a sequence.
pub(crate) fn ack(segments: &[Segment], through: u64, now: Timestamp) {
    for segment in segments {
        segment.ack(through, super::files::micros(now));
    }
}

/// Opens a segment of which it is certain that it can be read and found again.
pub(crate) fn open_segment(words: Words, name: &str) -> Result<Segment, SegmentError> {
    let segment = Segment::open(words)?;
    let known = segment.file_name() == name && Schema::from_text(&segment.text()).is_some();
    if known { Ok(segment) } else { Err(SegmentError::Damaged) }
}

/// Whether a file is called like a segment.
pub(crate) fn is_segment(name: &str) -> bool {
    name.ends_with(".seg")
}

/// For tests, which look at a folder beside whoever writes it.
#[cfg(test)]
mod tests {
    use super::*;

    impl Stream {
        /// All streams of a folder, oldest first, and the names of segments that cannot be read: for those who only look.
        ///
        /// # Errors
        /// What the system says.
        pub(crate) fn all(area: &Area) -> io::Result<(Vec<Self>, Vec<String>)> {
            let (mut segments, mut damaged) = (Vec::new(), Vec::new());
            for name in area.list()?.into_iter().filter(|name| is_segment(name)) {
                match area.open(&name).map(|words| open_segment(words, &name)) {
                    Ok(Ok(segment)) => segments.push(KnownSegment::Mapped(segment)),
                    Ok(Err(SegmentError::Unbegun)) => {}
                    Ok(Err(_)) => damaged.push(name),
                    // It went while we looked.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            Ok((Self::group(area, segments), damaged))
        }

        /// Whether the sink has all of it.
        pub(crate) fn is_acked(&self) -> bool {
            self.sealed().is_some() && self.segments.iter().all(KnownSegment::is_acked)
        }
    }
}
