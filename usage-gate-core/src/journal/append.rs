//! The way into a stream, for many threads: no lock, no allocation, no I/O.
//!
//! 1. [`reserve`](Appender::reserve), at admission: takes room for the largest item, or says that there is none (B7).
//! 2. [`begin`](Appender::begin), at the end of a request: one atomic add gives the item its place, and what it does not need is given back.
//!    Its owner can write the sequence down before anybody can see the item.
//! 3. [`Place::publish`]: the words, then the head. A place that is dropped instead becomes a pad, so that readers are not held up by it.
//!
//! Sequences go on from segment to segment. An item never crosses from one into the next: the place that would is padded, in both, and another is taken.
//! Only one place can lie across one end, so a segment counts for `MOST_SLOTS` less than it has, and room that was reserved is always found.

use super::segment::Segment;
use super::slot::{Encoded, MOST_SLOTS};
use crate::invariant::invariant;
use crate::sync::{AtomicI64, AtomicU64, Loaded, Ordering, Swap};

/// The most slots of an item, as a difference of room.
const MOST: i64 = MOST_SLOTS.cast_signed();

/// One reservation, and the end of the stream, as they are counted above the slots in [`Appender::room`].
const ONE: i64 = 1 << SLOT_BITS;
const CLOSED: i64 = 1 << 62;
const SLOT_BITS: u32 = 40;

/// Slots that are ready for stores however few are used: 256 KiB, a second of more than a thousand requests.
const READY: u64 = 4_096;

/// What one word says of the room: slots that nobody reserved, below 0 for a moment; reservations that are not used yet; whether the stream has ended.
#[derive(Debug, Clone, Copy)]
struct Room(i64);

impl Room {
    const fn slots(self) -> i64 {
        (self.0 << (64 - SLOT_BITS)) >> (64 - SLOT_BITS)
    }

    const fn above(self) -> i64 {
        (self.0 - self.slots()) % CLOSED
    }

    const fn reserved(self) -> bool {
        self.above() != 0
    }

    const fn closed(self) -> bool {
        self.0 - self.slots() >= CLOSED
    }
}

/// The segments that a stream is written to, oldest first, and how far it is.
#[derive(Debug)]
pub(crate) struct Appender {
    next: AtomicU64,
    /// A [`Room`]: in one word, so that the end of the stream and a reservation are before or after each other.
    room: AtomicI64,
    live: Swap<Vec<Segment>>,
}

/// Where an item goes. Dropped before it is published, it is passed over.
#[derive(Debug)]
#[must_use]
pub(crate) struct Place {
    live: Loaded<Vec<Segment>>,
    at: usize,
    sequence: u64,
    slots: u64,
    published: bool,
}

impl Appender {
    /// A stream that begins at this sequence, and has no segment yet.
    pub(crate) fn new(first: u64) -> Self {
        Self { next: AtomicU64::new(first), room: AtomicI64::new(0), live: Swap::new(Vec::new()) }
    }

    /// The segments at this moment, oldest first.
    pub(crate) fn live(&self) -> Loaded<Vec<Segment>> {
        self.live.load()
    }

