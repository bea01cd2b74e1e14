//! The segments of all streams: which there are, what they take of the disk, and which may go.
//!
//! B6: a segment goes only if all of it is in the primary sink. Those go by age and by bytes, and before that if there is no space for another. Until then
//! they [rest](super::known): neither mapped nor open.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::known::KnownSegment;
use super::read::{Stream, is_segment, open_segment};
use super::segment::{Segment, SegmentError, file_name};
use crate::invariant::invariant;
use crate::mapped::Area;
use crate::model::{StreamId, Timestamp};

/// The files of a journal. One process has them, and one of these.
#[derive(Debug)]
pub(crate) struct Files {
    area: Area,
    /// By stream and sequence: the oldest first.
    kept: Vec<Kept>,
    damaged: Vec<String>,
    size: Arc<Size>,
}

/// What the segments of all streams take, for those who only look.
#[derive(Debug, Default)]
pub(super) struct Size {
    /// Relaxed, as `segments`: one thread at a time changes them, and others want a number.
    pub(super) bytes: AtomicU64,
    pub(super) segments: AtomicUsize,
}

#[derive(Debug)]
struct Kept {
    segment: KnownSegment,
    bytes: u64,
}

/// A segment that is to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewSegment<'a> {
    pub(crate) stream: StreamId,
    pub(crate) first: u64,
    /// What it says of itself.
    pub(crate) text: &'a str,
    pub(crate) bytes: u64,
}

impl Files {
    /// Finds what earlier lives left, and removes what they never used.
    ///
    /// # Errors
    /// What the system says. A file that is damaged is no error: it is left where it is, and [`damaged`](Self::damaged) names it.
    pub(crate) fn open(area: Area) -> io::Result<Self> {
        area.sweep()?;
        let mut files = Self { area, kept: Vec::new(), damaged: Vec::new(), size: Arc::default() };
        for name in files.area.list()?.into_iter().filter(|name| is_segment(name)) {
            match open_segment(files.area.open(&name)?, &name) {
                Ok(segment) => {
                    let at = files.keep(segment)?;
                    files.cut_at(at)?;
                    // Each before the next is opened: there may be more than a process may have open.
                    files.kept.get_mut(at).into_iter().for_each(|kept| kept.segment.rest());
                }
                Err(SegmentError::Unbegun) => files.area.remove(&name)?,
                Err(_) => files.damaged.push(name),
            }
        }
        Ok(files)
    }

    /// Names of files that look like segments and are none: what was in them cannot be read.
    pub(crate) fn damaged(&self) -> &[String] {
        &self.damaged
    }

