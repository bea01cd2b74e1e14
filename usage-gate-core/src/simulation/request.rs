//! A request on its way through a life: as `admission` takes it, with the real seats, leases and records, one step at a time.

use std::sync::Arc;

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::Broken;
use super::database::Noted;
use super::life::Life;
use super::marks::Mark;
use super::world::World;
use crate::admission::Held;
use crate::journal::{Encoded, JournalDurability, Place, Record};
use crate::lease::{Booking, Bookings, Debtor, LeaseEntry};
use crate::model::{Environment, KeyId, MeterIndex, RequestId, Timestamp};
use crate::period::Period;
use crate::seat::{Seat, SeatContents, SeatTable};
use crate::store::{CounterTag, Measured, Outcome, QuotaUse, UnitTotals};

/// Units held of one quota.
struct Taken {
    counter: usize,
    tag: CounterTag,
    held: Held,
    units: u64,
    period: Period,
}

/// How far a request is.
enum Step {
    Forwarded,
    Head(u16),
    /// Settled: its place is taken, and not published. What was taken stays until then.
    Placed {
        place: Place<'static>,
        item: Box<Encoded>,
        noted: Noted,
    },
    /// Its record is published; the last frame waits for the disk.
    Published(oneshot::Receiver<()>),
    Over,
}

pub(super) struct Flight {
    request: u128,
    at: Timestamp,
    seat: Option<Seat>,
    taken: Vec<Taken>,
    /// Leases that a difference was booked on, until the record is published.
    kept: Bookings,
    step: Step,
    bytes: u64,
}

impl Flight {
    /// What leases count of it, if it has no record.
    pub(super) fn uses(&self) -> Vec<QuotaUse> {
        match &self.step {
            Step::Forwarded | Step::Head(_) => uses_of(&self.taken),
            Step::Placed { noted, .. } => noted.quotas.clone(),
            Step::Published(_) | Step::Over => Vec::new(),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.step, Step::Over)
    }

    /// The last frame is released once the record is on the disk.
    pub(super) fn look_at_sync(&mut self, world: &World) {
        if let Step::Published(synced) = &mut self.step
            && synced.try_recv().is_ok()
        {
            world.marks.hit(Mark::WaitedForTheDisk);
            world.note(self.request, |seen| seen.last_frame = true);
            self.step = Step::Over;
        }
    }
}

fn uses_of(taken: &[Taken]) -> Vec<QuotaUse> {
    let mut uses = Vec::new();
    for one in taken {
        let period = one.period.start.floor_seconds();
        one.held.each(one.units, |lease, units| uses.push(QuotaUse { lease, counter: one.tag, period, units }));
    }
    uses
}

fn signed(units: u64) -> i64 {
    i64::try_from(units).unwrap()
}

