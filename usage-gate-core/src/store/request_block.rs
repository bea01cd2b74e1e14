//! How requests are kept: many of one tenant in one row, in a coding of our own, because a row a request would cost more than all the rest.
//!
//! A block has at most [`MOST_ENTRIES`] requests of one tenant from one quarter of an hour, the newest first. So whoever looks for an instant
//! knows which blocks can have it, however long a request ran before it was recorded. Layout of version 1, numbers as LEB128 if nothing else is said:
//!
//! 1. the version, one byte; the newest instant, 8 bytes big-endian
//! 2. names of meters, then of routes, then holders: each a count and its items; a holder is key and user, 16 bytes each, and a byte for the environment
//! 3. a count of requests, and of each: a byte of flags, microseconds since the next newer, the upper half of its id unless it is as before
//!    (8 bytes), the distance of the lower half (zigzag), holder, route, status; then of a served one a mask of meters and their units, of a
//!    refused one code and violated limits

use std::cmp::Reverse;
use std::collections::HashMap;

use super::requests::{RefusalSample, RequestItem};
use super::{Batch, Measured, Outcome, UsageRecord};
use crate::model::{Environment, KeyId, MAX_METERS, Meters, RequestId, TenantId, Timestamp, UserId};

/// The coding that is written.
const VERSION: u8 = 1;
/// Requests of one block at most.
const MOST_ENTRIES: usize = 1_024;
/// A block's instants are of one of these.
pub(crate) const SPAN_MICROS: i64 = 900 * 1_000_000;

/// Flags: the outcome's number, or [`REFUSED`], in the lower three bits; how it was measured in two more.
const OUTCOME: u8 = 0b111;
const REFUSED: u8 = 0b111;
const SAME_LIFE: u8 = 1 << 3;
const MEASURED_SHIFT: u8 = 4;

/// Requests of a tenant.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) tenant: TenantId,
    /// The oldest.
    pub(crate) at_first: Timestamp,
    /// The newest.
    pub(crate) at_last: Timestamp,
    pub(crate) body: Vec<u8>,
}

/// Bytes that are no block of a known version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a block of requests that this version can read")]
pub(crate) struct UnreadableBlock;

/// What goes into the log.
#[derive(Debug, Clone, Copy)]
enum Entry<'b> {
    Served(&'b UsageRecord),
    Refused(&'b RefusalSample),
}

impl Entry<'_> {
    const fn place(&self) -> (Timestamp, RequestId) {
        match self {
            Self::Served(record) => (record.at, record.request),
            Self::Refused(sample) => (sample.at, sample.request),
        }
    }

    const fn tenant(&self) -> TenantId {
        match self {
            Self::Served(record) => record.tenant,
            Self::Refused(sample) => sample.tenant,
        }
    }

    const fn quarter(&self) -> i64 {
        self.place().0.as_micros().div_euclid(SPAN_MICROS)
    }
}

/// The blocks of a batch, in the order of tenants.
pub(crate) fn blocks(batch: &Batch) -> Vec<Block> {
    let mut tenants = HashMap::<TenantId, Vec<Entry<'_>>>::new();
    // What was forfeited was no request.
    let served = batch.records.iter().filter(|record| record.outcome != Outcome::Forfeited).map(Entry::Served);
    for entry in served.chain(batch.samples.iter().map(Entry::Refused)) {
        tenants.entry(entry.tenant()).or_default().push(entry);
    }
    let mut tenants: Vec<_> = tenants.into_iter().collect();
    tenants.sort_unstable_by_key(|(tenant, _)| *tenant);
    let mut blocks = Vec::with_capacity(tenants.len());
    for (tenant, mut entries) in tenants {
        entries.sort_unstable_by_key(|entry| Reverse(entry.place()));
        for quarter in entries.chunk_by(|one, next| one.quarter() == next.quarter()) {
            blocks.extend(quarter.chunks(MOST_ENTRIES).filter_map(|entries| encode(tenant, entries, &batch.meters)));
        }
    }
    blocks
}