    /// The sequence of the next item.
    pub(crate) fn next(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// Slots that can be reserved.
    pub(crate) fn free(&self) -> u64 {
        let room = Room(self.room.load(Ordering::Relaxed));
        if room.closed() { 0 } else { u64::try_from(room.slots()).unwrap_or(0) }
    }

    /// Whether the stream was ended.
    pub(crate) fn is_closed(&self) -> bool {
        Room(self.room.load(Ordering::Relaxed)).closed()
    }

    /// Adds the segment that comes behind the last. One thread at a time.
    pub(crate) fn add(&self, segment: Segment) {
        let mut live: Vec<Segment> = self.live.load().to_vec();
        invariant!(B5, live.last().is_none_or(|last| last.end() == segment.first()));
        let room = i64::try_from(segment.slots()).unwrap_or(i64::MAX).saturating_sub(MOST);
        live.push(segment);
        self.live.store(live);
        // Release: pairs with `reserve`. Who has reserved in it finds it.
        self.room.fetch_add(room, Ordering::Release);
    }

    /// Forgets the oldest segments for which this holds, but never the last. One thread at a time.
    ///
    /// It must not hold while a place in the segment is under way: it does not for one that the sink has, since the flusher stops at such a place.
    pub(crate) fn forget(&self, done: impl Fn(&Segment) -> bool) {
        let live = self.live.load();
        let done = live.iter().take(live.len().saturating_sub(1)).take_while(|segment| done(segment)).count();
        if done > 0 {
            self.live.store(live.iter().skip(done).cloned().collect());
        }
    }

    /// Puts a copy of a segment, in another file, in its place. One thread at a time, and no place in it may be under way.
    pub(crate) fn replace(&self, copy: &Segment) {
        let of = |segment: &Segment| if segment.first() == copy.first() { copy.clone() } else { segment.clone() };
        self.live.store(self.live.load().iter().map(of).collect());
    }

    /// Has the system ready for stores into the slots that come next, twice as many as since the last time, when this gave `since`.
    ///
    /// A segment is ready when it is made. But pages are written back meanwhile, after half a minute or so, and the first store after that takes as long as
    /// some ten records.
    pub(crate) fn make_ready(&self, since: u64) -> u64 {
        let next = self.next();
        let end = next.saturating_add(READY).saturating_add(next.saturating_sub(since).saturating_mul(2));
        for segment in self.live().iter() {
            segment.make_ready(next, end);
        }
        next
    }

    /// Ends the stream: from now on nothing can be reserved. `false` if something is that was not used yet; it still has its room. One thread at a time.
    pub(crate) fn close(&self) -> bool {
        if !self.is_closed() {
            self.room.fetch_add(CLOSED, Ordering::AcqRel);
        }
        // Acquire: pairs with `give_back`. Who has used what it reserved has taken its place before.
        !Room(self.room.load(Ordering::Acquire)).reserved()
    }

    /// Takes room for one item, of any size, and says how much is left; `None` if there is none.
    pub(crate) fn reserve(&self) -> Option<u64> {
        // Acquire: pairs with `add`, through all that came between: what is reserved lies in segments that this thread sees.
        let before = Room(self.room.fetch_add(ONE - MOST, Ordering::AcqRel));
        if !before.closed() && before.slots() >= MOST {
            return Some(before.slots().abs_diff(MOST));
        }
        self.give_back(MOST - ONE);
        None
    }

    /// Gives back the room of an item that will not come.
    pub(crate) fn unreserve(&self) {
        self.give_back(MOST - ONE);
    }

    /// Takes a place in the room that was reserved, which is used up by this.
    ///
    /// `None` if B7 is broken and there is no room in spite of that: then the caller keeps what it has.
    pub(crate) fn begin(&self, slots: u64) -> Option<Place> {
        loop {
            // AcqRel: a place in a new segment is given after one whose thread saw that segment, or to one who did.
            let sequence = self.next.fetch_add(slots, Ordering::AcqRel);
            let live = self.live.load();
            let at = live.iter().rposition(|segment| segment.first() <= sequence);
            let found = at.and_then(|at| live.get(at)).filter(|segment| sequence < segment.end());
            if !invariant!(B7, found.is_some()) {
                return None;
            }
            let (at, segment) = at.zip(found)?;
            if segment.holds(sequence, slots) {
                self.give_back(MOST - ONE - i64::try_from(slots).unwrap_or(MOST));
                return Some(Place { live, at, sequence, slots, published: false });
            }
            pad_all(&live, sequence, sequence + slots);
        }
    }

    /// Gives up all places before a sequence that nobody has taken. `false` if what is reserved would not find room then.
    ///
    /// One thread at a time.
    pub(crate) fn skip_to(&self, sequence: u64) -> bool {
        loop {
            let at = self.next.load(Ordering::Acquire);
            let Some(skipped) = sequence.checked_sub(at).filter(|skipped| *skipped > 0) else { return true };
            let skipped = i64::try_from(skipped).unwrap_or(i64::MAX);
            if Room(self.room.fetch_sub(skipped, Ordering::AcqRel)).slots() < skipped {
                self.give_back(skipped);
                return false;
            }
            if self.next.compare_exchange(at, sequence, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                pad_all(&self.live.load(), at, sequence);
                return true;
            }
            self.give_back(skipped);
        }
    }

    fn give_back(&self, room: i64) {
        // Release: pairs with `close`, and must not cut the chain from `add` to `reserve`.
        self.room.fetch_add(room, Ordering::Release);
    }
}

/// Passes over slots, whichever segments they are in.
pub(super) fn pad_all(live: &[Segment], from: u64, to: u64) {
    for segment in live {
        segment.pad_all(from.max(segment.first()), to.min(segment.end()));
    }
}

impl Place {
    /// The sequence of the item.
    pub(crate) const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Writes the item and shows it to readers. It must be the one that the place was taken for.
    pub(crate) fn publish(mut self, item: &mut Encoded) {
        if let Some(segment) = self.live.get(self.at).filter(|_| item.slots() == self.slots) {
            segment.publish(self.sequence, item);
            self.published = true;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(segment) = self.live.get(self.at).filter(|_| !self.published) {
            segment.pad(self.sequence, self.slots);
        }
    }
}
