//! What this node holds of a limit of requests open at once: places, and how many of them are taken.
//!
//! Places are opened and closed without a lock. The driver renews them, gives back those that were not needed for a while, and asks for more when requests wait. A node that could
//! not renew in time opens none any more: its places may be another's by then; requests that are open stay open.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::asking::{deadline, nanos};
use crate::clock::Monotonic;
use crate::store::{CounterId, SLOT_LEASE_TIME, SlotGrant, SlotRequest};
use crate::sync::{AtomicU64, Ordering};

const HALF: u32 = 32;
const MOST: u64 = (1 << HALF) - 1;
/// A part of the lease time after which places are renewed.
const RENEWALS: u64 = 3;
/// Where no place is left for other nodes, those that are not needed go back this soon.
const SCARCE_NANOS: u64 = 250_000_000;

/// For so long the word holds that all places are taken.
const FULL_NANOS: u64 = 50_000_000;

/// One limit of requests open at once, on this node.
pub(crate) struct HeldSlots {
    /// Requests open, in the upper half, and places, in the lower: both are one word, so that no request opens on a place that is given back.
    word: AtomicU64,
    /// From then on ([`Monotonic`] nanoseconds) nothing opens.
    deadline: AtomicU64,
    /// Requests that wait for a place.
    waiting: AtomicU64,
    /// The most that were open since the last wish.
    peak: AtomicU64,
    due: AtomicU64,
    renewal: Mutex<Renewal>,
}

#[derive(Debug, Default)]
struct Renewal {
    /// The call under way, and when it was sent.
    asked: Option<(u64, Monotonic)>,
    sequence: u64,
    answer: Option<(SlotGrant, Monotonic)>,
    failed_at: Option<Monotonic>,
    /// No place was left for others.
    scarce: bool,
    /// The most that were open in the time before the last wish.
    peak: u64,
}

impl Renewal {
    fn is_full(&self, now: Monotonic) -> bool {
        self.scarce && self.answer.is_some_and(|(_, at)| now.nanos_since(at) < FULL_NANOS)
    }
}

