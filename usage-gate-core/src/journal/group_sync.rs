//! Records that must survive power loss: one sync for all that wait.
//!
//! Durability `disk` only. A thread of the journal's calls [`Journal::sync_waiting`] as long as it says that there may be more. While it syncs, others queue up; the
//! next sync is theirs together.
//!
//! A sync that failed is never tried again on the same file, because the system may have dropped what it could not write, and forgotten that it did. The rest of the segment
//! is given up, and what is in it is written once more: into a new file, under the same name and the same sequences, so that no reader sees a record twice. Until that has
//! succeeded those who wait go on waiting, and the journal's state says why; new records go to the next segment.

use std::error::Error;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::keeper::{Journal, JournalState, Kept};
use super::segment::Segment;

/// Between two tries to write a segment once more.
const PAUSE: Duration = Duration::from_secs(1);
/// How often others are let run before a segment is looked at again in the next round.
const MOST_YIELDS: usize = 10_000;

/// Those who wait for a sync.
#[derive(Debug, Default)]
pub(crate) struct GroupSync {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Waiter>,
    /// Segments, by their first sequences, of which a sync has failed.
    given_up: Vec<u64>,
    closed: bool,
}

#[derive(Debug)]
struct Waiter {
    sequence: u64,
    done: oneshot::Sender<()>,
}

impl Waiter {
    fn release(self) {
        // Who does not wait any more does not mind.
        let _ = self.done.send(());
    }
}

impl GroupSync {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of all who wait, and of the thread.
    pub(super) fn close(&self) {
        let mut queue = self.queue();
        queue.closed = true;
        queue.waiting.clear();
        drop(queue);
        self.changed.notify_all();
    }
}

impl Journal {
    /// Ends the thread that syncs.
    pub(crate) fn end_syncs(&self) {
        self.syncs.close();
    }

    /// Tells once a published record survives power loss; an error if the journal ended before that was known.
    pub(crate) fn wish_sync(&self, sequence: u64) -> oneshot::Receiver<()> {
        let (done, wait) = oneshot::channel();
        let mut queue = self.syncs.queue();
        if !queue.closed {
            queue.waiting.push(Waiter { sequence, done });
        }
        drop(queue);
        self.syncs.changed.notify_one();
        wait
    }

    /// Syncs until the journal is sealed: for a thread of its own.
    pub(crate) fn run_syncs(&self) {
        loop {
            let mut queue = self.syncs.queue();
            while queue.waiting.is_empty() && !queue.closed {
                queue = self.syncs.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            if queue.closed {
                return;
            }
            drop(queue);
            if self.sync_waiting().is_err() {
                // Not a wait for somebody, but a pause for the disk; the end of the journal cuts it short.
                let queue = self.syncs.queue();
                let closed = |queue: &mut Queue| !queue.closed;
                drop(self.syncs.changed.wait_timeout_while(queue, PAUSE, closed));
            }
        }
    }

    /// Syncs once for all who wait now. Those whose records could not be brought to the disk go on waiting.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn sync_waiting(&self) -> io::Result<()> {
        let mut waiting = std::mem::take(&mut self.syncs.queue().waiting);
        let live = self.appender.live().to_vec();
        let mut outcome = Ok(());
        for segment in &live {
            let here = waiting.extract_if(.., |waiter| segment.holds(waiter.sequence, 1)).collect::<Vec<_>>();
            if here.is_empty() {
                continue;
            }
            segment.sum_all();
            // Also behind a place where another is still under way.
            here.iter().for_each(|waiter| segment.sum_at(waiter.sequence));
            match self.bring_to_disk(segment) {
                Ok(()) => here.into_iter().for_each(Waiter::release),
                Err(error) => {
                    outcome = Err(error);
                    let mut queue = self.syncs.queue();
                    if !queue.closed {
                        queue.waiting.extend(here);
                    }
                }
            }
        }
        // B6: what is in none of them is in the sink, and so on a disk.
        waiting.into_iter().for_each(Waiter::release);
        outcome
    }

