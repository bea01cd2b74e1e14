//! What items carry, as words.
//!
//! Numbers stand for names that the front of the segment knows. What is 0 of meters, and what a record does not have, takes no room: a request with one quota
//! and four meters is three slots, the largest record eight.

use std::sync::Arc;

use super::schema::Schema;
use super::slot::{Encoded, ITEM_WORDS, Kind, SLOT_WORDS, Sink, halves};
use crate::invariant::invariant;
use crate::model::{Environment, KeyId, MAX_METERS, RequestId, TenantId, Timestamp, UserId};
use crate::store::{CounterTag, Measured, Outcome, QuotaUse, RefusalSum, UnitTotals, UsageRecord};

/// Quotas that one record has room for: more than one request can take of.
pub(crate) const MOST_QUOTAS: usize = 8;
/// Words of one of them.
const QUOTA_WORDS: usize = 4;
/// Words that every record has, its head included.
const FIXED_WORDS: usize = 12;
/// Bytes of a name in a sum of refusals.
pub(crate) const MOST_NAME: usize = 64;
/// The route of what has none.
const NO_ROUTE: u16 = u16::MAX;

const RETRY: u64 = 1;
const TEST: u64 = 2;
const LIMIT: u64 = 4;

const OUTCOMES: [Outcome; 6] =
    [Outcome::Billed, Outcome::Unbilled, Outcome::Aborted, Outcome::Indeterminate, Outcome::Test, Outcome::Forfeited];
const MEASURED: [Measured; 3] = [Measured::Exact, Measured::Counted, Measured::Estimated];

/// A [`UsageRecord`] as the gate has it: routes by number, and nothing allocated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    pub(crate) request: RequestId,
    pub(crate) at: Timestamp,
    pub(crate) tenant: TenantId,
    pub(crate) user: Option<UserId>,
    pub(crate) key: KeyId,
    pub(crate) environment: Environment,
    /// The place of the route; `None` for what was forfeited.
    pub(crate) route: Option<u16>,
    pub(crate) status: u16,
    pub(crate) outcome: Outcome,
    pub(crate) measured: Measured,
    /// In whole seconds.
    pub(crate) bucket: Timestamp,
    pub(crate) units: &'a UnitTotals,
    /// At most [`MOST_QUOTAS`].
    pub(crate) quotas: &'a [QuotaUse],
    pub(crate) retry: Option<u128>,
}

/// A [`RefusalSum`] as the gate has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused<'a> {
    pub(crate) tenant: TenantId,
    pub(crate) user: Option<UserId>,
    pub(crate) key: KeyId,
    pub(crate) environment: Environment,
    pub(crate) route: Option<u16>,
    pub(crate) code: &'a str,
    pub(crate) limit: Option<&'a str>,
    pub(crate) requests: u64,
    pub(crate) bucket: Timestamp,
}

/// A record of earlier, to be written once more: where its route is among the names of the stream's writer.
pub(crate) fn of_record<'a>(record: &'a UsageRecord, schema: &Schema) -> Record<'a> {
    let route = schema.routes.iter().position(|name| **name == *record.route);
    Record {
        request: record.request,
        at: record.at,
        tenant: record.tenant,
        user: record.user,
        key: record.key,
        environment: record.environment,
        route: route.and_then(|route| u16::try_from(route).ok()),
        status: record.status,
        outcome: record.outcome,
        measured: record.measured,
        bucket: record.bucket,
        units: &record.units,
        quotas: &record.quotas,
        retry: record.retry,
    }
}

/// What an item says.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    Record(UsageRecord),
    Refusals(RefusalSum),
}

