//! The database of the simulation: the ledger and the sink, each call a transaction, with every way in which an answer can be missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::marks::{Mark, Marks};
use super::{Broken, Dice};
use crate::clock::Clock;
use crate::lease::ledger::Ledger;
use crate::mapped::Words;
use crate::model::{RequestId, StreamId, Timestamp};
use crate::store::*;
use crate::sync::Ordering;

/// What the sink has of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) request: RequestId,
    pub(super) outcome: Outcome,
    pub(super) bytes_out: u64,
    pub(super) quotas: Vec<QuotaUse>,
}

impl Noted {
    pub(super) fn of(record: &UsageRecord) -> Self {
        Self {
            request: record.request,
            outcome: record.outcome,
            bytes_out: record.units.of(crate::model::MeterIndex::BYTES_OUT),
            quotas: record.quotas.clone(),
        }
    }
}

/// After that the database gives a call up.
const STATEMENT_TIME_OUT_MICROS: u64 = 30_000_000;

/// What is durable.
#[derive(Debug, Default, Clone)]
pub(super) struct Books {
    pub(super) ledger: Ledger,
    pub(super) watermarks: BTreeMap<StreamId, u64>,
    /// Each place that counts, and how often.
    pub(super) counted: BTreeMap<StreamId, BTreeMap<u64, u32>>,
    /// Taken in since the last look.
    pub(super) news: Vec<(StreamId, u64, Noted)>,
    /// Streams whose watermark has moved since the last look.
    pub(super) moved: BTreeSet<StreamId>,
}

/// A call whose process does not wait for it any more.
#[derive(Debug)]
enum Late {
    Lease(LeaseCall),
    Batch(Batch),
}

/// How a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    /// Done, but the answer is lost.
    Unanswered,
    NotDone,
    /// Done at some later time.
    Late,
}

#[derive(Debug)]
pub(super) struct Database {
    books: Mutex<Books>,
    backup: Mutex<Books>,
    late: Mutex<Vec<(Timestamp, Late)>>,
    fates: Mutex<(Dice, bool)>,
    marks: Arc<Marks>,
    clock: Clock,
    /// A kill can come before and after each transaction.
    steps: Words,
    broken: Broken,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A process that was killed in here has poisoned it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Database {
    pub(super) fn new(seed: u64, clock: Clock, marks: Arc<Marks>, broken: Broken) -> Self {
        Self {
            books: Mutex::default(),
            backup: Mutex::default(),
            late: Mutex::default(),
            fates: Mutex::new((Dice::new(!seed), true)),
            marks,
            clock,
            steps: Words::memory(1),
            broken,
        }
    }

    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.books)
    }

    pub(super) fn back_up(&self) {
        let books = Books { news: Vec::new(), moved: BTreeSet::new(), ..self.books().clone() };
        *lock(&self.backup) = books;
    }

    /// Puts the backup in place of everything.
    pub(super) fn restore(&self) {
        self.marks.hit(Mark::Restored);
        *self.books() = lock(&self.backup).clone();
    }

    /// From now on every call is answered at once, or not.
    pub(super) fn calm(&self, calm: bool) {
        lock(&self.fates).1 = calm;
    }

    /// One of the calls that were on their way arrives.
    pub(super) fn arrive(&self, dice: &mut Dice) {
        let mut late = lock(&self.late);
        if late.is_empty() {
            return;
        }
        let at = dice.place(late.len());
        let (since, call) = late.swap_remove(at);
        drop(late);
        if since.micros_until(self.clock.wall()) > STATEMENT_TIME_OUT_MICROS {
            return;
        }
        self.marks.hit(Mark::LateCommit);
        match call {
            Late::Lease(call) => {
                let now = self.clock.wall();
                if self.books().ledger.lease(&call, now).is_err() {
                    self.marks.hit(Mark::Superseded);
                }
            }
            Late::Batch(batch) => drop(self.take_in(&batch, true)),
        }
    }

    fn fate(&self) -> Fate {
        let (dice, calm) = &mut *lock(&self.fates);
        if *calm {
            return Fate::Answered;
        }
        match dice.below(12) {
            0 => Fate::Unanswered,
            1 => Fate::NotDone,
            2 => Fate::Late,
            _ => Fate::Answered,
        }
    }

    /// A transaction, and what the caller learns of it.
    fn call<T>(&self, later: impl FnOnce() -> Option<Late>, work: impl FnOnce(bool) -> T) -> Result<T, StoreError> {
        self.steps[0].store(1, Ordering::Relaxed);
        let away = || StoreError::unavailable("reach the database", "it does not answer");
        let done = match self.fate() {
            Fate::NotDone => return Err(away()),
            Fate::Late => {
                lock(&self.late).extend(later().map(|call| (self.clock.wall(), call)));
                return Err(away());
            }
            Fate::Unanswered => {
                self.marks.hit(Mark::AnswerLost);
                work(false);
                Err(away())
            }
            Fate::Answered => Ok(work(true)),
        };
        self.steps[0].store(1, Ordering::Relaxed);
        done
    }

    fn take_in(&self, batch: &Batch, answered: bool) -> u64 {
        let mut books = self.books();
        let before = books.watermarks.get(&batch.stream).copied().unwrap_or(0);
        if batch.first > before + 1 {
            return before;
        }
        for record in batch.records.iter().filter(|record| record.sequence > before) {
            *books.counted.entry(batch.stream).or_default().entry(record.sequence).or_default() += 1;
            books.news.push((batch.stream, record.sequence, Noted::of(record)));
        }
        if self.broken == Broken::TwoTransactions && !answered {
            return before;
        }
        let after = before.max(batch.last);
        books.watermarks.insert(batch.stream, after);
        books.moved.insert(batch.stream);
        after
    }
}

