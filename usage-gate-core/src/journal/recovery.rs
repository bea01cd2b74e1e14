//! A stream whose process is dead: its end is found, what was under way gets its records, and it is sealed.
//!
//! Nothing is under way here any more, so a slot that is not published never will be:
//!
//! 1. [`open`](DeadStream::open) looks for the last item that is whole: its mark vouches for that while the kernel lives, after a loss of power only its CRC. What is not whole before it becomes pads, so that readers pass over it.
//! 2. Seats and leases, which others read, are asked of it: [`contains`](DeadStream::contains) tells a seat whose record is there,
//!    [`records`](DeadStream::records) what was taken of leases.
//! 3. What is missing is appended behind the end, in this stream and not in the next one, so that its watermark is over all of it.
//! 4. [`seal`](DeadStream::seal) ends it.
//!
//! Whoever is killed in the middle leaves a stream of which all this is true again.

use std::io;
use std::ops::Range;

use super::files::{Files, NewSegment, end_stream};
use super::known::KnownSegment;
use super::read::read_mapping;
use super::record::request_of;
use super::schema::Schema;
use super::segment::{Found, Segment};
use super::slot::{Encoded, Kind};
use crate::model::{RequestId, StreamId};
use crate::store::UsageRecord;

/// Items read at once.
const CHUNK: usize = 4_096;

/// How the life ended that wrote a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LifeEnd {
    /// The process ended, and the kernel did not: whatever was stored is there.
    Killed,
    /// The kernel ended, or nobody knows: what was not synced may be missing, also of what the sink has.
    PowerLost,
}

/// A stream that nobody writes any more.
#[derive(Debug)]
pub(crate) struct DeadStream<'a> {
    files: &'a mut Files,
    id: StreamId,
    ended: LifeEnd,
    segments: Vec<KnownSegment>,
    text: String,
    segment_bytes: u64,
    /// The sequence behind the last item.
    next: u64,
}

impl<'a> DeadStream<'a> {
    /// Finds the end of a stream; `None` if it has no segments, or was sealed: then there is nothing to recover.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn open(
        files: &'a mut Files,
        id: StreamId,
        ended: LifeEnd,
        segment_bytes: u64,
    ) -> io::Result<Option<Self>> {
        let stream = files.streams().into_iter().find(|stream| stream.id == id && stream.sealed().is_none());
        let Some(segments) = stream.map(|stream| stream.segments) else { return Ok(None) };
        let Some(last) = segments.last().map(|last| files.map(last)).transpose()? else { return Ok(None) };
        let text = last.text();
        if ended == LifeEnd::PowerLost {
            // B5: the sink may have sequences up to the end of the last segment, although they are not here. This is the first thing that is written, so that
            // another recovery, which may know less, sees the same end.
            last.pad(last.end().saturating_sub(1), 1);
        }
        let next = fill_holes(files, &segments, ended)?;
        Ok(Some(Self { files, id, ended, segments, text, segment_bytes, next }))
    }

    /// The names of its items.
    ///
    /// # Errors
    /// [`InvalidData`](io::ErrorKind::InvalidData): another version wrote it in a way that this one does not know.
    pub(crate) fn schema(&self) -> io::Result<Schema> {
        Schema::from_text(&self.text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Whether the record of this request is at this sequence, or was there: a segment goes only if the sink has it (B6).
    ///
    /// The sequence alone proves nothing: a recovery that was killed may have put another record there.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn contains(&self, sequence: u64, request: RequestId) -> io::Result<bool> {
        let oldest = self.segments.first().map_or(1, KnownSegment::first);
        if sequence < oldest {
            return Ok(sequence > 0);
        }
        let Some(segment) = self.segments.iter().find(|segment| segment.holds(sequence, 1)) else { return Ok(false) };
        let segment = self.files.map(segment)?;
        let Found::Item(head) = verified(&segment, sequence, self.ended) else { return Ok(false) };
        Ok(head.kind == Kind::Record && request_of(&segment.read(sequence, head.slots)) == request.as_u128())
    }

    /// Whether segments of it have gone since the sink had them: then its [`records`](Self::records) are not all there were.
    pub(crate) fn is_cut(&self) -> bool {
        self.segments.first().is_some_and(|segment| segment.first() > 1)
    }

    /// All records of the stream that are still there, the appended ones included. It ends at an error.
    pub(crate) fn records(&self) -> impl Iterator<Item = io::Result<UsageRecord>> {
        let mut next = Some(1);
        let chunks = std::iter::from_fn(move || {
            let map = |segment: &KnownSegment| self.files.map(segment).map(Some);
            let chunk = read_mapping(&self.segments, KnownSegment::end, map, next?, CHUNK).transpose()?;
            next = chunk.as_ref().ok().map(|chunk| chunk.last.saturating_add(1));
            Some(chunk)
        });
        chunks.flat_map(|chunk| match chunk {
            Ok(chunk) => chunk.records.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        })
    }

    /// The sequence that the next item will have, if it is of this size: its seat can write it down first.
    ///
    /// # Errors
    /// No space for another segment; what the system says.
    pub(crate) fn place(&mut self, slots: u64) -> io::Result<u64> {
        if !self.segments.iter().any(|segment| segment.holds(self.next, slots)) {
            let end = self.segments.last().map_or(self.next, KnownSegment::end);
            pass_over(self.files, &self.segments, self.next..end, u64::MAX)?;
            let new = NewSegment { stream: self.id, first: end, text: &self.text, bytes: self.segment_bytes };
            self.segments.push(KnownSegment::Mapped(self.files.create_for_dead(new)?));
            self.next = end;
        }
        Ok(self.next)
    }

    /// Appends an item, and gives its sequence: the one that [`place`](Self::place) gave.
    ///
    /// # Errors
    /// As for [`place`](Self::place).
    pub(crate) fn append(&mut self, item: &Encoded) -> io::Result<u64> {
        let sequence = self.place(item.slots())?;
        for segment in self.segments.iter().filter(|segment| segment.holds(sequence, item.slots())) {
            let segment = self.files.map(segment)?;
            segment.publish(sequence, item);
            // What was summed before may reach behind this already.
            segment.sum_at(sequence);
        }
        self.next = sequence.saturating_add(item.slots());
        Ok(sequence)
    }

    /// Ends the stream, and cuts its last file to what is in it.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn seal(self) -> io::Result<()> {
        let Self { files, id, segments, next, .. } = self;
        end_stream(files, &segments, next)?;
        let ended = segments.iter().filter(|segment| segment.ended().is_some()).map(KnownSegment::first).max();
        drop(segments);
        ended.map_or(Ok(()), |first| files.cut(id, first))
    }
}

