//! One run: nodes, the calls between them and the authority, and what must hold.

use std::collections::HashMap;

use super::Broken;
use crate::clock::Monotonic;
use crate::rates::bucket::{Bucket, Incarnation, micros};
use crate::rates::held::{HeldRate, RateUnits};
use crate::rates::samples;
use crate::simulation::Dice;
use crate::store::{CounterId, RateGrant, RateLeaseId, RateRequest, RateTerms};

/// A situation that must come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Mark {
    Granted,
    Short,
    Lost,
    Repeated,
    LateAnswer,
    Crashed,
    Stopped,
    ReturnedWithRest,
    Undone,
    StaysSpent,
    LeaseDied,
    SetForward,
    SetBack,
    RestartedEmpty,
    FellBack,
    FirstUse,
    OtherTerms,
    SeveralLeases,
}

pub(super) const MARKS: u8 = Mark::SeveralLeases as u8 + 1;

/// The authority's clock when a run begins.
const BEGINNING: u64 = 1_000_000_000;
const STEPS: u64 = 120;
/// Parts of a unit in which admitted units are summed: a whole number of them for every rate of a run in every microsecond.
const PARTS: i128 = 60_000_000;

struct Node {
    held: HeldRate,
    /// How its clock goes: from where, and by how many thousandths too fast.
    clock: (u64, i64),
    /// Another life's calls are none of its own.
    life: u64,
    stopped_until: u64,
    terms: RateTerms,
    waiting: Vec<u64>,
    /// Taken by requests that another limit is about to refuse.
    refused: Vec<RateUnits>,
}

struct Message {
    node: usize,
    life: u64,
    request: RateRequest,
    answer: Option<RateGrant>,
}

pub(super) struct World {
    dice: Dice,
    broken: Broken,
    /// Whether nothing crashes, stops, forgets or changes.
    calm: bool,
    /// One in how many requests is refused by another limit.
    refused: u64,
    marks: u64,
    counter: CounterId,
    /// Microseconds of a clock that nobody sets.
    now: u64,
    /// How far the authority's is ahead of it.
    shift: u64,
    bucket: Option<Bucket>,
    /// What a replica has that is behind.
    replica: Option<Bucket>,
    incarnation: u64,
    since: u64,
    nodes: Vec<Node>,
    messages: Vec<Message>,
    /// When each lease is dead at the latest that the authority granted, by the clock that nobody sets; and of which incarnation it is.
    ends: HashMap<RateLeaseId, (u64, u64)>,
    /// The terms that hold one after the other; those that hold; the largest rate and burst of all, which bound what passes. (A bucket that was not asked for a while refills
    /// by the terms with which it is asked next.)
    choice: Vec<RateTerms>,
    terms: RateTerms,
    most: RateTerms,
    /// Units admitted, as a bucket that leaks by the rate: it may never hold more than the burst. That is the same as the bound for every interval.
    admitted: i128,
    admitted_at: u64,
    /// What the clock of the authority has added, where it was set forward (A.4 of the protocols).
    extra: i128,
    set_forward_at: u64,
}

pub(super) fn rate_parts(terms: &RateTerms) -> i128 {
    i128::from(terms.units) * PARTS / 1_000_000 / i128::from(terms.seconds)
}

impl World {
    pub(super) fn run(seed: u64, broken: Broken) -> Result<u64, String> {
        let mut world = Self::new(seed, broken);
        for _ in 0..STEPS {
            world.step()?;
        }
        Ok(world.marks)
    }

    fn new(seed: u64, broken: Broken) -> Self {
        let mut dice = Dice::new(seed);
        let calm = dice.one_in(2);
        let changes = if calm { 0 } else { dice.place(3) };
        let choice: Vec<RateTerms> = (0..=changes).map(|_| random_terms(&mut dice)).collect();
        let terms = choice[0];
        let mut most = terms;
        for other in &choice {
            if rate_parts(other) > rate_parts(&most) {
                (most.units, most.seconds) = (other.units, other.seconds);
            }
            most.burst = most.burst.max(other.burst);
        }
        let count = 1 + dice.below(4);
        let nodes = (0..count).map(|_| Node::new(&mut dice, terms, 0)).collect();
        // The memory is new, or as old as makes an absent bucket full.
        let age = if dice.one_in(3) { dice.below(2_000_000) } else { 100_000_000 };
        Self {
            broken,
            calm,
            refused: 2 + dice.below(8),
            marks: 0,
            counter: samples::counter(),
            now: BEGINNING,
            shift: 0,
            bucket: None,
            replica: None,
            incarnation: 1,
            since: BEGINNING - age,
            nodes,
            messages: Vec::new(),
            ends: HashMap::new(),
            choice,
            terms,
            most,
            admitted: 0,
            admitted_at: BEGINNING,
            extra: 0,
            set_forward_at: 0,
            dice,
        }
    }