fn encode(tenant: TenantId, entries: &[Entry<'_>], meters: &Meters) -> Option<Block> {
    let (at_first, at_last) = (entries.last()?.place().0, entries.first()?.place().0);
    let mut writer = Writer { bytes: Vec::with_capacity(entries.len() * 24), ..Writer::default() };
    let mut before = (at_last, 0);
    for entry in entries {
        writer.entry(entry, &mut before, meters);
    }
    let mut head = Writer { bytes: Vec::with_capacity(writer.bytes.len() + 512), ..Writer::default() };
    head.bytes.push(VERSION);
    head.bytes.extend_from_slice(&at_last.as_micros().to_be_bytes());
    let names: Vec<&str> = meters.iter().map(|(_, name)| name).collect();
    head.texts(&names);
    head.texts(&writer.routes);
    head.count(writer.holders.len());
    for holder in &writer.holders {
        head.bytes.extend_from_slice(&holder.key.as_u128().to_be_bytes());
        head.bytes.extend_from_slice(&holder.user.map_or(0, |user| user.as_u128()).to_be_bytes());
        head.bytes.push(u8::from(holder.environment == Environment::Test));
    }
    head.count(entries.len());
    let mut body = head.bytes;
    body.append(&mut writer.bytes);
    Some(Block { tenant, at_first, at_last, body })
}

/// Who made a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holder {
    key: KeyId,
    user: Option<UserId>,
    environment: Environment,
}

#[derive(Default)]
struct Writer<'b> {
    bytes: Vec<u8>,
    /// Few: those of one tenant.
    routes: Vec<&'b str>,
    holders: Vec<Holder>,
    holder_places: HashMap<KeyId, usize>,
}

impl<'b> Writer<'b> {
    fn entry(&mut self, entry: &Entry<'b>, before: &mut (Timestamp, u128), meters: &Meters) {
        let (at, request) = entry.place();
        let (life, low) = (request.as_u128() >> 64, request.as_u128() & u128::from(u64::MAX));
        let same_life = life == before.1 >> 64;
        let outcome = match entry {
            Entry::Served(record) => {
                number(&Outcome::ALL, &record.outcome) | number(&Measured::ALL, &record.measured) << MEASURED_SHIFT
            }
            Entry::Refused(_) => REFUSED,
        };
        self.bytes.push(outcome | if same_life { SAME_LIFE } else { 0 });
        self.number(at.micros_until(before.0));
        if !same_life {
            self.bytes.extend_from_slice(&half(life).to_be_bytes());
        }
        let distance = half(low).wrapping_sub(half(before.1 & u128::from(u64::MAX)));
        self.number(zigzag(distance));
        *before = (at, request.as_u128());
        let (holder, route, status) = match entry {
            Entry::Served(record) => (
                Holder { key: record.key, user: record.user, environment: record.environment },
                &*record.route,
                record.status,
            ),
            Entry::Refused(sample) => (
                Holder { key: sample.key, user: sample.user, environment: sample.environment },
                &*sample.route,
                sample.status,
            ),
        };
        let holder = self.holder(holder);
        self.count(holder);
        let route = place(&mut self.routes, route);
        self.count(route);
        self.number(status.into());
        match entry {
            Entry::Served(record) => {
                let taken =
                    || meters.iter().map(|(meter, _)| (meter, record.units.of(meter))).filter(|(_, units)| *units > 0);
                self.number(taken().fold(0, |mask, (meter, _)| mask | 1 << meter.position()));
                for (_, units) in taken() {
                    self.number(units);
                }
            }
            Entry::Refused(sample) => {
                self.text(&sample.code);
                self.text(&sample.violated);
            }
        }
    }

    fn holder(&mut self, holder: Holder) -> usize {
        // A key has one user and one environment, unless it was given to another one between two of its requests.
        match self.holder_places.get(&holder.key) {
            Some(known) if self.holders.get(*known) == Some(&holder) => *known,
            _ => {
                self.holders.push(holder);
                self.holder_places.insert(holder.key, self.holders.len() - 1);
                self.holders.len() - 1
            }
        }
    }

    fn texts(&mut self, texts: &[&str]) {
        self.count(texts.len());
        for text in texts {
            self.text(text);
        }
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn count(&mut self, count: usize) {
        self.number(u64::try_from(count).unwrap_or(u64::MAX));
    }

    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(low_byte(value) | 0x80);
            value >>= 7;
        }
        self.bytes.push(low_byte(value));
    }
}

