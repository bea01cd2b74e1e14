//! A request on a node: units of two quotas and a rate, all or none, as `admission` takes them; what it really cost is found later.

use std::sync::Arc;

use super::Broken;
use super::books::Key;
use super::marks::Mark;
use super::process::{Process, quota, shared_rate};
use super::world::{NODES_OF_A_PART, World};
use crate::admission::Held;
use crate::clock::Monotonic;
use crate::lease::{Debtor, LeaseEntry, QuotaCounter, RateTaken};
use crate::period::Period;
use crate::rates::{Look, RateUnits};

/// What a request needs.
#[derive(Debug, Clone)]
pub(super) struct Order {
    /// Units of each quota; 0 where it does not count.
    pub(super) units: [u64; 2],
    pub(super) rate: u64,
    /// Whether that is only what is reserved for it.
    pub(super) is_bound: bool,
    /// When it gives up waiting, and when it last asked for units that others are to give back.
    pub(super) until: i64,
    pub(super) asked_at: i64,
}

/// How long a request waits, and how long for what others are to give back before it asks again.
pub(super) const PATIENCE: i64 = 2_000;
const RECALL_LOOK: i64 = 100;

/// Units held of one quota.
pub(super) struct Units {
    at: usize,
    held: Held,
    units: u64,
    period: Period,
}

impl Units {
    const fn key(&self) -> Key {
        (self.at, self.period.start)
    }
}

enum OfRate {
    Shared(RateUnits),
    Alone(RateTaken),
}

/// Units held of all limits, or of some, for a request that another limit refuses.
#[derive(Default)]
pub(super) struct Taken {
    quotas: Vec<Units>,
    rate: Option<OfRate>,
}

/// One that was forwarded.
pub(super) struct Flight {
    quotas: Vec<Units>,
    is_bound: bool,
}

/// What a look at all limits says.
enum Verdict {
    Enough,
    Refused,
    /// Not known: too little is held.
    Short,
}

/// What a try gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    Admitted,
    Refused,
    Short,
}

fn signed(units: u64) -> i64 {
    i64::try_from(units).unwrap()
}

impl Process {
    fn now(&self) -> Monotonic {
        self.driver.clock.monotonic()
    }

    /// A request comes, or one that waits looks again. One that finds too little waits.
    pub(super) fn request(&mut self, world: &mut World, mut order: Order) -> Result<Attempt, String> {
        let attempt = self.try_admit(world, &order)?;
        if attempt == Attempt::Short {
            if world.now >= order.until {
                return Ok(Attempt::Refused);
            }
            world.marks.hit(Mark::Waited);
            let (now, asks_again) = (self.now(), world.now >= order.asked_at + RECALL_LOOK);
            if asks_again {
                order.asked_at = world.now;
            }
            for (at, units) in (0..2).zip(order.units) {
                let counter = self.counter(world, at);
                let quota = quota(&counter);
                quota.start_waiting(units);
                let asks = asks_again || !quota.is_recalling(now);
                if units > 0 && asks && self.is_short(world, at, quota, units) {
                    quota.need(units);
                    self.driver.queue.ask_for(&counter);
                }
            }
            shared_rate(&self.rate(world)).start_waiting(order.rate);
            self.waiting.push(order);
        }
        Ok(attempt)
    }

    pub(super) fn no_longer_short(&self, world: &World, order: &Order) {
        (0..2).zip(order.units).for_each(|(at, units)| quota(&self.counter(world, at)).stop_waiting(units));
        shared_rate(&self.rate(world)).stop_waiting(order.rate);
    }

    /// Those who wait are woken.
    pub(super) fn wake(&mut self, world: &mut World) -> Result<(), String> {
        for order in std::mem::take(&mut self.waiting) {
            self.no_longer_short(world, &order);
            self.request(world, order)?;
        }
        Ok(())
    }

    fn try_admit(&mut self, world: &mut World, order: &Order) -> Result<Attempt, String> {
        // Sometimes another request was faster between look and take.
        let blind = world.dice.one_in(6);
        match self.look(world, order) {
            Verdict::Refused if !blind => {
                world.marks.hit(Mark::Refused);
                return Ok(Attempt::Refused);
            }
            Verdict::Short if !blind => return Ok(Attempt::Short),
            _ => {}
        }
        let before = self.sums(world);
        let mut taken = Taken::default();
        if self.take(world, order, &mut taken)? {
            let Taken { quotas, rate } = taken;
            self.pass(world, order.rate, rate)?;
            self.flights.push(Flight { quotas, is_bound: order.is_bound });
            return Ok(Attempt::Admitted);
        }
        if world.broken != Broken::NotAllOrNone {
            self.undo(world, taken);
        }
        // R4, R5.
        let after = self.sums(world);
        if before != after {
            return Err(format!("R5: {order:?} was refused, and took of {before:?} what is missing of {after:?}"));
        }
        Ok(Attempt::Refused)
    }

