//! What is where in the file of seats: a header block, then 32 words a seat.

use std::sync::atomic::Ordering;

use crate::mapped::Word;
use crate::model::{Environment, KeyId, MeterIndex, RequestId, TenantId, Timestamp, UserId};
use crate::routes::RouteIndex;
use crate::store::{CounterTag, QuotaUse};

/// 256 bytes: four cache lines.
pub(super) const SEAT_WORDS: usize = 32;
pub(super) const HEADER_WORDS: usize = SEAT_WORDS;

/// The seat's state in its low bits, and from bit 16 on which meters its fixed costs are of.
pub(super) const STATE: usize = 0;
pub(super) const REQUEST: usize = 1;
pub(super) const TENANT: usize = 3;
pub(super) const KEY: usize = 5;
pub(super) const USER: usize = 7;
pub(super) const AT: usize = 9;
/// Route, environment and bucket.
pub(super) const ROUTE: usize = 10;
/// Status, 0 for none, and whether it is billed.
pub(super) const HEAD: usize = 11;
pub(super) const BYTES_IN: usize = 12;
pub(super) const BYTES_OUT: usize = 13;
pub(super) const TOKENS_IN: usize = 14;
pub(super) const TOKENS_OUT: usize = 15;
pub(super) const SEQUENCE: usize = 16;
pub(super) const COSTS: usize = 17;
pub(super) const QUOTAS: usize = 20;
/// The lease's low half, the counter's tag, period and units.
pub(super) const QUOTA_WORDS: usize = 3;

pub(super) const FREE: u64 = 0;
pub(super) const FORWARDED: u64 = 1;

const BILLS: u64 = 1 << 16;
const TEST: u64 = 1 << 16;
const MOST_COSTS: usize = QUOTAS - COSTS;

/// What a crash has to know of a request.
#[derive(Debug, Clone)]
pub(crate) struct SeatContents<'a> {
    pub(crate) request: RequestId,
    pub(crate) at: Timestamp,
    pub(crate) tenant: TenantId,
    pub(crate) key: KeyId,
    pub(crate) user: Option<UserId>,
    pub(crate) environment: Environment,
    pub(crate) route: RouteIndex,
    /// The hour of the tenant's clock that `at` is in.
    pub(crate) bucket: Timestamp,
    /// The route's fixed costs, that of `requests` first; three are kept.
    pub(crate) cost: &'a [(MeterIndex, u64)],
    /// What was taken of quotas; the first four are kept, others would be forfeited.
    pub(crate) quotas: &'a [QuotaUse],
}

impl SeatContents<'_> {
    /// Stores everything but the state, and gives that.
    pub(super) fn store(&self, words: &[Word; SEAT_WORDS]) -> u64 {
        let store = |at: usize, value: u64| words[at].store(value, Ordering::Relaxed);
        let store_wide = |at: usize, value: u128| {
            let [high, low] = halves(value);
            store(at, high);
            store(at + 1, low);
        };
        store_wide(REQUEST, self.request.as_u128());
        store_wide(TENANT, self.tenant.as_u128());
        store_wide(KEY, self.key.as_u128());
        store_wide(USER, self.user.map_or(0, UserId::as_u128));
        store(AT, self.at.as_micros().cast_unsigned());
        let test = if self.environment == Environment::Test { TEST } else { 0 };
        let route = u16::try_from(self.route.position()).unwrap_or(u16::MAX);
        store(ROUTE, u64::from(route) | test | u64::from(seconds(self.bucket)) << 32);
        for at in HEAD..=SEQUENCE {
            store(at, 0);
        }
        let mut mask = 0;
        for ((at, shift), (meter, units)) in (COSTS..QUOTAS).zip((0..).step_by(METER_BITS)).zip(self.cost) {
            store(at, *units);
            let position = u64::try_from(meter.position()).unwrap_or(0) & 15;
            mask = (mask | position << shift) + (1 << COUNT_SHIFT);
        }
        let mut quotas = self.quotas.iter();
        for at in (QUOTAS..SEAT_WORDS).step_by(QUOTA_WORDS) {
            match quotas.next() {
                Some(used) => {
                    store(at, used.lease);
                    store(at + 1, used.counter.0);
                    store(at + 2, pack_units(used.period, used.units));
                }
                None => store(at + 1, 0),
            }
        }
        FORWARDED | mask << 16
    }
}

/// Bits of the mask that a cost has: the meter's position. Above them is how many costs there are.
const METER_BITS: usize = 4;
/// Where in the mask the number of costs is.
const COUNT_SHIFT: u32 = 12;

/// Positions of the meters that a state's costs are of, in their order.
pub(super) fn cost_meters(state: u64) -> impl Iterator<Item = usize> {
    let mask = state >> 16;
    let count = usize::try_from(mask >> COUNT_SHIFT & 3).unwrap_or(0);
    (0..MOST_COSTS).take(count).map(move |at| usize::try_from(mask >> (at * METER_BITS) & 15).unwrap_or(0))
}

/// A seat that a dead life has left.
pub(super) struct Read<'a>(pub(super) &'a [Word; SEAT_WORDS]);