#[async_trait::async_trait]
impl QuotaStore for Database {
    fn promises(&self) -> QuotaPromises {
        QuotaPromises::new(Durability::Durable, true)
    }

    async fn register(&self, node: &NodeIdentity) -> Result<Vec<OpenLease>, StoreError> {
        let now = self.clock.wall();
        self.call(|| None, |_| self.books().ledger.register(node, now))
    }

    async fn lease(&self, call: &LeaseCall) -> Result<LeaseAnswer, StoreError> {
        let now = self.clock.wall();
        let later = || Some(Late::Lease(call.clone()));
        self.call(later, |_| self.books().ledger.lease(call, now))?.map_err(|_| StoreError::superseded("lease units"))
    }

    async fn windows(&self, queries: &[WindowQuery]) -> Result<Vec<WindowState>, StoreError> {
        Ok(self.books().ledger.windows(queries, self.clock.wall()))
    }

    async fn subjects(&self, template: &WindowQuery, most: usize) -> Result<Vec<(CounterId, WindowState)>, StoreError> {
        Ok(self.books().ledger.subjects(template, most, self.clock.wall()))
    }
}

#[async_trait::async_trait]
impl UsageSink for Database {
    async fn accept(&self, batch: Batch) -> Result<u64, StoreError> {
        self.call(|| Some(Late::Batch(batch.clone())), |answered| self.take_in(&batch, answered))
    }

    async fn watermark(&self, stream: StreamId) -> Result<u64, StoreError> {
        self.call(|| None, |_| self.books().watermarks.get(&stream).copied().unwrap_or(0))
    }
}

/// Of a counter and period, by the ledger: use of closed leases, what of that was written off, and open leases with their reported use.
pub(super) struct Counted {
    pub(super) closed: u64,
    pub(super) open: Vec<(LeaseId, u64)>,
}

impl Books {
    pub(super) fn of_counter(&self, counter: &CounterId, start: Timestamp) -> Counted {
        let window = self.ledger.audited().find(|(id, at, ..)| *id == counter && *at == start);
        let row = window.map(|(_, _, row, ..)| row);
        Counted { closed: row.map_or(0, |row| row.used_closed), open: self.ledger.open_in(counter, start) }
    }
}
