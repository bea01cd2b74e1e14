//! The journal of a process life, and what keeps room in it.
//!
//! [`Journal::reserve`], [`Journal::begin`] and what they give are for requests. Everything else is off their path: one task
//! calls [`maintain`](Journal::maintain) when [`low`](Journal::low) says so, and every second or so besides. It makes the next segment before the last is half full, so
//! that no request ever waits for a file. Where space is missing, what the sink has goes first, retention or not; only then is there no room.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::append::{Appender, Place};
use super::files::{Files, NewSegment, Size, end_stream, is_full};
use super::group_sync::GroupSync;
use super::known::KnownSegment;
use super::read::{Chunk, Stream, ack, read};
use super::schema::Schema;
use super::segment::{LEAST_SLOTS, Segment};
use super::slot::{Encoded, MOST_SLOTS, SLOT_WORDS};
use crate::mapped::FolderLock;
use crate::model::{StreamId, Timestamp};

/// What a record survives once the last frame of its response is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JournalDurability {
    /// The end of the process, however it ends.
    #[default]
    Process,
    /// Power loss too: the last frame waits for a sync, which all that wait share.
    Disk,
}

/// How a journal is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JournalOptions {
    /// Bytes of one segment.
    pub(crate) segment_bytes: u64,
    /// How long a segment stays after the sink has it: a store that is restored from a backup is healed with it.
    pub(crate) retention: Duration,
    /// How many bytes stay at most of what the sink has.
    pub(crate) retention_bytes: u64,
    /// How many bytes all segments take at most, whether the sink has them or not.
    pub(crate) most_bytes: u64,
    /// Requests in flight at most: room for their records is made ahead.
    pub(crate) seats: u32,
    pub(crate) durability: JournalDurability,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            retention: Duration::from_secs(72 * 3_600),
            retention_bytes: 8 << 30,
            most_bytes: 8 << 30,
            seats: 4_096,
            durability: JournalDurability::Process,
        }
    }
}

/// Whether there is room for what comes, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JournalState {
    Ok,
    /// No segment could be made for want of space.
    Full {
        /// Since when.
        since: Timestamp,
    },
    /// The system refused for another reason.
    Failed(String),
}

/// A stream that is being written.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(super) options: JournalOptions,
    stream: StreamId,
    text: String,
    schema: Schema,
    pub(super) appender: Appender,
    pub(super) syncs: GroupSync,
    low: Notify,
    /// Below this many free slots another segment is made.
    low_water: u64,
    /// Whether segments may go by age: not before the sink was asked what it has.
    may_expire: AtomicBool,
    /// A sync has failed, and none since has succeeded.
    pub(super) syncs_fail: AtomicBool,
    size: Arc<Size>,
    /// The folder is ours as long as anybody can write to it.
    lock: OnceLock<FolderLock>,
    kept: Mutex<Kept>,
}

/// What one thread at a time does.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) files: Files,
    pub(super) state: JournalState,
    sealed: bool,
    /// Where the stream was when the slots behind it were last made ready.
    ready_at: u64,
}

