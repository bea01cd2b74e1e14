//! What is in the files of a journal, for those who only look: beside the process that writes them, or after it.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::vec;

use super::read::{is_segment, read};
use super::segment::{Segment, SegmentError};
use crate::mapped::Area;
use crate::model::{Meters, StreamId};
use crate::seat::held;
use crate::store::{QuotaUse, RefusalSum, UsageRecord};

/// Items read at once.
const CHUNK: usize = 4_096;

/// One item of a journal.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Entry {
    /// The life of the process that wrote it.
    pub stream: StreamId,
    /// The first sequence of its segment.
    pub segment: u64,
    /// Its place in the stream.
    pub sequence: u64,
    /// The meters of the gate that wrote it.
    pub meters: Meters,
    /// What it says.
    pub item: Item,
}

/// What an item says.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Item {
    /// A request, or units that were forfeited.
    Record(UsageRecord),
    /// Refusals, summed.
    Refusals(RefusalSum),
}

/// Items of a journal, a segment at a time. Each file is read once.
#[derive(Debug)]
pub struct Entries {
    area: Area,
    names: vec::IntoIter<String>,
    read: BTreeSet<(StreamId, u64)>,
    segment: Option<(Segment, u64)>,
    ready: vec::IntoIter<Entry>,
}

/// All that is published in the journal of a data directory (its folder `journal`), stream by stream, the oldest first. Nothing is changed, and no lock is taken.
///
/// # Errors
/// The folder cannot be read. A file that cannot be read is an error of the iterator, which goes on with the next.
pub fn entries(folder: &Path) -> io::Result<Entries> {
    let area = Area::existing(folder);
    let names: Vec<String> = area.list()?.into_iter().filter(|name| is_segment(name)).collect();
    Ok(Entries { area, names: names.into_iter(), read: BTreeSet::new(), segment: None, ready: Vec::new().into_iter() })
}

/// What requests in flight hold of quotas, as their seats say at this moment.
///
/// # Errors
/// The file cannot be read.
pub fn in_flight(folder: &Path) -> io::Result<Vec<QuotaUse>> {
    held(&Area::existing(folder))
}

impl Entries {
    /// The segments of which the items so far are, by stream and first sequence. Each was there from its first item on, and may have had none.
    #[must_use]
    pub const fn segments(&self) -> &BTreeSet<(StreamId, u64)> {
        &self.read
    }

    /// Reads on in the present segment, or begins the next; `None` at the end.
    fn fill(&mut self) -> Option<io::Result<()>> {
        let Some((segment, next)) = self.segment.take() else {
            let name = self.names.next()?;
            return Some(self.begin(&name));
        };
        if let Some(chunk) = read(std::slice::from_ref(&segment), next, CHUNK) {
            self.segment = Some((segment, chunk.last.saturating_add(1)));
            let entry = |sequence, item| Entry {
                stream: chunk.stream,
                segment: chunk.segment,
                sequence,
                meters: chunk.schema.meters.clone(),
                item,
            };
            let records = chunk.records.into_iter().map(|record| entry(record.sequence, Item::Record(record)));
            let refusals = chunk.refusals.into_iter().map(|sum| entry(sum.sequence, Item::Refusals(sum)));
            let mut items: Vec<Entry> = records.chain(refusals).collect();
            items.sort_by_key(|entry| entry.sequence);
            self.ready = items.into_iter();
        }
        Some(Ok(()))
    }

    fn begin(&mut self, name: &str) -> io::Result<()> {
        // A copy and no map: whoever owns the file may cut it.
        match self.area.copy(name).map(Segment::open) {
            Ok(Ok(segment)) => {
                let first = segment.first();
                self.read.insert((StreamId::from_u128(segment.stream()), first));
                self.segment = Some((segment, first));
                Ok(())
            }
            Ok(Err(SegmentError::Unbegun)) => Ok(()),
            Ok(Err(error)) => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name}: {error}"))),
            // It went while we looked: the sink has all of it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Iterator for Entries {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<io::Result<Entry>> {
        loop {
            if let Some(entry) = self.ready.next() {
                return Some(Ok(entry));
            }
            if let Err(error) = self.fill()? {
                return Some(Err(error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::keeper::tests::{journal, record};
    use super::*;

    #[test]
    fn segments_are_those_that_were_read_with_items_or_without() {
        let folder = std::env::temp_dir().join(format!("usage-gate-entries-{}", uuid::Uuid::now_v7()));
        let journal = journal(&Area::folder(&folder).unwrap(), 32);
        for number in 0..20 {
            assert!(journal.reserve());
            journal.append(&record(number)).unwrap();
            journal.maintain(crate::model::Timestamp::default());
        }
        let mut entries = entries(&folder).unwrap();
        assert_eq!(entries.segments().len(), 0);
        let read: Vec<Entry> = entries.by_ref().collect::<io::Result<_>>().unwrap();
        assert!(read.iter().map(|entry| entry.sequence).is_sorted() && read.len() == 20);
        let with_items: BTreeSet<_> = read.iter().map(|entry| (entry.stream, entry.segment)).collect();
        let of_all = entries.segments();
        assert!(with_items.len() > 1 && with_items.is_subset(of_all), "{with_items:?}");
        // One is made before it is needed.
        assert_eq!(of_all.len(), journal.size().1);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
