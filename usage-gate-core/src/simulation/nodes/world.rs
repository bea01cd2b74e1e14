//! One run: machines, the network, both authorities, and what happens to them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::authority::{Quotas, Rates, wall};
use super::books::{Books, Leaking};
use super::marks::{Mark, Marks};
use super::process::{Machine, Process};
use super::request::{Order, PATIENCE};
use super::wire::{Body, Letter, Post, Question, Reply, lock};
use super::{Broken, Dice};
use crate::clock::ManualClock;
use crate::lease::{QuotaTerms, Round};
use crate::mapped::{Area, Words, crash};
use crate::model::{Per, TenantId, Timestamp};
use crate::period::{AnchorDay, Calendar, Period, Zone};
use crate::store::{CounterId, RateTerms, Subject};

/// What a run goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weather {
    /// Nothing goes wrong.
    Calm,
    /// Messages are lost, nodes die and stop, authorities are away.
    Rough,
    /// And authorities forget, or have their clocks set.
    Forgetful,
}

const STEPS: u64 = 140;
/// When the period ends in which a run begins.
const MIDNIGHT: i64 = 90_000;
/// A node that is alone takes itself for one of so many.
pub(super) const NODES_OF_A_PART: u32 = 4;

pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) broken: Broken,
    pub(super) weather: Weather,
    pub(super) marks: Marks,
    /// Milliseconds of a clock that nobody sets.
    pub(super) now: i64,
    pub(super) post: Arc<Mutex<Post>>,
    pub(super) steps: Words,
    pub(super) quotas: Quotas,
    pub(super) rates: Rates,
    pub(super) rate: CounterId,
    pub(super) books: Books,
    pub(super) machines: Vec<Machine>,
    /// The caps of both quotas, by the plan's version less 1.
    pub(super) plans: Vec<[u64; 2]>,
    /// Whether the second quota goes on beyond its cap.
    pub(super) allows: bool,
    /// Units that a node may go on for while the ledger is away.
    pub(super) overdraft: [Option<u64>; 2],
    /// Whether a node goes on with its part of the rate while that authority is away.
    pub(super) share: bool,
    calendar: Calendar,
    curve: Leaking,
    /// What the curve has more where that authority's clock was set forward.
    pub(super) extra: i128,
    /// Units of the rate that passed.
    pub(super) passed: u64,
}

pub(super) fn name_of(node: usize) -> String {
    format!("node-{node}")
}

pub(super) fn number_of(name: &str) -> usize {
    name.trim_start_matches("node-").parse().unwrap()
}

fn counter(limit: &str, per: Per) -> CounterId {
    let (tenant, meter) = (TenantId::from_u128(1), "requests".into());
    CounterId { tenant, subject: Subject::Tenant, limit: limit.into(), meter, per }
}

impl World {
    /// A run: the marks that it came across, or the first breach.
    pub(super) fn run(seed: u64, broken: Broken) -> Result<u64, String> {
        let mut world = Self::new(seed, broken);
        for _ in 0..STEPS {
            world.step()?;
            world.check()?;
        }
        world.finish()?;
        Ok(world.marks.bits())
    }

    pub(super) fn new(seed: u64, broken: Broken) -> Self {
        let mut dice = Dice::new(seed);
        let weather = match dice.below(8) {
            0..2 => Weather::Calm,
            2..6 => Weather::Rough,
            _ => Weather::Forgetful,
        };
        let caps = [20 + dice.below(180), 10 + dice.below(90)];
        let terms = RATES[dice.place(RATES.len())];
        let nodes = 2 + dice.below(3);
        let allows = dice.one_in(4);
        let overdraft = [dice.one_in(2).then(|| 2 + dice.below(12)), None];
        let share = dice.one_in(2);
        let age = if dice.one_in(4) { 0 } else { 1_000_000 };
        // Half of the runs come to the period's end.
        let begin = if dice.one_in(2) { MIDNIGHT - 1 - i64::try_from(dice.below(80_000)).unwrap() } else { 0 };
        let mut world = Self::of(nodes, caps, terms, broken, dice);
        (world.weather, world.allows, world.overdraft, world.share) = (weather, allows, overdraft, share);
        world.rates = Rates::new(terms, age);
        world.pass_time(begin);
        world
    }