/// What begins at a sequence, as far as it can be known.
fn verified(segment: &Segment, sequence: u64, ended: LifeEnd) -> Found {
    match ended {
        LifeEnd::Killed => segment.verified_at(sequence),
        LifeEnd::PowerLost => segment.verified_by_sum_at(sequence),
    }
}

/// Fills with pads what is not valid before the last valid item, and says where that ends.
fn fill_holes(files: &Files, segments: &[KnownSegment], ended: LifeEnd) -> io::Result<u64> {
    let start = |segment: &KnownSegment| match ended {
        // B2: what the sink has was published without a hole, and is still there.
        LifeEnd::Killed => segment.acked().saturating_add(1).max(segment.first()),
        LifeEnd::PowerLost => segment.first(),
    };
    let pad = match ended {
        LifeEnd::Killed => u64::MAX,
        // The sink may have what is missing, up to any place in it: readers must be able to begin at each.
        LifeEnd::PowerLost => 1,
    };
    let mut end = segments.first().map_or(1, KnownSegment::first);
    for known in segments {
        let mut at = start(known);
        if at > known.first() {
            end = end.max(at);
        }
        if at >= known.end() {
            continue;
        }
        let segment = files.map(known)?;
        while at < segment.end() {
            if let Found::Item(head) = verified(&segment, at, ended) {
                pass_over(files, segments, end..at, pad)?;
                at = at.saturating_add(head.slots);
                end = at;
            } else {
                at = at.saturating_add(1);
            }
        }
    }
    Ok(end)
}

