//! Processes that are killed at every step of a request, and of the recovery after it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::{DeadLife, DeadSeats, Seat, SeatContents, SeatTable};
use crate::kernel::KernelBoot;
use crate::mapped::{Area, Words, crash};
use crate::model::{Environment, KeyId, MeterIndex, Meters, RequestId, StreamId, TenantId, Timestamp};
use crate::routes::{Matched, Route, RouteIndex, Routes};
use crate::store::{CounterTag, Outcome, QuotaUse, UsageRecord};

const KERNEL: KernelBoot = KernelBoot::from_u128(5);

/// A journal as seats see one: a place is reserved, then a record is published there.
struct Journal {
    places: Words,
    records: RefCell<BTreeMap<u64, UsageRecord>>,
}

impl Journal {
    fn new() -> Self {
        Self { places: Words::memory(64), records: RefCell::default() }
    }

    fn reserve(&self) -> u64 {
        self.places[0].fetch_add(1, Ordering::Relaxed) + 1
    }

    fn publish(&self, place: u64, record: UsageRecord) {
        self.places[usize::try_from(place).unwrap()].store(1, Ordering::Release);
        self.records.borrow_mut().insert(place, record);
    }

    fn contains(&self, place: u64, request: RequestId) -> bool {
        self.records.borrow().get(&place).is_some_and(|record| record.request == request)
    }
}

/// What the outside saw of a request.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    begun: bool,
    forwarded: bool,
    head: Option<u16>,
    bytes: u64,
    last_frame: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Right,
    FreedBeforePublish,
    HeadReleasedBeforeNoted,
    PlaceAfterPublish,
}

fn route() -> RouteIndex {
    let routes = Routes::compile(vec![Route::get("/a").named("a")], &Meters::default()).unwrap();
    match routes.find(&http::Method::GET, "/a") {
        Matched::Route(index, _) => index,
        other => panic!("{other:?}"),
    }
}

fn contents<'a>(request: u128, quotas: &'a [QuotaUse], route: RouteIndex) -> SeatContents<'a> {
    SeatContents {
        request: RequestId::from_u128(request),
        at: Timestamp::from_micros(1_790_000_000_123_456),
        tenant: TenantId::from_u128(1 << 100 | 7),
        key: KeyId::from_u128(1 << 90 | 8),
        user: None,
        environment: Environment::Live,
        route,
        bucket: Timestamp::from_micros(1_789_999_200_000_000),
        cost: &[(MeterIndex::REQUESTS, 5)],
        quotas,
    }
}

fn record_of(request: u128, outcome: Outcome) -> UsageRecord {
    UsageRecord {
        sequence: 0,
        request: RequestId::from_u128(request),
        at: Timestamp::from_micros(0),
        tenant: TenantId::from_u128(1),
        user: None,
        key: KeyId::from_u128(2),
        environment: Environment::Live,
        route: "a".into(),
        status: 200,
        outcome,
        units: crate::store::UnitTotals::default(),
        measured: crate::store::Measured::Exact,
        bucket: Timestamp::from_micros(0),
        quotas: vec![],
        retry: None,
    }
}

/// A life with three requests: one that is settled, one that stays open, one that is refused in between; then one more is settled.
fn life(area: &Area, journal: &Journal, seen: &RefCell<BTreeMap<u128, Seen>>, order: Order, route: RouteIndex) {
    let table = SeatTable::start(area, 3, StreamId::from_u128(9), KERNEL).unwrap();
    let note = |request: u128, change: &dyn Fn(&mut Seen)| change(seen.borrow_mut().entry(request).or_default());
    let quotas = [QuotaUse { lease: 77, counter: CounterTag(3), period: Timestamp::from_micros(0), units: 5 }];
    let begin = |request: u128| {
        let seat = table.take().unwrap();
        note(request, &|seen| seen.begun = true);
        table.at(&seat).forward(&contents(request, &quotas, route));
        note(request, &|seen| seen.forwarded = true);
        seat
    };
    let head = |seat: &Seat, request: u128, status: u16| {
        let release = || note(request, &|seen| seen.head = Some(status));
        if order == Order::HeadReleasedBeforeNoted {
            release();
        }
        table.at(seat).head(status, status < 300);
        release();
    };
    let end = |seat: Seat, request: u128| {
        let place = journal.reserve();
        let record = record_of(request, Outcome::Billed);
        match order {
            Order::FreedBeforePublish => {
                table.at(&seat).settle_at(place);
                table.free(seat);
                journal.publish(place, record);
                return note(request, &|seen| seen.last_frame = true);
            }
            Order::PlaceAfterPublish => {
                journal.publish(place, record);
                table.at(&seat).settle_at(place);
            }
            _ => {
                table.at(&seat).settle_at(place);
                journal.publish(place, record);
            }
        }
        note(request, &|seen| seen.last_frame = true);
        table.free(seat);
    };
    let first = begin(1);
    drop(table.take().unwrap());
    let second = begin(2);
    head(&first, 1, 200);
    table.at(&first).progress(10, 20);
    note(1, &|seen| seen.bytes = 20);
    end(first, 1);
    let third = begin(3);
    head(&third, 3, 503);
    head(&second, 2, 200);
    table.at(&second).tokens(3, 4);
    table.at(&second).raise(&QuotaUse { units: 7, ..quotas[0] });
    table.at(&second).progress(1, 2);
    note(2, &|seen| seen.bytes = 2);
    end(third, 3);
}