    /// One in which nothing goes wrong.
    pub(super) fn of(nodes: u64, caps: [u64; 2], terms: RateTerms, broken: Broken, mut dice: Dice) -> Self {
        let machines = (0..nodes).map(|_| Machine {
            area: Area::memory(),
            kernel: 1,
            clock: ManualClock::at(wall(i64::try_from(dice.below(6_000)).unwrap() - 3_000)),
            stopped_until: 0,
            lives: 0,
            version: 1,
            process: None,
            limbo: BTreeMap::new(),
        });
        Self {
            broken,
            weather: Weather::Calm,
            marks: Marks::default(),
            now: 0,
            post: Arc::default(),
            steps: Words::memory(1),
            quotas: Quotas::new(["calls", "pages"].map(|limit| counter(limit, Per::Day)), broken),
            rates: Rates::new(terms, 1_000_000),
            rate: counter("bursts", Per::Second),
            books: Books::default(),
            machines: machines.collect(),
            plans: vec![caps],
            allows: false,
            overdraft: [None, None],
            share: false,
            calendar: Calendar::new(Zone::UTC, AnchorDay::FIRST),
            curve: Leaking::default(),
            extra: 0,
            passed: 0,
            dice,
        }
    }

    pub(super) fn quota_terms(&self, node: usize, at: usize) -> QuotaTerms {
        let version = self.machines[node].version;
        QuotaTerms {
            calendar: self.calendar.clone(),
            cap: self.plans[version - 1][at],
            cap_version: u32::try_from(version).unwrap(),
            beyond_cap: self.goes_on(at),
        }
    }

    pub(super) const fn goes_on(&self, at: usize) -> bool {
        at == 1 && self.allows
    }

    pub(super) fn period_from(&self, start: Timestamp) -> Period {
        self.calendar.period(Per::Day, start)
    }

    /// The period by a node's own clock.
    pub(super) fn period_of(&self, node: usize) -> Period {
        self.period_from(self.machines[node].clock.clock().wall())
    }

    /// What a node alone has of the rate.
    pub(super) fn part(&self) -> RateTerms {
        let (RateTerms { units, seconds, burst }, nodes) = (self.rates.terms, u64::from(NODES_OF_A_PART));
        RateTerms { units, seconds: seconds * nodes, burst: (burst / nodes).max(1) }
    }

    /// Units that were lent of the rate pass: the curve.
    pub(super) fn pass(&mut self, units: u64) -> Result<(), String> {
        let within = self.curve.pass(units, self.now, &self.rates.terms, self.extra);
        if within { Ok(()) } else { Err(format!("curve: {units} units too many at {}: {:?}", self.now, self.curve)) }
    }

    pub(super) fn pass_time(&mut self, millis: i64) {
        let before = self.now;
        self.now += millis;
        if before < MIDNIGHT && self.now >= MIDNIGHT {
            self.marks.hit(Mark::PeriodTurned);
        }
        let millis = u32::try_from(millis).unwrap();
        self.machines.iter().for_each(|machine| machine.clock.advance_millis(millis));
    }

    fn step(&mut self) -> Result<(), String> {
        let most = match self.dice.below(20) {
            0 => 4_000,
            1..6 => 300,
            _ => 25,
        };
        let millis = self.dice.below(most);
        self.pass_time(i64::try_from(millis).unwrap());
        let at = self.dice.place(self.machines.len());
        match self.dice.below(if self.weather == Weather::Calm { 92 } else { 110 }) {
            0..26 => self.requests(at),
            26..36 => self.on(at, |world, process| process.settle(world)),
            36..39 => self.refuse_one(at),
            39..50 => self.round(at),
            50..55 => self.on(at, |world, process| {
                process.ask_for_rate(world);
                Ok(())
            }),
            55..88 => self.deliver_some(),
            88 => self.change_plan(at),
            89 => self.drain_or_idle(at),
            90 => self.near_midnight(),
            91 => self.stop_waiting(at),
            92..96 => self.fault_of_node(at),
            96..100 => self.fault_of_network(),
            100..103 if self.weather == Weather::Forgetful => self.fault_of_memory(),
            _ => self.deliver_some(),
        }
    }