    fn bring_to_disk(&self, segment: &Segment) -> io::Result<()> {
        if !self.syncs.queue().given_up.contains(&segment.first()) {
            let Err(error) = segment.words().sync() else {
                self.syncs_fail.store(false, Ordering::Relaxed);
                return Ok(());
            };
            self.syncs_fail.store(true, Ordering::Relaxed);
            tracing::error!(
                error = &error as &dyn Error,
                "a journal segment cannot be synced: it is written once more"
            );
            self.syncs.queue().given_up.push(segment.first());
        }
        let mut kept = self.kept();
        let written = self.write_once_more(&mut kept, segment);
        match &written {
            Ok(()) => {
                self.syncs.queue().given_up.retain(|first| *first != segment.first());
                self.syncs_fail.store(false, Ordering::Relaxed);
            }
            Err(error) => kept.state = JournalState::Failed(error.to_string()),
        }
        written
    }

    fn write_once_more(&self, kept: &mut Kept, segment: &Segment) -> io::Result<()> {
        // Nothing more may come into it. The segments behind it must have room for all who reserved.
        while self.appender.next() < segment.end() && !self.appender.skip_to(segment.end()) {
            self.add_segment(kept)?;
        }
        // Places that were taken before are published by threads that are about to: nothing is awaited between the two.
        let mut published = segment.first();
        for _ in 0..MOST_YIELDS {
            published = segment.published_from(published);
            if published >= segment.end() {
                segment.sum_all();
                let copy = kept.files.copy(segment)?;
                self.appender.replace(&copy);
                return Ok(());
            }
            std::thread::yield_now();
        }
        Err(io::Error::new(io::ErrorKind::WouldBlock, "a record is still being written"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::keeper::tests::{journal, record};
    use super::*;
    use crate::mapped::{Area, crash};

    #[test]
    fn one_sync_is_for_all_who_wait_and_only_for_those() {
        let journal = journal(&Area::memory(), 64);
        let wishes: Vec<_> = (0..3)
            .map(|number| {
                assert!(journal.reserve());
                journal.wish_sync(journal.append(&record(number)).unwrap())
            })
            .collect();
        journal.sync_waiting().unwrap();
        for mut wish in wishes {
            assert_eq!(wish.try_recv(), Ok(()));
        }
        let mut late = journal.wish_sync(1);
        assert!(late.try_recv().is_err(), "what was synced before is not known to be of this record");
        journal.sync_waiting().unwrap();
        assert_eq!(late.try_recv(), Ok(()));
    }

    #[test]
    fn a_failed_sync_is_not_tried_again_and_the_segment_is_written_once_more() {
        let area = Area::memory();
        let journal = journal(&area, 64);
        assert!(journal.reserve());
        let mut wish = journal.wish_sync(journal.append(&record(7)).unwrap());
        // The segment's sync fails, another segment can be made, the copy of the first cannot.
        crash::fail_syncs(0b101);
        assert!(journal.sync_waiting().is_err());
        assert!(wish.try_recv().is_err(), "it waits on");
        assert!(matches!(journal.state(), JournalState::Failed(_)));
        assert!(journal.reserve());
        let other = journal.append(&record(8)).unwrap();
        assert!(other > journal.read(1, 9).unwrap().last, "new records go into another segment");
        journal.sync_waiting().unwrap();
        assert_eq!(wish.try_recv(), Ok(()));

        // B3: each record is there once, and the first after a power loss too.
        let numbers = |from| {
            let chunk = journal.read(from, 99).unwrap();
            (chunk.records.iter().map(|record| record.request.as_u128()).collect::<Vec<_>>(), chunk.last)
        };
        let (first, last) = numbers(1);
        assert_eq!((first, numbers(last + 1).0), (vec![7], vec![8]));
        for name in area.list().unwrap() {
            area.open(&name).unwrap().lose_power(|| false);
        }
        assert_eq!(numbers(1).0, [7]);
        assert!(journal.read(last + 1, 9).is_none(), "nobody had waited for the second");
    }

    #[tokio::test]
    async fn who_waits_is_let_go_when_the_journal_ends() {
        let journal = std::sync::Arc::new(journal(&Area::memory(), 64));
        let of_thread = std::sync::Arc::clone(&journal);
        let thread = std::thread::spawn(move || of_thread.run_syncs());
        assert!(journal.reserve());
        let sequence = journal.append(&record(7)).unwrap();
        journal.wish_sync(sequence).await.unwrap();
        assert!(journal.seal().unwrap());
        thread.join().unwrap();
        assert!(journal.wish_sync(sequence).await.is_err());
    }
}