impl Record<'_> {
    pub(crate) fn encode(&self) -> Encoded {
        let mut item = Encoded::new(Kind::Record);
        self.encode_into(&mut item);
        item
    }

    /// Slots of its item.
    pub(crate) fn slots(&self) -> u64 {
        let retry = if self.retry.is_some() { 2 } else { 0 };
        let quotas = self.quotas.len().min(MOST_QUOTAS) * QUOTA_WORDS;
        let words = FIXED_WORDS + self.units.used().count_ones() as usize + quotas + retry;
        words.div_ceil(SLOT_WORDS) as u64
    }

    /// Puts it where there is room for it.
    pub(crate) fn encode_into(&self, item: &mut impl Sink) {
        invariant!(B9, self.quotas.len() <= MOST_QUOTAS);
        let quotas = self.quotas.get(..MOST_QUOTAS).unwrap_or(self.quotas);
        let flags = if self.retry.is_some() { RETRY } else { 0 } | test_flag(self.environment);
        let what = (u64::from(self.route.unwrap_or(NO_ROUTE)) << 48)
            | (u64::from(self.status) << 32)
            | (number_of(self.outcome, &OUTCOMES) << 16)
            | (number_of(self.measured, &MEASURED) << 8)
            | flags;
        let [request, request_low] = halves(self.request.as_u128());
        let [tenant, tenant_low] = halves(self.tenant.as_u128());
        let [user, user_low] = halves(self.user.map_or(0, UserId::as_u128));
        let [key, key_low] = halves(self.key.as_u128());
        let at = self.at.as_micros().cast_unsigned();
        // At once, as far as it is the same in every record: each push looks whether there is room.
        item.push_all([request, request_low, at, tenant, tenant_low, user, user_low, key, key_low, what]);
        let used = self.units.used();
        item.push((seconds(self.bucket) << 32) | (u64::from(used) << 16) | quotas.len() as u64);
        let mut left = used;
        while let Some(units) = self.units.numbers().get(left.trailing_zeros() as usize) {
            item.push(*units);
            left &= left - 1;
        }
        for quota in quotas {
            item.push_all([quota.lease, quota.counter.0, seconds(quota.period), quota.units.cast_unsigned()]);
        }
        if let Some(retry) = self.retry {
            item.push_wide(retry);
        }
    }
}

impl Refused<'_> {
    pub(crate) fn encode(&self) -> Encoded {
        let mut item = Encoded::new(Kind::Refusals);
        let (code, limit) = (cut(self.code), cut(self.limit.unwrap_or_default()));
        push_owner(&mut item, self.tenant, self.user, self.key);
        let flags = if self.limit.is_some() { LIMIT } else { 0 } | test_flag(self.environment);
        item.push(
            (u64::from(self.route.unwrap_or(NO_ROUTE)) << 48)
                | ((code.len() as u64) << 16)
                | ((limit.len() as u64) << 8)
                | flags,
        );
        item.push(seconds(self.bucket));
        item.push(self.requests);
        for name in [code, limit] {
            for chunk in name.as_bytes().chunks(8) {
                let mut bytes = [0; 8];
                for (place, byte) in bytes.iter_mut().zip(chunk) {
                    *place = *byte;
                }
                item.push(u64::from_le_bytes(bytes));
            }
        }
        item
    }
}

impl Item {
    /// Reads an item; `None` for what no version wrote, and for pads.
    pub(crate) fn decode(kind: Kind, words: &[u64; ITEM_WORDS], sequence: u64, schema: &Schema) -> Option<Self> {
        let mut words = Words(words.get(1..)?.iter());
        match kind {
            Kind::Record => decode_record(&mut words, sequence, schema).map(Self::Record),
            Kind::Refusals => decode_refusals(&mut words, sequence, schema).map(Self::Refusals),
            Kind::Pad => None,
        }
    }
}

/// The request of a record, without the rest.
pub(crate) fn request_of(words: &[u64; ITEM_WORDS]) -> u128 {
    Words(words.get(1..).unwrap_or_default().iter()).wide().unwrap_or_default()
}

fn decode_record(words: &mut Words<'_>, sequence: u64, schema: &Schema) -> Option<UsageRecord> {
    let request = RequestId::from_u128(words.wide()?);
    let at = Timestamp::from_micros(words.next()?.cast_signed());
    let (tenant, user, key) = words.owner()?;
    let what = words.next()?;
    let sizes = words.next()?;
    let mut units = UnitTotals::default();
    for place in (0..MAX_METERS).filter(|place| (sizes >> (16 + place)) & 1 == 1) {
        let number = words.next()?;
        // A meter that nobody names any more cannot be billed.
        if let Some(meter) = schema.meter(place) {
            units.set(meter, number);
        }
    }
    let mut quotas = Vec::new();
    for _ in 0..(sizes & 0xffff).min(MOST_QUOTAS as u64) {
        let (lease, counter) = (words.next()?, CounterTag(words.next()?));
        quotas.push(QuotaUse { lease, counter, period: instant(words.next()?), units: words.next()?.cast_signed() });
    }
    let retry = if what & RETRY == 0 { None } else { Some(words.wide()?) };
    Some(UsageRecord {
        sequence,
        request,
        at,
        tenant,
        user,
        key,
        environment: environment(what),
        route: schema.route(short(what >> 48)),
        status: short(what >> 32),
        outcome: word_of((what >> 16) & 0xff, &OUTCOMES)?,
        units,
        measured: word_of((what >> 8) & 0xff, &MEASURED)?,
        bucket: instant(sizes >> 32),
        quotas,
        retry,
    })
}