    /// Bytes of all segments on the disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.size.bytes.load(Ordering::Relaxed)
    }

    /// The same for others, as it changes.
    pub(super) fn size(&self) -> Arc<Size> {
        Arc::clone(&self.size)
    }

    /// How many segments there are.
    #[cfg(test)]
    pub(crate) fn segments(&self) -> usize {
        self.kept.len()
    }

    /// The streams that have segments, oldest first.
    pub(crate) fn streams(&self) -> Vec<Stream> {
        Stream::group(&self.area, self.kept.iter().map(|kept| kept.segment.clone()))
    }

    /// Lets go of the maps of segments that the sink has and nobody reads.
    pub(crate) fn rest(&mut self) {
        self.kept.iter_mut().for_each(|kept| kept.segment.rest());
    }

    /// Maps a segment for a look.
    ///
    /// # Errors
    /// As for [`KnownSegment::map`].
    pub(crate) fn map(&self, segment: &KnownSegment) -> io::Result<Segment> {
        segment.map(&self.area)
    }

    /// Maps a segment for more than a look, until it may [rest](Self::rest): what is changed in it is known from there on.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn hold(&mut self, segment: &KnownSegment) -> io::Result<Segment> {
        let mapped = segment.map(&self.area)?;
        if let Some(kept) = self.kept.iter_mut().find(|kept| same(&kept.segment, segment)) {
            kept.segment = KnownSegment::Mapped(mapped.clone());
        }
        Ok(mapped)
    }

    /// Makes a segment. Where space is missing, or `most_bytes` would be passed, segments that the sink has go first, the oldest before others.
    ///
    /// # Errors
    /// [`StorageFull`](io::ErrorKind::StorageFull) if there is no space and nothing may go; what the system says.
    pub(crate) fn create(&mut self, new: NewSegment<'_>, most_bytes: u64) -> io::Result<Segment> {
        self.create_for(new, most_bytes, |_| true)
    }

    /// Makes a segment of a stream that is being recovered. Few records are missing, and without them nothing can go on: they may take more than the journal otherwise
    /// may. B9: for it no segment of the stream itself goes, since what leases count is compared with all the records in it.
    ///
    /// # Errors
    /// As for [`create`](Self::create).
    pub(crate) fn create_for_dead(&mut self, new: NewSegment<'_>) -> io::Result<Segment> {
        self.create_for(new, u64::MAX, |segment| segment.stream() != new.stream.as_u128())
    }

    fn create_for(
        &mut self,
        new: NewSegment<'_>,
        most_bytes: u64,
        may_go: impl Fn(&KnownSegment) -> bool,
    ) -> io::Result<Segment> {
        loop {
            let limited = self.bytes().saturating_add(new.bytes) > most_bytes;
            let made = if limited {
                Err(io::Error::new(io::ErrorKind::StorageFull, "the journal has all the bytes it may take"))
            } else {
                self.try_create(new)
            };
            match made {
                Ok(segment) => {
                    self.keep(segment.clone())?;
                    return Ok(segment);
                }
                // A file that somebody still has mapped gives the disk nothing back: it is not given up for that.
                Err(error)
                    if is_full(&error)
                        && self.remove_oldest(|segment| may_go(segment) && (limited || segment.is_last()))? => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn try_create(&self, new: NewSegment<'_>) -> io::Result<Segment> {
        let mut salt = [0; 8];
        getrandom::fill(&mut salt).map_err(io::Error::other)?;
        let name = file_name(new.stream.as_u128(), new.first);
        let words = usize::try_from(new.bytes / 8).map_err(io::Error::other)?;
        let words = self.area.create(&name, words)?;
        let begun = Segment::begin(words, new.stream.as_u128(), u64::from_le_bytes(salt), new.first, new.text);
        let begun = begun.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error));
        // What a segment says of itself must be there after a power loss, even if what came into it is not.
        let begun = begun.and_then(|segment| segment.words().sync().map(|()| segment));
        let begun = begun.inspect(|segment| segment.words().touch());
        if begun.is_err() {
            self.area.remove(&name)?;
        }
        begun
    }

    /// Removes what the sink has for longer than `retention`, and then the oldest of what it has until all are within `retention_bytes`.
    ///
    /// # Errors
    /// What the system says; the rest is tried again next time.
    pub(crate) fn expire(&mut self, now: Timestamp, retention: Duration, retention_bytes: u64) -> io::Result<()> {
        let retention = u64::try_from(retention.as_micros()).unwrap_or(u64::MAX);
        let latest = micros(now).saturating_sub(retention);
        while let Some(at) = self.oldest(|segment| segment.acked_at() <= latest) {
            self.remove_at(at)?;
        }
        while self.bytes() > retention_bytes && self.remove_oldest(|_| true)? {}
        Ok(())
    }

    /// Removes a segment that nothing ever came into.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn remove_unused(&mut self, unused: &KnownSegment) -> io::Result<()> {
        let at = self.kept.iter().position(|kept| same(&kept.segment, unused));
        at.map_or(Ok(()), |at| self.forget_at(at))
    }

    /// Cuts the file of a segment that has ended behind its last item, unless somebody has it mapped.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn cut(&mut self, stream: StreamId, first: u64) -> io::Result<()> {
        let named = |kept: &Kept| kept.segment.stream() == stream.as_u128() && kept.segment.first() == first;
        self.kept.iter().position(named).map_or(Ok(()), |at| self.cut_at(at))
    }

    fn cut_at(&mut self, at: usize) -> io::Result<()> {
        // One that rests was looked at before.
        let Some(KnownSegment::Mapped(segment)) = self.kept.get(at).map(|kept| &kept.segment) else { return Ok(()) };
        let Some(keep) = segment.ended().map(|ended| segment.words_to(ended)) else { return Ok(()) };
        if segment.words().len() <= keep {
            return Ok(());
        }
        // A file that is short, and does not say why, is damaged: the end comes first.
        segment.words().sync()?;
        let name = segment.file_name();
        let Kept { segment: KnownSegment::Mapped(segment), bytes } = self.kept.remove(at) else { return Ok(()) };
        self.count_less(bytes);
        let cut = self.area.cut(&name, segment.into_words(), keep);
        self.keep(Segment::open(self.area.open(&name)?).map_err(io::Error::other)?)?;
        cut
    }

    /// Makes a segment that nobody writes any more survive power loss. If that fails it is not tried again on this file, but on a copy. Gives
    /// the one that survives.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn sync(&mut self, segment: &Segment) -> io::Result<Segment> {
        segment.words().sync().map(|()| segment.clone()).or_else(|_| self.copy(segment))
    }

    /// Writes a copy of a segment into a new file in its place, and makes it durable.
    ///
    /// # Errors
    /// What the system says; then the old file is still there.
    pub(crate) fn copy(&mut self, segment: &Segment) -> io::Result<Segment> {
        let old = KnownSegment::Mapped(segment.clone());
        let Some(kept) = self.kept.iter_mut().find(|kept| same(&kept.segment, &old)) else {
            // B6: it went because the sink has it.
            return Ok(segment.clone());
        };
        let words = self.area.replace(&segment.file_name(), segment.words())?;
        let copy = Segment::open(words).map_err(io::Error::other)?;
        kept.segment = KnownSegment::Mapped(copy.clone());
        Ok(copy)
    }

    /// Gives where it is kept.
    fn keep(&mut self, segment: Segment) -> io::Result<usize> {
        let bytes = self.area.bytes(&segment.file_name())?;
        self.size.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.size.segments.fetch_add(1, Ordering::Relaxed);
        let key = (segment.stream(), segment.first());
        let at = self.kept.partition_point(|kept| (kept.segment.stream(), kept.segment.first()) < key);
        self.kept.insert(at, Kept { segment: KnownSegment::Mapped(segment), bytes });
        Ok(at)
    }

    fn remove_oldest(&mut self, meant: impl Fn(&KnownSegment) -> bool) -> io::Result<bool> {
        self.oldest(meant).map_or(Ok(false), |at| self.remove_at(at).map(|()| true))
    }

    /// The oldest segment that may go, of those that are meant.
    fn oldest(&self, meant: impl Fn(&KnownSegment) -> bool) -> Option<usize> {
        let mut segments = self.kept.iter().map(|kept| &kept.segment).enumerate();
        // B5: the last of a stream that is not sealed says which sequences were used, and stays.
        let last = |at: usize, segment: &KnownSegment| {
            let next = self.kept.get(at + 1).map(|kept| kept.segment.stream());
            next != Some(segment.stream()) && segment.ended().is_none()
        };
        // Nor does a later one go before an earlier one, of which a power loss has forgotten that the sink has it: the end of a stream says that it was
        // sealed.
        let oldest = |at: usize, segment: &KnownSegment| {
            let before = at.checked_sub(1).and_then(|before| self.kept.get(before));
            before.is_none_or(|before| before.segment.stream() != segment.stream())
        };
        let may_go =
            |at: usize, segment: &KnownSegment| segment.is_acked() && oldest(at, segment) && !last(at, segment);
        segments.find(|(at, segment)| may_go(*at, segment) && meant(segment)).map(|(at, _)| at)
    }

    fn remove_at(&mut self, at: usize) -> io::Result<()> {
        if invariant!(B6, self.kept.get(at).is_some_and(|kept| kept.segment.is_acked())) {
            self.forget_at(at)
        } else {
            Ok(())
        }
    }

    fn forget_at(&mut self, at: usize) -> io::Result<()> {
        if let Some(kept) = self.kept.get(at) {
            self.area.remove(&kept.segment.file_name())?;
            let kept = self.kept.remove(at);
            self.count_less(kept.bytes);
        }
        Ok(())
    }

    fn count_less(&self, bytes: u64) {
        self.size.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.size.segments.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Removes the segments behind the end of a stream, the last first, and ends the one that holds the end: wherever a process is killed in this, it can be done again.
///
/// What is sealed is never recovered again, so all that is before the end must survive power loss first.
pub(super) fn end_stream(files: &mut Files, segments: &[KnownSegment], next: u64) -> io::Result<()> {
    let unused = |(at, segment): &(usize, &KnownSegment)| *at > 0 && segment.first() >= next;
    for (_, segment) in segments.iter().enumerate().rev().take_while(unused) {
        files.remove_unused(segment)?;
    }
    let used = segments.iter().enumerate().take_while(|place| !unused(place)).map(|(_, segment)| segment);
    let used: Vec<&KnownSegment> = used.collect();
    let Some((last, whole)) = used.split_last() else { return Ok(()) };
    for segment in whole {
        let segment = files.map(segment)?;
        segment.sum_all();
        files.sync(&segment)?;
    }
    let last = files.hold(last)?;
    last.sum_all();
    // The word that says so reaches the disk after what it speaks of.
    let last = files.sync(&last)?;
    last.end_at(next);
    files.sync(&last).map(drop)
}

fn same(one: &KnownSegment, other: &KnownSegment) -> bool {
    (one.stream(), one.first()) == (other.stream(), other.first())
}

/// Whether space is what is missing.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// An instant as segments keep it.
pub(crate) fn micros(instant: Timestamp) -> u64 {
    u64::try_from(instant.as_micros()).unwrap_or(0)
}
