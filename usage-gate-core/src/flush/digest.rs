//! The running hash of a segment: what proves, once the segment is gone, which records its sums were made of. Pure.
//!
//! Each item is hashed together with the hash before it, so that the end depends on every item and their order, and not on how they were cut
//! into batches.

use sha2::{Digest, Sha256};

use crate::model::{Environment, MeterIndex, Meters, StreamId};
use crate::store::{Batch, RefusalSum, UsageRecord};

/// The hash of a segment so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chain(pub(crate) [u8; 32]);

/// What kind of item the bytes are of.
const RECORD: u8 = 1;
const REFUSAL: u8 = 2;

impl Chain {
    /// Of a segment without items.
    pub(crate) fn new(stream: StreamId, segment: u64) -> Self {
        let mut seed = [0; 32];
        let place = stream.as_u128().to_be_bytes().into_iter().chain(segment.to_be_bytes());
        seed.iter_mut().zip(place).for_each(|(byte, value)| *byte = value);
        Self(seed)
    }

    /// Takes in the items of a batch, in the order of their places; gives how many they were.
    pub(crate) fn take(&mut self, batch: &Batch) -> u64 {
        let mut bytes = Bytes(Vec::with_capacity(512));
        let mut refusals = batch.refusals.iter().peekable();
        let mut items = 0;
        for record in &batch.records {
            while let Some(refusal) = refusals.next_if(|refusal| refusal.sequence < record.sequence) {
                self.link(&mut bytes, |bytes| bytes.refusal(refusal), &mut items);
            }
            self.link(&mut bytes, |bytes| bytes.record(record, &batch.meters), &mut items);
        }
        for refusal in refusals {
            self.link(&mut bytes, |bytes| bytes.refusal(refusal), &mut items);
        }
        items
    }

    /// Takes in one record.
    pub(crate) fn record(&mut self, record: &UsageRecord, meters: &Meters) {
        self.link(&mut Bytes(Vec::with_capacity(512)), |bytes| bytes.record(record, meters), &mut 0);
    }

    /// Takes in one sum of refusals.
    pub(crate) fn refusal(&mut self, refusal: &RefusalSum) {
        self.link(&mut Bytes(Vec::with_capacity(512)), |bytes| bytes.refusal(refusal), &mut 0);
    }

    fn link(&mut self, bytes: &mut Bytes, put: impl FnOnce(&mut Bytes), items: &mut u64) {
        bytes.0.clear();
        bytes.0.extend_from_slice(&self.0);
        put(bytes);
        self.0 = Sha256::digest(&bytes.0).into();
        *items += 1;
    }
}

/// The one form of an item: numbers big-endian, texts with their length before them, what is absent as nil.
struct Bytes(Vec<u8>);

impl Bytes {
    fn record(&mut self, record: &UsageRecord, meters: &Meters) {
        self.0.push(RECORD);
        self.u64(record.sequence);
        self.u128(record.request.as_u128());
        self.i64(record.at.as_micros());
        self.u128(record.tenant.as_u128());
        self.u128(record.user.map_or(0, |user| user.as_u128()));
        self.u128(record.key.as_u128());
        self.environment(record.environment);
        self.text(&record.route);
        self.0.extend_from_slice(&record.status.to_be_bytes());
        self.text(record.outcome.as_str());
        self.text(record.measured.as_str());
        self.i64(record.bucket.as_micros());
        for (meter, name) in meters.iter() {
            let units = record.units.of(meter);
            if units > 0 || meter == MeterIndex::REQUESTS {
                self.text(name);
                self.u64(units);
            }
        }
        // No meter has an empty name: here they end.
        self.text("");
        self.u64(u64::try_from(record.quotas.len()).unwrap_or(u64::MAX));
        for used in &record.quotas {
            self.u64(used.lease);
            self.u64(used.counter.0);
            self.i64(used.period.as_micros());
            self.i64(used.units);
        }
        self.u128(record.retry.unwrap_or(0));
    }

    fn refusal(&mut self, refusal: &RefusalSum) {
        self.0.push(REFUSAL);
        self.u64(refusal.sequence);
        self.u128(refusal.tenant.as_u128());
        self.u128(refusal.user.map_or(0, |user| user.as_u128()));
        self.u128(refusal.key.as_u128());
        self.environment(refusal.environment);
        self.text(&refusal.route);
        self.text(&refusal.code);
        self.text(refusal.limit.as_deref().unwrap_or_default());
        self.u64(refusal.requests);
        self.i64(refusal.bucket.as_micros());
    }

    fn environment(&mut self, environment: Environment) {
        self.0.push(match environment {
            Environment::Live => 0,
            Environment::Test => 1,
        });
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    fn u128(&mut self, value: u128) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        // No name is longer than a few hundred bytes.
        self.0.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.0.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::usage::{batch, record, refusal, who};

    fn chained(batches: &[&Batch]) -> Chain {
        let mut chain = Chain::new(StreamId::from_u128(7), 1);
        for batch in batches {
            chain.take(batch);
        }
        chain
    }

    #[test]
    fn it_does_not_depend_on_how_items_are_cut_into_batches() {
        let (who, at) = (who(true), "2026-11-24T12:00:00Z".parse().unwrap());
        let whole = batch(StreamId::from_u128(7), 1, vec![record(who, at); 3], vec![refusal(who, at); 2]);
        let first = Batch { records: whole.records[..2].to_vec(), refusals: vec![], ..whole.clone() };
        let rest = Batch { records: whole.records[2..].to_vec(), ..whole.clone() };
        assert_eq!(chained(&[&whole]), chained(&[&first, &rest]));
        assert_ne!(chained(&[&whole]), chained(&[&first]));
        assert_ne!(chained(&[&whole]), chained(&[&rest, &first]));
    }

    #[test]
    fn it_depends_on_every_member() {
        let (who, at) = (who(true), "2026-11-24T12:00:00Z".parse().unwrap());
        let whole = batch(StreamId::from_u128(7), 1, vec![record(who, at)], vec![]);
        let changed = |change: &dyn Fn(&mut UsageRecord)| {
            let mut other = whole.clone();
            change(&mut other.records[0]);
            assert_ne!(chained(&[&whole]), chained(&[&other]));
        };
        changed(&|record| record.units.add(MeterIndex::REQUESTS, 1));
        changed(&|record| record.status = 201);
        changed(&|record| record.retry = Some(1));
        changed(&|record| record.user = None);
        changed(&|record| record.outcome = crate::store::Outcome::Aborted);
    }
}
