//! What no kill reaches: the machine's files, the database, the clock, and what clients and the upstream have seen.
//!
//! [`World::check`] asserts the invariants between any two actions of a life and after each start; [`World::recovered`] what a start must have
//! finished of the life before it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::database::{Database, Noted};
use super::marks::{Mark, Marks};
use super::{Broken, Dice, Faults};
use crate::clock::{Clock, ManualClock};
use crate::journal::{JournalDurability, JournalOptions, Schema, Segment, Stream, place_of};
use crate::kernel::KernelBoot;
use crate::lease::ledger::DebtKey;
use crate::lease::{QuotaTerms, SlotState, TableEntry, table_entries};
use crate::mapped::Area;
use crate::metrics::Metrics;
use crate::model::{Meters, Per, RequestId, StreamId, TenantId, Timestamp};
use crate::period::{AnchorDay, Calendar, Period, Zone};
use crate::routes::{Matched, Route, RouteIndex, Routes};
use crate::store::{CounterId, CounterTag, LeaseId, Outcome, QuotaUse, Subject};

/// Units of the limit that blocks, and of the one that lets requests go on.
pub(super) const CAPS: [u64; 2] = [60, 12];
const NODE: &str = "a";

/// What the outside saw of a request.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Seen {
    pub(super) life: u128,
    pub(super) forwarded: bool,
    pub(super) head: Option<u16>,
    pub(super) bytes: u64,
    pub(super) last_frame: bool,
}

/// Units by counter and second in which the period begins.
pub(super) type Sums = BTreeMap<(CounterTag, Timestamp), i64>;

pub(super) struct World {
    pub(super) area: Area,
    pub(super) database: Arc<Database>,
    pub(super) manual: ManualClock,
    pub(super) clock: Clock,
    pub(super) dice: RefCell<Dice>,
    pub(super) marks: Arc<Marks>,
    pub(super) broken: Broken,
    pub(super) counters: [CounterId; 2],
    tags: [CounterTag; 2],
    pub(super) tenant: TenantId,
    pub(super) metrics: Arc<Metrics>,
    pub(super) route: RouteIndex,
    pub(super) options: JournalOptions,
    kernel: Cell<u128>,
    lives: Cell<u128>,
    requests: Cell<u128>,
    pub(super) seen: RefCell<BTreeMap<u128, Seen>>,
    /// Every record that was published, wherever it is now.
    records: RefCell<BTreeMap<StreamId, BTreeMap<u64, Noted>>>,
    by_request: RefCell<BTreeMap<u128, (StreamId, u64)>>,
    sums: RefCell<Sums>,
    /// Units that the outside used of each counter and period, whatever the books say.
    used: RefCell<Sums>,
    /// How much of that became known only after admission.
    late: RefCell<Sums>,
    ended: RefCell<BTreeSet<StreamId>>,
    pub(super) lost_power: Cell<bool>,
    pub(super) restored: Cell<bool>,
    /// Whether the life of now has not started yet.
    pub(super) starting: Cell<bool>,
    /// Whether a life was finished whose first segments had gone: what leases count of it beyond records is not known then, and not forfeited.
    cut: Cell<bool>,
    /// Whether one seed is looked at: it tells what happens.
    told: bool,
}

pub(super) fn schema() -> Schema {
    Schema::new(NODE, Meters::default(), ["a".into()])
}

