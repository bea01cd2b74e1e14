//! Processes that are killed at every step of a lease's life, and of the start after it, with the ledger itself as the authority.
//!
//! Each run is three lives of a node: the first is killed somewhere, the second too, the third goes on until the quota is used up and gives everything
//! back. Then every unit is accounted for: what records say is what the ledger counts (B9), nobody was admitted beyond the cap (A1 to A6), and no
//! unit is lost.

mod away;
mod debts;
mod ended;

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::driver::Round;
use super::ledger::Ledger;
use super::slot::SlotState;
use super::{
    Counter, CounterState, Debtor, Found, FoundLeases, LeaseDriver, LeaseEntry, LeaseTable, QuotaCounter, QuotaTerms,
    reconcile,
};
use crate::clock::{Clock, ManualClock};
use crate::kernel::KernelBoot;
use crate::mapped::{Area, Words, crash};
use crate::metrics::Metrics;
use crate::model::{LimitKind, Meters, Per, StreamId, TenantId, Timestamp};
use crate::period::{AnchorDay, Calendar, Zone};
use crate::routes::Routes;
use crate::store::*;

const CAP: u64 = 60;
/// The most lives of a run.
const LIVES: u128 = 3;

/// What is wrong with this node, or with its authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// A node that is away is taken for dead, and its leases for unused.
    RefundByTimeout,
    /// A lease that the table has lost is taken for full.
    AbsentIsFull,
    /// The number that goes back is read before the lease is marked.
    NumberBeforeMark,
    TableTrustedAfterReboot,
    /// What was never recorded is not forfeited.
    NothingForfeited,
    /// A life takes its leases over as if it had used all of it.
    NotRebased,
    /// What is owed is taken for nothing, since the authority has no such lease.
    DebtsNotTold,
    /// What is owed is told under another id in each life.
    DebtsRenamed,
    /// Leases that were spent on while the authority was away are given back as if the table lacked them.
    SpentOnForgotten,
    /// What the authority does not have open is spent on.
    GoneSpentOn,
}

/// What outlives a process: the machine's files, the authority, the journal with its seats.
struct World {
    area: Area,
    ledger: Authority,
    clock: ManualClock,
    kernel: Cell<u128>,
    counter: CounterId,
    beyond_cap: bool,
    lives: Cell<u128>,
    /// Life, lease and units.
    records: RefCell<Vec<(StreamId, u64, i64)>>,
    forfeited: Cell<u64>,
    seats: RefCell<Vec<(StreamId, u64, i64)>>,
    steps: Words,
    broken: Broken,
}

/// The ledger; for a node with a step before and after each call, so that it can be killed there.
#[derive(Debug, Clone)]
struct Authority {
    ledger: Arc<Mutex<Ledger>>,
    clock: Clock,
    steps: Option<Words>,
    /// How many of the next answers are lost.
    losing: Arc<AtomicU64>,
}

impl Authority {
    fn call<T>(&self, call: impl FnOnce(&mut Ledger, Timestamp) -> T) -> T {
        self.steps.iter().for_each(step);
        let mut ledger = self.ledger.lock().unwrap();
        let answer = call(&mut ledger, self.clock.wall());
        ledger.check();
        drop(ledger);
        self.steps.iter().for_each(step);
        answer
    }
}

fn step(words: &Words) {
    words[0].store(1, Ordering::Relaxed);
}

#[async_trait::async_trait]
impl QuotaStore for Authority {
    fn promises(&self) -> QuotaPromises {
        QuotaPromises::new(Durability::Process, true)
    }

    async fn register(&self, node: &NodeIdentity) -> Result<Vec<OpenLease>, StoreError> {
        Ok(self.call(|ledger, now| ledger.register(node, now)))
    }

    async fn lease(&self, call: &LeaseCall) -> Result<LeaseAnswer, StoreError> {
        let answer = self.call(|ledger, now| ledger.lease(call, now));
        let lost = self.losing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        if lost {
            return Err(StoreError::unavailable("lease units", std::io::Error::other("the answer is lost")));
        }
        answer.map_err(|_| StoreError::superseded("lease units"))
    }

