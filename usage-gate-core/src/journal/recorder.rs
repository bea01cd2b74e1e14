//! The queue of records.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use tokio::sync::Notify;

use crate::admission::{Caller, QuotaUses};
use crate::model::{RequestId, Timestamp};
use crate::routes::RouteIndex;
use crate::seat::Seats;
use crate::store::{Outcome, UnitTotals};

/// A record as the request leaves it: references instead of copies.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) request: RequestId,
    pub(crate) at: Timestamp,
    pub(crate) caller: Arc<Caller>,
    pub(crate) route: RouteIndex,
    pub(crate) status: u16,
    pub(crate) outcome: Outcome,
    pub(crate) units: UnitTotals,
    /// What its leases count for it.
    pub(crate) quotas: QuotaUses,
}

/// Takes records in, synchronously.
#[derive(Debug)]
pub(crate) struct Recorder {
    queue: ArrayQueue<Recorded>,
    seats: Seats,
    half_full: Notify,
}

impl Recorder {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { queue: ArrayQueue::new(capacity), seats: Seats::new(capacity), half_full: Notify::new() }
    }

    /// Takes a seat with the room of one record.
    pub(crate) fn take_seat(&self) -> bool {
        self.seats.take()
    }

    /// Gives back a seat whose request was not admitted.
    pub(crate) fn leave_seat(&self) {
        self.seats.free(1);
    }

    /// Publishes the record of a seat. The seat is freed once the record is shipped.
    ///
    /// B7: cannot fail, since seats and room are one number.
    pub(crate) fn publish(&self, record: Recorded) {
        let pushed = self.queue.push(record).is_ok();
        crate::invariant::invariant!(B7, pushed);
        if self.queue.len() * 2 > self.queue.capacity() {
            self.half_full.notify_one();
        }
    }

    /// Takes up to `most` records out, oldest first. Their seats stay taken until [`shipped`](Self::shipped).
    pub(crate) fn take(&self, most: usize) -> Vec<Recorded> {
        std::iter::from_fn(|| self.queue.pop()).take(most).collect()
    }

    pub(crate) fn shipped(&self, records: usize) {
        self.seats.free(records);
    }

    pub(crate) async fn half_full(&self) {
        self.half_full.notified().await;
    }

    pub(crate) fn unshipped(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn seats(&self) -> &Seats {
        &self.seats
    }
}