impl World {
    pub(super) fn new(seed: u64, faults: Faults, broken: Broken) -> Self {
        let mut dice = Dice::new(seed);
        let manual = ManualClock::at("2026-11-30T23:58:00Z".parse().unwrap());
        let clock = manual.clock();
        let marks = Arc::new(Marks::default());
        let tenant = TenantId::from_u128(1 << 100 | 1);
        let counter = |limit: &str| CounterId {
            tenant,
            subject: Subject::Tenant,
            limit: limit.into(),
            meter: "requests".into(),
            per: Per::Day,
        };
        let routes = Routes::compile(vec![Route::get("/a").named("a")], &Meters::default()).unwrap();
        let Matched::Route(route, _) = routes.find(&http::Method::GET, "/a") else { panic!("it is a route") };
        let header = u64::try_from(Segment::header_words(&schema().to_text()) * 8).unwrap();
        let forgets = dice.one_in(4);
        let disk = faults == Faults::Power && dice.one_in(2);
        let options = JournalOptions {
            segment_bytes: header + (16 + dice.below(12)) * 64,
            retention: match faults {
                Faults::Restores => Duration::from_secs(36_000_000),
                _ if forgets => Duration::ZERO,
                _ => Duration::from_secs(36_000),
            },
            retention_bytes: u64::MAX,
            most_bytes: if dice.one_in(4) && faults != Faults::Restores { (header + 28 * 64) * 6 } else { u64::MAX },
            seats: 1,
            durability: if disk { JournalDurability::Disk } else { JournalDurability::Process },
        };
        Self {
            area: Area::memory(),
            database: Arc::new(Database::new(seed, clock.clone(), Arc::clone(&marks), broken)),
            manual,
            clock,
            dice: RefCell::new(dice),
            marks,
            broken,
            tags: [counter("blocks").tag(), counter("allows").tag()],
            counters: [counter("blocks"), counter("allows")],
            tenant,
            metrics: Arc::new(Metrics::new(&routes)),
            route,
            options,
            kernel: Cell::new(1),
            lives: Cell::new(0),
            requests: Cell::new(0),
            seen: RefCell::default(),
            records: RefCell::default(),
            by_request: RefCell::default(),
            sums: RefCell::default(),
            used: RefCell::default(),
            late: RefCell::default(),
            ended: RefCell::default(),
            lost_power: Cell::new(false),
            restored: Cell::new(false),
            starting: Cell::new(false),
            cut: Cell::new(false),
            told: std::env::var_os("USAGE_GATE_SIMULATION_SEED").is_some(),
        }
    }

    pub(super) fn below(&self, most: u64) -> u64 {
        self.dice.borrow_mut().below(most)
    }

    pub(super) fn tell(&self, what: impl FnOnce() -> String) {
        if self.told {
            println!("{}", what());
        }
    }

    pub(super) fn one_in(&self, often: u64) -> bool {
        self.below(often) == 0
    }

    pub(super) fn next_stream(&self) -> StreamId {
        self.lives.set(self.lives.get() + 1);
        StreamId::from_u128(self.lives.get())
    }

    pub(super) fn next_request(&self) -> u128 {
        self.requests.set(self.requests.get() + 1);
        self.requests.get()
    }

    pub(super) fn life(&self) -> u128 {
        self.lives.get()
    }

    pub(super) fn kernel(&self) -> KernelBoot {
        KernelBoot::from_u128(self.kernel.get())
    }