    /// Something is done on a node, which may be killed meanwhile.
    pub(super) fn on(
        &mut self,
        at: usize,
        act: impl FnOnce(&mut Self, &mut Process) -> Result<(), String>,
    ) -> Result<(), String> {
        if self.machines[at].stopped_until > self.now {
            return Ok(());
        }
        let Some(mut process) = self.machines[at].process.take() else {
            if self.weather == Weather::Calm || self.dice.one_in(3) {
                self.start(at);
            }
            return Ok(());
        };
        let outcome = if self.weather != Weather::Calm && self.dice.one_in(120) {
            let steps = self.dice.below(30);
            let world = &mut *self;
            crash::killed_after(steps, move || {
                let outcome = act(world, &mut process);
                (outcome, process)
            })
        } else {
            Some((act(self, &mut process), process))
        };
        let Some((outcome, process)) = outcome else {
            self.marks.hit(Mark::KilledBetween);
            self.died(at);
            return Ok(());
        };
        let ends = process.failed;
        self.machines[at].process = Some(process);
        if ends {
            self.kill(at);
        }
        outcome
    }

    pub(super) fn start(&mut self, at: usize) {
        let mut process = Process::start(self, at);
        process.poll(self);
        self.machines[at].process = Some(process);
    }

    fn requests(&mut self, at: usize) -> Result<(), String> {
        let count = if self.dice.one_in(4) { 1 + self.dice.below(12) } else { 1 };
        self.on(at, |world, process| {
            for _ in 0..count {
                if process.serves() {
                    let order = world.order();
                    process.request(world, order)?;
                }
            }
            Ok(())
        })
    }

    /// Which limits a request counts on, and for how much.
    fn order(&mut self) -> Order {
        let costs = if self.dice.one_in(8) { 12 } else { 3 };
        let mut units = [1 + self.dice.below(costs), 1 + self.dice.below(costs)];
        let mut rate = 1 + self.dice.below(2);
        match self.dice.below(6) {
            0 => (units[1], rate) = (0, 0),
            1 => units[0] = 0,
            2 => rate = 0,
            3 => units[1] = 0,
            _ => {}
        }
        let is_bound = self.dice.one_in(3);
        Order { units, rate, is_bound, until: self.now + PATIENCE, asked_at: self.now }
    }

    fn refuse_one(&mut self, at: usize) -> Result<(), String> {
        self.on(at, |world, process| {
            if process.serves() && process.refused.is_empty() {
                let order = world.order();
                return process.request_in_vain(world, &order);
            }
            process.finish_refused(world);
            Ok(())
        })
    }

    fn round(&mut self, at: usize) -> Result<(), String> {
        let round = match self.dice.below(10) {
            0..6 => Round::Queued,
            6..9 => Round::Tick,
            _ => Round::Recall,
        };
        self.on(at, |world, process| {
            process.ask(world, round);
            Ok(())
        })
    }

    fn stop_waiting(&mut self, at: usize) -> Result<(), String> {
        self.on(at, |world, process| {
            process.stop_waiting(world);
            Ok(())
        })
    }

    fn deliver_some(&mut self) -> Result<(), String> {
        for _ in 0..1 + self.dice.below(4) {
            let letters = lock(&self.post).letters.len();
            if letters == 0 {
                return Ok(());
            }
            // Mostly in order.
            let which = if self.dice.one_in(4) { self.dice.place(letters) } else { 0 };
            let calm = self.weather == Weather::Calm;
            let letter = lock(&self.post).letters.remove(which);
            if !calm && letters < 30 && self.dice.one_in(14) {
                self.marks.hit(Mark::Repeated);
                lock(&self.post).letters.push(letter.clone());
            }
            if !calm && self.dice.one_in(16) {
                self.marks.hit(Mark::Lost);
                self.give_up(letter.call, letter.node)?;
                continue;
            }
            self.deliver(letter)?;
        }
        Ok(())
    }

