//! The one thread that writes: it takes what has queued up, runs it in one transaction, commits once, and answers all.
//!
//! A job that fails is rolled back to its savepoint and does not disturb the others. Nobody is answered before the
//! commit: an answer is a promise.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::value::Fault;
use crate::store::StoreError;

/// Jobs that wait at most; further callers wait for room.
const MOST_WAITING: usize = 1_024;
/// Jobs in one transaction at most.
const MOST_TOGETHER: usize = 64;

/// The way to the thread. It ends when this is dropped and the queue is empty.
pub(super) struct Writer {
    jobs: mpsc::Sender<Box<dyn Job>>,
}

/// One job with its caller.
trait Job: Send {
    /// Does the work and keeps the outcome; `false` if it is to be undone.
    fn run(&mut self, connection: &Connection) -> bool;
    /// Tells the caller.
    fn answer(self: Box<Self>, failure: Option<&Arc<rusqlite::Error>>);
}

struct Task<T, F> {
    what: &'static str,
    work: Option<F>,
    outcome: Option<Result<T, StoreError>>,
    caller: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Job for Task<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, Fault> + Send,
{
    fn run(&mut self, connection: &Connection) -> bool {
        let Some(work) = self.work.take() else { return false };
        // A rule that panics must not take the only writer with it; its savepoint undoes what it did.
        let outcome = catch_unwind(AssertUnwindSafe(|| work(connection)))
            .map_err(|_| StoreError::unavailable(self.what, "the job panicked"))
            .and_then(|outcome| outcome.map_err(|fault| fault.into_store(self.what)));
        let keep = outcome.is_ok();
        self.outcome = Some(outcome);
        keep
    }

    fn answer(self: Box<Self>, failure: Option<&Arc<rusqlite::Error>>) {
        let outcome = match (failure, self.outcome) {
            (Some(error), _) => Err(StoreError::unavailable(self.what, Arc::clone(error))),
            (None, Some(outcome)) => outcome,
            (None, None) => Err(StoreError::unavailable(self.what, "the job was not run")),
        };
        // A caller that no longer waits is no error.
        let _ = self.caller.send(outcome);
    }
}

impl Writer {
    /// Starts the thread. `fed` is rung after every commit that put something into the feed of changes.
    pub(super) fn start(connection: Connection, fed: watch::Sender<()>) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel(MOST_WAITING);
        std::thread::Builder::new().name("usage-gate-sqlite".into()).spawn(move || serve(&connection, queue, &fed))?;
        Ok(Self { jobs })
    }

    /// Queues a job and waits for its commit. If the caller stops waiting the job runs all the same.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let ended = || StoreError::unavailable(what, "the thread that writes has ended");
        let (caller, answer) = oneshot::channel();
        let task = Task { what, work: Some(work), outcome: None, caller };
        self.jobs.send(Box::new(task)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

fn serve(connection: &Connection, mut queue: mpsc::Receiver<Box<dyn Job>>, fed: &watch::Sender<()>) {
    let mut rung_at = fed_until(connection);
    while let Some(first) = queue.blocking_recv() {
        let mut together = vec![first];
        while together.len() < MOST_TOGETHER
            && let Ok(job) = queue.try_recv()
        {
            together.push(job);
        }
        let failure = commit(connection, &mut together).err().map(Arc::new);
        let at = fed_until(connection);
        if at != rung_at {
            rung_at = at;
            fed.send_replace(());
        }
        for job in together {
            job.answer(failure.as_ref());
        }
    }
}

/// The number of the last change in the feed; `None` if it cannot be read, which rings once too often at worst.
fn fed_until(connection: &Connection) -> Option<i64> {
    let mut statement = connection.prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'change'").ok()?;
    statement.query_row([], |row| row.get(0)).ok()
}

fn commit(connection: &Connection, jobs: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
    let run = |sql| connection.prepare_cached(sql)?.execute([]).map(|_| ());
    run("BEGIN IMMEDIATE")?;
    let outcome = jobs
        .iter_mut()
        .try_for_each(|job| {
            run("SAVEPOINT job")?;
            if !job.run(connection) {
                run("ROLLBACK TO job")?;
            }
            run("RELEASE job")
        })
        .and_then(|()| run("COMMIT"));
    if outcome.is_err() && !connection.is_autocommit() {
        // Some errors have rolled back already; if this fails too, the next BEGIN says so.
        let _ = run("ROLLBACK");
    }
    outcome
}
