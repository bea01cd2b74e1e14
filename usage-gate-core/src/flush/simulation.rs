//! The flusher against a journal and a sink that lose, repeat and delay: crashes, lost answers, commits that come late, databases that are put back.
//!
//! One seed is one run. After each step every item at or below its stream's watermark counts once, and none beyond it (B3, B4, B8); in the end
//! all are in. Sinks and journals that are broken on purpose must each be caught: that is the test of the test.

use std::collections::BTreeMap;
use std::time::Duration;

use super::flusher::{Effect, Event, Flusher, Range};
use crate::model::StreamId;

/// What is wrong with the world, for the test of the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Usage and watermark move apart.
    TwoTransactions,
    /// A range of the living stream goes on beyond a place that is not published.
    SkipsHoles,
    /// What is known already is added again.
    AddsKnownAgain,
    /// A batch beyond the watermark is taken in.
    TakesAnything,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Reserved,
    Item,
    Pad,
}

/// A batch on its way: its range, and the items in it.
#[derive(Debug, Clone)]
struct Parcel {
    stream: StreamId,
    range: Range,
    items: Vec<u64>,
}

#[derive(Debug, Clone, Default)]
struct Kept {
    watermark: u64,
    counted: BTreeMap<u64, u32>,
}

type Sink = BTreeMap<StreamId, Kept>;

struct World {
    fault: Fault,
    random: u64,
    now: Duration,
    journal: BTreeMap<StreamId, Vec<Place>>,
    sink: Sink,
    backup: Sink,
    late: Vec<Parcel>,
    flusher: Flusher,
    living: StreamId,
    asked: Option<Effect>,
    rested: bool,
    broken: Option<&'static str>,
}