    pub(super) fn deliver(&mut self, letter: Letter) -> Result<(), String> {
        let Letter { call, node, body } = letter;
        match body {
            Body::Question(question) => {
                let away_until = if question.is_of_quotas() { self.quotas.away_until } else { self.rates.away_until };
                if self.now < away_until {
                    return self.give_up(call, node);
                }
                let reply = self.decide(node, question)?;
                lock(&self.post).letters.push(Letter { call, node, body: Body::Reply(reply) });
                Ok(())
            }
            Body::Reply(reply) => {
                if self.machines[node].stopped_until > self.now {
                    lock(&self.post).letters.push(Letter { call, node, body: Body::Reply(reply) });
                    return Ok(());
                }
                let leased = matches!(&reply, Reply::Leased(_));
                if !lock(&self.post).reply(call, reply) {
                    self.marks.hit(Mark::Late);
                    return Ok(());
                }
                self.on(node, |world, process| {
                    process.poll(world);
                    if leased {
                        process.forget_overdrafts(world);
                    }
                    process.wake(world)
                })
            }
        }
    }

    fn decide(&mut self, node: usize, question: Question) -> Result<Reply, String> {
        match question {
            Question::Register(identity) => Ok(self.quotas.register(node, &identity, self.now, &mut self.books)),
            Question::Lease(call) => self.quotas.lease(&call, self.now, &mut self.books, &self.marks),
            Question::Rates(call) => self.rates.lease(&call, NODES_OF_A_PART, self.now),
        }
    }

    pub(super) fn give_up(&mut self, call: u64, node: usize) -> Result<(), String> {
        if !lock(&self.post).give_up(call) {
            return Ok(());
        }
        self.on(node, |world, process| {
            process.poll(world);
            process.wake(world)
        })
    }

    fn change_plan(&mut self, at: usize) -> Result<(), String> {
        if self.dice.one_in(2) {
            let latest = self.plans[self.plans.len() - 1];
            let caps = latest.map(|cap| if self.dice.one_in(2) { cap + self.dice.below(40) } else { 1 + cap / 2 });
            self.marks.hit(if caps[0] >= latest[0] { Mark::PlanRaised } else { Mark::PlanLowered });
            self.plans.push(caps);
        }
        // Nodes come to know it one after the other.
        self.on(at, |world, process| {
            process.learn(world);
            Ok(())
        })
    }

    fn drain_or_idle(&mut self, at: usize) -> Result<(), String> {
        if self.dice.one_in(3) {
            self.marks.hit(Mark::Idle);
            for _ in 0..31 {
                self.pass_time(1_000);
                self.on(at, |world, process| {
                    process.ask(world, Round::Tick);
                    Ok(())
                })?;
                self.deliver_all()?;
            }
            return Ok(());
        }
        self.marks.hit(Mark::Drained);
        self.on(at, |world, process| {
            process.ask(world, Round::Drain);
            Ok(())
        })
    }

    /// Runs come near the end of the period, or beyond it.
    fn near_midnight(&mut self) -> Result<(), String> {
        let left = MIDNIGHT - self.now;
        if left > 0 && self.dice.one_in(2) {
            let before = i64::try_from(self.dice.below(60_000)).unwrap();
            let millis = if self.dice.one_in(2) { left } else { (left - before).max(0) };
            self.pass_time(millis);
        }
        Ok(())
    }

    /// Whatever holds between any two steps: A1, A2, R1.
    pub(super) fn check(&self) -> Result<(), String> {
        self.quotas.ledger.check();
        self.rates.check()
    }

    pub(super) fn deliver_all(&mut self) -> Result<(), String> {
        for _ in 0..2_000 {
            let letter = {
                let mut post = lock(&self.post);
                if post.letters.is_empty() { None } else { Some(post.letters.remove(0)) }
            };
            match letter {
                Some(letter) => self.deliver(letter)?,
                None => break,
            }
        }
        Ok(())
    }
}

impl Letter {
    /// Whether it is to the ledger or from there.
    pub(super) const fn is_of_quotas(&self) -> bool {
        match &self.body {
            Body::Question(question) => question.is_of_quotas(),
            Body::Reply(reply) => !matches!(reply, Reply::Rated(_)),
        }
    }
}

const RATES: [RateTerms; 6] = [
    RateTerms { units: 100, seconds: 1, burst: 20 },
    RateTerms { units: 50, seconds: 1, burst: 10 },
    RateTerms { units: 10, seconds: 1, burst: 10 },
    RateTerms { units: 1_000, seconds: 1, burst: 50 },
    RateTerms { units: 5, seconds: 60, burst: 5 },
    RateTerms { units: 20, seconds: 1, burst: 4 },
];