    async fn windows(&self, queries: &[WindowQuery]) -> Result<Vec<WindowState>, StoreError> {
        Ok(self.call(|ledger, now| ledger.windows(queries, now)))
    }

    async fn subjects(&self, template: &WindowQuery, most: usize) -> Result<Vec<(CounterId, WindowState)>, StoreError> {
        Ok(self.call(|ledger, now| ledger.subjects(template, most, now)))
    }
}

/// Nothing here waits: the ledger answers at once.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nothing waits here"),
    }
}

impl World {
    fn new(broken: Broken, beyond_cap: bool) -> Self {
        let clock = ManualClock::at("2026-11-24T12:00:00Z".parse().unwrap());
        let counter = CounterId {
            tenant: TenantId::from_u128(1),
            subject: Subject::Tenant,
            limit: "monthly".into(),
            meter: "requests".into(),
            per: Per::Month,
        };
        Self {
            area: Area::memory(),
            ledger: Authority { ledger: Arc::default(), clock: clock.clock(), steps: None, losing: Arc::default() },
            clock,
            kernel: Cell::new(1),
            counter,
            beyond_cap,
            lives: Cell::new(0),
            records: RefCell::default(),
            forfeited: Cell::new(0),
            seats: RefCell::default(),
            steps: Words::memory(1),
            broken,
        }
    }

    fn terms(&self) -> QuotaTerms {
        let calendar = Calendar::new(Zone::UTC, AnchorDay::FIRST);
        QuotaTerms { calendar, cap: CAP, cap_version: 1, beyond_cap: self.beyond_cap }
    }

    fn window(&self) -> WindowState {
        let query = WindowQuery { counter: self.counter.clone(), calendar: self.terms().calendar, cap: CAP };
        at_once(self.ledger.windows(&[query])).unwrap()[0]
    }

    /// Granted and used in all periods together.
    fn totals(&self) -> (u64, u64) {
        let ledger = self.ledger.ledger.lock().unwrap();
        ledger.audited().fold((0, 0), |(granted, used), (_, _, row, _, open_used)| {
            (granted + row.granted, used + row.used_closed + open_used)
        })
    }

    fn record(&self, life: StreamId, lease: u64, units: i64) {
        step(&self.steps);
        if !crash::is_dead() {
            self.records.borrow_mut().push((life, lease, units));
        }
    }

    /// What the start of a life does with the journal: seats leave their records, then leases are compared with all of them.
    fn recover(&self, found: &[Found]) {
        loop {
            let seat = self.seats.borrow().first().copied();
            let Some((life, lease, units)) = seat else { break };
            self.record(life, lease, units);
            self.seats.borrow_mut().remove(0);
        }
        if self.broken == Broken::NothingForfeited {
            return;
        }
        for dead in (1..self.lives.get()).map(StreamId::from_u128) {
            let mut cited = std::collections::HashMap::new();
            for (_, lease, units) in self.records.borrow().iter().filter(|(life, ..)| *life == dead) {
                *cited.entry(*lease).or_default() += units;
            }
            for forfeit in reconcile(found, &cited, dead) {
                self.record(dead, forfeit.lease.tag(), forfeit.units);
                self.forfeited.set(self.forfeited.get() + u64::try_from(forfeit.units).unwrap_or(0));
            }
        }
    }

    /// A machine that lost its power: what was not synced is as it was.
    fn reboot(&self) {
        for name in self.area.list().unwrap() {
            self.area.open(&name).unwrap().lose_power(|| false);
        }
        self.seats.borrow_mut().clear();
        if self.broken != Broken::TableTrustedAfterReboot {
            self.kernel.set(self.kernel.get() + 1);
        }
    }
}

