//! What threads share: the standard atomics, or those of loom, which tries every order in which threads can meet.
//!
//! The crate `tests/loom` compiles the files that use this with `cfg(loom)`.

use std::fmt;
use std::sync::Arc;
#[cfg(not(loom))]
use std::time::Duration;

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

    /// The value, for longer than a moment.
    pub(crate) fn whole(&self) -> Arc<T> {
        self.0.load_full()
    }

    pub(crate) fn store(&self, value: T) {
        self.share(Arc::new(value));
    }

    /// Puts a value there that others have too.
    pub(crate) fn share(&self, value: Arc<T>) {
        self.0.store(value);
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

    pub(crate) fn whole(&self) -> Arc<T> {
        self.load()
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

/// A value for each of a few lanes, alone in its cache lines, behind a lock that hardly ever two want: threads take turns at being given a lane.
///
/// What all threads count up together costs each of them a line that another has. What each thread has for itself nobody can collect when it rests. This is between the two.
pub(crate) struct Lanes<T>(Box<[Lane<T>]>);

/// A lane, for as long as nobody else is to have it.
#[cfg(not(loom))]
pub(crate) type InLane<'a, T> = try_lock::Locked<'a, T>;
#[cfg(loom)]
pub(crate) type InLane<'a, T> = loom::sync::MutexGuard<'a, T>;

/// To give it back is a store: that of the standard library is one more of what makes a processor wait for all its stores.
#[cfg(not(loom))]
type Mutex<T> = try_lock::TryLock<T>;
#[cfg(loom)]
type Mutex<T> = loom::sync::Mutex<T>;

#[repr(align(128))]
struct Lane<T>(Mutex<T>);

/// As many as threads of a large machine that end a request in the same moment.
#[cfg(not(loom))]
const LANES: usize = 32;
/// Looks at a lane before a thread sleeps between two of them.
#[cfg(not(loom))]
const YIELDS: usize = 100;
/// One that all threads meet at.
#[cfg(loom)]
const LANES: usize = 1;

impl<T> Lanes<T> {
    pub(crate) fn new(value: impl Fn() -> T) -> Self {
        Self((0..LANES).map(|_| Lane(Mutex::new(value()))).collect())
    }

    /// This thread's lane; `None` if another has it at the moment: nobody waits for a thread that the system has stopped.
    pub(crate) fn mine(&self) -> Option<InLane<'_, T>> {
        self.0.get(lane_of_this_thread()).and_then(Lane::try_lock)
    }

    /// The lanes that nobody has at the moment.
    pub(crate) fn idle(&self) -> impl Iterator<Item = InLane<'_, T>> {
        self.0.iter().filter_map(Lane::try_lock)
    }

    /// All of them, one after the other. Not for who has one.
    pub(crate) fn all(&self) -> impl Iterator<Item = InLane<'_, T>> {
        self.0.iter().map(Lane::lock)
    }
}

impl<T> Lane<T> {
    #[cfg(not(loom))]
    fn try_lock(&self) -> Option<InLane<'_, T>> {
        self.0.try_lock()
    }

    #[cfg(not(loom))]
    fn lock(&self) -> InLane<'_, T> {
        for _ in 0..YIELDS {
            // Whoever has it is about to publish a record: some hundred instructions.
            if let Some(lane) = self.0.try_lock() {
                return lane;
            }
            std::thread::yield_now();
        }
        loop {
            // It waits for a page of the disk.
            if let Some(lane) = self.0.try_lock() {
                return lane;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    #[cfg(loom)]
    fn try_lock(&self) -> Option<InLane<'_, T>> {
        self.0.try_lock().ok()
    }

    #[cfg(loom)]
    fn lock(&self) -> InLane<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(not(loom))]
fn lane_of_this_thread() -> usize {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    thread_local!(static LANE: usize = usize::try_from(NEXT.fetch_add(1, Ordering::Relaxed)).unwrap_or(0) % LANES);
    // A thread that is ending may take any.
    LANE.try_with(|lane| *lane).unwrap_or(0)
}

#[cfg(loom)]
fn lane_of_this_thread() -> usize {
    0
}

impl<T> fmt::Debug for Lanes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes").finish_non_exhaustive()
    }
}
