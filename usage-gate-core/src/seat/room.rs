//! Room for records in the queue of a recorder that keeps them in memory: a count.

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