/// Reads a block and gives its requests, the newest first, to `found` until it says that it has enough.
pub(crate) fn read(
    tenant: TenantId,
    body: &[u8],
    mut found: impl FnMut(Found<'_>) -> bool,
) -> Result<(), UnreadableBlock> {
    let mut reader = Reader { rest: body };
    if reader.byte()? != VERSION {
        return Err(UnreadableBlock);
    }
    let mut at = Timestamp::from_micros(i64::from_be_bytes(reader.bytes()?));
    let (meters, routes) = (reader.texts()?, reader.texts()?);
    let holders = reader.holders()?;
    let mut request = (0, 0);
    for _ in 0..reader.number()? {
        let flags = reader.byte()?;
        at = at.plus_micros(i64::try_from(reader.number()?).map_err(|_| UnreadableBlock)?.saturating_neg());
        if flags & SAME_LIFE == 0 {
            request.0 = u64::from_be_bytes(reader.bytes()?);
        }
        request.1 = u64::wrapping_add(request.1, unzigzag(reader.number()?));
        let holder = reader.one_of(&holders)?;
        let route = reader.one_of(&routes)?;
        let status = u16::try_from(reader.number()?).map_err(|_| UnreadableBlock)?;
        let kind = if flags & OUTCOME == REFUSED {
            Kind::Refused { code: reader.text()?, violated: reader.text()? }
        } else {
            let outcome = Outcome::ALL.get(usize::from(flags & OUTCOME)).ok_or(UnreadableBlock)?;
            let measured = Measured::ALL.get(usize::from(flags >> MEASURED_SHIFT)).ok_or(UnreadableBlock)?;
            let mask = reader.number()?;
            if mask >> MAX_METERS != 0 {
                return Err(UnreadableBlock);
            }
            let mut units = [0; MAX_METERS];
            for (_, units) in (0..).zip(&mut units).filter(|(meter, _)| mask & (1 << meter) != 0) {
                *units = reader.number()?;
            }
            Kind::Served { outcome: *outcome, measured: *measured, units }
        };
        let request = RequestId::from_u128(u128::from(request.0) << 64 | u128::from(request.1));
        if !found(Found { tenant, at, request, holder, route, status, kind, meters: &meters }) {
            break;
        }
    }
    Ok(())
}

/// A request as it is found in a block.
#[derive(Debug)]
pub(crate) struct Found<'b> {
    tenant: TenantId,
    pub(crate) at: Timestamp,
    pub(crate) request: RequestId,
    holder: Holder,
    pub(crate) route: &'b str,
    pub(crate) status: u16,
    kind: Kind<'b>,
    meters: &'b [&'b str],
}

#[derive(Debug)]
enum Kind<'b> {
    Served { outcome: Outcome, measured: Measured, units: [u64; MAX_METERS] },
    Refused { code: &'b str, violated: &'b str },
}

impl Found<'_> {
    pub(crate) const fn key(&self) -> KeyId {
        self.holder.key
    }

    pub(crate) const fn user(&self) -> Option<UserId> {
        self.holder.user
    }

    pub(crate) const fn environment(&self) -> Environment {
        self.holder.environment
    }

    /// Whether it ended so: a word of [`Outcome`], or `refused:<code>`.
    pub(crate) fn ended(&self, outcome: &str) -> bool {
        match self.kind {
            Kind::Served { outcome: known, .. } => known.as_str() == outcome,
            Kind::Refused { code, .. } => outcome.strip_prefix("refused:") == Some(code),
        }
    }

    pub(crate) fn to_item(&self) -> RequestItem {
        let (outcome, measured, units, violated) = match &self.kind {
            Kind::Served { outcome, measured, units } => {
                let named = self.meters.iter().zip(units).filter(|(_, units)| **units > 0);
                let units = named.map(|(meter, units)| ((*meter).to_owned(), *units)).collect();
                (outcome.as_str().to_owned(), Some(*measured), units, None)
            }
            Kind::Refused { code, violated } => {
                (format!("refused:{code}"), None, Vec::new(), Some((*violated).to_owned()))
            }
        };
        RequestItem {
            request: self.request,
            at: self.at,
            tenant: self.tenant,
            key: Some(self.holder.key),
            user: self.holder.user,
            route: self.route.to_owned(),
            environment: self.holder.environment,
            status: self.status,
            outcome,
            measured,
            units,
            violated,
        }
    }
}