    /// One that is refused by a limit that is looked at only later: it holds units until then.
    pub(super) fn request_in_vain(&mut self, world: &mut World, order: &Order) -> Result<(), String> {
        let mut taken = Taken::default();
        self.take(world, order, &mut taken)?;
        for one in &taken.quotas {
            *world.machines[self.node].limbo.entry(one.key()).or_default() += signed(one.units);
        }
        self.refused.push(taken);
        Ok(())
    }

    pub(super) fn finish_refused(&mut self, world: &mut World) {
        let Some(taken) = self.refused.pop() else { return };
        for one in &taken.quotas {
            *world.machines[self.node].limbo.entry(one.key()).or_default() -= signed(one.units);
        }
        self.undo(world, taken);
    }

    /// What is used of each quota's leases here, and left of the rate.
    fn sums(&self, world: &World) -> [u64; 3] {
        let used = |at| {
            let counter = self.counter(world, at);
            let leases = quota(&counter).open_leases();
            let of_leases: u64 = leases.iter().map(|entry| entry.used()).sum();
            of_leases + quota(&counter).owed(world.period_of(self.node))
        };
        [used(0), used(1), shared_rate(&self.rate(world)).remaining(self.now()).0]
    }

    fn is_short(&self, world: &World, at: usize, quota: &QuotaCounter, units: u64) -> bool {
        let now = self.now();
        !(quota.can_serve(units, now)
            || world.goes_on(at)
            || quota.is_exhausted(units, now)
            || self.may_overdraw(world, at, quota, units))
    }

    fn look(&self, world: &World, order: &Order) -> Verdict {
        let (now, mut short) = (self.now(), false);
        for (at, units) in (0..2).zip(order.units).filter(|(_, units)| *units > 0) {
            let counter = self.counter(world, at);
            let quota = quota(&counter);
            if self.is_short(world, at, quota, units) {
                short = true;
            } else if quota.is_exhausted(units, now) && !quota.can_serve(units, now) && !world.goes_on(at) {
                return Verdict::Refused;
            }
        }
        if order.rate > 0 {
            let counter = self.rate(world);
            let rate = shared_rate(&counter);
            match rate.look(order.rate, now) {
                Look::Enough => {}
                _ if self.rates.is_away(now) => {
                    if !world.share || rate.peek_alone(order.rate, NODES_OF_A_PART, now).is_err() {
                        return Verdict::Refused;
                    }
                }
                Look::NotNow(_) => return Verdict::Refused,
                Look::Ask => short = true,
            }
        }
        if short { Verdict::Short } else { Verdict::Enough }
    }

    fn may_overdraw(&self, world: &World, at: usize, quota: &QuotaCounter, units: u64) -> bool {
        let Some(most) = world.overdraft[at] else { return false };
        let most = if world.broken == Broken::OverdraftUnbounded { u64::MAX } else { most };
        let owed = quota.owed(world.period_of(self.node));
        self.driver.is_away(self.now()) && owed.saturating_add(units) <= most
    }

    /// Takes every limit, quotas before the rate; `false` if one has too little.
    fn take(&mut self, world: &mut World, order: &Order, taken: &mut Taken) -> Result<bool, String> {
        for (at, units) in (0..2).zip(order.units).filter(|(_, units)| *units > 0) {
            match self.take_of_quota(world, at, units)? {
                Some(one) => taken.quotas.push(one),
                None => return Ok(false),
            }
        }
        if order.rate > 0 {
            let (counter, now) = (self.rate(world), self.now());
            let rate = shared_rate(&counter);
            if let Some((units, _)) = rate.take(order.rate, now) {
                for (lease, _) in units.leases() {
                    world.rates.spend(lease.id, world.now)?;
                }
                taken.rate = Some(OfRate::Shared(units));
            } else {
                let alone = self.rates.is_away(now) && world.share;
                let part = if alone { rate.take_alone(order.rate, NODES_OF_A_PART, now) } else { None };
                taken.rate = part.map(OfRate::Alone);
            }
            return Ok(taken.rate.is_some());
        }
        Ok(true)
    }

