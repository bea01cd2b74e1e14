//! One entry of the lease table: 64 words that outlive the process.
//!
//! The state is stored last. An entry is ASKED before the question for its lease is sent, OPEN once the answer is in, and FREE when the
//! authority has closed the lease and no request in flight holds units of it any more. Where units are spent without a lease, it is OWED: a lease
//! of size 0 whose `left` is below 0, and which the authority is told of afterwards.
//!
//! `base` is what of the lease's use is not of the life named beside it: 0 for a lease that this life was granted or owes, what an earlier life had
//! used of one that was taken over. There are two pairs of them, and the state says which one holds, so that a kill between two stores leaves
//! one that belongs together.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use super::left::Left;
use crate::clock::Monotonic;
use crate::mapped::{Word, Words};
use crate::model::{KeyId, Per, TenantId, Timestamp, UserId};
use crate::period::Period;
use crate::store::{CounterId, LeaseId, Subject};

pub(super) const SLOT_WORDS: usize = 64;

const STATE: usize = 0;
const LEFT: usize = 1;
const LEASE: usize = 2;
const TENANT: usize = 4;
/// Kind of the subject, unit of the period, lengths of the two names.
const KINDS: usize = 6;
const SUBJECT: usize = 7;
const SIZE: usize = 9;
const START: usize = 10;
const END: usize = 11;
const DEADLINE: usize = 12;
/// With which a window is made for a debt.
const CAP: usize = 18;
const CAP_VERSION: usize = 19;
/// Two pairs of base and life.
const BASES: [usize; 2] = [14, 16];
const LIMIT: usize = 24;
const METER: usize = 32;
/// Bytes of a name, at most.
const MOST_NAME: usize = 64;

const ASKED: u64 = 1;
const OPEN: u64 = 2;
const OWED: u64 = 3;
const KIND_OF_STATE: u64 = 0xff;
/// Which pair of base and life holds.
const SECOND_BASE: u64 = 1 << 8;

/// How far a lease has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotState {
    Asked,
    Open,
    Owed,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableEntry {
    pub(crate) state: SlotState,
    pub(crate) lease: LeaseId,
    pub(crate) counter: CounterId,
    pub(crate) period: Period,
    pub(crate) deadline: Monotonic,
    pub(crate) size: u64,
    /// Units left; negative in debt.
    pub(crate) left: i64,
    pub(crate) returning: bool,
    /// Of its use, what is not of `life`.
    pub(crate) base: u64,
    /// Lower half of the stream of the life that has spent since.
    pub(crate) life: u64,
    /// Of the limit, where the entry is owed.
    pub(crate) cap: u64,
    pub(crate) cap_version: u32,
}

impl TableEntry {
    /// Units spent; more than the size in debt.
    pub(crate) fn used(&self) -> u64 {
        used_of(self.size, self.left)
    }
}

pub(super) fn used_of(size: u64, left: i64) -> u64 {
    if left >= 0 { size.saturating_sub(left.unsigned_abs()) } else { size.saturating_add(left.unsigned_abs()) }
}

/// What the authority granted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Granted {
    pub(crate) period: Period,
    pub(crate) deadline: Monotonic,
    pub(crate) size: u64,
}

/// What is to be known of a debt when it is told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owing {
    pub(crate) period: Period,
    pub(crate) cap: u64,
    pub(crate) cap_version: u32,
}

/// Where an entry is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    words: Words,
    first: usize,
}

impl Place {
    /// `None` beyond the end of the file.
    pub(super) fn new(words: &Words, first: usize) -> Option<Self> {
        words.get(first..first.checked_add(SLOT_WORDS)?)?;
        Some(Self { words: words.clone(), first })
    }

