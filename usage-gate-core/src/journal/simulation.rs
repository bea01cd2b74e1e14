//! Journals that are killed at every step, and the requests that must be counted once in spite of that.
//!
//! A run is a life of a process that is killed before one of its steps, a recovery that is killed before one of its own, a recovery that is not, another life, and
//! a sink that gets everything. At the end each request that had a seat is in the sink once (B3, B5, B6, B8), and again in a sink that was put back to its
//! beginning, if nothing may have gone by then. [`Broken`] variants leave out what the protocol demands; each must be caught.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::append::Place;
use super::keeper::tests::{at, journal_with, options, record};
use super::read::{Chunk, Stream, read};
use super::segment::{Found, Segment};
use super::{DeadStream, Files, Journal, JournalOptions, LifeEnd};
use crate::mapped::{Area, Words, crash};
use crate::model::{RequestId, StreamId};
use crate::simulation::Dice;
use crate::store::Batch;
use crate::sync::Ordering;

const SEATS: usize = 3;
const ACTIONS: u64 = 60;
const SEEDS: u64 = 9;

impl Journal {
    /// As [`begin`](Journal::begin), for who is away before it publishes.
    pub(crate) fn begin_slowly(&self, slots: u64) -> Option<Place<'static>> {
        self.appender.begin_slowly(slots)
    }
}

/// A part of the protocol that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// The flusher of a living stream goes on behind a slot that is not published.
    FlusherSkipsHoles,
    /// The journal is told that the sink has a batch before it has.
    CutAtTheAck,
    /// Recovery records in the stream of the next life.
    RecoveryIntoTheNewStream,
    /// A seat is free before its record is published.
    SeatFreedBeforePublish,
}

/// What no kill reaches: files, and the sink.
struct World {
    seed: u64,
    broken: Broken,
    area: Area,
    /// A request and a sequence a seat.
    seats: Words,
    sink: RefCell<Sink>,
    admitted: RefCell<BTreeSet<u128>>,
    streams: Cell<u128>,
}

#[derive(Debug, Default)]
struct Sink {
    watermarks: BTreeMap<StreamId, u64>,
    counted: Vec<u128>,
}

/// A request in flight.
struct Flight {
    seat: usize,
    request: u128,
    reserved: bool,
    place: Option<Place<'static>>,
}

impl Sink {
    fn next(&self, stream: StreamId) -> u64 {
        self.watermarks.get(&stream).map_or(1, |watermark| watermark + 1)
    }

    fn accept(&mut self, batch: &Batch) {
        let watermark = self.watermarks.entry(batch.stream).or_default();
        let fresh = batch.records.iter().filter(|record| record.sequence > *watermark);
        self.counted.extend(fresh.map(|record| record.request.as_u128()));
        *watermark = batch.last.max(*watermark);
    }
}

impl World {
    fn new(seed: u64, broken: Broken) -> Self {
        Self {
            seed,
            broken,
            area: Area::memory(),
            seats: Words::memory(SEATS * 2),
            sink: RefCell::default(),
            admitted: RefCell::default(),
            streams: Cell::new(0),
        }
    }

    /// Whether segments go as soon as the sink has them.
    fn forgets(&self) -> bool {
        self.seed % 2 == 1 || self.broken == Broken::CutAtTheAck
    }

    fn options(&self) -> JournalOptions {
        let retention = if self.forgets() { Duration::ZERO } else { Duration::from_secs(3_600) };
        JournalOptions { retention, ..options(16 + self.seed % 9) }
    }

    fn next_life(&self) -> Journal {
        self.streams.set(self.streams.get() + 1);
        journal_with(&self.area, self.options(), self.streams.get())
    }