fn decode_refusals(words: &mut Words<'_>, sequence: u64, schema: &Schema) -> Option<RefusalSum> {
    let (tenant, user, key) = words.owner()?;
    let what = words.next()?;
    let bucket = instant(words.next()?);
    let requests = words.next()?;
    let code = words.name((what >> 16) & 0xff)?;
    let limit = words.name((what >> 8) & 0xff)?;
    Some(RefusalSum {
        sequence,
        tenant,
        user,
        key,
        environment: environment(what),
        route: schema.route(short(what >> 48)),
        code,
        limit: (what & LIMIT != 0).then_some(limit),
        requests,
        bucket,
    })
}

/// The words of an item that are not read yet.
struct Words<'a>(std::slice::Iter<'a, u64>);

impl Words<'_> {
    fn next(&mut self) -> Option<u64> {
        self.0.next().copied()
    }

    fn wide(&mut self) -> Option<u128> {
        Some((u128::from(self.next()?) << 64) | u128::from(self.next()?))
    }

    fn owner(&mut self) -> Option<(TenantId, Option<UserId>, KeyId)> {
        let tenant = TenantId::from_u128(self.wide()?);
        let user = Some(self.wide()?).filter(|user| *user != 0).map(UserId::from_u128);
        Some((tenant, user, KeyId::from_u128(self.wide()?)))
    }

    fn name(&mut self, bytes: u64) -> Option<Arc<str>> {
        let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= MOST_NAME)?;
        let mut name = [0; MOST_NAME];
        for place in name.as_chunks_mut().0.iter_mut().take(bytes.div_ceil(8)) {
            *place = self.next()?.to_le_bytes();
        }
        str::from_utf8(name.get(..bytes)?).ok().map(Arc::from)
    }
}

fn push_owner(item: &mut Encoded, tenant: TenantId, user: Option<UserId>, key: KeyId) {
    item.push_wide(tenant.as_u128());
    item.push_wide(user.map_or(0, UserId::as_u128));
    item.push_wide(key.as_u128());
}

fn test_flag(environment: Environment) -> u64 {
    match environment {
        Environment::Live => 0,
        Environment::Test => TEST,
    }
}

fn environment(flags: u64) -> Environment {
    if flags & TEST == 0 { Environment::Live } else { Environment::Test }
}

fn number_of<T: PartialEq>(word: T, words: &[T]) -> u64 {
    words.iter().position(|known| *known == word).unwrap_or_default() as u64
}

fn word_of<T: Copy>(number: u64, words: &[T]) -> Option<T> {
    words.get(usize::try_from(number).ok()?).copied()
}

