//! The way into a stream, for many threads: no lock, no allocation, no I/O.
//!
//! 1. [`reserve`](Appender::reserve), at admission: takes room for the largest item, or says that there is none (B7).
//! 2. [`begin`](Appender::begin), at the end of a request: one atomic add gives the item its place, and what it does not need is given back.
//!    Its owner can write the sequence down before anybody can see the item.
//! 3. [`Place::publish`]: the words, then the head. A place that is dropped instead becomes a pad, so that readers are not held up by it.
//!
//! Sequences go on from segment to segment. An item never crosses from one into the next: the place that would is padded, in both, and another is taken.
//! Only one place can lie across one end, so a segment counts for `MOST_SLOTS` less than it has, and room that was reserved is always found.

use std::ops::Deref;
use std::sync::Arc;

use super::segment::Segment;
use super::slot::{Encoded, InPlace, Kind, MOST_SLOTS};
use crate::invariant::invariant;
use crate::sync::{AtomicI64, AtomicU64, InLane, Lanes, Loaded, Ordering, Swap};

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
    lanes: Lanes<Lane>,
}

/// What the threads of one lane have at hand.
#[derive(Debug)]
struct Lane {
    /// The segments, as long as nothing has changed about them: to hold a value of a `Swap` costs a third of what a record does.
    live: Arc<Vec<Segment>>,
    /// Room that is not given back yet, a [`Room`], and of how many items.
    back: i64,
    items: u32,
}

/// Room of so many items goes back at once.
const AT_ONCE: u32 = 64;

/// The segments, while an item is written.
#[derive(Debug)]
enum Held<'a> {
    Lane(InLane<'a, Lane>),
    Loaded(Loaded<Vec<Segment>>),
}

impl Deref for Held<'_> {
    type Target = [Segment];

    fn deref(&self) -> &[Segment] {
        match self {
            Self::Lane(lane) => &lane.live,
            Self::Loaded(live) => live,
        }
    }
}

/// Where an item goes, and how the segments are held meanwhile. Dropped before it is published, it is passed over.
#[derive(Debug)]
#[must_use]
pub(crate) struct Place<'a> {
    live: Held<'a>,
    at: usize,
    sequence: u64,
    slots: u64,
    published: bool,
}