    /// A life. Whoever kills it does so in here.
    fn live(&self) {
        let journal = self.next_life();
        let mut dice = Dice::new(self.seed ^ (u64::try_from(self.streams.get()).unwrap() << 32));
        let mut flights: Vec<Flight> = Vec::new();
        for action in 0..ACTIONS {
            match dice.below(12) {
                0..=3 => self.admit(&journal, action, &mut flights),
                4..=9 if !flights.is_empty() => {
                    let at = usize::try_from(dice.below(flights.len() as u64)).unwrap();
                    if self.go_on(&journal, &mut flights[at], dice.below(9) == 0) {
                        flights.swap_remove(at);
                    }
                }
                10 => drop(journal.maintain(at(3))),
                _ => self.flush(&journal, &mut dice),
            }
        }
        while let Some(mut flight) = flights.pop() {
            while !self.go_on(&journal, &mut flight, false) {
                journal.maintain(at(3));
            }
        }
        assert!(journal.seal().unwrap());
    }

    fn seat(&self, at: usize, request: u128) {
        self.seats[at * 2].store(u64::try_from(request).unwrap(), Ordering::Release);
    }

    fn admit(&self, journal: &Journal, action: u64, flights: &mut Vec<Flight>) {
        let free = (0..SEATS).find(|seat| flights.iter().all(|flight| flight.seat != *seat));
        let Some(seat) = free.filter(|_| journal.reserve()) else { return };
        let request = self.streams.get() * 1_000 + u128::from(action);
        self.seat(seat, request);
        self.admitted.borrow_mut().insert(request);
        flights.push(Flight { seat, request, reserved: true, place: None });
    }

    /// The next step of a request; `true` if it was the last.
    fn go_on(&self, journal: &Journal, flight: &mut Flight, unwinds: bool) -> bool {
        let item = record(flight.request);
        match flight.place.take() {
            None if flight.reserved || journal.reserve() => {
                flight.reserved = false;
                let place = journal.begin_slowly(item.slots()).unwrap();
                self.seats[flight.seat * 2 + 1].store(place.sequence(), Ordering::Release);
                flight.place = Some(place);
                false
            }
            None => false,
            Some(place) if unwinds => {
                drop(place);
                false
            }
            Some(place) if self.broken == Broken::SeatFreedBeforePublish => {
                self.seat(flight.seat, 0);
                place.publish(&item);
                true
            }
            Some(place) => {
                place.publish(&item);
                self.seat(flight.seat, 0);
                true
            }
        }
    }

    fn flush(&self, journal: &Journal, dice: &mut Dice) {
        let from = self.sink.borrow().next(journal.stream());
        let chunk = if self.broken == Broken::FlusherSkipsHoles {
            read_over_holes(&journal.appender_live(), from)
        } else {
            journal.read(from, 3)
        };
        let Some(chunk) = chunk else { return };
        let through = chunk.last;
        let batch = chunk.into_batch(at(3));
        if self.broken == Broken::CutAtTheAck {
            journal.ack(through, at(3));
            journal.maintain(at(3));
        }
        let (away, reply_lost) = (dice.below(4) == 0, dice.below(4) == 0);
        if !away {
            self.sink.borrow_mut().accept(&batch);
        }
        if !away && !reply_lost {
            journal.ack(through, at(3));
        }
    }

    /// What a start does before it serves.
    fn recover(&self) {
        let mut files = Files::open(self.area.clone()).unwrap();
        for stream in files.streams() {
            let bytes = self.options().segment_bytes;
            let dead = DeadStream::open(&mut files, stream.id, LifeEnd::Killed, bytes).unwrap();
            let Some(mut dead) = dead else { continue };
            for seat in 0..SEATS {
                let request = u128::from(self.seats[seat * 2].load(Ordering::Acquire));
                let sequence = &self.seats[seat * 2 + 1];
                if request == 0 {
                    continue;
                }
                if self.broken == Broken::RecoveryIntoTheNewStream {
                    if !dead.contains(sequence.load(Ordering::Acquire), RequestId::from_u128(request)).unwrap() {
                        let journal = self.next_life();
                        assert!(journal.reserve());
                        sequence.store(journal.append(&record(request)).unwrap(), Ordering::Release);
                        assert!(journal.seal().unwrap());
                    }
                } else if !dead.contains(sequence.load(Ordering::Acquire), RequestId::from_u128(request)).unwrap() {
                    let item = record(request);
                    sequence.store(dead.place(item.slots()).unwrap(), Ordering::Release);
                    dead.append(&item).unwrap();
                }
                self.seat(seat, 0);
            }
            dead.seal().unwrap();
        }
    }

