//! One process: the real start, driver, recorder, journal, seats and flusher, with requests that the dice move on.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::task::{Context, Poll, Waker};

use super::Broken;
use super::marks::Mark;
use super::request::Flight;
use super::world::{World, schema};
use crate::flush::{Shipper, Turn};
use crate::gate::{Ground, Start};
use crate::journal::{JournalState, Recorder};
use crate::lease::{
    Counter, CounterState, Counters, FoundLeases, LeaseDriver, LeaseQueue, LeaseTable, QuotaCounter, Round,
    table_entries,
};
use crate::model::{LimitKind, StreamId};
use crate::store::{LeaseCall, LeaseReport, NodeIdentity, QuotaStore, QuotaUse, StoreError, UsageSink};

const SEATS: usize = 4;

/// Nothing here waits: the database answers at once, or not at all.
pub(super) fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nothing waits here"),
    }
}

pub(super) struct Life<'a> {
    pub(super) world: &'a World,
    pub(super) stream: StreamId,
    pub(super) recorder: Arc<Recorder>,
    pub(super) driver: LeaseDriver,
    pub(super) counters: [Arc<Counter>; 2],
    pub(super) flights: Vec<Flight>,
    shipper: Shipper,
    /// What it found in the table, as long as the authority has not heard of it.
    found: Option<FoundLeases>,
}

impl<'a> Life<'a> {
    /// Starts a process as the gate's builder does: also while the database is away. An error ends it, as it ends the process.
    pub(super) fn start(world: &'a World) -> Result<Self, StoreError> {
        world.starting.set(true);
        let stream = world.next_stream();
        let start =
            Start { node: world.node().to_owned(), stream, seats: SEATS, schema: schema(), now: world.clock.wall() };
        let ground = start.run_in(&world.area, world.options, world.kernel());
        let Ground { journal, seats, table, mut found, earlier } =
            ground.map_err(|error| StoreError::unavailable("start", error.to_string()))?;
        let queue = Arc::new(LeaseQueue::closed());
        let counters = Arc::new(Counters::default());
        let driver = driver(world, stream, table, &counters, &queue);
        let registered = at_once(driver.store.register(&driver.node));
        let mut open = registered.as_ref().cloned().unwrap_or_default();
        match world.broken {
            Broken::RefundByTimeout => {
                let returns = open.drain(..).map(|open| LeaseReport { lease: open.lease, used: open.used }).collect();
                let call = LeaseCall { returns, ..LeaseCall::new(&driver.node) };
                at_once(driver.store.lease(&call))?;
            }
            Broken::AbsentIsFull => found.drain(..).for_each(|found| found.slot.release()),
            _ => {}
        }
        if !found.is_empty() {
            world.marks.hit(Mark::LeaseTakenOver);
        }
        let mut found = FoundLeases::new(found);
        let heard = registered.is_ok() && at_once(driver.take_over(&open, &mut found)).is_ok();
        if heard {
            queue.open();
        } else {
            world.marks.hit(Mark::StartedAlone);
            driver.spend_on(&mut found);
            if world.broken == Broken::SpentOnForgotten {
                found = FoundLeases::new(Vec::new());
            }
        }
        let recorder = Arc::new(Recorder::new(journal, seats));
        let shipper = Shipper {
            sink: Arc::clone(&world.database) as Arc<dyn UsageSink>,
            clock: world.clock.clone(),
            recorder: Arc::clone(&recorder),
            refusals: Arc::default(),
            samples: Arc::default(),
            unrecorded: Arc::default(),
            metrics: Arc::clone(&world.metrics),
            away: AtomicBool::new(false),
            turn: tokio::sync::Mutex::new(Turn::new(earlier, stream)),
        };
        // What cannot be shipped now is shipped later.
        drop(at_once(shipper.flush()));
        let counters = [0, 1].map(|at| {
            let new = || CounterState::Quota(QuotaCounter::new(world.terms(at)));
            counters.counter(LimitKind::Quota, world.counters[at].clone(), new)
        });
        world.starting.set(false);
        world.tell(|| format!("started {stream}"));
        let found = (!heard).then_some(found);
        Ok(Self { world, stream, recorder, driver, counters, flights: Vec::new(), shipper, found })
    }

    pub(super) fn quota(&self, counter: usize) -> &QuotaCounter {
        let CounterState::Quota(quota) = &self.counters[counter].state else { panic!("it is a quota") };
        quota
    }

    pub(super) fn ask(&self, counter: usize) {
        self.driver.queue.ask_for(&self.counters[counter]);
        let _ = at_once(self.driver.round(Round::Queued));
    }

    /// What leases count of requests that have no record.
    pub(super) fn held(&self) -> Vec<QuotaUse> {
        self.flights.iter().flat_map(Flight::uses).collect()
    }

    /// One thing happens.
    pub(super) fn act(&mut self) -> Result<(), String> {
        let world = self.world;
        if self.found.is_some() && world.one_in(4) {
            self.join();
        }
        let action = world.below(20);
        world.tell(|| format!("action {action}"));
        match action {
            0..4 => self.admit(),
            4..11 => self.go_on()?,
            11 => drop(at_once(self.driver.round(Round::Queued))),
            12 => {
                world.manual.advance_millis(1_000);
                drop(at_once(self.driver.round(Round::Tick)));
            }
            13..15 => self.ship(),
            15 => self.maintain(),
            16 => self.time_passes(),
            17 => world.database.arrive(&mut world.dice.borrow_mut()),
            18 if world.one_in(3) => world.database.back_up(),
            18 if world.one_in(3) => self.return_leases(),
            18 => self.sync(),
            _ => self.extend(),
        }
        Ok(())
    }