impl HeldSlots {
    pub(crate) fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            deadline: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            due: AtomicU64::new(u64::MAX),
            renewal: Mutex::default(),
        }
    }

    /// Takes a place, if one is free; pairs with [`close`](Self::close).
    pub(crate) fn open(&self, now: Monotonic) -> bool {
        if now.0 >= self.deadline.load(Ordering::Acquire) {
            return false;
        }
        let opened = self.change(|open, places| (open < places).then_some((open + 1, places)));
        if let Some((open, _)) = opened {
            self.peak.fetch_max(open, Ordering::Relaxed);
        }
        opened.is_some()
    }

    /// Whether a place is free now.
    pub(crate) fn has_room(&self, now: Monotonic) -> bool {
        let (open, places) = self.counts();
        now.0 < self.deadline.load(Ordering::Acquire) && open < places
    }

    /// Frees the place of a request.
    pub(crate) fn close(&self) {
        self.change(|open, places| Some((open.saturating_sub(1), places)));
    }

    /// Requests open on this node, and its places.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let word = self.word.load(Ordering::Acquire);
        (word >> HALF, word & MOST)
    }

    /// Counts a request that waits for a place; pairs with [`stop_waiting`](Self::stop_waiting).
    pub(crate) fn start_waiting(&self) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn stop_waiting(&self) {
        self.waiting.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether the authority has just said that all places are taken: it is not worth asking.
    pub(crate) fn is_full(&self, now: Monotonic) -> bool {
        self.lock().is_full(now)
    }

    /// What the authority said last, and when.
    pub(crate) fn answered(&self) -> Option<(SlotGrant, Monotonic)> {
        self.lock().answer
    }

    /// Whether the authority was asked since then in vain, and has not answered after that.
    pub(crate) fn failed_since(&self, since: Monotonic) -> bool {
        self.lock().failed_at.is_some_and(|at| at >= since)
    }

    // --- what only the driver calls ---

    /// When [`wish`](Self::wish) should be asked, if no request waits before.
    pub(crate) fn due(&self) -> Monotonic {
        Monotonic(self.due.load(Ordering::Acquire))
    }

    /// Whether it can be forgotten: it has no place, and nobody waits.
    pub(crate) fn is_quiet(&self) -> bool {
        self.word.load(Ordering::Acquire) == 0 && self.waiting.load(Ordering::Acquire) == 0
    }

    /// What to tell and ask now, if anything. It is to be sent at once, and either [`granted`](Self::granted) or [`failed`](Self::failed) follows; until then there is
    /// no other wish.
    pub(crate) fn wish(&self, counter: &CounterId, limit: u64, now: Monotonic) -> Option<SlotRequest> {
        let mut renewal = self.lock();
        let (open, places) = self.counts();
        let is_over = now.0 >= self.deadline.load(Ordering::Acquire);
        // Who waits and finds a place by now is not asked for.
        let free = if is_over { 0 } else { places.saturating_sub(open) };
        let missing = self.waiting.load(Ordering::Acquire).saturating_sub(free);
        let is_worth_it = missing > 0 && !renewal.is_full(now);
        if renewal.asked.is_some() || !(is_worth_it || now >= self.due()) {
            return None;
        }
        let peak = self.peak.swap(open, Ordering::Relaxed);
        // Two looks, so that a peak just before one is not forgotten with it. After the deadline only requests that are open keep their places.
        let needed = if is_over { 0 } else { peak.max(renewal.peak) };
        if now >= self.due() {
            renewal.peak = peak;
        }
        let keep = self.change(|open, places| Some((open, places.min(needed).max(open)))).map_or(0, |(_, kept)| kept);
        if keep == 0 && missing == 0 && places == 0 {
            self.due.store(u64::MAX, Ordering::Release);
            return None;
        }
        renewal.sequence = renewal.sequence.saturating_add(1).max(now.0 / 1_000);
        renewal.asked = Some((renewal.sequence, now));
        self.due.store(u64::MAX, Ordering::Release);
        Some(SlotRequest { counter: counter.clone(), sequence: renewal.sequence, limit, keep, more: missing.min(MOST) })
    }

    /// The answer to a wish.
    pub(crate) fn granted(&self, request: &SlotRequest, grant: SlotGrant, now: Monotonic) {
        let mut renewal = self.lock();
        let Some((_, sent)) = renewal.asked.filter(|(sequence, _)| *sequence == request.sequence) else { return };
        (renewal.asked, renewal.failed_at) = (None, None);
        renewal.answer = Some((grant, now));
        let wished = request.keep.saturating_add(request.more);
        renewal.scarce = grant.slots.saturating_add(grant.elsewhere) >= request.limit || grant.slots < wished;
        // The places first, the deadline after them: an open in between finds the old deadline, at worst.
        // Places that the authority notes because they were kept, though others have them by now, are for requests that are open.
        let ours = grant.slots.min(request.limit.saturating_sub(grant.elsewhere)).min(MOST);
        self.change(|open, _| Some((open, ours.max(open))));
        self.deadline.store(deadline(sent, nanos(SLOT_LEASE_TIME)).0, Ordering::Release);
        let (_, places) = self.counts();
        let wait = if renewal.scarce { SCARCE_NANOS } else { nanos(SLOT_LEASE_TIME) / RENEWALS };
        let due = if places > 0 { sent.plus_nanos(wait).0 } else { u64::MAX };
        self.due.store(due, Ordering::Release);
    }

    /// The wish may have been heard or not.
    pub(crate) fn failed(&self, request: &SlotRequest, now: Monotonic) {
        let mut renewal = self.lock();
        if renewal.asked.is_some_and(|(sequence, _)| sequence == request.sequence) {
            renewal.asked = None;
            renewal.failed_at = Some(now);
            self.due.store(now.plus_nanos(SCARCE_NANOS).0, Ordering::Release);
        }
    }

    fn change(&self, mut next: impl FnMut(u64, u64) -> Option<(u64, u64)>) -> Option<(u64, u64)> {
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            let (open, places) = next(word >> HALF, word & MOST)?;
            let changed = open << HALF | places;
            // AcqRel: a place that is given back is seen as gone by every open after it.
            match self.word.compare_exchange_weak(word, changed, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some((open, places)),
                Err(current) => word = current,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Renewal> {
        // Every critical section here leaves the value whole, so a panic elsewhere does not spoil it.
        self.renewal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for HeldSlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, places) = self.counts();
        write!(f, "{open} of {places} places open")
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::rates::samples;
    use crate::rates::slots::Slots;
    use crate::simulation::Dice;

    const SECOND: u64 = 1_000_000_000;

    /// Nodes and their authority, with a limit of 10.
    struct World {
        nodes: Vec<HeldSlots>,
        authority: Option<Slots>,
        now: Monotonic,
    }

    impl World {
        fn new(nodes: usize) -> Self {
            let nodes = (0..nodes).map(|_| HeldSlots::new()).collect();
            Self { nodes, authority: None, now: Monotonic(1_000 * SECOND) }
        }

        /// The driver's turn on a node; whether there was a call.
        fn turn(&mut self, at: usize) -> bool {
            let Some(request) = self.nodes[at].wish(&samples::counter(), 10, self.now) else { return false };
            let name = at.to_string();
            let (slots, grant) = Slots::step(self.authority.take(), self.now.0 / 1_000, None, &name, &request);
            self.authority = Some(slots);
            self.nodes[at].granted(&request, grant, self.now);
            true
        }

        /// Opens as many as find a place, and asks for the others.
        fn open(&mut self, at: usize, count: usize) -> usize {
            (0..count)
                .filter(|_| {
                    if self.nodes[at].open(self.now) {
                        return true;
                    }
                    self.nodes[at].start_waiting();
                    self.turn(at);
                    self.nodes[at].stop_waiting();
                    self.nodes[at].open(self.now)
                })
                .count()
        }

        fn wait(&mut self, nanos: u64) {
            self.now = self.now.plus_nanos(nanos);
        }
    }

    #[test]
    fn no_more_are_open_than_the_limit_over_all_nodes() {
        let mut world = World::new(2);
        assert_eq!([world.open(0, 7), world.open(1, 7)], [7, 3]);
        world.nodes[0].close();
        assert_eq!(world.open(0, 2), 1);
    }

    #[test]
    fn places_that_are_not_needed_go_back() {
        let mut world = World::new(2);
        assert_eq!(world.open(0, 10), 10);
        (0..9).for_each(|_| world.nodes[0].close());
        // The peak counts for one look more.
        for _ in 0..3 {
            world.wait(SCARCE_NANOS);
            world.turn(0);
        }
        assert_eq!(world.open(1, 10), 9);
    }

    #[test]
    fn a_node_that_does_not_renew_opens_nothing_and_keeps_what_is_open() {
        let mut world = World::new(2);
        world.open(0, 3);
        world.nodes[0].close();
        world.wait(6 * SECOND);
        assert!(!world.nodes[0].open(world.now));
        assert_eq!(world.open(1, 10), 10);
        // Its requests are open, whoever else has their places.
        assert!(world.turn(0));
        assert_eq!(world.nodes[0].counts(), (2, 2));
    }

    #[test]
    fn the_word_that_all_places_are_taken_holds_for_a_moment() {
        let mut world = World::new(2);
        world.open(0, 10);
        assert_eq!(world.open(1, 1), 0);
        assert!(world.nodes[1].is_full(world.now));
        world.nodes[1].start_waiting();
        assert!(!world.turn(1));
        world.wait(FULL_NANOS);
        assert!(!world.nodes[1].is_full(world.now) && world.turn(1));
    }

    #[test]
    fn an_unanswered_renewal_gives_no_place_away_and_none_too_many() {
        let mut world = World::new(1);
        world.open(0, 4);
        world.wait(3 * SECOND);
        world.nodes[0].start_waiting();
        let lost = world.nodes[0].wish(&samples::counter(), 10, world.now).unwrap();
        assert_eq!((lost.keep, lost.more), (4, 1));
        world.nodes[0].failed(&lost, world.now);
        assert_eq!(world.nodes[0].counts(), (4, 4));
        assert!(world.nodes[0].failed_since(world.now));
        assert_eq!(world.nodes[0].answered().map(|(grant, _)| grant.slots), Some(4));
        let again = world.nodes[0].wish(&samples::counter(), 10, world.now).unwrap();
        assert!(again.sequence > lost.sequence && (again.keep, again.more) == (4, 1));
    }

    #[test]
    fn a_quiet_node_asks_for_nothing() {
        let mut world = World::new(1);
        assert!(!world.turn(0) && world.nodes[0].is_quiet());
        world.open(0, 1);
        world.nodes[0].close();
        for _ in 0..3 {
            world.wait(SLOT_LEASE_TIME.as_nanos().try_into().unwrap_or(SECOND));
            world.turn(0);
        }
        assert!(world.nodes[0].is_quiet() && !world.turn(0));
    }

    #[test]
    fn threads_never_open_more_than_there_are_places() {
        let mut world = World::new(1);
        assert_eq!(world.open(0, 10), 10);
        (0..10).for_each(|_| world.nodes[0].close());
        let (node, now) = (&world.nodes[0], world.now);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(move || {
                    for _ in 0..2_000 {
                        if node.open(now) {
                            assert!(node.counts().0 <= 10);
                            node.close();
                        }
                    }
                });
            }
        });
        assert_eq!(node.counts(), (0, 10));
    }

    /// Calls and answers that are lost, late, repeated and out of order: what a node opens on is never more than the authority has noted for it.
    fn walk(seed: u64) -> Result<(), String> {
        let (mut dice, mut world) = (Dice::new(seed), World::new(3));
        let mut calls: Vec<(usize, SlotRequest)> = Vec::new();
        let mut answers: Vec<(usize, SlotRequest, SlotGrant)> = Vec::new();
        for _ in 0..200 {
            let most = if dice.one_in(30) { 4 * SECOND } else { SECOND / 10 };
            world.wait(dice.below(most / 1_000) * 1_000);
            let at = dice.place(3);
            let node = &world.nodes[at];
            match dice.below(10) {
                0..3 => drop(node.open(world.now)),
                3 if node.counts().0 > 0 => node.close(),
                4..7 => {
                    node.start_waiting();
                    let wish = node.wish(&samples::counter(), 10, world.now);
                    calls.extend(wish.map(|request| (at, request)));
                    node.stop_waiting();
                }
                7..9 if !calls.is_empty() => {
                    let call = dice.place(calls.len());
                    let (at, request) = if dice.one_in(8) { calls[call].clone() } else { calls.swap_remove(call) };
                    let (slots, now) = (world.authority.take(), world.now.0 / 1_000);
                    let (slots, grant) = Slots::step(slots, now, None, &at.to_string(), &request);
                    world.authority = Some(slots);
                    answers.push((at, request, grant));
                }
                _ if !answers.is_empty() => {
                    let answer = dice.place(answers.len());
                    let (at, request, grant) = answers.swap_remove(answer);
                    if dice.one_in(6) {
                        world.nodes[at].failed(&request, world.now);
                    } else {
                        world.nodes[at].granted(&request, grant, world.now);
                    }
                }
                // A call that is given up, and may arrive all the same.
                _ if !calls.is_empty() => {
                    let (at, request) = &calls[dice.place(calls.len())];
                    world.nodes[*at].failed(request, world.now);
                }
                _ => {}
            }
            for (at, node) in world.nodes.iter().enumerate() {
                let lives = world.now.0 < node.deadline.load(Ordering::Acquire);
                let noted = world.authority.iter().flat_map(|slots| &slots.holders);
                let noted: u64 =
                    noted.filter(|holder| *holder.node == *at.to_string()).map(|holder| holder.slots).sum();
                let places = node.counts().1;
                if lives && places > noted {
                    return Err(format!("seed {seed}: node {at} has {places} places, and {noted} are noted"));
                }
            }
        }
        Ok(())
    }

    #[test]
    fn what_a_node_opens_on_is_noted_whatever_becomes_of_calls() {
        for seed in 0..20_000 {
            walk(seed).unwrap();
        }
    }
}