impl Journal {
    /// Begins the stream of this process life. Streams of earlier lives are to be recovered before.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if a segment of this size has no room. That there is no space, or no way to write, is
    /// a [state](Self::state).
    pub(crate) fn open(
        files: Files,
        options: JournalOptions,
        stream: StreamId,
        schema: &Schema,
        now: Timestamp,
    ) -> io::Result<Self> {
        let text = schema.to_text();
        let header = u64::try_from(Segment::header_words(&text) * 8).unwrap_or(u64::MAX);
        let slots = options.segment_bytes.saturating_sub(header) / (SLOT_WORDS as u64 * 8);
        if slots < LEAST_SLOTS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "journal segments are too small for one record"));
        }
        let journal = Self {
            options,
            stream,
            text,
            schema: schema.clone(),
            appender: Appender::new(1),
            syncs: GroupSync::default(),
            low: Notify::new(),
            low_water: (slots / 2).saturating_add(u64::from(options.seats) * MOST_SLOTS),
            may_expire: AtomicBool::new(false),
            syncs_fail: AtomicBool::new(false),
            size: files.size(),
            lock: OnceLock::new(),
            kept: Mutex::new(Kept { files, state: JournalState::Ok, sealed: false, ready_at: 1 }),
        };
        journal.maintain(now);
        Ok(journal)
    }

    /// What a record survives.
    pub(crate) const fn durability(&self) -> JournalDurability {
        self.options.durability
    }

    /// The names of its items.
    pub(crate) const fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Whether the next request would find room, on a disk that keeps what it is given.
    pub(crate) fn has_room(&self) -> bool {
        self.appender.free() >= MOST_SLOTS && !self.syncs_fail.load(Ordering::Relaxed)
    }

    /// Keeps the lock of the folder as long as the journal is there.
    pub(crate) fn hold(&self, lock: FolderLock) {
        // One is given, before anybody else has the journal.
        drop(self.lock.set(lock));
    }

    /// Segments may go by age from here on: the sink has said what it has of all earlier streams, and was given what it lost.
    pub(crate) fn allow_expiry(&self) {
        // Relaxed: a round of `maintain` earlier or later.
        self.may_expire.store(true, Ordering::Relaxed);
    }

    pub(crate) const fn stream(&self) -> StreamId {
        self.stream
    }

    /// Takes room for one record of any size, at admission; `false` if there is none (B7).
    pub(crate) fn reserve(&self) -> bool {
        let left = self.appender.reserve();
        if left.is_none_or(|left| left < self.low_water) {
            self.low.notify_one();
        }
        left.is_some()
    }

    /// Gives back room that was reserved for a record that will not come.
    pub(crate) fn unreserve(&self) {
        self.appender.unreserve();
    }

    /// Takes the place of an item of this many slots, in room that was reserved. The seat can write its sequence down, and then publish, at once.
    ///
    /// `None` only if an invariant is broken: then the record is not written, and its seat must stay.
    pub(crate) fn begin(&self, slots: u64) -> Option<Place<'_>> {
        self.appender.begin(slots)
    }

    /// Writes an item into room that was reserved, and gives its sequence.
    pub(crate) fn append(&self, item: &Encoded) -> Option<u64> {
        let place = self.begin(item.slots())?;
        let sequence = place.sequence();
        place.publish(item);
        Some(sequence)
    }

    /// Writes an item if there is room, beyond what requests in flight may need.
    pub(crate) fn try_append(&self, item: &Encoded) -> Option<u64> {
        if self.reserve() { self.append(item) } else { None }
    }

    /// The sequence of the next item: all that is settled has a smaller one.
    pub(crate) fn next(&self) -> u64 {
        self.appender.next()
    }

    /// Reads up to `most` published items from a sequence on.
    pub(crate) fn read(&self, from: u64, most: usize) -> Option<Chunk> {
        read(&self.appender.live(), from, most)
    }

    /// Remembers that the sink has everything up to a sequence. One thread at a time.
    pub(crate) fn ack(&self, through: u64, now: Timestamp) {
        ack(&self.appender.live(), through, now);
    }

    /// Waits until room runs low.
    pub(crate) async fn low(&self) {
        self.low.notified().await;
    }

    /// Whether there is room, as the last [`maintain`](Self::maintain) found.
    #[cfg(test)]
    pub(crate) fn state(&self) -> JournalState {
        self.kept().state.clone()
    }

    /// Bytes of all segments on the disk, those of earlier streams included, and how many there are.
    pub(crate) fn size(&self) -> (u64, usize) {
        // Not under the lock: it is held while files are made.
        (self.size.bytes.load(Ordering::Relaxed), self.size.segments.load(Ordering::Relaxed))
    }

    /// Streams of earlier lives that still have segments, oldest first.
    pub(crate) fn earlier_streams(&self) -> Vec<Stream> {
        let streams = self.kept().files.streams();
        streams.into_iter().filter(|stream| stream.id != self.stream).collect()
    }

    /// Makes room, removes what is old, and says how it stands. Blocks on the disk.
    pub(crate) fn maintain(&self, now: Timestamp) -> JournalState {
        let mut kept = self.kept();
        // Before any of it is let go.
        let unfinished = self.sum();
        let summed = |segment: &Segment| unfinished.is_none_or(|first| segment.first() < first);
        self.appender.forget(|segment| segment.is_acked() && summed(segment));
        kept.files.rest();
        let outcome = self.make_room(&mut kept).and_then(|()| {
            let JournalOptions { retention, retention_bytes, .. } = self.options;
            if !self.may_expire.load(Ordering::Relaxed) {
                return Ok(());
            }
            kept.files.expire(now, retention, retention_bytes)
        });
        kept.ready_at = self.appender.make_ready(kept.ready_at);
        kept.state = match (outcome, &kept.state) {
            (Ok(()), _) => JournalState::Ok,
            (Err(error), JournalState::Full { since }) if is_full(&error) => JournalState::Full { since: *since },
            (Err(error), _) if is_full(&error) => JournalState::Full { since: now },
            (Err(error), _) => JournalState::Failed(error.to_string()),
        };
        kept.state.clone()
    }

    /// Sums what is published: what is not summed is not believed after the end of the kernel, even where all of it has reached the disk. Gives the beginning of the
    /// first segment into which more may come.
    pub(crate) fn sum(&self) -> Option<u64> {
        self.appender.live().iter().filter(|segment| !segment.sum_all()).map(Segment::first).min()
    }

    /// Makes segments until the low water mark is passed: as many as that takes and no more.
    pub(super) fn make_room(&self, kept: &mut Kept) -> io::Result<()> {
        while !self.appender.is_closed() && self.appender.free() < self.low_water {
            self.add_segment(kept)?;
        }
        Ok(())
    }

    pub(super) fn add_segment(&self, kept: &mut Kept) -> io::Result<()> {
        let first = self.appender.live().last().map_or_else(|| self.appender.next(), Segment::end);
        let new = NewSegment { stream: self.stream, first, text: &self.text, bytes: self.options.segment_bytes };
        self.appender.add(kept.files.create(new, self.options.most_bytes)?);
        Ok(())
    }

    /// Ends the stream as recovery would: nothing can be reserved from here on. `false` if room is reserved or a record still under way: that finds its
    /// place, the stream has no end yet, and recovery gives it one.
    ///
    /// # Errors
    /// What the system says; then recovery does it at the next start.
    pub(crate) fn seal(&self) -> io::Result<bool> {
        let mut kept = self.kept();
        if kept.sealed {
            return Ok(true);
        }
        // Before the next sequence is read: what comes behind the end would be lost.
        let settled = self.appender.close();
        self.sum();
        let next = self.appender.next();
        let live = self.appender.live().to_vec();
        if !settled || !live.iter().all(|segment| segment.is_published(next)) {
            return Ok(false);
        }
        let live: Vec<_> = live.into_iter().map(KnownSegment::Mapped).collect();
        end_stream(&mut kept.files, &live, next)?;
        kept.sealed = true;
        drop(kept);
        // Whoever waits until then is right to: only now all is on the disk.
        self.syncs.close();
        Ok(true)
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::record::Record;
    use super::super::recovery::{DeadStream, LifeEnd};
    use super::*;
    use crate::mapped::Area;
    use crate::model::{Environment, KeyId, Meters, RequestId, TenantId};
    use crate::store::{Measured, Outcome, UnitTotals};

    pub(in super::super) fn schema() -> Schema {
        Schema::new("a1", Meters::default(), ["item".into()])
    }

    /// Options for segments of a few slots.
    pub(in super::super) fn options(slots: u64) -> JournalOptions {
        let header = Segment::header_words(&schema().to_text()) as u64 * 8;
        JournalOptions { segment_bytes: header + slots * 64, seats: 1, ..JournalOptions::default() }
    }

    pub(in super::super) fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    pub(in super::super) fn journal_with(area: &Area, options: JournalOptions, stream: u128) -> Journal {
        let files = Files::open(area.clone()).unwrap();
        Journal::open(files, options, StreamId::from_u128(stream), &schema(), at(1)).unwrap()
    }

    pub(in super::super) fn journal(area: &Area, slots: u64) -> Journal {
        journal_with(area, options(slots), 1)
    }

    /// A record of two slots that is known by its request.
    pub(in super::super) fn record(request: u128) -> Encoded {
        Record {
            request: RequestId::from_u128(request),
            at: at(5),
            tenant: TenantId::from_u128(1),
            user: None,
            key: KeyId::from_u128(2),
            environment: Environment::Live,
            route: Some(0),
            status: 200,
            outcome: Outcome::Billed,
            measured: Measured::Exact,
            bucket: at(0),
            units: &UnitTotals::default(),
            quotas: &[],
            retry: None,
        }
        .encode()
    }

    /// Everything from a sequence on, chunk by chunk, as the requests of its records.
    pub(in super::super) fn requests(read: impl Fn(u64) -> Option<Chunk>, from: u64) -> (Vec<u128>, u64) {
        let (mut found, mut next) = (Vec::new(), from);
        while let Some(chunk) = read(next) {
            assert!(chunk.first >= next && chunk.last >= chunk.first);
            assert!(chunk.records.iter().all(|record| (chunk.first..=chunk.last).contains(&record.sequence)));
            found.extend(chunk.records.iter().map(|record| record.request.as_u128()));
            next = chunk.last + 1;
        }
        (found, next)
    }

    fn fill(journal: &Journal, from: u128) -> u128 {
        let mut next = from;
        while journal.reserve() {
            journal.append(&record(next)).unwrap();
            next += 1;
        }
        next
    }

    #[test]
    fn b7_what_is_reserved_always_finds_room_whatever_the_sizes_are() {
        for slots in 16..40 {
            let journal = journal(&Area::memory(), slots);
            let mut expected = Vec::new();
            for number in 0..100u64 {
                assert!(journal.reserve(), "{number} of {slots}");
                if number % 7 == 3 {
                    journal.unreserve();
                    continue;
                }
                if number % 11 == 5 {
                    // A request whose thread unwinds between place and record.
                    drop(journal.begin(1 + number % 8).unwrap());
                } else {
                    journal.append(&record(number.into())).unwrap();
                    expected.push(u128::from(number));
                }
                journal.maintain(at(2));
            }
            assert_eq!(requests(|from| journal.read(from, 5), 1).0, expected);
            assert_eq!(requests(|from| journal.read(from, 5), 1).1, journal.next());
        }
    }

    #[test]
    fn readers_stop_where_something_is_under_way() {
        let journal = journal(&Area::memory(), 64);
        (0..3).for_each(|_| assert!(journal.reserve()));
        journal.append(&record(1)).unwrap();
        let place = journal.begin_slowly(2).unwrap();
        journal.append(&record(3)).unwrap();
        assert_eq!(requests(|from| journal.read(from, 9), 1), (vec![1], place.sequence()));
        place.publish(&record(2));
        assert_eq!(requests(|from| journal.read(from, 9), 1).0, [1, 2, 3]);
    }

    #[test]
    fn b6_what_the_sink_has_goes_before_anything_is_refused_and_nothing_else_does() {
        let area = Area::memory();
        let small = options(32);
        let options = JournalOptions { most_bytes: small.segment_bytes * 3, ..small };
        let journal = journal_with(&area, options, 1);
        let mut next = 0;
        while journal.maintain(at(3)) == JournalState::Ok {
            next = fill(&journal, next);
        }
        let next = fill(&journal, next);
        assert_eq!(journal.maintain(at(4)), JournalState::Full { since: at(3) });
        assert_eq!((journal.size().1, journal.reserve()), (3, false));
        assert_eq!(requests(|from| journal.read(from, 9), 1).0, (0..next).collect::<Vec<_>>());

        // One record of the first segment is missing: it stays.
        let first = journal.read(1, 999).unwrap();
        journal.ack(first.last - 3, at(5));
        assert!(matches!(journal.maintain(at(5)), JournalState::Full { .. }));
        journal.ack(first.last, at(6));
        assert_eq!((journal.maintain(at(6)), journal.reserve()), (JournalState::Ok, true));
        journal.append(&record(next)).unwrap();
        let left = (first.records.len() as u128..=next).collect::<Vec<_>>();
        assert_eq!(requests(|from| journal.read(from, 9), first.last + 1).0, left);
    }

    #[test]
    fn segments_stay_for_a_while_after_the_sink_has_them() {
        let area = Area::memory();
        let options = JournalOptions { retention: Duration::from_secs(10), ..options(32) };
        let journal = journal_with(&area, options, 1);
        for number in 0..64 {
            assert!(journal.reserve());
            journal.append(&record(number)).unwrap();
            journal.maintain(at(2));
        }
        let segments = journal.size().1;
        journal.ack(journal.next() - 1, at(20));
        journal.maintain(at(40));
        assert_eq!(journal.size().1, segments, "the sink was not asked yet: it may have lost them");
        journal.allow_expiry();
        journal.maintain(at(29));
        assert_eq!(journal.size().1, segments);
        journal.maintain(at(30));
        let left = journal.size().1;
        assert!(left < segments && left > 0);
        assert!(journal.reserve());
        journal.append(&record(64)).unwrap();
        assert_eq!(requests(|from| journal.read(from, 9), journal.next() - 2).0, [64]);
    }

    #[test]
    fn a_sealed_stream_says_where_it_ends() {
        let area = Area::memory();
        let journal = journal(&area, 32);
        for number in 0..20 {
            assert!(journal.reserve());
            journal.append(&record(number)).unwrap();
            journal.maintain(at(2));
        }
        assert!(journal.reserve());
        let place = journal.begin_slowly(2).unwrap();
        assert!(!journal.seal().unwrap(), "something is under way");
        place.publish(&record(20));
        assert!(journal.seal().unwrap());
        assert!(!journal.reserve());
        let (streams, damaged) = Stream::all(&area).unwrap();
        assert_eq!((streams.len(), streams[0].sealed(), damaged.len()), (1, Some(journal.next()), 0));
        assert!(streams[0].segments.iter().all(|segment| segment.first() < journal.next()));
        assert_eq!(requests(|from| streams[0].read(from, 9).unwrap(), 1), ((0..=20).collect(), journal.next()));
        streams[0].ack(journal.next() - 1, at(3));
        assert!(streams[0].is_acked());
    }

    #[test]
    fn a_stream_in_which_room_is_reserved_has_no_end_yet() {
        let area = Area::memory();
        let journal = journal(&area, 32);
        assert!(journal.reserve());
        journal.append(&record(1)).unwrap();
        assert!(journal.reserve());
        assert!(!journal.seal().unwrap(), "a request has not begun its record");
        assert!(!journal.reserve(), "and no other may come");
        assert_eq!(journal.maintain(at(3)), JournalState::Ok);
        journal.append(&record(2)).unwrap();
        drop(journal);

        let stream = StreamId::from_u128(1);
        let mut files = Files::open(area.clone()).unwrap();
        let dead = DeadStream::open(&mut files, stream, LifeEnd::Killed, options(32).segment_bytes).unwrap().unwrap();
        assert!(dead.records().map(|record| record.unwrap().request.as_u128()).eq([1, 2]));
        dead.seal().unwrap();
        assert_eq!(requests(|from| files.streams()[0].read(from, 9).unwrap(), 1).0, [1, 2]);
    }

    #[test]
    fn many_threads_append_and_one_reads() {
        let journal = journal_with(&Area::memory(), JournalOptions { seats: 64, ..options(256) }, 1);
        let mut found = Vec::new();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let journal = &journal;
                scope.spawn(move || {
                    let mut number = 0;
                    while number < 2_000 {
                        if journal.reserve() {
                            journal.append(&record(thread * 2_000 + number)).unwrap();
                            number += 1;
                        } else {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            let mut next = 1;
            while found.len() < 8_000 {
                if let Some(chunk) = journal.read(next, 500) {
                    found.extend(chunk.records.iter().map(|record| record.request.as_u128()));
                    next = chunk.last + 1;
                    journal.ack(chunk.last, at(3));
                }
                journal.maintain(at(3));
            }
        });
        // Of each thread all, in its order.
        for thread in 0..4u128 {
            let of_thread = found.iter().filter(|request| **request / 2_000 == thread).map(|request| request % 2_000);
            assert!(of_thread.eq(0..2_000));
        }
    }

    #[test]
    fn a_file_system_without_space_is_a_state_that_passes() {
        let folder = std::env::temp_dir().join(format!("usage-gate-journal-{}", uuid::Uuid::now_v7()));
        let area = Area::folder(&folder).unwrap();
        let journal = journal(&area, 16);
        assert_eq!(journal.state(), JournalState::Ok);
        // Without its folder no segment can be made; what is mapped stays usable.
        let away = folder.with_extension("away");
        std::fs::rename(&folder, &away).unwrap();
        let next = fill(&journal, 0);
        assert!(matches!(journal.maintain(at(2)), JournalState::Failed(_)));
        std::fs::rename(&away, &folder).unwrap();
        assert_eq!(journal.maintain(at(3)), JournalState::Ok);
        assert!(journal.reserve());
        journal.append(&record(next)).unwrap();
        assert_eq!(requests(|from| journal.read(from, 9), 1).0, (0..=next).collect::<Vec<_>>());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