impl Read<'_> {
    pub(super) fn word(&self, at: usize) -> u64 {
        // Acquire: what was stored before is seen with it; here nobody stores any more.
        self.0[at].load(Ordering::Acquire)
    }

    pub(super) fn wide(&self, at: usize) -> u128 {
        u128::from(self.word(at)) << 64 | u128::from(self.word(at + 1))
    }

    pub(super) fn is_forwarded(&self) -> bool {
        self.word(STATE) & 0xffff == FORWARDED
    }

    pub(super) fn status(&self) -> u16 {
        u16::try_from(self.word(HEAD) & 0xffff).unwrap_or(0)
    }

    pub(super) fn is_billed(&self) -> bool {
        self.word(HEAD) & BILLS != 0
    }

    pub(super) fn environment(&self) -> Environment {
        if self.word(ROUTE) & TEST == 0 { Environment::Live } else { Environment::Test }
    }

    pub(super) fn route(&self) -> u16 {
        u16::try_from(self.word(ROUTE) & 0xffff).unwrap_or(0)
    }

    pub(super) fn bucket(&self) -> Timestamp {
        from_seconds(self.word(ROUTE) >> 32)
    }

    /// Meters by position, with their fixed costs.
    pub(super) fn costs(&self) -> impl Iterator<Item = (usize, u64)> {
        cost_meters(self.word(STATE)).zip(COSTS..).map(|(meter, at)| (meter, self.word(at)))
    }

    pub(super) fn quotas(&self) -> impl Iterator<Item = QuotaUse> {
        (QUOTAS..SEAT_WORDS).step_by(QUOTA_WORDS).filter_map(|at| {
            let counter = Some(self.word(at + 1)).filter(|tag| *tag != 0)?;
            let (period, units) = unpack_units(self.word(at + 2));
            Some(QuotaUse { lease: self.word(at), counter: CounterTag(counter), period, units })
        })
    }
}

pub(super) fn bills_bit(bills: bool) -> u64 {
    if bills { BILLS } else { 0 }
}

/// A number's upper and lower half.
pub(super) fn halves(value: u128) -> [u64; 2] {
    [value >> 64, value & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or(0))
}

/// Seconds in 32 bits: up to the year 2106.
fn seconds(at: Timestamp) -> u32 {
    u32::try_from(at.as_seconds()).unwrap_or(0)
}

fn from_seconds(seconds: u64) -> Timestamp {
    Timestamp::from_micros(i64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000))
}

/// A period's start and units in one word. What 32 bits do not hold is missing from the record that a crash leaves, and forfeited.
pub(super) fn pack_units(period: Timestamp, units: i64) -> u64 {
    let units = u32::try_from(units.max(0)).unwrap_or(u32::MAX);
    u64::from(seconds(period)) << 32 | u64::from(units)
}

pub(super) fn unpack_units(word: u64) -> (Timestamp, i64) {
    (from_seconds(word >> 32), i64::try_from(word & 0xffff_ffff).unwrap_or(0))
}

/// The first block of the file.
pub(super) mod header {
    use super::{HEADER_WORDS, Ordering, SEAT_WORDS, Word, halves};
    use crate::kernel::KernelBoot;
    use crate::model::StreamId;

    /// `ugseats` and the version of the layout.
    const MAGIC: u64 = u64::from_be_bytes(*b"ugseats\x01");
    const SEATS: usize = 1;
    const STREAM: usize = 2;
    const KERNEL: usize = 4;

    /// What a valid header says.
    #[derive(Debug, Clone, Copy)]
    pub(in super::super) struct Header {
        pub(in super::super) seats: usize,
        pub(in super::super) stream: StreamId,
        pub(in super::super) kernel: KernelBoot,
    }

    pub(in super::super) fn clear(words: &[Word]) {
        if let Some(magic) = words.first() {
            magic.store(0, Ordering::Release);
        }
    }

    pub(in super::super) fn write(words: &[Word], seats: usize, stream: StreamId, kernel: KernelBoot) {
        let Some(header) = words.first_chunk::<HEADER_WORDS>() else { return };
        header[SEATS].store(u64::try_from(seats).unwrap_or(0), Ordering::Relaxed);
        for (at, value) in [(STREAM, stream.as_u128()), (KERNEL, kernel.as_u128())] {
            let [high, low] = halves(value);
            header[at].store(high, Ordering::Relaxed);
            header[at + 1].store(low, Ordering::Relaxed);
        }
        // Release: the magic makes the rest valid.
        header[0].store(MAGIC, Ordering::Release);
    }

    pub(in super::super) fn read(words: &[Word]) -> Option<Header> {
        let header = words.first_chunk::<HEADER_WORDS>()?;
        if header[0].load(Ordering::Acquire) != MAGIC {
            return None;
        }
        let word = |at: usize| header[at].load(Ordering::Relaxed);
        let wide = |at: usize| u128::from(word(at)) << 64 | u128::from(word(at + 1));
        let seats = usize::try_from(word(SEATS)).ok()?;
        (seats <= words.len().checked_sub(HEADER_WORDS)? / SEAT_WORDS).then(|| Header {
            seats,
            stream: StreamId::from_u128(wide(STREAM)),
            kernel: KernelBoot::from_u128(wide(KERNEL)),
        })
    }
}