    /// The authority hears of this life, and what earlier ones recorded is shipped, before it is asked for anything.
    fn join(&mut self) {
        let Some(found) = &mut self.found else { return };
        let Ok(open) = at_once(self.driver.store.register(&self.driver.node)) else { return };
        if at_once(self.driver.take_over(&open, found)).is_ok() {
            self.world.marks.hit(Mark::JoinedLate);
            self.found = None;
            drop(at_once(self.shipper.flush()));
            self.driver.queue.open();
        }
    }

    fn ship(&self) {
        if self.world.broken == Broken::CutAtTheAck {
            self.recorder.journal.ack(self.recorder.journal.next() - 1, self.world.clock.wall());
        }
        drop(at_once(self.shipper.flush()));
    }

    fn maintain(&self) {
        let before = self.recorder.journal.size().1;
        let state = self.recorder.journal.maintain(self.world.clock.wall());
        if self.recorder.journal.size().1 > before {
            self.world.marks.hit(Mark::SecondSegment);
        }
        if state != JournalState::Ok {
            self.world.marks.hit(Mark::NoRoom);
        }
    }

    fn time_passes(&self) {
        let world = self.world;
        if world.one_in(12) {
            let open = self.quota(0).open_leases().len() + self.quota(1).open_leases().len();
            let now = world.clock.wall();
            let left = now.micros_until(world.period().end) / 1_000;
            world.manual.advance_millis(u32::try_from(left).unwrap() + 1);
            if open > 0 {
                world.marks.hit(Mark::PeriodTurned);
            }
        } else {
            world.manual.advance_millis(u32::try_from(world.below(20_000)).unwrap());
        }
    }

    /// Leases go back although nobody asked, as on a node that is drained.
    fn return_leases(&self) {
        let world = self.world;
        if world.broken == Broken::NumberBeforeMark {
            for counter in 0..2 {
                for entry in self.quota(counter).open_leases() {
                    let report = LeaseReport { lease: entry.lease, used: entry.used() };
                    let now = world.clock.monotonic();
                    if entry.spend(1, now) {
                        entry.begin_return();
                        entry.adjust(1);
                    }
                    let call = LeaseCall { returns: vec![report], ..LeaseCall::new(&self.driver.node) };
                    drop(at_once(self.driver.store.lease(&call)));
                }
            }
        }
        if at_once(self.driver.round(Round::Drain)).is_ok() {
            world.marks.hit(Mark::LeaseReturned);
        }
    }

    /// What the thread that syncs does.
    fn sync(&mut self) {
        crate::mapped::crash::fail_syncs(if self.world.one_in(4) { 1 } else { 0 });
        if self.recorder.journal.sync_waiting().is_err() {
            self.world.marks.hit(Mark::SyncFailed);
        }
        crate::mapped::crash::fail_syncs(0);
        self.flights.iter_mut().for_each(|flight| flight.look_at_sync(self.world));
        self.flights.retain(|flight| !flight.is_over());
    }

    /// Everything is settled, goes back and is shipped, and the stream ends.
    pub(super) fn drain(&mut self) -> Result<(), String> {
        self.world.marks.hit(Mark::Drained);
        while !self.flights.is_empty() {
            self.go_on()?;
            self.maintain();
            self.sync();
        }
        self.join();
        for round in [Round::Tick, Round::Drain, Round::Drain] {
            at_once(self.driver.round(round)).map_err(|error| format!("the drain failed: {error}"))?;
        }
        // More than there are streams, with a pause after each failure of before.
        for _ in 0..3 {
            self.world.manual.advance_millis(11_000);
            drop(at_once(self.shipper.flush()));
        }
        let sealed = self.recorder.journal.seal().map_err(|error| format!("the end failed: {error}"))?;
        if !sealed {
            return Err("the stream has no end, although nothing is under way".to_owned());
        }
        let left = table_entries(&self.world.area, self.world.kernel());
        if !left.is_empty() {
            return Err(format!("the table still has {left:?}"));
        }
        Ok(())
    }
}

fn driver(
    world: &World,
    stream: StreamId,
    table: Arc<LeaseTable>,
    counters: &Arc<Counters>,
    queue: &Arc<LeaseQueue>,
) -> LeaseDriver {
    LeaseDriver {
        store: Arc::clone(&world.database) as Arc<dyn QuotaStore>,
        node: NodeIdentity { node: world.node().to_owned(), boot: stream, table: table.id() },
        table,
        clock: world.clock.clone(),
        counters: Arc::clone(counters),
        queue: Arc::clone(queue),
        metrics: Arc::clone(&world.metrics),
        shared: false,
        away: AtomicBool::new(false),
        asked_at: AtomicU64::new(0),
        calls: AtomicU64::new(0),
        turn: tokio::sync::Mutex::new(None),
    }
}