/// Fills slots with pads of at most this many, whichever segments they are in.
fn pass_over(files: &Files, segments: &[KnownSegment], slots: Range<u64>, pad: u64) -> io::Result<()> {
    for known in segments {
        let (mut at, end) = (slots.start.max(known.first()), slots.end.min(known.end()));
        if at >= end {
            continue;
        }
        let segment = files.map(known)?;
        while at < end {
            let next = at.saturating_add(pad).min(end);
            segment.pad_all(at, next);
            at = next;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::keeper::tests::{at, journal, options, record, requests};
    use super::super::read::Stream;
    use super::*;
    use crate::mapped::Area;

    const STREAM: StreamId = StreamId::from_u128(1);

    fn request(number: u128) -> RequestId {
        RequestId::from_u128(number)
    }

    fn sealed(area: &Area) -> Vec<u128> {
        let files = Files::open(area.clone()).unwrap();
        let stream = files.streams().remove(0);
        let (found, next) = requests(|from| stream.read(from, 3).unwrap(), 1);
        assert_eq!(Some(next), stream.sealed());
        found
    }

    /// A life that is killed while the places of some records are under way.
    fn killed(area: &Area, slots: u64, records: u128, under_way: impl Fn(u128) -> bool) -> Vec<u64> {
        let journal = journal(area, slots);
        let mut sequences = Vec::new();
        for number in 0..records {
            assert!(journal.reserve());
            let place = journal.begin_slowly(2).unwrap();
            sequences.push(place.sequence());
            if under_way(number) {
                // Nothing is done when the process ends.
                let _ = std::mem::ManuallyDrop::new(place);
            } else {
                place.publish(&record(number));
            }
            journal.maintain(at(2));
        }
        sequences
    }

    #[test]
    fn holes_are_passed_over_and_what_was_in_them_comes_behind_the_end() {
        for slots in 16..32 {
            let area = Area::memory();
            let lost = |number| number % 5 == 2 || number > 27;
            let sequences = killed(&area, slots, 30, lost);
            let mut files = Files::open(area.clone()).unwrap();
            let mut dead =
                DeadStream::open(&mut files, STREAM, LifeEnd::Killed, options(slots).segment_bytes).unwrap().unwrap();
            for (number, sequence) in (0..).zip(sequences) {
                assert_eq!(dead.contains(sequence, request(number)).unwrap(), !lost(number));
            }
            let whole = (0..30).filter(|number| !lost(*number));
            assert!(dead.records().map(|record| record.unwrap().request.as_u128()).eq(whole.clone()));
            let missing = (0..30).filter(|number| lost(*number));
            for number in missing.clone() {
                let place = dead.place(record(number).slots()).unwrap();
                assert_eq!(dead.append(&record(number)).unwrap(), place);
                assert!(dead.contains(place, request(number)).unwrap());
            }
            dead.seal().unwrap();
            assert!(DeadStream::open(&mut files, STREAM, LifeEnd::Killed, 4_096).unwrap().is_none(), "it is sealed");
            assert_eq!(sealed(&area), whole.chain(missing).collect::<Vec<_>>());
        }
    }

    #[test]
    fn b5_after_a_power_loss_no_sequence_is_used_again_that_the_sink_may_have() {
        let area = Area::memory();
        let journal = journal(&area, 64);
        for number in 0..10 {
            assert!(journal.reserve());
            journal.append(&record(number)).unwrap();
            if number == 4 {
                let mut wish = journal.wish_sync(1);
                journal.sync_waiting().unwrap();
                assert_eq!(wish.try_recv(), Ok(()));
            }
        }
        let watermark = journal.next() - 1;
        drop(journal);
        for name in area.list().unwrap() {
            area.open(&name).unwrap().lose_power(|| false);
        }
        let mut files = Files::open(area.clone()).unwrap();
        let bytes = options(64).segment_bytes;
        let mut dead = DeadStream::open(&mut files, STREAM, LifeEnd::PowerLost, bytes).unwrap().unwrap();
        assert!(dead.append(&record(99)).unwrap() > watermark);
        dead.seal().unwrap();
        assert_eq!(sealed(&area), [0, 1, 2, 3, 4, 99]);
    }

    #[test]
    fn what_is_not_summed_yet_counts_after_a_kill_and_not_after_a_power_loss() {
        for (ended, expected) in [(LifeEnd::Killed, vec![0, 1]), (LifeEnd::PowerLost, vec![0])] {
            let area = Area::memory();
            let journal = journal(&area, 64);
            let sequences = [0, 1].map(|number| {
                assert!(journal.reserve());
                let sequence = journal.append(&record(number)).unwrap();
                if number == 0 {
                    journal.maintain(at(2));
                }
                sequence
            });
            drop(journal);
            // As it happens all of it has reached the disk. Nobody can know that.
            for name in area.list().unwrap() {
                area.open(&name).unwrap().lose_power(|| true);
            }
            let mut files = Files::open(area.clone()).unwrap();
            let dead = DeadStream::open(&mut files, STREAM, ended, options(64).segment_bytes).unwrap().unwrap();
            let contained = [0, 1].map(|number| dead.contains(sequences[number], request(number as u128)).unwrap());
            assert_eq!(contained, [true, expected.contains(&1)]);
            dead.seal().unwrap();
            assert_eq!(sealed(&area), expected);
        }
    }

    #[test]
    fn files_are_cut_to_what_is_in_them() {
        let folder = std::env::temp_dir().join(format!("usage-gate-recovery-{}", uuid::Uuid::now_v7()));
        let area = Area::folder(&folder).unwrap();
        killed(&area, 512, 5, |number| number == 1);
        let mut files = Files::open(area.clone()).unwrap();
        let dead = DeadStream::open(&mut files, STREAM, LifeEnd::Killed, options(512).segment_bytes).unwrap().unwrap();
        dead.seal().unwrap();
        assert!(files.bytes() < 2_048, "{} bytes", files.bytes());
        assert_eq!(sealed(&area), [0, 2, 3, 4]);
        let dumped = Stream::all(&area).unwrap().0;
        assert_eq!(requests(|from| dumped[0].read(from, 3).unwrap(), 1).0, [0, 2, 3, 4]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn files_that_were_never_begun_go_and_damaged_ones_stay_and_are_named() {
        let area = Area::memory();
        killed(&area, 64, 5, |_| false);
        area.create(&super::super::segment::file_name(1, 65), 512).unwrap();
        let damaged = super::super::segment::file_name(2, 1);
        area.create(&damaged, 512).unwrap()[0].store(5, std::sync::atomic::Ordering::Relaxed);
        let mut files = Files::open(area.clone()).unwrap();
        assert_eq!((files.damaged(), files.segments()), (&[damaged.clone()][..], 1));
        DeadStream::open(&mut files, STREAM, LifeEnd::Killed, 4_096).unwrap().unwrap().seal().unwrap();
        assert_eq!(sealed(&area), [0, 1, 2, 3, 4]);
        assert!(area.open(&damaged).is_ok());
    }
}