fn recover(area: &Area, journal: &Journal) {
    let Some(seats) = DeadSeats::open(area, KERNEL).unwrap() else { return };
    assert_eq!(seats.stream(), StreamId::from_u128(9));
    let mut life = DeadLife {
        contains: &|place, request| Ok(journal.contains(place, request)),
        route: &|position| format!("r{position}").into(),
        meters: &Meters::default(),
        publish: &mut |record, placed| {
            let place = journal.reserve();
            placed(place);
            journal.publish(place, record);
            Ok(())
        },
    };
    seats.recover(&mut life).unwrap();
}

/// What must hold when all is recovered; the first breach.
fn judge(journal: &Journal, seen: &BTreeMap<u128, Seen>) -> Result<(), String> {
    let records = journal.records.borrow();
    let of = |request: u128| records.values().filter(move |record| record.request.as_u128() == request);
    for (request, seen) in seen {
        let mine: Vec<&UsageRecord> = of(*request).collect();
        if mine.len() > 1 {
            return Err(format!("B3: request {request} has {} records", mine.len()));
        }
        if mine.is_empty() && seen.forwarded {
            return Err(format!("request {request} was forwarded and has no record"));
        }
        let Some(record) = mine.first() else { continue };
        if seen.head.is_some_and(|status| status < 300) && !matches!(record.outcome, Outcome::Billed | Outcome::Aborted)
        {
            return Err(format!("B2: a billed head of {request} was released, its record is {:?}", record.outcome));
        }
        if seen.last_frame && record.outcome != Outcome::Billed {
            return Err(format!("B2: the last frame of {request} was released, its record is {:?}", record.outcome));
        }
        if record.outcome == Outcome::Aborted && record.units.of(MeterIndex::BYTES_OUT) < seen.bytes {
            return Err(format!("request {request} is billed for less than was released"));
        }
    }
    Ok(())
}

/// Kills a life at every step, and the recovery after it at every step; says whether all was in order.
fn run(order: Order) -> Result<u64, String> {
    let route = route();
    let (steps, ()) = crash::steps_of(|| life(&Area::memory(), &Journal::new(), &RefCell::default(), order, route));
    let mut runs = 0;
    for killed in 0..=steps {
        for killed_again in 0.. {
            let (area, journal, seen) = (Area::memory(), Journal::new(), RefCell::default());
            crash::killed_after(killed, || life(&area, &journal, &seen, order, route));
            let whole = crash::killed_after(killed_again, || recover(&area, &journal)).is_some();
            recover(&area, &journal);
            judge(&journal, &seen.borrow()).map_err(|fault| format!("{fault}, killed at {killed}, {killed_again}"))?;
            let left = journal.records.borrow().len();
            recover(&area, &journal);
            assert_eq!(journal.records.borrow().len(), left, "a recovered table is empty");
            runs += 1;
            if whole {
                break;
            }
        }
    }
    Ok(runs)
}

#[test]
fn b2_b3_a_kill_at_any_step_leaves_one_record_for_each_request() {
    assert!(run(Order::Right).unwrap() > 200);
}

#[test]
fn broken_orders_are_caught() {
    assert!(run(Order::FreedBeforePublish).is_err());
    assert!(run(Order::HeadReleasedBeforeNoted).is_err());
    assert!(run(Order::PlaceAfterPublish).is_err());
}

