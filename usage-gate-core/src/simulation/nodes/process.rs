//! One process on its machine: the product's lease table, counters and both drivers, whose calls are under way for as long as the network likes.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use super::books::{Key, Leaking};
use super::marks::Mark;
use super::request::{Flight, Order, Taken};
use super::wire::Wire;
use super::world::{World, name_of};
use crate::clock::ManualClock;
use crate::kernel::KernelBoot;
use crate::lease::{
    Counter, CounterState, Counters, FoundLeases, LeaseDriver, LeaseTable, QuotaCounter, RatesKept, Round,
};
use crate::mapped::Area;
use crate::metrics::{LeaseStore, Metrics};
use crate::model::{LimitKind, Meters, StreamId};
use crate::rates::{RateDriver, SharedRate};
use crate::routes::Routes;
use crate::store::*;

static METRICS: LazyLock<Arc<Metrics>> =
    LazyLock::new(|| Arc::new(Metrics::new(&Routes::compile(vec![], &Meters::default()).unwrap())));

/// What outlives a process.
pub(super) struct Machine {
    pub(super) area: Area,
    pub(super) kernel: u128,
    pub(super) clock: ManualClock,
    pub(super) stopped_until: i64,
    pub(super) lives: u64,
    /// The plan that its processes know.
    pub(super) version: usize,
    pub(super) process: Option<Process>,
    /// Units that requests hold which another limit has refused: they did not pass.
    pub(super) limbo: BTreeMap<Key, i64>,
}

type Task<T> = Pin<Box<dyn Future<Output = T>>>;

pub(super) struct Process {
    pub(super) node: usize,
    pub(super) driver: Arc<LeaseDriver>,
    pub(super) rates: Arc<RateDriver>,
    start: Option<Task<Result<(), StoreError>>>,
    /// It serves before that, on what it has found.
    early: bool,
    round: Option<Task<Result<(), StoreError>>>,
    turn: Option<Task<bool>>,
    pub(super) flights: Vec<Flight>,
    pub(super) refused: Vec<Taken>,
    pub(super) waiting: Vec<Order>,
    /// The ledger says that another life of this node came after it.
    pub(super) superseded: bool,
    /// Its start came to nothing.
    pub(super) failed: bool,
    /// Units that went on without a lease since the ledger was last told.
    pub(super) overdrawn: BTreeMap<Key, i64>,
    /// What passed of its own part of the rate.
    pub(super) alone: Leaking,
}

impl Process {
    pub(super) fn start(world: &mut World, node: usize) -> Self {
        let (post, steps, latest) = (Arc::clone(&world.post), world.steps.clone(), world.plans.len());
        let machine = &mut world.machines[node];
        machine.lives += 1;
        machine.version = latest;
        let stream = StreamId::from_u128(u128::try_from(node).unwrap() << 32 | u128::from(machine.lives));
        let kernel = KernelBoot::from_u128(machine.kernel);
        let (table, found) = LeaseTable::open(&machine.area, &name_of(node), stream, kernel).unwrap();
        if !found.is_empty() {
            world.marks.hit(Mark::TookOver);
        }
        let wire = Wire { node, post, steps };
        let clock = world.machines[node].clock.clock();
        let driver = Arc::new(LeaseDriver {
            store: Arc::new(wire.clone()),
            node: NodeIdentity { node: name_of(node), boot: stream, table: table.id() },
            table,
            clock: clock.clone(),
            counters: Arc::new(Counters::new(RatesKept::Shared)),
            queue: Arc::default(),
            metrics: Arc::clone(&METRICS),
            shared: true,
            away: AtomicBool::new(false),
            asked_at: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            turn: tokio::sync::Mutex::new(None),
        });
        let metrics = Arc::clone(&METRICS);
        let rates = RateDriver::new(Arc::new(wire), name_of(node), clock, metrics, LeaseStore::Rates);
        let starting = Arc::clone(&driver);
        let mut found = FoundLeases::new(found);
        let early = world.dice.one_in(3);
        if early {
            // The authority is away for all that this life knows: it spends on before it is registered.
            starting.spend_on(&mut found);
        }
        let start = async move {
            let open = starting.store.register(&starting.node).await?;
            starting.take_over(&open, &mut found).await
        };
        Self {
            node,
            driver,
            rates: Arc::new(rates),
            start: Some(Box::pin(start)),
            early,
            round: None,
            turn: None,
            flights: Vec::new(),
            refused: Vec::new(),
            waiting: Vec::new(),
            superseded: false,
            failed: false,
            overdrawn: BTreeMap::new(),
            alone: Leaking::default(),
        }
    }