    /// What is left of the lease.
    pub(super) fn left(&self) -> Left<'_> {
        Left(&self.words[self.first + LEFT])
    }

    fn words(&self) -> &[Word] {
        &self.words[self.first..self.first + SLOT_WORDS]
    }

    fn store(&self, at: usize, value: u64) {
        self.words()[at].store(value, Ordering::Relaxed);
    }

    fn store_wide(&self, at: usize, value: u128) {
        let [high, low] = [value >> 64, value & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or(0));
        self.store(at, high);
        self.store(at + 1, low);
    }

    /// Stores the state after everything else.
    fn store_state(&self, state: u64) {
        // Release: who sees the state sees what it is about.
        self.words()[STATE].store(state, Ordering::Release);
    }

    fn state(&self) -> u64 {
        self.words()[STATE].load(Ordering::Acquire)
    }

    /// Notes that a lease is about to be asked for; `false` if a name is too long for an entry.
    pub(super) fn ask(&self, lease: LeaseId, counter: &CounterId) -> bool {
        let named = self.name(lease, counter);
        if named {
            self.store_state(ASKED);
        }
        named
    }

    /// Notes a debt, before anything is spent on it; `false` if a name is too long for an entry.
    pub(super) fn owe(&self, lease: LeaseId, counter: &CounterId, owing: &Owing, life: u64) -> bool {
        let named = self.name(lease, counter);
        if named {
            self.store_period(owing.period, Monotonic(0));
            self.store(CAP, owing.cap);
            self.store(CAP_VERSION, u64::from(owing.cap_version));
            self.begin(0, life);
            self.store_state(OWED);
        }
        named
    }

    fn name(&self, lease: LeaseId, counter: &CounterId) -> bool {
        if counter.limit.len() > MOST_NAME || counter.meter.len() > MOST_NAME {
            return false;
        }
        self.store_wide(LEASE, lease.as_u128());
        self.store_wide(TENANT, counter.tenant.as_u128());
        let (kind, subject) = pack_subject(counter.subject);
        let lengths = [&counter.limit, &counter.meter].map(|name| u64::try_from(name.len()).unwrap_or(0));
        self.store(KINDS, kind | per_number(counter.per) << 8 | lengths[0] << 16 | lengths[1] << 24);
        self.store_wide(SUBJECT, subject);
        for (start, name) in [(LIMIT, &counter.limit), (METER, &counter.meter)] {
            for (at, bytes) in (start..).zip(name.as_bytes().chunks(8)) {
                self.store(at, bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)));
            }
        }
        true
    }

    /// Notes what was granted. Nothing is spent of it before.
    pub(super) fn open(&self, granted: &Granted, life: u64) {
        self.store(SIZE, granted.size);
        self.store_period(granted.period, granted.deadline);
        self.begin(granted.size, life);
        self.store_state(OPEN);
    }

    fn store_period(&self, period: Period, deadline: Monotonic) {
        self.store(START, period.start.as_micros().cast_unsigned());
        self.store(END, period.end.as_micros().cast_unsigned());
        self.store(DEADLINE, deadline.0);
    }

    /// Nothing is spent of it yet, and this life is the first to.
    fn begin(&self, size: u64, life: u64) {
        self.store(BASES[0], 0);
        self.store(BASES[0] + 1, life);
        self.left().begin(i64::try_from(size).unwrap_or(i64::MAX));
    }

    /// Begins the spending of another life: what was used so far is not of it.
    pub(super) fn rebase(&self, base: u64, life: u64) {
        let state = self.state() ^ SECOND_BASE;
        let at = BASES[usize::from(state & SECOND_BASE != 0)];
        self.store(at, base);
        self.store(at + 1, life);
        self.store_state(state);
    }

    pub(super) fn free(&self) {
        self.store_state(0);
    }

    /// What the entry says: nothing if it is free, an error if it makes no sense.
    pub(super) fn read(&self) -> Result<Option<TableEntry>, Senseless> {
        let state = self.state();
        let kind = match state & KIND_OF_STATE {
            0 => return Ok(None),
            ASKED => SlotState::Asked,
            OPEN => SlotState::Open,
            OWED => SlotState::Owed,
            _ => return Err(Senseless),
        };
        let word = |at: usize| self.words()[at].load(Ordering::Relaxed);
        let wide = |at: usize| u128::from(word(at)) << 64 | u128::from(word(at + 1));
        let instant = |at: usize| Timestamp::from_micros(word(at).cast_signed());
        let kinds = word(KINDS);
        let name = |start: usize, length: u64| {
            let length = usize::try_from(length & 0xff).ok().filter(|length| *length <= MOST_NAME).ok_or(Senseless)?;
            let bytes: Vec<u8> = (start..start + MOST_NAME / 8).flat_map(|at| word(at).to_le_bytes()).collect();
            let text = bytes.get(..length).and_then(|bytes| str::from_utf8(bytes).ok());
            text.map(std::sync::Arc::from).ok_or(Senseless)
        };
        let counter = CounterId {
            tenant: TenantId::from_u128(wide(TENANT)),
            subject: unpack_subject(kinds & 0xff, wide(SUBJECT))?,
            limit: name(LIMIT, kinds >> 16)?,
            meter: name(METER, kinds >> 24)?,
            per: PERS.get(usize::try_from(kinds >> 8 & 0xff).unwrap_or(usize::MAX)).copied().ok_or(Senseless)?,
        };
        let at = BASES[usize::from(state & SECOND_BASE != 0)];
        let (left, returning) = self.left().read();
        let size = if kind == SlotState::Open { word(SIZE) } else { 0 };
        Ok(Some(TableEntry {
            state: kind,
            lease: LeaseId::from_u128(wide(LEASE)),
            counter,
            period: Period { start: instant(START), end: instant(END) },
            deadline: Monotonic(word(DEADLINE)),
            size,
            left,
            returning,
            base: word(at),
            life: word(at + 1),
            cap: if kind == SlotState::Owed { word(CAP) } else { 0 },
            cap_version: if kind == SlotState::Owed {
                u32::try_from(word(CAP_VERSION)).map_err(|_| Senseless)?
            } else {
                0
            },
        }))
    }
}