    fn hit(&mut self, mark: Mark) {
        self.marks |= 1 << mark as u8;
    }

    fn step(&mut self) -> Result<(), String> {
        let lease_time = micros(self.terms.lease_time());
        self.now += match self.dice.below(20) {
            0 => self.dice.below(lease_time * 2),
            1..6 => self.dice.below(lease_time / 4),
            _ => self.dice.below(lease_time / 40),
        };
        let at = self.dice.place(self.nodes.len());
        // Some runs are calm, so that what is left to itself for long comes up too.
        match self.dice.below(if self.calm { 93 } else { 100 }) {
            0..35 => self.requests(at)?,
            35..60 => self.ask(at),
            60..90 => self.deliver()?,
            90..93 => self.finish_refused(at),
            93 => self.stop(at),
            94 => self.crash(at),
            95 => self.forget(),
            96 => self.fall_back(),
            97 => self.set_clock(lease_time),
            98 => self.change_terms(),
            _ => self.replica = self.bucket.clone(),
        }
        self.check()
    }

    /// A few requests on a node.
    fn requests(&mut self, at: usize) -> Result<(), String> {
        if self.nodes[at].stopped_until > self.now {
            return Ok(());
        }
        let most = if self.dice.one_in(4) { self.most.burst.min(40) } else { 4 };
        for _ in 0..1 + self.dice.below(most) {
            let most = (self.most.burst / 4).max(2);
            let units = if self.dice.one_in(8) { 1 + self.dice.below(most) } else { 1 };
            self.request(at, units)?;
        }
        Ok(())
    }

    fn request(&mut self, at: usize, units: u64) -> Result<(), String> {
        let mut now = self.nodes[at].clock(self.now);
        if self.broken == Broken::SpendsAfterTheDeadline {
            now = Monotonic(now.0 - 200_000_000);
        }
        let Some((taken, _)) = self.nodes[at].held.take(units, now) else {
            if self.nodes[at].waiting.len() < 30 {
                self.nodes[at].held.start_waiting(units);
                self.nodes[at].waiting.push(units);
            }
            return Ok(());
        };
        if taken.leases().count() > 1 {
            self.hit(Mark::SeveralLeases);
        }
        for (lease, _) in taken.leases() {
            // R2
            let (ends, _) = self.ends[&lease.id];
            if self.now >= ends {
                return Err(format!("R2: {:?} is spent at {}, and ended at {ends}", lease.id, self.now));
            }
        }
        if self.dice.one_in(self.refused) {
            self.nodes[at].refused.push(taken);
            return Ok(());
        }
        self.admit(units)
    }

    /// The curve.
    fn admit(&mut self, units: u64) -> Result<(), String> {
        let leaked = rate_parts(&self.most) * i128::from(self.now - self.admitted_at);
        self.admitted = (self.admitted - leaked).max(0) + i128::from(units) * PARTS;
        self.admitted_at = self.now;
        let allowed = i128::from(self.most.burst) * PARTS + self.extra;
        if self.admitted > allowed {
            let over = (self.admitted - allowed) as f64 / PARTS as f64;
            return Err(format!("curve: {over} units too many at {} with {:?}", self.now, self.most));
        }
        Ok(())
    }

    fn finish_refused(&mut self, at: usize) {
        let Some(taken) = self.nodes[at].refused.pop() else { return };
        let stay = if self.broken == Broken::UndoAfterAReport { taken.undo_all() } else { taken.undo_some() };
        self.hit(if stay == 0 { Mark::Undone } else { Mark::StaysSpent });
    }

    /// The driver's turn on a node: a new call, or one that is given up for lost.
    fn ask(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.stopped_until > self.now {
            return;
        }
        let now = node.clock(self.now);
        let waiting = node.waiting.split_off(node.waiting.len() / 2);
        for units in waiting {
            node.held.stop_waiting(units);
        }
        let Some(mut request) = node.held.wish(&self.counter, node.terms, now) else { return };
        let life = node.life;
        if self.broken == Broken::SpentNotReported {
            request.spent.clear();
        }
        if request.returned.iter().any(|returned| self.ends.contains_key(&returned.lease)) {
            self.hit(Mark::ReturnedWithRest);
        }
        self.messages.push(Message { node: at, life, request, answer: None });
    }