fn driver(world: &World, stream: StreamId, table: Arc<LeaseTable>) -> LeaseDriver {
    let routes = Routes::compile(vec![], &Meters::default()).unwrap();
    LeaseDriver {
        store: Arc::new(Authority { steps: Some(world.steps.clone()), ..world.ledger.clone() }),
        node: NodeIdentity { node: "a".to_owned(), boot: stream, table: table.id() },
        table,
        clock: world.clock.clock(),
        counters: Arc::default(),
        queue: Arc::default(),
        metrics: Arc::new(Metrics::new(&routes)),
        shared: false,
        away: AtomicBool::new(false),
        asked_at: AtomicU64::new(0),
        calls: AtomicU64::new(0),
        turn: tokio::sync::Mutex::new(None),
    }
}

/// One process.
struct Life<'a> {
    world: &'a World,
    stream: StreamId,
    driver: LeaseDriver,
    counter: Arc<Counter>,
}

/// A request that was forwarded.
struct InFlight {
    entry: Arc<LeaseEntry>,
    units: i64,
}

impl<'a> Life<'a> {
    /// As far as a life comes without the authority.
    fn begin(world: &World) -> (LeaseDriver, Vec<Found>) {
        world.lives.set(world.lives.get() + 1);
        let stream = StreamId::from_u128(world.lives.get());
        let kernel = KernelBoot::from_u128(world.kernel.get());
        let (table, found) = LeaseTable::open(&world.area, "a", stream, kernel).unwrap();
        world.recover(&found);
        (driver(world, stream, table), found)
    }

    fn start(world: &'a World) -> Self {
        let (driver, mut found) = Self::begin(world);
        let open = at_once(driver.store.register(&driver.node)).unwrap();
        match world.broken {
            Broken::RefundByTimeout => {
                let returns = open.iter().map(|open| LeaseReport { lease: open.lease, used: open.used }).collect();
                let call = LeaseCall { returns, ..LeaseCall::new(&driver.node) };
                at_once(driver.store.lease(&call)).unwrap();
                at_once(driver.take_over(&[], &mut FoundLeases::new(found))).unwrap();
            }
            Broken::AbsentIsFull => {
                let absent = found.drain(..).map(|found| found.slot.release()).count();
                assert!(absent <= open.len() + 8);
                at_once(driver.take_over(&open, &mut FoundLeases::new(vec![]))).unwrap();
            }
            Broken::DebtsNotTold => {
                let owed = found.extract_if(.., |found| found.entry.state == SlotState::Owed);
                owed.for_each(|found| found.slot.release());
                at_once(driver.take_over(&open, &mut FoundLeases::new(found))).unwrap();
            }
            Broken::DebtsRenamed => {
                let owed = found.iter_mut().filter(|found| found.entry.state == SlotState::Owed);
                owed.for_each(|found| found.entry.lease = LeaseId::generate_debt());
                at_once(driver.take_over(&open, &mut FoundLeases::new(found))).unwrap();
            }
            Broken::NotRebased => {
                // As if the use so far were this life's: the base stays, the life is another.
                let bases: Vec<_> = found.iter().map(|found| (found.entry.lease, found.entry.base)).collect();
                at_once(driver.take_over(&open, &mut FoundLeases::new(found))).unwrap();
                driver.counters.each_left(|entry| {
                    let base = bases.iter().find(|(lease, _)| *lease == entry.lease).map_or(0, |(_, base)| *base);
                    entry.rebase(base);
                });
            }
            _ => at_once(driver.take_over(&open, &mut FoundLeases::new(found))).unwrap(),
        }
        Self::of(world, driver)
    }

    fn of(world: &'a World, driver: LeaseDriver) -> Self {
        let new = || CounterState::Quota(QuotaCounter::new(world.terms()));
        let counter = driver.counters.counter(LimitKind::Quota, world.counter.clone(), new);
        Self { world, stream: driver.node.boot, driver, counter }
    }

    fn quota(&self) -> &QuotaCounter {
        let CounterState::Quota(quota) = &self.counter.state else { panic!("it is a quota") };
        quota
    }

    fn ask(&self) {
        self.driver.queue.ask_for(&self.counter);
        at_once(self.driver.round(Round::Queued)).unwrap();
    }