    pub(super) fn node(&self) -> &'static str {
        NODE
    }

    pub(super) fn terms(&self, counter: usize) -> QuotaTerms {
        let calendar = Calendar::new(Zone::UTC, AnchorDay::FIRST);
        QuotaTerms { calendar, cap: CAPS[counter], cap_version: 1, beyond_cap: counter == 1 }
    }

    pub(super) fn period(&self) -> Period {
        self.terms(0).calendar.period(Per::Day, self.clock.wall())
    }

    pub(super) fn note(&self, request: u128, change: impl FnOnce(&mut Seen)) {
        change(self.seen.borrow_mut().entry(request).or_default());
    }

    /// The outside has used so many units, of which so many are more than was known at the door.
    pub(super) fn use_units(&self, counter: usize, period: Timestamp, units: i64, late: u64) {
        let key = (self.tags[counter], period.floor_seconds());
        *self.used.borrow_mut().entry(key).or_default() += units;
        *self.late.borrow_mut().entry(key).or_default() += late.cast_signed();
    }

    /// A record is in the journal.
    pub(super) fn publish(&self, stream: StreamId, sequence: u64, noted: Noted) -> Result<(), String> {
        let mut records = self.records.borrow_mut();
        let of_stream = records.entry(stream).or_default();
        if let Some(known) = of_stream.get(&sequence) {
            if *known != noted {
                return Err(format!("B5: {stream} has {known:?} at {sequence}, and now {noted:?}"));
            }
            return Ok(());
        }
        if noted.outcome == Outcome::Forfeited {
            self.marks.hit(Mark::Forfeited);
        } else if let Some(other) = self.by_request.borrow_mut().insert(noted.request.as_u128(), (stream, sequence)) {
            return Err(format!("B3: {noted:?} has two records, at {other:?} and at {stream} {sequence}"));
        }
        self.tell(|| format!("  record {stream} {sequence} {noted:?}"));
        let mut sums = self.sums.borrow_mut();
        for used in &noted.quotas {
            *sums.entry((used.counter, used.period)).or_default() += used.units;
        }
        of_stream.insert(sequence, noted);
        Ok(())
    }

    /// The machine loses its power: of what was not synced anything may be missing.
    pub(super) fn lose_power(&self) {
        self.marks.hit(if self.starting.get() { Mark::PowerLostInRecovery } else { Mark::PowerLost });
        self.lost_power.set(true);
        let often = 1 + self.below(3);
        for name in self.area.list().unwrap() {
            self.area.open(&name).unwrap().lose_power(|| self.one_in(often));
        }
        if self.broken != Broken::TableTrustedAfterReboot {
            self.kernel.set(self.kernel.get() + 1);
        }
    }

    /// Somebody puts a backup of the database in its place.
    pub(super) fn restore(&self) {
        self.restored.set(true);
        self.database.restore();
    }

    /// What a start must have finished: each stream of earlier lives is sealed, and has what its life left.
    pub(super) fn recovered(&self, living: StreamId) -> Result<(), String> {
        let (streams, damaged) = Stream::all(&self.area).unwrap();
        if !damaged.is_empty() {
            return Err(format!("{damaged:?} are damaged"));
        }
        for stream in streams.iter().filter(|stream| stream.id != living) {
            if stream.sealed().is_none() {
                return Err(format!("{} is not sealed", stream.id));
            }
            if self.ended.borrow_mut().insert(stream.id) {
                self.finished(stream)?;
            }
        }
        let gone: Vec<StreamId> = self.records.borrow().keys().copied().filter(|id| *id != living).collect();
        for stream in gone.into_iter().filter(|id| self.ended.borrow_mut().insert(*id)) {
            self.forget_lost(stream, u64::MAX, &BTreeMap::new());
        }
        // What lives that did not live to see their own start have finished, shipped and removed.
        let shipped = self.database.books().news.clone();
        for (stream, sequence, noted) in shipped.into_iter().filter(|(stream, ..)| *stream != living) {
            self.publish(stream, sequence, noted)?;
        }
        for (request, seen) in &*self.seen.borrow() {
            if seen.life != living.as_u128() {
                self.has_its_record(*request, seen)?;
            }
        }
        Ok(())
    }

    /// Takes in what recovery has made of a stream.
    fn finished(&self, stream: &Stream) -> Result<(), String> {
        let mut found = BTreeMap::new();
        let mut next = 1;
        while let Some(chunk) = stream.read(next, 64).map_err(|error| error.to_string())? {
            found.extend(chunk.records.iter().map(|record| (record.sequence, Noted::of(record))));
            next = chunk.last + 1;
        }
        let oldest = stream.segments.first().map_or(1, |segment| segment.first());
        self.forget_lost(stream.id, oldest, &found);
        if let Some(known) = self.records.borrow().get(&stream.id) {
            // What the sink has may be missing here after a loss of power.
            let books = self.database.books();
            let counted = |at: &u64| books.counted.get(&stream.id).is_some_and(|counted| counted.contains_key(at));
            let kept = |at: &u64| *at < oldest || found.contains_key(at) || self.lost_power.get() && counted(at);
            if let Some(lost) = known.keys().find(|at| !kept(at)) {
                return Err(format!("the record at {} {lost} is lost", stream.id));
            }
        }
        for (sequence, noted) in found {
            if noted.outcome != Outcome::Forfeited && !self.by_request.borrow().contains_key(&noted.request.as_u128()) {
                self.marks.hit(Mark::RecordOfASeat);
            }
            self.publish(stream.id, sequence, noted)?;
        }
        Ok(())
    }

    /// Records that a loss of power took before the sink had them: `found` are those that are there, from `oldest` on.
    fn forget_lost(&self, stream: StreamId, oldest: u64, found: &BTreeMap<u64, Noted>) {
        if !self.lost_power.get() {
            return;
        }
        let books = self.database.books();
        let watermark = books.watermarks.get(&stream).copied().unwrap_or(0);
        let counted = |at: &u64| books.counted.get(&stream).is_some_and(|counted| counted.contains_key(at));
        let mut records = self.records.borrow_mut();
        let Some(known) = records.get_mut(&stream) else { return };
        let lost =
            |at: &u64, _: &mut Noted| !found.contains_key(at) && !counted(at) && (*at >= oldest || *at <= watermark);
        for (_, noted) in known.extract_if(.., lost) {
            self.by_request.borrow_mut().remove(&noted.request.as_u128());
            for used in &noted.quotas {
                *self.sums.borrow_mut().entry((used.counter, used.period)).or_default() -= used.units;
            }
        }
    }

    /// B1 to B3 for a request whose life has ended.
    fn has_its_record(&self, request: u128, seen: &Seen) -> Result<(), String> {
        let place = self.by_request.borrow().get(&request).copied();
        let Some((stream, sequence)) = place else {
            let synced = seen.last_frame && self.options.durability == JournalDurability::Disk;
            return if seen.forwarded && (synced || !self.lost_power.get()) {
                Err(format!("B1, B2: request {request} was forwarded and has no record: {seen:?}"))
            } else {
                Ok(())
            };
        };
        let records = self.records.borrow();
        let noted = records.get(&stream).and_then(|of| of.get(&sequence));
        let noted = noted.ok_or_else(|| format!("the record of {request} is not where it was"))?;
        let billed = matches!(noted.outcome, Outcome::Billed | Outcome::Aborted);
        if self.lost_power.get() && !seen.last_frame {
            return Ok(());
        }
        // Between the seat's word and the release of the head it may be either.
        if seen.head.is_some_and(|status| (status < 300) != billed) {
            return Err(format!("B2: request {request} has {noted:?}, and the outside saw {seen:?}"));
        }
        if seen.last_frame && noted.outcome == Outcome::Aborted {
            return Err(format!("B2: the last frame of {request} was released, and it is {noted:?}"));
        }
        if noted.outcome == Outcome::Aborted && noted.bytes_out < seen.bytes {
            return Err(format!("request {request} has {noted:?}, and {seen:?}"));
        }
        Ok(())
    }

    /// A process has ended.
    pub(super) fn died(&self) {
        let (streams, _) = Stream::all(&self.area).unwrap();
        let unfinished = streams.iter().filter(|stream| stream.sealed().is_none());
        if unfinished.filter_map(|stream| stream.segments.first()).any(|first| first.first() > 1) {
            self.marks.hit(Mark::Cut);
            self.cut.set(true);
        }
    }

    /// Whatever holds between any two actions. `held` is what leases count of requests that have no record yet.
    pub(super) fn check(&self, held: &[QuotaUse]) -> Result<(), String> {
        self.check_sink()?;
        // Few actions remove files, and what is lost stays lost.
        if self.one_in(8) {
            self.check_files()?;
        }
        self.check_units(held)
    }

    /// B3, B4, B5, B8: what counts is what was published, up to the watermark, once.
    fn check_sink(&self) -> Result<(), String> {
        let mut books = self.database.books();
        let (news, moved) = (std::mem::take(&mut books.news), std::mem::take(&mut books.moved));
        for (stream, sequence, noted) in &news {
            // It was on its way to the sink when the journal lost it.
            if self.lost_power.get() && self.ended.borrow().contains(stream) {
                self.publish(*stream, *sequence, noted.clone())?;
            }
        }
        let records = self.records.borrow();
        for (stream, sequence, noted) in news {
            let known = records.get(&stream).and_then(|of| of.get(&sequence));
            if known != Some(&noted) {
                return Err(format!("B5: the sink has {noted:?} at {stream} {sequence}, the journal {known:?}"));
            }
            if books.counted[&stream][&sequence] != 1 {
                return Err(format!("B3: {stream} {sequence} counts {} times", books.counted[&stream][&sequence]));
            }
        }
        for stream in moved {
            let watermark = books.watermarks[&stream];
            let expected = records.get(&stream).map_or(0, |of| of.range(..=watermark).count());
            let counted = books.counted.get(&stream).map_or(0, BTreeMap::len);
            if expected != counted {
                return Err(format!("B8: {stream} has {expected} records up to {watermark}, and {counted} count"));
            }
        }
        Ok(())
    }

    /// B6: a segment goes only after the watermark.
    fn check_files(&self) -> Result<(), String> {
        let mut oldest: HashMap<StreamId, u64> = HashMap::new();
        for name in self.area.list().unwrap() {
            let Some((stream, first)) = place_of(&name) else { continue };
            let known = oldest.entry(StreamId::from_u128(stream)).or_insert(first);
            *known = first.min(*known);
        }
        let books = self.database.books();
        for (stream, of) in &*self.records.borrow() {
            let first = oldest.get(stream).copied().unwrap_or(u64::MAX);
            let watermark = books.watermarks.get(stream).copied().unwrap_or(0);
            if first > 1 {
                self.marks.hit(Mark::SegmentGone);
            }
            if let Some((lost, _)) = of.range(watermark + 1..).next().filter(|(at, _)| **at < first) {
                return Err(format!("B6: the record at {stream} {lost} is gone; the sink has {watermark}"));
            }
        }
        Ok(())
    }

    /// A1 to A3, B9: the ledger, the table and records say the same, and no limit is exceeded.
    fn check_units(&self, held: &[QuotaUse]) -> Result<(), String> {
        let books = self.database.books();
        books.ledger.check();
        let table: HashMap<LeaseId, TableEntry> = table_entries(&self.area, self.kernel())
            .into_iter()
            .filter(|entry| entry.state != SlotState::Asked)
            .map(|entry| (entry.lease, entry))
            .collect();
        let sums = self.sums.borrow();
        let mut periods: BTreeSet<(CounterTag, Timestamp)> = sums.keys().copied().collect();
        periods.extend(held.iter().map(|used| (used.counter, used.period)));
        for (counter, start) in periods {
            let at = self.tags.iter().position(|tag| *tag == counter).ok_or("a counter that nobody knows")?;
            let counted = books.of_counter(&self.counters[at], start);
            let of_table = |(lease, reported): &(LeaseId, u64)| table.get(lease).map_or(*reported, TableEntry::used);
            let untold = table.values().filter(|entry| {
                let debt = DebtKey { counter, second: entry.period.start.floor_seconds(), lease: entry.lease.tag() };
                let here = entry.counter == self.counters[at] && debt.second == start;
                here && entry.state == SlotState::Owed && !books.ledger.knows(&debt)
            });
            let untold = untold.inspect(|entry| {
                if entry.period.end <= self.clock.wall() {
                    self.marks.hit(Mark::DebtOfAnEndedPeriod);
                }
            });
            let owed: u64 = untold.map(TableEntry::used).sum();
            let ledger = counted.closed + counted.open.iter().map(of_table).sum::<u64>() + owed;
            let of_held = |used: &&QuotaUse| (used.counter, used.period) == (counter, start);
            let in_flight: i64 = held.iter().filter(of_held).map(|used| used.units).sum();
            let recorded = sums.get(&(counter, start)).copied().unwrap_or(0) + in_flight;
            let lost = self.lost_power.get() || self.restored.get() || self.cut.get();
            let ledger = ledger.cast_signed();
            self.tell(|| {
                let open: Vec<_> = counted.open.iter().map(|one| (one.0.tag(), of_table(one))).collect();
                format!("  {at}: closed {}, open {open:?}, owed {owed}, recorded {recorded}", counted.closed)
            });
            let used = self.used.borrow().get(&(counter, start)).copied().unwrap_or(0);
            let late = self.late.borrow().get(&(counter, start)).copied().unwrap_or(0);
            // After a loss of power leases are closed as spent, and what of them records say is not compared (A.4); nor where records may have gone.
            if ledger != recorded && !lost {
                return Err(format!(
                    "B9: of {} the ledger and the table count {ledger}, records and seats {recorded} ({in_flight} in flight)",
                    self.counters[at].limit
                ));
            }
            // A.4: what a restored database has forgotten may be used again, as far as records do not tell it (`store::sqlite` heals by them).
            if at == 0 && !self.restored.get() && used > CAPS[0].cast_signed() + late {
                return Err(format!("A: {used} units were used of {}, {late} of them late", CAPS[0]));
            }
        }
        Ok(())
    }

    /// When all is over: nothing is under way, everything counts, every unit went back or is on a record.
    pub(super) fn finish(&self) -> Result<(), String> {
        let books = self.database.books();
        for (stream, of) in &*self.records.borrow() {
            let counted = books.counted.get(stream);
            if of.keys().any(|at| counted.and_then(|counted| counted.get(at)) != Some(&1)) {
                return Err(format!("B8: not every record of {stream} counts once"));
            }
        }
        for (counter, start, row, open, _) in books.ledger.audited() {
            if open > 0 {
                return Err(format!("A2: everything went back, and {counter} has leases open"));
            }
            let recorded = self.sums.borrow().get(&(counter.tag(), start)).copied().unwrap_or(0);
            let exact = !self.lost_power.get() && !self.restored.get() && !self.cut.get();
            if exact && row.used_closed.cast_signed() != recorded {
                return Err(format!("B9: {row:?} of {counter}, and records say {recorded}"));
            }
        }
        Ok(())
    }
}

impl Noted {
    pub(super) fn of_request(request: u128, outcome: Outcome, bytes_out: u64, quotas: &[QuotaUse]) -> Self {
        Self { request: RequestId::from_u128(request), outcome, bytes_out, quotas: quotas.to_vec() }
    }
}
