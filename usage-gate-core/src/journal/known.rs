//! A segment as the journal knows it: mapped as long as something is to be done with it, and by its numbers afterwards.
//!
//! Segments stay for days after the sink has them, for a database that is restored. If each were mapped, and so open, all that time, their number would be bounded by
//! what a process may open, and a gate that ran for long, or crashed often, would not start again.

use std::io;

use super::read::open_segment;
use super::segment::{Segment, file_name};
use crate::mapped::Area;

/// One file of a stream.
#[derive(Debug, Clone)]
pub(crate) enum KnownSegment {
    /// Something may come into it yet, or the sink may not have all of it, or somebody still has it mapped.
    Mapped(Segment),
    /// The sink has all of it: it is mapped only while somebody reads it.
    Resting(Resting),
}

/// What is known of a segment that is not mapped. None of it changes any more, but for where it ended: who ends it maps it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resting {
    stream: u128,
    first: u64,
    end: u64,
    ended: Option<u64>,
    acked: u64,
    acked_at: u64,
}

impl KnownSegment {
    pub(crate) const fn stream(&self) -> u128 {
        match self {
            Self::Mapped(segment) => segment.stream(),
            Self::Resting(resting) => resting.stream,
        }
    }

    /// The sequence of its first slot.
    pub(crate) const fn first(&self) -> u64 {
        match self {
            Self::Mapped(segment) => segment.first(),
            Self::Resting(resting) => resting.first,
        }
    }

    /// The sequence behind its last slot.
    pub(crate) const fn end(&self) -> u64 {
        match self {
            Self::Mapped(segment) => segment.end(),
            Self::Resting(resting) => resting.end,
        }
    }

    /// Whether all of these slots are in it.
    pub(crate) const fn holds(&self, sequence: u64, slots: u64) -> bool {
        self.first() <= sequence && sequence.saturating_add(slots) <= self.end()
    }

    /// The sequence at which it ended, if it did.
    pub(crate) fn ended(&self) -> Option<u64> {
        match self {
            Self::Mapped(segment) => segment.ended(),
            Self::Resting(resting) => resting.ended,
        }
    }

    /// The last sequence that is known to be in the primary sink; 0 for none.
    pub(crate) fn acked(&self) -> u64 {
        match self {
            Self::Mapped(segment) => segment.acked(),
            Self::Resting(resting) => resting.acked,
        }
    }

    /// When that became known, in microseconds after 1970.
    pub(crate) fn acked_at(&self) -> u64 {
        match self {
            Self::Mapped(segment) => segment.acked_at(),
            Self::Resting(resting) => resting.acked_at,
        }
    }

    /// Whether all that is in it, and ever will be, is in the primary sink.
    pub(crate) fn is_acked(&self) -> bool {
        match self {
            Self::Mapped(segment) => segment.is_acked(),
            Self::Resting(_) => true,
        }
    }

    /// Remembers what the sink has. One thread a stream does this.
    pub(crate) fn ack(&self, through: u64, at: u64) {
        if let Self::Mapped(segment) = self {
            segment.ack(through, at);
        }
    }

    /// Whether nobody but the owner of this has it mapped, as far as that is known: who maps one that rests does so for a moment.
    pub(crate) fn is_last(&self) -> bool {
        match self {
            Self::Mapped(segment) => segment.words().is_last(),
            Self::Resting(_) => true,
        }
    }

    /// The name of its file.
    pub(crate) fn file_name(&self) -> String {
        file_name(self.stream(), self.first())
    }

    /// The segment, mapped for as long as the caller keeps it.
    ///
    /// # Errors
    /// [`NotFound`](io::ErrorKind::NotFound) if it has gone since, which it may; [`InvalidData`](io::ErrorKind::InvalidData) if it has been damaged; what the
    /// system says.
    pub(crate) fn map(&self, area: &Area) -> io::Result<Segment> {
        match self {
            Self::Mapped(segment) => Ok(segment.clone()),
            Self::Resting(_) => {
                let name = self.file_name();
                let damaged = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{name}: {error}"));
                open_segment(area.open(&name)?, &name).map_err(damaged)
            }
        }
    }