#[test]
fn what_a_seat_says_is_in_its_record() {
    let (area, journal, seen) = (Area::memory(), Journal::new(), RefCell::default());
    life(&area, &journal, &seen, Order::Right, route());
    recover(&area, &journal);
    let records = journal.records.borrow();
    let record = records.values().find(|record| record.request.as_u128() == 2).unwrap();
    let told = contents(2, &[], route());
    assert_eq!((record.at, record.tenant, record.key), (told.at, told.tenant, told.key));
    assert_eq!((record.user, record.bucket, &*record.route, record.status), (None, told.bucket, "r0", 200));
    assert_eq!(record.outcome, Outcome::Aborted);
    let meters = Meters::default();
    let units: Vec<u64> = meters.iter().map(|(meter, _)| record.units.of(meter)).collect();
    assert_eq!(units, [5, 1, 2, 0, 3, 4]);
    let used = QuotaUse { lease: 77, counter: CounterTag(3), period: Timestamp::from_micros(0), units: 12 };
    assert_eq!(record.quotas, [used]);
}

#[test]
fn calls_and_counted_tokens_are_billed_after_a_crash() {
    let (area, journal) = (Area::memory(), Journal::new());
    let table = SeatTable::start(&area, 1, StreamId::from_u128(9), KERNEL).unwrap();
    let seat = table.take().unwrap();
    let costs = [MeterIndex::REQUESTS, MeterIndex::OUTPUT_TOKENS, MeterIndex::INPUT_TOKENS, MeterIndex::DURATION_MS];
    let cost = costs.map(|meter| (meter, 9));
    table.at(&seat).forward(&SeatContents { cost: &cost, ..contents(1, &[], route()) });
    table.at(&seat).tokens(3, 0);
    drop(seat);
    recover(&area, &journal);
    let records = journal.records.borrow();
    let units = &records.values().next().unwrap().units;
    assert_eq!(units.of(MeterIndex::REQUESTS), 9, "whatever else the route costs");
    assert_eq!((units.of(MeterIndex::INPUT_TOKENS), units.of(MeterIndex::OUTPUT_TOKENS)), (3, 9));
}

#[test]
fn heads_decide_the_outcome() {
    for (head, environment, expected) in [
        (None, Environment::Live, Outcome::Indeterminate),
        (Some((200, true)), Environment::Live, Outcome::Aborted),
        (Some((500, false)), Environment::Live, Outcome::Unbilled),
        (Some((200, true)), Environment::Test, Outcome::Test),
        (None, Environment::Test, Outcome::Test),
    ] {
        let (area, journal) = (Area::memory(), Journal::new());
        let table = SeatTable::start(&area, 1, StreamId::from_u128(9), KERNEL).unwrap();
        let seat = table.take().unwrap();
        table.at(&seat).forward(&SeatContents { environment, ..contents(1, &[], route()) });
        if let Some((status, bills)) = head {
            table.at(&seat).head(status, bills);
        }
        drop(seat);
        assert_eq!(table.taken(), 1, "a seat without a record stays taken");
        recover(&area, &journal);
        assert_eq!(journal.records.borrow().values().next().unwrap().outcome, expected);
    }
}

#[test]
fn after_a_reboot_seats_say_nothing() {
    let area = Area::memory();
    let table = SeatTable::start(&area, 1, StreamId::from_u128(9), KERNEL).unwrap();
    table.at(&table.take().unwrap()).forward(&contents(1, &[], route()));
    assert!(DeadSeats::open(&area, KernelBoot::from_u128(6)).unwrap().is_none());
    assert!(DeadSeats::open(&Area::memory(), KERNEL).unwrap().is_none());
    let table = SeatTable::start(&area, 2, StreamId::from_u128(10), KERNEL).unwrap();
    assert_eq!((table.taken(), table.capacity()), (0, 2));
}

#[test]
fn seats_are_bounded() {
    let table = SeatTable::start(&Area::memory(), 2, StreamId::from_u128(9), KERNEL).unwrap();
    let (one, two) = (table.take().unwrap(), table.take().unwrap());
    assert!(table.take().is_none());
    table.leave(one);
    let three = table.take().unwrap();
    table.free(two);
    assert_eq!((table.taken(), table.settled()), (1, 1));
    table.leave(three);
    assert_eq!((table.taken(), table.settled()), (0, 1), "it left no record");
}
