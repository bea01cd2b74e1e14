//! Requests in flight. A request that is admitted owns a seat until its record is published.
//!
//! A seat reserves the room of the record it will leave, so that settling, which happens in `Drop` and cannot wait, never fails (B7).
//! Here a seat is a count; the mapped table that survives a crash takes its place behind the same calls.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The seats of one process.
#[derive(Debug)]
pub(crate) struct Seats {
    taken: AtomicUsize,
    capacity: usize,
}

impl Seats {
    pub(crate) const fn new(capacity: usize) -> Self {
        Self { taken: AtomicUsize::new(0), capacity }
    }

    /// Takes a seat, unless all are taken by requests in flight and records that are not shipped yet.
    pub(crate) fn take(&self) -> bool {
        // Relaxed: the count bounds memory and orders nothing.
        if self.taken.fetch_add(1, Ordering::Relaxed) < self.capacity {
            return true;
        }
        self.free(1);
        false
    }

    pub(crate) fn free(&self, seats: usize) {
        self.taken.fetch_sub(seats, Ordering::Relaxed);
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    pub(crate) const fn capacity(&self) -> usize {
        self.capacity
    }
}
