//! One word of a mapped file.

#[cfg(not(loom))]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

#[cfg(loom)]
use loom::sync::atomic::AtomicU64;

/// Eight bytes that several threads, and the next life of the process, read and write.
///
/// Every change goes through here, so that a test can end the process between any two of them.
#[derive(Debug, Default)]
#[repr(transparent)]
pub(crate) struct Word(AtomicU64);

impl Word {
    pub(crate) fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    /// Stores what is there. (A `fetch_or` of 0 is compiled to a load.)
    pub(super) fn touch(&self) {
        self.0.store(self.0.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    pub(crate) fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    pub(crate) fn store(&self, value: u64, order: Ordering) {
        #[cfg(test)]
        if !super::crash::step() {
            return;
        }
        self.0.store(value, order);
    }

    /// Sets a word that nobody else sees yet: no step of its own.
    pub(super) fn restore(&self, value: u64) {
        // Relaxed: who is given the word later is given this with it.
        self.0.store(value, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        #[cfg(test)]
        if !super::crash::step() {
            return self.0.load(Ordering::Relaxed);
        }
        self.0.fetch_add(value, order)
    }

    pub(crate) fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        #[cfg(test)]
        if !super::crash::step() {
            return self.0.load(Ordering::Relaxed);
        }
        self.0.fetch_or(value, order)
    }

    /// As `AtomicU64::compare_exchange_weak`.
    pub(crate) fn compare_exchange_weak(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        #[cfg(test)]
        if !super::crash::step() {
            return Ok(current);
        }
        self.0.compare_exchange_weak(current, new, success, failure)
    }
}
