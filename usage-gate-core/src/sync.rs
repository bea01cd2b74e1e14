//! What threads share: the standard atomics, or those of loom, which tries every order in which threads can meet.
//!
//! The crate `tests/loom` compiles the files that use this with `cfg(loom)`.

use std::fmt;
use std::sync::Arc;

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// A value that is read without a lock, and replaced as a whole by one thread at a time.
///
/// A load pairs with the store that it sees, and with nothing else.
pub(crate) struct Swap<T>(Inner<T>);

#[cfg(not(loom))]
type Inner<T> = arc_swap::ArcSwap<T>;

/// All values so far, and which is the last: loom then knows of no order between readers that the real one does not give.
#[cfg(loom)]
type Inner<T> = (std::sync::Mutex<Vec<Arc<T>>>, loom::sync::atomic::AtomicUsize);

/// A value that was loaded: it stays as it is while this is held.
#[cfg(not(loom))]
pub(crate) type Loaded<T> = arc_swap::Guard<Arc<T>>;

#[cfg(loom)]
pub(crate) type Loaded<T> = Arc<T>;

#[cfg(not(loom))]
impl<T> Swap<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(arc_swap::ArcSwap::from_pointee(value))
    }

    pub(crate) fn load(&self) -> Loaded<T> {
        self.0.load()
    }

    pub(crate) fn store(&self, value: T) {
        self.0.store(Arc::new(value));
    }
}

#[cfg(loom)]
impl<T> Swap<T> {
    pub(crate) fn new(value: T) -> Self {
        Self((std::sync::Mutex::new(vec![Arc::new(value)]), loom::sync::atomic::AtomicUsize::new(0)))
    }

    pub(crate) fn load(&self) -> Loaded<T> {
        let last = self.0.1.load(Ordering::Acquire);
        let values = self.0.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(&values[last])
    }

    pub(crate) fn store(&self, value: T) {
        let mut values = self.0.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        values.push(Arc::new(value));
        let last = values.len() - 1;
        drop(values);
        self.0.1.store(last, Ordering::Release);
    }
}

impl<T: fmt::Debug> fmt::Debug for Swap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.load(), f)
    }
}