    /// Lets go of the map, if nothing is to be done with it any more.
    ///
    /// While others have it mapped it stays as it is: that is how a file is known that must not be cut.
    pub(crate) fn rest(&mut self) {
        if let Self::Mapped(segment) = self
            && segment.is_acked()
            && segment.words().is_last()
        {
            *self = Self::Resting(Resting {
                stream: segment.stream(),
                first: segment.first(),
                end: segment.end(),
                ended: segment.ended(),
                acked: segment.acked(),
                acked_at: segment.acked_at(),
            });
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::path::Path;

    use super::super::keeper::tests::{at, journal_with, options, record, requests};
    use super::super::{DeadStream, Files, Journal, LifeEnd};
    use super::*;
    use crate::model::RequestId;

    /// How many files of a folder this process has open, and how many mapped.
    fn held(folder: &Path) -> (usize, usize) {
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        let open = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let mapped = maps.lines().filter(|line| line.contains(folder.to_str().unwrap()));
        (open.filter(|path| path.starts_with(folder)).count(), mapped.count())
    }

    fn write(journal: &Journal, records: u128) {
        for number in 0..records {
            assert!(journal.reserve());
            journal.append(&record(number)).unwrap();
            journal.maintain(at(2));
        }
    }

    /// What the next process does with a stream that was not sealed.
    fn recover(area: &Area) {
        let mut files = Files::open(area.clone()).unwrap();
        for stream in files.streams() {
            let dead = DeadStream::open(&mut files, stream.id, LifeEnd::Killed, options(32).segment_bytes).unwrap();
            let Some(dead) = dead else { continue };
            assert!(dead.contains(1, RequestId::from_u128(0)).unwrap());
            assert_eq!(dead.records().count(), 100);
            dead.seal().unwrap();
        }
    }

    #[test]
    fn what_the_sink_has_is_neither_open_nor_mapped_and_can_be_read_all_the_same() {
        let folder = std::env::temp_dir().join(format!("usage-gate-known-{}", uuid::Uuid::now_v7()));
        let area = Area::folder(&folder).unwrap();
        for life in 1..=40 {
            recover(&area);
            let journal = journal_with(&area, options(32), life);
            write(&journal, 100);
            assert!(held(&folder).0 > 6, "{:?}", held(&folder));
            journal.ack(journal.next() - 1, at(3));
            journal.maintain(at(3));
            // What is being written, and room for what comes; whatever earlier lives left.
            assert!(held(&folder).0 <= 4 && held(&folder).1 <= 4, "{:?} in life {life}", held(&folder));
            // Some end well, others are killed.
            assert!(life % 2 == 0 || journal.seal().unwrap());
        }
        recover(&area);
        let files = Files::open(area).unwrap();
        assert!(files.segments() > 240, "{}", files.segments());
        assert_eq!(held(&folder), (0, 0));

        // A database that was restored is given all of it again.
        for stream in files.streams() {
            let (found, _) = requests(|from| stream.read(from, 7).unwrap(), 1);
            assert!(found.into_iter().eq(0..100));
        }
        assert_eq!(held(&folder), (0, 0));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_has_gone_while_it_rested_is_passed_over() {
        let area = Area::memory();
        let journal = journal_with(&area, options(32), 1);
        write(&journal, 100);
        journal.ack(journal.next() - 1, at(3));
        assert!(journal.seal().unwrap());
        drop(journal);
        let stream = Files::open(area.clone()).unwrap().streams().remove(0);
        let all = requests(|from| stream.read(from, 7).unwrap(), 1);
        let gone: Vec<String> = area.list().unwrap().into_iter().take(2).collect();
        gone.iter().for_each(|name| area.remove(name).unwrap());
        let left = requests(|from| stream.read(from, 7).unwrap(), 1);
        assert!(left.0.len() > 50 && all.0.ends_with(&left.0) && left.1 == all.1, "{left:?}");

        // A damaged one is too, as at a start.
        let damaged = area.list().unwrap().remove(0);
        area.open(&damaged).unwrap()[4].store(77, crate::sync::Ordering::Relaxed);
        let rest = requests(|from| stream.read(from, 7).unwrap(), 1);
        assert!(rest.0.len() < left.0.len() && all.0.ends_with(&rest.0) && rest.1 == all.1, "{rest:?}");
    }
}