    fn drain(&self) -> Result<(), String> {
        for stream in Stream::all(&self.area).unwrap().0 {
            let sealed = stream.sealed().ok_or("a stream is not sealed")?;
            loop {
                let from = self.sink.borrow().next(stream.id);
                let Some(chunk) = stream.read(from, 5).unwrap() else { break };
                if chunk.first != from {
                    return Err(format!("{} of stream {:?} is gone before the sink had it", from, stream.id));
                }
                stream.ack(chunk.last, at(4));
                self.sink.borrow_mut().accept(&chunk.into_batch(at(4)));
            }
            let reached = self.sink.borrow().next(stream.id);
            if reached < sealed {
                return Err(format!("stream {:?} stops at {reached}, and ends at {sealed}", stream.id));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let mut counted = self.sink.borrow().counted.clone();
        counted.sort_unstable();
        let admitted: Vec<u128> = self.admitted.borrow().iter().copied().collect();
        if counted == admitted { Ok(()) } else { Err(format!("admitted {admitted:?}\ncounted {counted:?}")) }
    }

    /// All of a run; `None` for a kill is none.
    fn run(&self, kill: Option<u64>, kill_recovery: Option<u64>) -> Result<(), String> {
        match kill {
            Some(step) => drop(crash::killed_after(step, || self.live())),
            None => self.live(),
        }
        if let Some(step) = kill_recovery {
            crash::killed_after(step, || self.recover());
        }
        self.recover();
        self.live();
        self.drain()?;
        self.check()?;
        if !self.forgets() {
            // A database that was restored: the journals say all of it again.
            *self.sink.borrow_mut() = Sink::default();
            self.drain()?;
            self.check()?;
        }
        Ok(())
    }
}

impl Journal {
    fn appender_live(&self) -> Vec<Segment> {
        self.appender.live().to_vec()
    }
}

/// What a flusher must not do.
fn read_over_holes(segments: &[Segment], from: u64) -> Option<Chunk> {
    let segment = segments.iter().find(|segment| segment.holds(from, 1))?;
    let next = (from..segment.end()).find(|at| matches!(segment.at(*at), Found::Item(_)))?;
    read(segments, next, 1)
}

/// How many runs there were, or what the first broke.
fn every_kill(seed: u64, broken: Broken) -> Result<u64, String> {
    let (steps, ()) = crash::steps_of(|| World::new(seed, broken).live());
    let mut runs = 0;
    for kill in 0..steps {
        let world = World::new(seed, broken);
        crash::killed_after(kill, || world.live());
        let (recovery, ()) = crash::steps_of(|| world.recover());
        for kill_recovery in (0..recovery).map(Some).chain([None]) {
            let world = World::new(seed, broken);
            let run = catch_unwind(AssertUnwindSafe(|| world.run(Some(kill), kill_recovery)));
            let run = run.unwrap_or_else(|_| Err("a panic".to_owned()));
            run.map_err(|error| format!("seed {seed}, killed at {kill}, then at {kill_recovery:?}: {error}"))?;
            runs += 1;
        }
    }
    Ok(runs)
}

#[test]
fn b3_each_request_with_a_seat_is_counted_once_wherever_life_and_recovery_are_killed() {
    let runs: u64 = std::thread::scope(|scope| {
        let of_seeds = (0..SEEDS).map(|seed| scope.spawn(move || every_kill(seed, Broken::Nothing)));
        let of_seeds: Vec<_> = of_seeds.collect();
        of_seeds.into_iter().map(|seed| seed.join().unwrap().unwrap()).sum()
    });
    println!("{runs} runs");
    assert!(runs > 100_000, "only {runs} runs");
}

#[test]
fn each_broken_variant_is_caught() {
    for broken in [
        Broken::FlusherSkipsHoles,
        Broken::CutAtTheAck,
        Broken::RecoveryIntoTheNewStream,
        Broken::SeatFreedBeforePublish,
    ] {
        let caught = (0..SEEDS).find_map(|seed| every_kill(seed, broken).err());
        println!("{broken:?}: {}", caught.unwrap_or_else(|| panic!("{broken:?} is not noticed")));
    }
}

#[test]
fn a_life_that_is_not_killed_needs_no_recovery() {
    for seed in 0..200 {
        World::new(seed, Broken::Nothing).run(None, None).unwrap();
    }
}

/// Power that goes while a stream is sealed: what is called sealed is there.
#[test]
fn b5_a_seal_that_loses_its_power_ends_nothing_that_is_not_there() {
    crash::count_syncs();
    for seed in 0..2_000 {
        let mut dice = Dice::new(seed);
        let world = World::new(seed, Broken::Nothing);
        let (journal, mut all) = (world.next_life(), BTreeSet::new());
        for number in 0..dice.below(20) {
            if dice.below(4) == 0 {
                journal.maintain(at(3));
            }
            if journal.reserve() {
                journal.append(&record(number.into())).unwrap();
                all.insert(u128::from(number));
            }
        }
        let _ = crash::killed_after(dice.below(30), || journal.seal().unwrap());
        drop(journal);
        for name in world.area.list().unwrap() {
            world.area.open(&name).unwrap().lose_power(|| dice.below(2) == 0);
        }
        let mut files = Files::open(world.area.clone()).unwrap();
        let bytes = world.options().segment_bytes;
        if let Some(dead) = DeadStream::open(&mut files, StreamId::from_u128(1), LifeEnd::PowerLost, bytes).unwrap() {
            dead.seal().unwrap();
        }
        world.drain().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let counted = world.sink.borrow().counted.clone();
        let once: BTreeSet<u128> = counted.iter().copied().collect();
        assert!(once.len() == counted.len() && once.is_subset(&all), "seed {seed}: {counted:?}");
    }
}

/// Lives with durability `disk`, and power that goes: of what was synced all is counted, of the rest nothing twice.
#[test]
fn b5_what_was_synced_survives_power_loss_and_nothing_is_counted_twice() {
    for seed in 0..3_000 {
        let mut dice = Dice::new(seed);
        let world = World::new(seed, Broken::Nothing);
        let (mut safe, mut all) = (BTreeSet::new(), BTreeSet::new());
        for life in 1..4u128 {
            let journal = world.next_life();
            let mut waiting = Vec::new();
            for number in 0..30 {
                match dice.below(8) {
                    0..=3 if journal.reserve() => {
                        let request = life * 1_000 + number;
                        all.insert(request);
                        waiting.push((request, journal.wish_sync(journal.append(&record(request)).unwrap())));
                    }
                    4 => {
                        // Some syncs fail; whose do is asked again.
                        crash::fail_syncs(if dice.below(3) == 0 { dice.below(8) } else { 0 });
                        let _ = journal.sync_waiting();
                        crash::fail_syncs(0);
                    }
                    5 => world.flush(&journal, &mut dice),
                    _ => drop(journal.maintain(at(3))),
                }
                let synced = waiting.extract_if(.., |(_, wish)| wish.try_recv() == Ok(()));
                safe.extend(synced.map(|(request, _)| request));
            }
            drop(journal);
            for name in world.area.list().unwrap() {
                world.area.open(&name).unwrap().lose_power(|| dice.below(2) == 0);
            }
            let mut files = Files::open(world.area.clone()).unwrap();
            assert_eq!(files.damaged(), [""; 0], "seed {seed}");
            let id = StreamId::from_u128(life);
            let dead = DeadStream::open(&mut files, id, LifeEnd::PowerLost, world.options().segment_bytes).unwrap();
            if let Some(dead) = dead {
                dead.seal().unwrap();
            }
        }
        world.drain().unwrap();
        let counted = world.sink.borrow().counted.clone();
        let once: BTreeSet<u128> = counted.iter().copied().collect();
        assert_eq!(once.len(), counted.len(), "seed {seed}: counted twice");
        assert!(safe.is_subset(&once) && once.is_subset(&all), "seed {seed}: {safe:?} {once:?}");
    }
}