impl Life<'_> {
    /// A request comes: a seat, units of its limits, all or none; then it is forwarded.
    pub(super) fn admit(&mut self) {
        let world = self.world;
        let Some(seat) = self.recorder.take_seat() else {
            let full = self.recorder.seats.taken() == self.recorder.seats.capacity();
            return world.marks.hit(if full { Mark::NoSeat } else { Mark::NoRoom });
        };
        let mut taken = Vec::new();
        for counter in [0, 1] {
            let units = 1 + world.below(5);
            if counter == 1 && !world.one_in(3) {
                continue;
            }
            match self.take(counter, units) {
                Some(one) => taken.push(one),
                None => {
                    world.marks.hit(Mark::Refused);
                    self.undo(taken);
                    return self.recorder.leave_seat(seat);
                }
            }
        }
        let (request, at) = (world.next_request(), world.clock.wall());
        world.note(request, |seen| seen.life = world.life());
        self.recorder.seats.at(&seat).forward(&SeatContents {
            request: RequestId::from_u128(request),
            at,
            tenant: world.tenant,
            key: KeyId::from_u128(5),
            user: None,
            environment: Environment::Live,
            route: world.route,
            bucket: at.floor_seconds(),
            cost: &[(MeterIndex::REQUESTS, 1)],
            quotas: &uses_of(&taken),
        });
        world.note(request, |seen| seen.forwarded = true);
        world.tell(|| format!("  admitted {request} with {:?}", uses_of(&taken)));
        self.flights.push(Flight {
            request,
            at,
            seat: Some(seat),
            taken,
            kept: Bookings::new(),
            step: Step::Forwarded,
            bytes: 0,
        });
    }

    fn debtor(&self, counter: usize) -> Debtor<'_> {
        let now = self.world.clock.monotonic();
        Debtor { counter: &self.counters[counter].id, table: &self.driver.table, now }
    }

    fn take(&self, counter: usize, units: u64) -> Option<Taken> {
        let world = self.world;
        let blocks = counter == 0;
        let (quota, now) = (self.quota(counter), world.clock.monotonic());
        let mut entry = quota.take(units, now).map(|(entry, _)| entry);
        if entry.is_none() && blocks {
            self.ask(counter);
            entry = quota.take(units, now).map(|(entry, _)| entry);
            entry.as_ref()?;
        }
        let tag = self.counters[counter].tag;
        let (held, period) = match entry {
            Some(entry) => {
                // A4: by the authority's clock.
                let now = world.clock.wall();
                assert!(entry.period.start <= now && now < entry.period.end, "A4: {:?} at {now}", entry.period);
                let period = entry.period;
                (Held::Lease(entry), period)
            }
            None => {
                let owed = quota.owe(signed(units), world.period(), &self.debtor(counter));
                self.driver.queue.ask_for(&self.counters[counter]);
                if owed.is_some() {
                    world.marks.hit(Mark::Debt);
                }
                (owed.map_or(Held::Nowhere, Held::Owed), world.period())
            }
        };
        world.use_units(counter, period.start, signed(units), 0);
        Some(Taken { counter, tag, held, units, period })
    }

    fn undo(&self, taken: Vec<Taken>) {
        for one in taken {
            one.held.entry().iter().for_each(|entry| drop(self.quota(one.counter).give_back(entry, signed(one.units))));
            self.world.use_units(one.counter, one.period.start, -signed(one.units), 0);
        }
    }

    /// The upstream or the client moves one request on.
    pub(super) fn go_on(&mut self) -> Result<(), String> {
        if self.flights.is_empty() {
            return Ok(());
        }
        let (world, at) = (self.world, self.world.dice.borrow_mut().place(self.flights.len()));
        let mut flight = self.flights.swap_remove(at);
        match flight.step {
            Step::Forwarded if world.one_in(6) => self.settle(&mut flight, None)?,
            Step::Forwarded => {
                let status = if world.one_in(4) { 500 } else { 200 };
                head(&self.recorder.seats, world, &mut flight, status);
            }
            Step::Head(status) if world.one_in(2) => self.settle(&mut flight, Some(status))?,
            Step::Head(_) => {
                flight.bytes += 1 + world.below(100);
                if let Some(seat) = &flight.seat {
                    self.recorder.seats.at(seat).progress(1, flight.bytes);
                }
                world.note(flight.request, |seen| seen.bytes = flight.bytes);
            }
            Step::Placed { .. } => self.publish(&mut flight)?,
            Step::Published(_) => self.recorder.journal.sync_waiting().unwrap_or_default(),
            Step::Over => {}
        }
        flight.look_at_sync(world);
        if !flight.is_over() {
            self.flights.push(flight);
        }
        Ok(())
    }

    /// It turns out to need more.
    pub(super) fn extend(&mut self) {
        let (world, now) = (self.world, self.world.clock.monotonic());
        let counters = &self.counters;
        for flight in &mut self.flights {
            if !matches!(flight.step, Step::Forwarded | Step::Head(_)) {
                continue;
            }
            for one in &mut flight.taken {
                let crate::lease::CounterState::Quota(quota) = &counters[one.counter].state else { continue };
                let (total, mut leases) = (one.units + 1 + world.below(4), 0);
                let note = |entry: &LeaseEntry, units| {
                    leases += 1;
                    let period = one.period.start.floor_seconds();
                    let more = QuotaUse { lease: entry.tag(), counter: one.tag, period, units };
                    flight.seat.iter().for_each(|seat| self.recorder.seats.at(seat).raise(&more));
                };
                if let Some(held) = one.held.take_more(quota, one.units, total, now, note) {
                    world.tell(|| format!("  {} holds {held} instead of {}", flight.request, one.units));
                    world.marks.hit(match one.held {
                        Held::Several(_) => Mark::ExtendedBeside,
                        _ if leases > 1 => Mark::ExtendedElsewhere,
                        _ => Mark::Extended,
                    });
                    world.use_units(one.counter, one.period.start, signed(held - one.units), 0);
                    one.units = held;
                }
            }
        }
    }

    /// What was really used takes the place of what was reserved; the record gets its place.
    fn settle(&mut self, flight: &mut Flight, status: Option<u16>) -> Result<(), String> {
        let world = self.world;
        let outcome = match status {
            None => Outcome::Indeterminate,
            Some(500) => Outcome::Unbilled,
            Some(_) if world.one_in(4) => Outcome::Aborted,
            Some(_) => Outcome::Billed,
        };
        let mut uses: SmallVec<[QuotaUse; 3]> = uses_of(&flight.taken).into();
        for one in &flight.taken {
            let actual = match world.below(6) {
                0 => one.units + 1 + world.below(4),
                1 => world.below(one.units),
                _ => one.units,
            };
            let owed = match outcome {
                Outcome::Unbilled => 0,
                Outcome::Indeterminate => actual.max(one.units),
                _ => actual,
            };
            let late = owed.saturating_sub(one.units);
            if late > 0 {
                world.marks.hit(Mark::LateCost);
            }
            world.use_units(one.counter, one.period.start, signed(owed) - signed(one.units), late);
            let difference = signed(one.units) - signed(owed);
            let (from, period) = (one.held.entry(), || Some(one.period));
            let booked = self.quota(one.counter).adjust(from, difference, period, &self.debtor(one.counter));
            if booked.iter().any(|booking| from.is_some_and(|entry| !Arc::ptr_eq(entry, &booking.lease))) {
                world.marks.hit(if late > 0 { Mark::DebtElsewhere } else { Mark::CreditElsewhere });
            }
            world.tell(|| format!("  settled {} as {outcome:?}: {} units, owed {owed}", flight.request, one.units));
            booked.iter().for_each(|booking| book(&mut uses, one, booking));
            flight.kept.extend(booked);
        }
        uses.retain(|one| one.units != 0);
        let mut units = UnitTotals::default();
        units.set(MeterIndex::BYTES_OUT, flight.bytes);
        let record = Record {
            request: RequestId::from_u128(flight.request),
            at: flight.at,
            tenant: world.tenant,
            user: None,
            key: KeyId::from_u128(5),
            environment: Environment::Live,
            route: Some(0),
            status: status.unwrap_or(0),
            outcome,
            measured: Measured::Exact,
            bucket: flight.at.floor_seconds(),
            units: &units,
            quotas: &uses,
            retry: None,
        };
        let noted = Noted::of_request(flight.request, outcome, flight.bytes, &uses);
        if world.one_in(2)
            && world.broken != Broken::SeatFreedBeforePublish
            && let Some(seat) = flight.seat.take()
        {
            let sequence = self.recorder.publish(seat, &record).ok_or("B7: there is no place for a record")?;
            return self.published(flight, sequence, noted);
        }
        let item = Box::new(record.encode());
        let place = self.recorder.journal.begin_slowly(item.slots()).ok_or("B7: there is no place for a record")?;
        if let Some(seat) = &flight.seat {
            self.recorder.seats.at(seat).settle_at(place.sequence());
        }
        if world.broken == Broken::SeatFreedBeforePublish {
            flight.seat.take().into_iter().for_each(|seat| self.recorder.seats.free(seat));
        }
        world.marks.hit(Mark::Hole);
        flight.step = Step::Placed { place, item, noted };
        Ok(())
    }

    /// The second half of [`Recorder::publish`](crate::journal::Recorder::publish), on a thread that was away in between.
    fn publish(&self, flight: &mut Flight) -> Result<(), String> {
        let Step::Placed { place, item, noted } = std::mem::replace(&mut flight.step, Step::Over) else {
            return Ok(());
        };
        let sequence = place.sequence();
        place.publish(&item);
        flight.seat.take().into_iter().for_each(|seat| self.recorder.seats.free(seat));
        self.published(flight, sequence, noted)
    }

    fn published(&self, flight: &mut Flight, sequence: u64, noted: Noted) -> Result<(), String> {
        let billed = noted.outcome == Outcome::Billed;
        self.world.publish(self.stream, sequence, noted)?;
        flight.step = match self.recorder.journal.durability() {
            JournalDurability::Disk if billed => Step::Published(self.recorder.journal.wish_sync(sequence)),
            _ => {
                self.world.note(flight.request, |seen| seen.last_frame = billed);
                Step::Over
            }
        };
        Ok(())
    }
}

fn head(seats: &SeatTable, world: &World, flight: &mut Flight, status: u16) {
    if let Some(seat) = &flight.seat {
        seats.at(seat).head(status, status < 300);
    }
    world.note(flight.request, |seen| seen.head = Some(status));
    flight.step = Step::Head(status);
}

fn book(uses: &mut SmallVec<[QuotaUse; 3]>, taken: &Taken, booked: &Booking) {
    let lease = booked.lease.tag();
    match uses.iter_mut().find(|one| one.counter == taken.tag && one.lease == lease) {
        Some(one) => one.units += booked.used,
        None => uses.push(QuotaUse {
            lease,
            counter: taken.tag,
            period: taken.period.start.floor_seconds(),
            units: booked.used,
        }),
    }
}