    /// One of the messages under way arrives, is lost, or arrives and stays to arrive again.
    fn deliver(&mut self) -> Result<(), String> {
        if self.messages.is_empty() {
            return Ok(());
        }
        // Mostly in order.
        let at = if self.dice.one_in(4) { self.dice.place(self.messages.len()) } else { 0 };
        let again = self.dice.one_in(12) && self.messages.len() < 20;
        let message = self.messages.remove(at);
        if again {
            self.hit(Mark::Repeated);
            let (node, life, request, answer) = (message.node, message.life, message.request.clone(), message.answer);
            self.messages.push(Message { node, life, request, answer });
        }
        let lost = self.dice.one_in(12);
        if lost {
            self.hit(Mark::Lost);
            self.give_up(&message);
            return Ok(());
        }
        match message.answer {
            None => self.decide(message),
            Some(grant) => {
                self.answer(&message, &grant);
                Ok(())
            }
        }
    }

    /// The node does not wait any longer; its call may yet arrive.
    fn give_up(&mut self, message: &Message) {
        let node = &self.nodes[message.node];
        if node.life == message.life {
            node.held.failed(&message.request, node.clock(self.now));
        }
    }

    fn answer(&mut self, message: &Message, grant: &RateGrant) {
        let node = &self.nodes[message.node];
        if node.life != message.life {
            self.hit(Mark::LateAnswer);
            return;
        }
        let now = node.clock(self.now);
        node.held.granted(&message.request, grant, now);
        let node = &mut self.nodes[message.node];
        for units in std::mem::take(&mut node.waiting) {
            node.held.stop_waiting(units);
        }
    }

    /// A call reaches the authority.
    fn decide(&mut self, message: Message) -> Result<(), String> {
        let Message { node, life, request, .. } = message;
        let now = self.now + self.shift;
        let known = Incarnation { id: self.incarnation, age: self.now - self.since };
        let incarnation = match self.broken {
            Broken::NoIncarnation => Some(Incarnation { id: 1, age: u64::MAX }),
            Broken::AbsentIsFull if self.bucket.is_none() => Some(Incarnation { age: u64::MAX, ..known }),
            _ => Some(known),
        };
        if self.bucket.is_none() && known.age > 90_000_000 {
            self.hit(Mark::FirstUse);
        }
        let mut kept = self.bucket.take();
        if let Some(bucket) = &mut kept {
            if bucket.leases.iter().any(|lent| lent.ends <= now && lent.spent < lent.units) {
                self.hit(Mark::LeaseDied);
            }
            disturb(bucket, self.broken, now, &request);
        }
        let leases = kept.as_ref().map_or(0, |bucket| bucket.leases.len());
        let (bucket, grant) = Bucket::step(kept, now, incarnation, &request);
        self.hit(if grant.units < request.want { Mark::Short } else { Mark::Granted });
        if grant.units > 0 && bucket.leases.len() > leases {
            self.r3(grant.units)?;
        }
        if grant.units > 0 {
            let ends = self.now + micros(request.terms.lease_time());
            self.ends.entry(request.lease).or_insert((ends, self.incarnation));
        }
        self.bucket = Some(bucket);
        self.messages.push(Message { node, life, request, answer: Some(grant) });
        Ok(())
    }

    fn r3(&self, units: u64) -> Result<(), String> {
        if self.set_forward_at >= self.since {
            // Its leases end too soon then; what that costs is in `extra`.
            return Ok(());
        }
        let living = self.ends.values().find(|(ends, of)| *of < self.incarnation && *ends > self.now);
        match living {
            Some((ends, of)) => Err(format!(
                "R3: {units} units granted at {}, and a lease of incarnation {of} lives until {ends}",
                self.now
            )),
            None => Ok(()),
        }
    }

    fn stop(&mut self, at: usize) {
        self.hit(Mark::Stopped);
        let longest = micros(self.terms.lease_time()) * 3;
        self.nodes[at].stopped_until = self.now + self.dice.below(longest);
    }

    fn crash(&mut self, at: usize) {
        self.hit(Mark::Crashed);
        let life = self.nodes[at].life + 1;
        self.nodes[at] = Node::new(&mut self.dice, self.terms, life);
    }

    fn forget(&mut self) {
        if self.dice.one_in(3) {
            self.hit(Mark::RestartedEmpty);
            self.begin_incarnation(None);
        }
    }