    fn debtor(&self) -> Debtor<'_> {
        let now = self.driver.clock.monotonic();
        Debtor { counter: &self.counter.id, table: &self.driver.table, now }
    }

    fn admit(&self, units: u64) -> Option<InFlight> {
        let (quota, now) = (self.quota(), self.driver.clock.monotonic());
        let mut entry = quota.take(units, now).map(|(entry, _)| entry);
        if entry.is_none() && !self.world.beyond_cap {
            self.ask();
            entry = quota.take(units, now).map(|(entry, _)| entry);
            entry.as_ref()?;
        }
        let units = units.cast_signed();
        let entry = entry.or_else(|| quota.owe(units, self.world.window().period, &self.debtor()))?;
        // The seat: what is taken and not yet in it is forfeited.
        step(&self.world.steps);
        self.world.seats.borrow_mut().push((self.stream, entry.tag(), units));
        Some(InFlight { entry, units })
    }

    fn settle(&self, request: &InFlight, owed: i64) {
        let difference = request.units - owed;
        let period = || Some(self.world.window().period);
        let booked = self.quota().adjust(Some(&request.entry), difference, period, &self.debtor());
        step(&self.world.steps);
        // The record is published, and with it the seat is free.
        let held = (self.stream, request.entry.tag(), request.units);
        let at = self.world.seats.borrow().iter().position(|seat| *seat == held).unwrap();
        self.world.seats.borrow_mut().remove(at);
        let mut records = self.world.records.borrow_mut();
        records.push(held);
        records.extend(booked.iter().map(|booking| (self.stream, booking.lease.tag(), booking.used)));
    }

    /// What a node does on a busy day: leases, requests that overlap, a tick, costs that become known late, and a lease that goes back.
    fn work(&self) {
        if self.world.beyond_cap {
            self.owe();
        }
        let Some(first) = self.admit(7) else { return };
        let second = self.admit(6);
        self.settle(&first, 3);
        at_once(self.driver.round(Round::Tick)).unwrap();
        for name in self.world.area.list().unwrap() {
            self.world.area.open(&name).unwrap().sync().unwrap();
        }
        let third = self.admit(9);
        if let Some(second) = second {
            self.settle(&second, 6);
        }
        if self.world.broken == Broken::NumberBeforeMark {
            self.return_too_late();
        } else {
            self.quota().start_waiting(30);
            self.ask();
            self.quota().stop_waiting(30);
        }
        if let Some(third) = third {
            self.settle(&third, 11);
        }
        if let Some(fourth) = self.admit(2) {
            self.settle(&fourth, 2);
        }
        self.world.clock.advance_millis(1_000);
        at_once(self.driver.round(Round::Tick)).unwrap();
    }

    /// What is spent where no lease is: before the first one, and after the last one of a period went back.
    fn owe(&self) {
        let one = self.admit(5).unwrap();
        let two = self.admit(3).unwrap();
        self.settle(&one, 4);
        drop(one);
        // The second still holds some: nothing is told yet.
        self.ask();
        self.settle(&two, 6);
        let undone = self.admit(2).unwrap();
        self.settle(&undone, 0);
        drop((two, undone));
        at_once(self.driver.give_back()).unwrap();
        let late = self.admit(4).unwrap();
        self.settle(&late, 1);
        drop(late);
        self.world.clock.advance_millis(32 * 86_400_000);
        let next = self.admit(2).unwrap();
        self.settle(&next, 3);
        drop(next);
        // Both periods' debts go, and a lease of the new one comes.
        self.ask();
    }

    /// A return whose number is read before the mark, with a request in between.
    fn return_too_late(&self) {
        let now = self.driver.clock.monotonic();
        let open: Vec<_> = self.quota().open_leases().into_vec();
        for entry in open {
            let report = LeaseReport { lease: entry.lease, used: entry.used() };
            if entry.spend(1, now) {
                self.world.records.borrow_mut().push((self.stream, entry.tag(), 1));
            }
            entry.begin_return();
            let call = LeaseCall { returns: vec![report], ..LeaseCall::new(&self.driver.node) };
            at_once(self.driver.store.lease(&call)).unwrap();
        }
    }

    /// Uses up what is left, and gives everything back.
    fn finish(self) {
        if self.world.beyond_cap {
            let request = self.admit(1).unwrap();
            self.settle(&request, 2);
        } else {
            while let Some(request) = self.admit(1) {
                self.settle(&request, 1);
            }
        }
        at_once(self.driver.give_back()).unwrap();
    }
}

