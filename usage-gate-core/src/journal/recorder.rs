//! Where requests leave what they used: a seat while they are under way, then a place in the journal.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::sync::{Notify, oneshot};

use super::slot::Kind;
use super::{Journal, JournalDurability, Record};
use crate::seat::{Seat, SeatTable};

/// So many slots, 16,384 usual records, are reason enough to ship before the second is over.
const MANY: u64 = 3 * 16_384;

/// Takes records in, synchronously.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) journal: Arc<Journal>,
    pub(crate) seats: Arc<SeatTable>,
    shipped: AtomicU64,
    many: Notify,
}

impl Recorder {
    pub(crate) fn new(journal: Arc<Journal>, seats: Arc<SeatTable>) -> Self {
        Self { journal, seats, shipped: AtomicU64::new(0), many: Notify::new() }
    }

    /// Takes a seat, and room in the journal for the record that it will leave (B7).
    pub(crate) fn take_seat(&self) -> Option<Seat> {
        let seat = self.seats.take()?;
        if self.journal.reserve() {
            return Some(seat);
        }
        self.seats.leave(seat);
        None
    }

    /// Gives back the seat of a request that was not admitted.
    pub(crate) fn leave_seat(&self, seat: Seat) {
        self.seats.leave(seat);
        self.journal.unreserve();
    }

    /// Publishes the record of a request, and frees its seat. Gives the record's place.
    ///
    /// In the order that recovery relies on: the seat knows the place before the record can be seen, and is free only after. Without a place, which B7 rules
    /// out, the seat stays taken, and the next life of the process writes the record.
    pub(crate) fn publish(&self, seat: Seat, record: &Record<'_>) -> Option<u64> {
        let slots = record.slots();
        let place = self.journal.begin(slots)?;
        let sequence = place.sequence();
        self.seats.at(&seat).settle_at(sequence);
        place.publish_by(Kind::Record, |place| record.encode_into(place));
        self.seats.free(seat);
        // Passed by one record in so many, which costs the others no number that all of them count up.
        if (sequence + slots) % MANY < slots {
            self.many.notify_one();
        }
        Some(sequence)
    }

    /// What the last frame of a response waits for, with durability `disk`.
    pub(crate) fn synced(&self, sequence: u64) -> Option<Synced> {
        (self.journal.durability() == JournalDurability::Disk).then(|| Synced(self.journal.wish_sync(sequence)))
    }

    /// Waits until many records have come since the last time.
    pub(crate) async fn many(&self) {
        self.many.notified().await;
    }

    /// So many of this life's records are in the sink.
    pub(crate) fn shipped(&self, records: usize) {
        self.shipped.fetch_add(u64::try_from(records).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Records of this life that are not in the sink.
    pub(crate) fn unshipped(&self) -> u64 {
        let shipped = self.shipped.load(Ordering::Relaxed);
        self.seats.settled().saturating_sub(shipped)
    }
}

/// Waits until a record survives power loss.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Synced(oneshot::Receiver<()>);

impl Future for Synced {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(Pin::new(&mut self.0).poll(cx)).is_err() {
            // The process is about to end; the record survives that.
            tracing::warn!("the journal ended before a record was known to survive power loss");
        }
        Poll::Ready(())
    }
}