    fn take_of_quota(&mut self, world: &mut World, at: usize, units: u64) -> Result<Option<Units>, String> {
        let (counter, now) = (self.counter(world, at), self.now());
        let (quota, bounded) = (quota(&counter), !world.goes_on(at));
        world.books.unsure[at] += signed(units);
        if let Some((entry, runs_low)) = quota.take(units, now) {
            world.books.unsure[at] -= signed(units);
            world.books.spend(entry.lease, signed(units), world.now, bounded)?;
            if runs_low {
                self.driver.queue.ask_for(&counter);
            }
            let period = entry.period;
            return Ok(Some(Units { at, held: Held::Lease(entry), units, period }));
        }
        let overdraws = bounded && self.may_overdraw(world, at, quota, units);
        if !overdraws && bounded {
            world.books.unsure[at] -= signed(units);
            return Ok(None);
        }
        let period = world.period_of(self.node);
        let debtor = Debtor { counter: &counter.id, table: &self.driver.table, now };
        let owed = quota.owe(signed(units), period, &debtor);
        world.books.unsure[at] -= signed(units);
        self.driver.queue.ask_for(&counter);
        let key = (at, period.start);
        if overdraws {
            world.marks.hit(Mark::Overdrawn);
            // What is left of a lease that is too small for it is used before.
            let beyond = owed.as_ref().map_or(units, |entry| entry.used().saturating_sub(entry.size).min(units));
            let overdrawn = self.overdrawn.entry(key).or_default();
            *overdrawn += signed(beyond);
            if world.overdraft[at].is_none_or(|most| *overdrawn > signed(most)) {
                return Err(format!("A.4: {overdrawn} units of {key:?} are overdrawn on one node"));
            }
            world.books.book(key).overdrawn += signed(beyond);
        }
        match &owed {
            Some(entry) => world.books.note(entry.lease, signed(units)),
            None => world.books.book(key).untold += signed(units),
        }
        world.books.use_units(key, signed(units), bounded)?;
        Ok(Some(Units { at, held: owed.map_or(Held::Nowhere, Held::Owed), units, period }))
    }

    /// Units of the rate pass: the curve, or this node's part of it.
    fn pass(&mut self, world: &mut World, units: u64, taken: Option<OfRate>) -> Result<(), String> {
        world.passed += units;
        match taken {
            None => Ok(()),
            Some(OfRate::Shared(_)) => world.pass(units),
            Some(OfRate::Alone(_)) => {
                world.marks.hit(Mark::Alone);
                let within = self.alone.pass(units, world.now, &world.part(), 100);
                if within { Ok(()) } else { Err(format!("A.4: a node alone lets {units} units too many pass")) }
            }
        }
    }

    /// Gives back what a refused request holds. What its lease does not take is nobody's.
    fn undo(&mut self, world: &mut World, taken: Taken) {
        for one in taken.quotas {
            let (key, units) = (one.key(), signed(one.units));
            world.books.book(key).used -= units;
            let Some(entry) = one.held.entry() else {
                world.books.book(key).untold -= units;
                continue;
            };
            world.books.unsure[one.at] += units;
            let credited = entry.credit(units);
            self.credited(world, key, entry, credited);
            world.books.book(key).forfeited += units - credited;
            world.books.unsure[one.at] -= units;
            world.marks.hit(if credited < units { Mark::Forfeited } else { Mark::Undone });
        }
        match taken.rate {
            Some(OfRate::Shared(units)) => units.undo(),
            Some(OfRate::Alone(part)) => shared_rate(&self.rate(world)).undo_alone(part),
            None => {}
        }
    }

    /// A lease has taken units back. One that is in debt is so for less, whoever gives them back.
    fn credited(&mut self, world: &mut World, key: Key, entry: &Arc<LeaseEntry>, units: i64) {
        world.books.note(entry.lease, -units);
        if let Some(overdrawn) = self.overdrawn.get_mut(&key) {
            *overdrawn -= units;
        }
    }

    /// A response ends: what was really used takes the place of what was reserved.
    pub(super) fn settle(&mut self, world: &mut World) -> Result<(), String> {
        if self.flights.is_empty() {
            return Ok(());
        }
        let flight = self.flights.swap_remove(world.dice.place(self.flights.len()));
        let billed = !world.dice.one_in(5);
        for one in &flight.quotas {
            let actual = match world.dice.below(4) {
                0 if flight.is_bound => one.units + 1 + world.dice.below(4),
                1 if flight.is_bound => world.dice.below(one.units),
                _ => one.units,
            };
            let owed = if billed { actual } else { 0 };
            if owed != one.units {
                self.adjust(world, one, signed(one.units) - signed(owed))?;
            }
        }
        Ok(())
    }

    fn adjust(&mut self, world: &mut World, one: &Units, difference: i64) -> Result<(), String> {
        let (counter, key) = (self.counter(world, one.at), one.key());
        let late = (-difference).max(0);
        if difference > 0 {
            world.books.book(key).used -= difference;
        } else {
            world.books.book(key).late += late;
            world.books.use_units(key, late, !world.goes_on(one.at))?;
        }
        world.books.unsure[one.at] += difference.abs();
        let debtor = Debtor { counter: &counter.id, table: &self.driver.table, now: self.now() };
        let booked = quota(&counter).adjust(one.held.entry(), difference, || Some(one.period), &debtor);
        let mut rest = difference;
        for booking in &booked {
            rest += booking.used;
            if booking.used < 0 {
                self.credited(world, key, &booking.lease, -booking.used);
            } else {
                world.books.note(booking.lease.lease, booking.used);
                world.marks.hit(Mark::LateCost);
            }
        }
        match one.held.entry() {
            None => world.books.book(key).untold -= rest,
            Some(_) if rest < 0 => world.books.book(key).untold -= rest,
            Some(_) => world.books.book(key).forfeited += rest,
        }
        world.books.unsure[one.at] -= difference.abs();
        Ok(())
    }
}