    fn fall_back(&mut self) {
        if self.dice.one_in(3) {
            self.hit(Mark::FellBack);
            let behind = self.replica.clone();
            self.begin_incarnation(behind);
        }
    }

    fn begin_incarnation(&mut self, bucket: Option<Bucket>) {
        self.bucket = bucket;
        self.incarnation += 1;
        self.since = self.now;
    }

    fn set_clock(&mut self, lease_time: u64) {
        let by = self.dice.below(lease_time * 2);
        if self.dice.one_in(2) && self.shift >= by {
            self.hit(Mark::SetBack);
            self.shift -= by;
        } else if self.dice.one_in(2) {
            self.hit(Mark::SetForward);
            self.shift += by;
            self.set_forward_at = self.now;
            let burst = i128::from(self.most.burst) * PARTS;
            self.extra += (rate_parts(&self.most) * i128::from(by)).min(burst);
        }
    }

    fn change_terms(&mut self) {
        if self.dice.one_in(3) && self.choice.len() > 1 {
            self.hit(Mark::OtherTerms);
            self.terms = self.choice[self.dice.place(self.choice.len())];
        }
        // Nodes come to know it one after the other.
        let at = self.dice.place(self.nodes.len());
        self.nodes[at].terms = self.terms;
    }

    /// R1, with whichever burst was the last asked with.
    fn check(&self) -> Result<(), String> {
        let Some(bucket) = &self.bucket else { return Ok(()) };
        let all = bucket.level + u128::from(bucket.outstanding()) * u128::from(bucket.scale);
        if all > u128::from(self.most.burst) * u128::from(bucket.scale) {
            return Err(format!("R1: {bucket:?} with {:?}", self.most));
        }
        // What a node has left occupies the bucket. (Where the clock was set forward, a lease may be granted again while its first grant lives.)
        for lent in bucket.leases.iter().filter(|_| self.set_forward_at == 0) {
            let left = self.nodes.iter().map(|node| node.held.left_of(lent.lease, node.clock(self.now))).sum::<u64>();
            if left + lent.spent > lent.units {
                return Err(format!("R1: {left} units are left of {lent:?}"));
            }
        }
        Ok(())
    }
}

impl Node {
    fn new(dice: &mut Dice, terms: RateTerms, life: u64) -> Self {
        let fast = i64::try_from(dice.below(31)).unwrap() - 15;
        let clock = (500_000_000_000 + dice.below(1_000_000_000), fast);
        Self { held: HeldRate::new(), clock, life, stopped_until: 0, terms, waiting: Vec::new(), refused: Vec::new() }
    }

    /// CLOCK_BOOTTIME of the node; it goes wrong by up to 1.5 per cent.
    fn clock(&self, now: u64) -> Monotonic {
        let (from, fast) = self.clock;
        Monotonic(from + (now - BEGINNING) * (1_000 + fast).unsigned_abs())
    }
}

fn random_terms(dice: &mut Dice) -> RateTerms {
    let (units, seconds, burst) = [
        (100, 1, 100),
        (100, 1, 20),
        (1_000, 1, 50),
        (10, 1, 10),
        (5, 60, 5),
        (7, 1, 3),
        (60, 60, 1),
        (1_000_000, 60, 2_000),
        (3, 60, 3),
    ][dice.place(9)];
    RateTerms { units, seconds, burst }
}

/// What a broken authority does before the step.
pub(in crate::rates) fn disturb(bucket: &mut Bucket, broken: Broken, now: u64, request: &RateRequest) {
    match broken {
        Broken::UnorderedExpiry => bucket.leases.retain(|lent| lent.ends > now),
        Broken::RefillBeforeExpiry => {
            for lent in &mut bucket.leases {
                lent.ends = lent.ends.max(now + 1);
            }
            let nothing = RateRequest { spent: Vec::new(), returned: Vec::new(), want: 0, ..request.clone() };
            let of = bucket.incarnation.map(|id| Incarnation { id, age: u64::MAX });
            *bucket = Bucket::step(Some(bucket.clone()), now, of, &nothing).0;
            bucket.leases.retain(|lent| lent.ends > now + 1);
        }
        Broken::ReportsBeforeRefill => {
            for report in request.spent.iter().chain(&request.returned) {
                if let Some(lent) = bucket.leases.iter_mut().find(|lent| lent.lease == report.lease) {
                    lent.spent = lent.spent.max(report.spent.min(lent.units));
                }
            }
        }
        _ => {}
    }
}