/// An entry that this program did not write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Senseless;

const PERS: [Per; 7] = [Per::Second, Per::Minute, Per::Hour, Per::Day, Per::Week, Per::Month, Per::Year];

fn per_number(per: Per) -> u64 {
    PERS.iter().zip(0..).find(|(known, _)| **known == per).map_or(0, |(_, number)| number)
}

fn pack_subject(subject: Subject) -> (u64, u128) {
    match subject {
        Subject::Tenant => (0, 0),
        Subject::User(Some(user)) => (1, user.as_u128()),
        Subject::User(None) => (2, 0),
        Subject::Key(key) => (3, key.as_u128()),
        Subject::Ip(IpAddr::V4(address)) => (4, u128::from(address.to_bits())),
        Subject::Ip(IpAddr::V6(address)) => (5, address.to_bits()),
    }
}

fn unpack_subject(kind: u64, value: u128) -> Result<Subject, Senseless> {
    Ok(match kind {
        0 => Subject::Tenant,
        1 => Subject::User(Some(UserId::from_u128(value))),
        2 => Subject::User(None),
        3 => Subject::Key(KeyId::from_u128(value)),
        4 => Subject::Ip(IpAddr::V4(u32::try_from(value).map_err(|_| Senseless)?.into())),
        5 => Subject::Ip(IpAddr::V6(value.into())),
        _ => return Err(Senseless),
    })
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place::new(&Words::memory(SLOT_WORDS), 0).unwrap()
    }

    #[track_caller]
    fn check(subject: Subject, limit: &str, meter: &str, per: Per) {
        let place = place();
        let counter =
            CounterId { tenant: TenantId::generate(), subject, limit: limit.into(), meter: meter.into(), per };
        let lease = LeaseId::generate();
        assert_eq!(place.read(), Ok(None));
        assert!(place.ask(lease, &counter));
        let asked = place.read().unwrap().unwrap();
        assert_eq!((asked.state, asked.lease, &asked.counter, asked.used()), (SlotState::Asked, lease, &counter, 0));
        let period = Period { start: Timestamp::from_micros(-7), end: Timestamp::from_micros(1 << 50) };
        place.open(&Granted { period, deadline: Monotonic(99), size: 40 }, 8);
        let expected = TableEntry {
            state: SlotState::Open,
            lease,
            counter,
            period,
            deadline: Monotonic(99),
            size: 40,
            left: 40,
            returning: false,
            base: 0,
            life: 8,
            cap: 0,
            cap_version: 0,
        };
        assert_eq!(place.read(), Ok(Some(expected.clone())));
        assert!(place.left().adjust(-42));
        place.rebase(42, 9);
        let lowered = TableEntry { left: -2, base: 42, life: 9, ..expected };
        assert_eq!((place.read(), lowered.used()), (Ok(Some(lowered.clone())), 42));
        place.rebase(43, 10);
        assert_eq!(place.read(), Ok(Some(TableEntry { base: 43, life: 10, ..lowered.clone() })));
        place.free();
        assert_eq!(place.read(), Ok(None));
        let debt = LeaseId::generate_debt();
        assert!(place.owe(debt, &lowered.counter, &Owing { period, cap: 70, cap_version: 7 }, 11));
        assert!(place.left().adjust(-5));
        let owed = place.read().unwrap().unwrap();
        assert_eq!((owed.state, owed.lease, owed.period, owed.used()), (SlotState::Owed, debt, period, 5));
        assert_eq!((owed.size, owed.left, owed.base, owed.life), (0, -5, 0, 11));
        assert_eq!((owed.cap, owed.cap_version, owed.counter), (70, 7, lowered.counter));
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        check(Subject::Tenant, "monthly", "requests", Per::Month);
        check(Subject::User(Some(UserId::generate())), "a", "b", Per::Day);
        check(Subject::User(None), &"x".repeat(64), &"y".repeat(64), Per::Year);
        check(Subject::Key(KeyId::generate()), "", "é", Per::Second);
        check(Subject::Ip([192, 0, 2, 1].into()), "12345678", "123456789", Per::Week);
        check(Subject::Ip("2001:db8::1".parse().unwrap()), "q", "q", Per::Hour);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_nonsense_is_seen() {
        let place = place();
        let counter = CounterId {
            tenant: TenantId::generate(),
            subject: Subject::Tenant,
            limit: "x".repeat(65).into(),
            meter: "m".into(),
            per: Per::Day,
        };
        assert!(!place.ask(LeaseId::generate(), &counter));
        assert_eq!(place.read(), Ok(None));
        place.store_state(7);
        assert_eq!(place.read(), Err(Senseless));
        place.store(KINDS, 9);
        place.store_state(OPEN);
        assert_eq!(place.read(), Err(Senseless));
    }
}