/// The first breach, when all is over.
fn judge(world: &World, rebooted: bool) -> Result<(), String> {
    let (granted, used) = world.totals();
    let records = world.records.borrow();
    let sum = |of: fn(u64) -> bool| {
        let units: i64 = records.iter().filter(|(_, lease, _)| of(*lease)).map(|(.., units)| units).sum();
        u64::try_from(units).unwrap()
    };
    let recorded = sum(|_| true);
    let late = 2 * u64::try_from(LIVES).unwrap();
    if !world.beyond_cap && recorded - world.forfeited.get() > CAP + late {
        return Err(format!("A3: {recorded} units were used of {CAP}"));
    }
    if used != granted {
        return Err(format!("A2: everything went back, and {granted} units are granted, {used} used"));
    }
    // A lost table has lost what was not told, and its leases are closed as spent.
    let lost = if rebooted { sum(LeaseId::is_debt) } else { 0 };
    if used < recorded - lost || (!rebooted && used > recorded) {
        return Err(format!("B9: the ledger counts {used}, records {recorded}"));
    }
    if !rebooted && !world.beyond_cap && recorded < CAP {
        return Err(format!("{} units are lost", CAP - recorded));
    }
    Ok(())
}

/// Kills the first life at every step, the second at each `stride`th.
fn run(broken: Broken, beyond_cap: bool, reboot: bool, stride: usize) -> Result<u64, String> {
    let (steps, ()) = crash::steps_of(|| Life::start(&World::new(broken, beyond_cap)).work());
    let mut runs = 0;
    for killed in 0..=steps {
        for killed_again in (0..).step_by(stride) {
            let world = World::new(broken, beyond_cap);
            crash::killed_after(killed, || Life::start(&world).work());
            if reboot {
                world.reboot();
            }
            let whole = crash::killed_after(killed_again, || Life::start(&world).work()).is_some();
            Life::start(&world).finish();
            runs += 1;
            judge(&world, reboot).map_err(|fault| format!("{fault}; killed at {killed}, then at {killed_again}"))?;
            if whole {
                break;
            }
        }
    }
    Ok(runs)
}

#[test]
fn a1_to_a6_b9_a_kill_at_any_step_loses_no_unit_and_creates_none() {
    let runs = run(Broken::Nothing, false, false, 3).unwrap();
    assert!(runs > 1_000, "{runs}");
}

#[test]
fn a6_after_a_reboot_what_was_held_is_spent() {
    run(Broken::Nothing, false, true, 7).unwrap();
}

#[track_caller]
fn check_caught(broken: Broken, reboot: bool) {
    let beyond_cap = matches!(broken, Broken::DebtsNotTold | Broken::DebtsRenamed);
    let outcome = run(broken, beyond_cap, reboot, 11);
    assert!(outcome.is_err(), "{broken:?} was not noticed");
}

#[test]
fn a_refund_by_timeout_is_caught() {
    check_caught(Broken::RefundByTimeout, false);
}

#[test]
fn absent_taken_for_full_is_caught() {
    check_caught(Broken::AbsentIsFull, false);
}

#[test]
fn a_number_that_is_read_before_the_mark_is_caught() {
    check_caught(Broken::NumberBeforeMark, false);
}

#[test]
fn a_table_that_is_trusted_after_a_reboot_is_caught() {
    check_caught(Broken::TableTrustedAfterReboot, true);
}

#[test]
fn units_that_nobody_forfeits_are_caught() {
    check_caught(Broken::NothingForfeited, false);
}

#[test]
fn a_life_that_forfeits_what_an_earlier_one_used_is_caught() {
    check_caught(Broken::NotRebased, false);
}