impl World {
    fn new(fault: Fault, seed: u64) -> Self {
        let living = StreamId::from_u128(1);
        Self {
            fault,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now: Duration::ZERO,
            journal: BTreeMap::from([(living, Vec::new())]),
            sink: Sink::new(),
            backup: Sink::new(),
            late: Vec::new(),
            flusher: Flusher::new([], living),
            living,
            asked: None,
            rested: false,
            broken: None,
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    fn one_of(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).unwrap()
    }

    fn step(&mut self) {
        match self.below(16) {
            0..3 => self.journal.entry(self.living).or_default().push(Place::Reserved),
            3..7 => self.publish(),
            7..12 => self.answer(true),
            12 => {
                let seconds = self.below(12);
                self.now += Duration::from_secs(seconds);
                let event = if self.below(2) == 0 { Event::Woken } else { Event::Asked };
                self.tell(event);
            }
            13 if !self.late.is_empty() => {
                let at = self.one_of(self.late.len());
                let parcel = self.late.swap_remove(at);
                self.take_in(&parcel);
            }
            14 if self.below(4) == 0 => self.crash(),
            15 if self.below(2) == 0 => self.backup = self.sink.clone(),
            15 if self.below(4) == 0 => self.sink = self.backup.clone(),
            _ => {}
        }
        self.check();
    }

    fn publish(&mut self) {
        let places = self.journal.entry(self.living).or_default();
        let reserved: Vec<usize> = (0..places.len()).filter(|at| places[*at] == Place::Reserved).collect();
        if reserved.is_empty() {
            return;
        }
        let at = reserved[self.one_of(reserved.len())];
        let place = if self.below(8) == 0 { Place::Pad } else { Place::Item };
        self.journal.entry(self.living).or_default()[at] = place;
    }

    /// The process ends; recovery gives what was under way its record, or passes over it.
    fn crash(&mut self) {
        let places = self.journal.entry(self.living).or_default();
        let reserved: Vec<usize> = (0..places.len()).filter(|at| places[*at] == Place::Reserved).collect();
        for at in reserved {
            let place = if self.below(2) == 0 { Place::Pad } else { Place::Item };
            self.journal.entry(self.living).or_default()[at] = place;
        }
        let dead: Vec<StreamId> = self.journal.keys().copied().collect();
        self.living = StreamId::from_u128(dead.len() as u128 + 1);
        self.journal.insert(self.living, Vec::new());
        self.flusher = Flusher::new(dead, self.living);
        self.asked = None;
    }

    /// Does what the flusher has asked for, or begins it.
    fn answer(&mut self, faulty: bool) {
        let Some(asked) = self.asked.take() else { return self.tell(Event::Woken) };
        let fails = |world: &mut Self, often: u64| faulty && world.below(often) == 0;
        let event = match asked {
            Effect::ReadWatermark(_) if fails(self, 6) => Event::Failed,
            Effect::ReadWatermark(stream) => Event::Watermark(self.watermark(stream)),
            Effect::Look { stream, after } => self.look(stream, after),
            Effect::Send { stream, range } => {
                let places = &self.journal[&stream];
                let place = |at: u64| usize::try_from(at - 1).unwrap();
                let published = |at: &u64| places[place(*at)] == Place::Item;
                let items = (range.first..=range.last).filter(published).collect();
                self.send(&Parcel { stream, range, items }, faulty)
            }
            _ => return,
        };
        self.tell(event);
    }

    fn send(&mut self, parcel: &Parcel, faulty: bool) -> Event {
        match if faulty { self.below(8) } else { 7 } {
            0 => Event::Failed,
            1 => {
                self.take_in(parcel);
                Event::Failed
            }
            2 => {
                self.late.push(parcel.clone());
                Event::Failed
            }
            3 if self.fault == Fault::TwoTransactions => {
                let kept = self.sink.entry(parcel.stream).or_default();
                let news: Vec<u64> = parcel.items.iter().copied().filter(|at| *at > kept.watermark).collect();
                news.into_iter().for_each(|at| *kept.counted.entry(at).or_default() += 1);
                Event::Failed
            }
            _ => {
                self.take_in(parcel);
                Event::Watermark(self.watermark(parcel.stream))
            }
        }
    }

    /// What a sink does in its transaction.
    fn take_in(&mut self, parcel: &Parcel) {
        let kept = self.sink.entry(parcel.stream).or_default();
        if parcel.range.first > kept.watermark + 1 && self.fault != Fault::TakesAnything {
            return;
        }
        for at in &parcel.items {
            if *at > kept.watermark || self.fault == Fault::AddsKnownAgain {
                *kept.counted.entry(*at).or_default() += 1;
            }
        }
        kept.watermark = kept.watermark.max(parcel.range.last);
    }

    fn look(&mut self, stream: StreamId, after: u64) -> Event {
        let most = 1 + self.one_of(5);
        let places = &self.journal[&stream];
        let skips = self.fault == Fault::SkipsHoles;
        let shipped = |place: &&Place| **place != Place::Reserved || skips;
        let count = places.iter().skip(usize::try_from(after).unwrap()).take(most).take_while(shipped).count() as u64;
        if count == 0 { Event::Nothing } else { Event::Offered(Range { first: after + 1, last: after + count }) }
    }

    fn tell(&mut self, event: Event) {
        for effect in self.flusher.step(event, self.now) {
            match effect {
                Effect::Acknowledge { stream, through } => {
                    if through > self.watermark(stream) {
                        self.broken = Some("acknowledged what the sink does not have");
                    }
                }
                Effect::ReadWatermark(_) | Effect::Look { .. } | Effect::Send { .. } => self.asked = Some(effect),
                Effect::Rest => self.rested = true,
                Effect::Drained(_) | Effect::Wait(_) | Effect::Stop => {}
            }
        }
    }

    fn watermark(&self, stream: StreamId) -> u64 {
        self.sink.get(&stream).map_or(0, |kept| kept.watermark)
    }

    fn check(&mut self) {
        for (stream, kept) in &self.sink {
            for (at, place) in (1..).zip(&self.journal[stream]) {
                let expected = u32::from(at <= kept.watermark && *place == Place::Item);
                if kept.counted.get(&at).copied().unwrap_or(0) != expected {
                    self.broken = Some("an item counts other than once, or other than at the watermark");
                }
                if at <= kept.watermark && *place == Place::Reserved {
                    self.broken = Some("the watermark is beyond a place that is not published");
                }
            }
        }
    }

    /// A last start on a day without faults: everything gets in.
    fn settle(&mut self) {
        self.crash();
        self.rested = false;
        // More often than there are places, reads and pauses.
        for _ in 0..1_000 {
            if self.rested {
                break;
            }
            self.now += Duration::from_secs(10);
            self.answer(false);
        }
        self.check();
        for (stream, places) in &self.journal {
            if self.watermark(*stream) != places.len() as u64 {
                self.broken = Some("something was never shipped");
            }
        }
    }
}

/// What broke, if anything.
fn run(fault: Fault, seed: u64) -> Option<&'static str> {
    let mut world = World::new(fault, seed);
    for _ in 0..150 {
        world.step();
        if world.broken.is_some() {
            return world.broken;
        }
    }
    world.settle();
    world.broken
}

#[test]
fn b3_b4_b8_hold_whatever_is_lost_or_comes_late() {
    for seed in 0..20_000 {
        assert_eq!(run(Fault::None, seed), None, "seed {seed}");
    }
}

#[test]
fn whatever_is_broken_is_caught() {
    for fault in [Fault::TwoTransactions, Fault::SkipsHoles, Fault::AddsKnownAgain, Fault::TakesAnything] {
        assert!((0..200).any(|seed| run(fault, seed).is_some()), "{fault:?} was not caught");
    }
}