impl Appender {
    /// A stream that begins at this sequence, and has no segment yet.
    pub(crate) fn new(first: u64) -> Self {
        let live = Swap::new(Vec::new());
        let lanes = Lanes::new(|| Lane { live: live.whole(), back: 0, items: 0 });
        Self { next: AtomicU64::new(first), room: AtomicI64::new(0), live, lanes }
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
        self.collect(self.lanes.all());
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
        self.set_live(live);
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
            self.set_live(live.iter().skip(done).cloned().collect());
        }
    }

    /// Puts a copy of a segment, in another file, in its place. One thread at a time, and no place in it may be under way.
    pub(crate) fn replace(&self, copy: &Segment) {
        let of = |segment: &Segment| if segment.first() == copy.first() { copy.clone() } else { segment.clone() };
        self.set_live(self.live.load().iter().map(of).collect());
    }

    /// When this returns nobody writes by an older list.
    fn set_live(&self, live: Vec<Segment>) {
        self.live.store(live);
        let live = self.live.whole();
        self.lanes.all().for_each(|mut lane| lane.live = Arc::clone(&live));
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
        self.collect(self.lanes.all());
        // Acquire: pairs with `give_back`. Who has used what it reserved has taken its place before.
        !Room(self.room.load(Ordering::Acquire)).reserved()
    }

    /// Takes room for one item, of any size, and says how much is left; `None` if there is none.
    pub(crate) fn reserve(&self) -> Option<u64> {
        let left = self.try_reserve();
        // What lanes are using at this moment is missing from it: then it is refused, and the next finds it.
        if left.is_none() && self.collect(self.lanes.idle()) { self.try_reserve() } else { left }
    }

    fn try_reserve(&self) -> Option<u64> {
        // Acquire: pairs with `add`, through all that came between: what is reserved lies in segments that this thread sees.
        let before = Room(self.room.fetch_add(ONE - MOST, Ordering::AcqRel));
        if !before.closed() && before.slots() >= MOST {
            return Some(before.slots().abs_diff(MOST));
        }
        self.give_back(MOST - ONE);
        None
    }

    /// Has room in `room` that lanes have not given back yet. `false` if there is none.
    fn collect<'a>(&self, lanes: impl Iterator<Item = InLane<'a, Lane>>) -> bool {
        let collected: i64 = lanes.map(|mut lane| lane.take_back()).sum();
        if collected != 0 {
            self.give_back(collected);
        }
        collected != 0
    }

    /// Gives back the room of an item that will not come.
    pub(crate) fn unreserve(&self) {
        self.give_back(MOST - ONE);
    }

    /// Takes a place in the room that was reserved, which is used up by this. The item is to be published at once: who adds a segment waits for that.
    ///
    /// `None` if B7 is broken and there is no room in spite of that: then the caller keeps what it has.
    pub(crate) fn begin(&self, slots: u64) -> Option<Place<'_>> {
        loop {
            let sequence = self.take(slots);
            // A segment may be so new that the lane does not have it.
            let near = self.lanes.mine().and_then(|lane| self.place(Held::Lane(lane), sequence, slots));
            if let Some(place) = near.or_else(|| self.place(Held::Loaded(self.live.load()), sequence, slots)) {
                return Some(place);
            }
            if !self.pass_over(sequence, slots) {
                return None;
            }
        }
    }

    /// The same for who is away before it publishes.
    #[cfg(any(test, loom))]
    pub(crate) fn begin_slowly(&self, slots: u64) -> Option<Place<'static>> {
        loop {
            let sequence = self.take(slots);
            if let Some(place) = self.place(Held::Loaded(self.live.load()), sequence, slots) {
                return Some(place);
            }
            if !self.pass_over(sequence, slots) {
                return None;
            }
        }
    }

    fn take(&self, slots: u64) -> u64 {
        // AcqRel: a place in a new segment is given after one whose thread saw that segment, or to one who did.
        self.next.fetch_add(slots, Ordering::AcqRel)
    }

    /// The place of slots that were taken, if they are all in one of the segments.
    fn place<'a>(&self, mut live: Held<'a>, sequence: u64, slots: u64) -> Option<Place<'a>> {
        let at = live.iter().rposition(|segment| segment.holds(sequence, slots))?;
        let back = MOST - ONE - i64::try_from(slots).unwrap_or(MOST);
        match &mut live {
            Held::Loaded(_) => self.give_back(back),
            Held::Lane(lane) => {
                (lane.back, lane.items) = (lane.back + back, lane.items + 1);
                if lane.items >= AT_ONCE {
                    self.give_back(lane.take_back());
                }
            }
        }
        Some(Place { live, at, sequence, slots, published: false })
    }

    /// Gives up slots that lie across the end of a segment; `false` if they lie beyond all of them.
    fn pass_over(&self, sequence: u64, slots: u64) -> bool {
        let live = self.live.load();
        let there = live.iter().any(|segment| segment.holds(sequence, 1));
        if invariant!(B7, there) {
            pad_all(&live, sequence, sequence + slots);
        }
        there
    }

    /// Gives up all places before a sequence that nobody has taken. `false` if what is reserved would not find room then.
    ///
    /// One thread at a time.
    pub(crate) fn skip_to(&self, sequence: u64) -> bool {
        self.collect(self.lanes.all());
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

impl Lane {
    fn take_back(&mut self) -> i64 {
        self.items = 0;
        std::mem::take(&mut self.back)
    }
}

/// Passes over slots, whichever segments they are in.
pub(super) fn pad_all(live: &[Segment], from: u64, to: u64) {
    for segment in live {
        segment.pad_all(from.max(segment.first()), to.min(segment.end()));
    }
}

impl Place<'_> {
    /// The sequence of the item.
    pub(crate) const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Writes the item and shows it to readers. It must be the one that the place was taken for.
    pub(crate) fn publish(mut self, item: &Encoded) {
        if let Some(segment) = self.live.get(self.at).filter(|_| item.slots() == self.slots) {
            segment.publish(self.sequence, item);
            self.published = true;
        }
    }

    /// Has the item written into its place and shows it to readers. It must not be longer than what the place was taken for.
    pub(crate) fn publish_by(mut self, kind: Kind, write: impl FnOnce(&mut InPlace<'_>)) {
        if let Some(segment) = self.live.get(self.at) {
            segment.publish_by(self.sequence, self.slots, kind, write);
            self.published = true;
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(segment) = self.live.get(self.at).filter(|_| !self.published) {
            segment.pad(self.sequence, self.slots);
        }
    }
}