/// Never reads beyond the end, and never makes room for more than there is: the bytes come from a disk.
struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    fn slice(&mut self, length: usize) -> Result<&'b [u8], UnreadableBlock> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(UnreadableBlock)?;
        self.rest = rest;
        Ok(taken)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], UnreadableBlock> {
        self.slice(N)?.try_into().map_err(|_| UnreadableBlock)
    }

    fn byte(&mut self) -> Result<u8, UnreadableBlock> {
        self.bytes::<1>().map(|[byte]| byte)
    }

    fn number(&mut self) -> Result<u64, UnreadableBlock> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(UnreadableBlock)
    }

    fn text(&mut self) -> Result<&'b str, UnreadableBlock> {
        let length = usize::try_from(self.number()?).map_err(|_| UnreadableBlock)?;
        str::from_utf8(self.slice(length)?).map_err(|_| UnreadableBlock)
    }

    fn texts(&mut self) -> Result<Vec<&'b str>, UnreadableBlock> {
        (0..self.number()?).map(|_| self.text()).collect()
    }

    fn holders(&mut self) -> Result<Vec<Holder>, UnreadableBlock> {
        let holder = |reader: &mut Self| {
            let (key, user) = (u128::from_be_bytes(reader.bytes()?), u128::from_be_bytes(reader.bytes()?));
            let environment = if reader.byte()? == 0 { Environment::Live } else { Environment::Test };
            let user = (user != 0).then(|| UserId::from_u128(user));
            Ok(Holder { key: KeyId::from_u128(key), user, environment })
        };
        (0..self.number()?).map(|_| holder(self)).collect()
    }

    fn one_of<T: Copy>(&mut self, known: &[T]) -> Result<T, UnreadableBlock> {
        let place = usize::try_from(self.number()?).map_err(|_| UnreadableBlock)?;
        known.get(place).copied().ok_or(UnreadableBlock)
    }
}

/// The number of a word in its list, which has fewer than 8.
fn number<T: PartialEq>(all: &[T], one: &T) -> u8 {
    (0..).zip(all).find(|(_, known)| *known == one).map_or(0, |(number, _)| number)
}

/// Where a text is in the list of those seen.
fn place<'b>(known: &mut Vec<&'b str>, text: &'b str) -> usize {
    known.iter().position(|seen| *seen == text).unwrap_or_else(|| {
        known.push(text);
        known.len() - 1
    })
}

/// A half of an id that is known to fit.
fn half(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

fn low_byte(value: u64) -> u8 {
    let [byte, ..] = value.to_le_bytes();
    byte & 0x7f
}

/// Small distances in either direction become small numbers.
const fn zigzag(distance: u64) -> u64 {
    (distance << 1) ^ (0u64.wrapping_sub(distance >> 63))
}

const fn unzigzag(value: u64) -> u64 {
    (value >> 1) ^ (0u64.wrapping_sub(value & 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::usage::{batch, midnight, record, who};
    use crate::model::StreamId;

    fn read_all(body: &[u8]) -> Result<Vec<RequestItem>, UnreadableBlock> {
        let mut found = Vec::new();
        read(TenantId::from_u128(1), body, |entry| {
            found.push(entry.to_item());
            true
        })?;
        Ok(found)
    }

    #[test]
    fn a_block_is_of_one_quarter_and_bounded() {
        let who = who(true);
        let mut records: Vec<_> = (0..3_000).map(|_| record(who, midnight())).collect();
        for (second, record) in (0..).zip(&mut records) {
            record.at = midnight().plus_micros(second * 1_000_000);
            record.request = RequestId::generate();
        }
        let blocks = blocks(&batch(StreamId::generate(), 1, records, vec![]));
        assert_eq!(blocks.len(), 4);
        for block in &blocks {
            let found = read_all(&block.body).unwrap();
            assert!(
                found.len() <= MOST_ENTRIES && block.at_last.as_micros() - block.at_first.as_micros() < SPAN_MICROS
            );
            assert_eq!((found[0].at, found[found.len() - 1].at), (block.at_last, block.at_first));
            assert!(block.body.len() < found.len() * 24, "{} bytes for {}", block.body.len(), found.len());
        }
    }

    #[test]
    fn bytes_that_are_cut_off_or_changed_are_no_block_and_no_panic() {
        let whole = blocks(&batch(StreamId::generate(), 1, vec![record(who(true), midnight()); 3], vec![]));
        let body = &whole[0].body;
        assert_eq!(read_all(body).unwrap().len(), 3);
        for length in 0..body.len() {
            assert_eq!(read_all(&body[..length]), Err(UnreadableBlock));
        }
        for (at, byte) in (0..body.len()).flat_map(|at| [0, 0x7f, 0x80, 0xff].map(|byte| (at, byte))) {
            let mut changed = body.clone();
            changed[at] = byte;
            // Whatever it says, it says it without an end that is not there.
            let _ = read_all(&changed);
        }
    }
}