    pub(super) const fn serves(&self) -> bool {
        (self.start.is_none() || self.early) && !self.failed
    }

    pub(super) fn counter(&self, world: &World, at: usize) -> Arc<Counter> {
        let new = || CounterState::Quota(QuotaCounter::new(world.quota_terms(self.node, at)));
        self.driver.counters.counter(LimitKind::Quota, world.quotas.counters[at].clone(), new)
    }

    pub(super) fn rate(&self, world: &World) -> Arc<Counter> {
        let counters = &self.driver.counters;
        counters.counter(LimitKind::Rate, world.rate.clone(), || counters.rate(world.rates.terms))
    }

    /// Begins a round of the lease driver, if none is under way.
    pub(super) fn ask(&mut self, world: &mut World, round: Round) {
        if self.round.is_none() && self.start.is_none() && self.serves() && !self.superseded {
            let driver = Arc::clone(&self.driver);
            self.round = Some(Box::pin(async move { driver.round(round).await }));
        }
        self.poll(world);
    }

    /// The same of the rate's.
    pub(super) fn ask_for_rate(&mut self, world: &mut World) {
        if self.turn.is_none() && self.start.is_none() && self.serves() {
            let (driver, counter) = (Arc::clone(&self.rates), self.rate(world));
            self.turn = Some(Box::pin(async move { driver.turn(&[counter]).await }));
        }
        self.poll(world);
    }

    /// Whatever is under way goes on as far as it can.
    pub(super) fn poll(&mut self, world: &mut World) {
        if let Some(started) = poll(&mut self.start) {
            self.failed = started.is_err();
            if self.failed {
                world.marks.hit(Mark::StartFailed);
            }
        }
        if let Some(ended) = poll(&mut self.round) {
            self.superseded |= ended.is_err_and(|error| error.kind() == StoreErrorKind::Superseded);
        }
        let _ = poll(&mut self.turn);
    }

    /// What the ledger has been told of can be overdrawn again, by the next outage.
    pub(super) fn forget_overdrafts(&mut self, world: &World) {
        let mut overdrawn = std::mem::take(&mut self.overdrawn);
        overdrawn.retain(|(at, start), units| {
            let counter = self.counter(world, *at);
            let owed = quota(&counter).owed(world.period_from(*start));
            *units = (*units).min(i64::try_from(owed).unwrap());
            *units > 0
        });
        self.overdrawn = overdrawn;
    }

    /// Comes to know the latest plan.
    pub(super) fn learn(&self, world: &mut World) {
        world.machines[self.node].version = world.plans.len();
        for at in 0..2 {
            if let Some(counter) = self.driver.counters.known(LimitKind::Quota, world.quotas.counters[at].clone()) {
                quota(&counter).set_terms(world.quota_terms(self.node, at));
            }
        }
    }

    /// Requests that wait give up.
    pub(super) fn stop_waiting(&mut self, world: &World) {
        for order in std::mem::take(&mut self.waiting) {
            self.no_longer_short(world, &order);
        }
    }
}

fn poll<T>(task: &mut Option<Task<T>>) -> Option<T> {
    match task.as_mut()?.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => {
            *task = None;
            Some(value)
        }
        Poll::Pending => None,
    }
}

pub(super) fn quota(counter: &Counter) -> &QuotaCounter {
    let CounterState::Quota(quota) = &counter.state else { panic!("it is a quota") };
    quota
}

pub(super) fn shared_rate(counter: &Counter) -> &SharedRate {
    let CounterState::SharedRate(rate) = &counter.state else { panic!("it is a rate") };
    rate
}