fn short(word: u64) -> u16 {
    let [.., high, low] = word.to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// Seconds in 32 bits: from 1970 to 2106.
fn seconds(instant: Timestamp) -> u64 {
    u64::from(u32::try_from(instant.as_seconds().max(0)).unwrap_or(u32::MAX))
}

fn instant(seconds: u64) -> Timestamp {
    let seconds = i64::try_from(seconds & 0xffff_ffff).unwrap_or_default();
    Timestamp::from_micros(seconds.saturating_mul(1_000_000))
}

/// A name cut to what there is room for.
fn cut(name: &str) -> &str {
    (0..=MOST_NAME.min(name.len())).rev().find_map(|end| name.get(..end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Meters;
    use proptest::prelude::*;

    fn schema() -> Schema {
        let meters = Meters::new((6..MAX_METERS).map(|at| format!("m{at}"))).unwrap();
        Schema::new("a1", meters, ["item".into(), "other".into()])
    }

    fn read(item: Encoded) -> Item {
        let mut words = [0; ITEM_WORDS];
        words.iter_mut().skip(1).zip(item.carried()).for_each(|(word, carried)| *word = *carried);
        let salt = super::super::slot::Salt::new(1);
        let head =
            super::super::slot::Head::from_word(super::super::slot::Head::marked(item.kind(), &salt, 9, item.slots()))
                .unwrap();
        assert!(head.fits(&salt, 9, &words));
        Item::decode(head.kind, &words, 9, &schema()).unwrap()
    }

    fn quota() -> impl Strategy<Value = QuotaUse> {
        (any::<u64>(), any::<u64>(), any::<u32>(), any::<i64>()).prop_map(|(lease, counter, period, units)| QuotaUse {
            lease,
            counter: CounterTag(counter),
            period: instant(u64::from(period)),
            units,
        })
    }

    fn owner() -> impl Strategy<Value = (TenantId, Option<UserId>, KeyId, Environment)> {
        (any::<u128>(), any::<Option<u128>>(), any::<u128>(), any::<bool>()).prop_map(|(tenant, user, key, test)| {
            let environment = if test { Environment::Test } else { Environment::Live };
            (
                TenantId::from_u128(tenant),
                user.map(|id| UserId::from_u128(id.max(1))),
                KeyId::from_u128(key),
                environment,
            )
        })
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written(
            (request, at, retry) in (any::<u128>(), any::<i64>(), any::<Option<u128>>()),
            (tenant, user, key, environment) in owner(),
            (route, status, outcome, measured) in (0u16..3, any::<u16>(), 0usize..6, 0usize..3),
            bucket in any::<u32>(),
            numbers in prop::array::uniform16(prop_oneof![Just(0), any::<u64>()]),
            quotas in prop::collection::vec(quota(), 0..=MOST_QUOTAS),
        ) {
            let schema = schema();
            let mut units = UnitTotals::default();
            for (place, number) in numbers.into_iter().enumerate() {
                units.set(schema.meter(place).unwrap(), number);
            }
            let record = Record {
                request: RequestId::from_u128(request), at: Timestamp::from_micros(at), tenant, user, key, environment,
                route: Some(route).filter(|route| *route < 2), status, outcome: OUTCOMES[outcome],
                measured: MEASURED[measured], bucket: instant(u64::from(bucket)), units: &units, quotas: &quotas, retry,
            };
            prop_assert_eq!(record.encode().slots(), record.slots());
            let Item::Record(read) = read(record.encode()) else { panic!("a record") };
            let route = ["item", "other", ""][usize::from(route)];
            prop_assert_eq!((read.sequence, read.request, read.at), (9, record.request, record.at));
            prop_assert_eq!((read.tenant, read.user, read.key, read.environment), (tenant, user, key, environment));
            prop_assert_eq!((&*read.route, read.status, read.outcome), (route, status, record.outcome));
            prop_assert_eq!((read.measured, read.bucket, read.units), (record.measured, record.bucket, units));
            prop_assert_eq!((read.quotas, read.retry), (quotas, retry));

        }

        #[test]
        fn a_sum_of_refusals_is_read_as_it_was_written(
            (tenant, user, key, environment) in owner(),
            (code, limit) in (".{0,70}", prop::option::of(".{0,70}")),
            (requests, bucket) in (any::<u64>(), any::<u32>()),
        ) {
            let sum = Refused {
                tenant, user, key, environment, route: None, code: &code, limit: limit.as_deref(), requests,
                bucket: instant(u64::from(bucket)),
            };
            let Item::Refusals(read) = read(sum.encode()) else { panic!("refusals") };
            prop_assert_eq!((read.tenant, read.user, read.key, read.environment), (tenant, user, key, environment));
            prop_assert_eq!((&*read.code, read.limit.as_deref()), (cut(&code), limit.as_deref().map(cut)));
            prop_assert_eq!((read.requests, read.bucket, &*read.route), (requests, sum.bucket, ""));
        }
    }

    #[test]
    fn what_is_usual_is_small_and_the_largest_fits() {
        let quotas = [QuotaUse { lease: 1, counter: CounterTag(2), period: instant(3), units: 4 }; MOST_QUOTAS];
        let mut units = UnitTotals::default();
        let slots = |units: &UnitTotals, quotas: &[QuotaUse], retry| {
            let (request, at) = (RequestId::generate(), instant(5));
            let (tenant, user, key) = (TenantId::generate(), Some(UserId::generate()), KeyId::generate());
            let (environment, outcome, measured) = (Environment::Live, Outcome::Billed, Measured::Exact);
            let (route, status, bucket) = (Some(0), 200, at);
            let record = Record {
                request,
                at,
                tenant,
                user,
                key,
                environment,
                route,
                status,
                outcome,
                measured,
                bucket,
                units,
                quotas,
                retry,
            };
            record.encode().slots()
        };
        let schema = schema();
        (0..4).for_each(|place| units.set(schema.meter(place).unwrap(), 1));
        assert_eq!((slots(&units, &[], None), slots(&units, &quotas[..1], None)), (2, 3));
        (0..MAX_METERS).for_each(|place| units.set(schema.meter(place).unwrap(), 1));
        assert_eq!(slots(&units, &quotas, Some(1)), super::super::slot::MOST_SLOTS);
    }
}
