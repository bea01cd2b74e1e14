//! The end of the process at a chosen step, for tests.
//!
//! A step is a change of a word, or of the folder. After the last one nothing of this thread reaches memory any more, so that what runs while the
//! stack unwinds is as dead as the process.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

thread_local! {
    static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
    static DEAD: Cell<bool> = const { Cell::new(false) };
    static TAKEN: Cell<u64> = const { Cell::new(0) };
    static FAILING: Cell<u64> = const { Cell::new(0) };
    static COUNTS_SYNCS: Cell<bool> = const { Cell::new(false) };
}

/// What unwinds the stack of a process that was killed.
#[derive(Debug)]
struct Killed;

/// Counts a step; `false` if the process is dead, and then nothing may change.
pub(super) fn step() -> bool {
    if DEAD.get() {
        return false;
    }
    let left = LEFT.get();
    if left == u64::MAX {
        return true;
    }
    TAKEN.set(TAKEN.get() + 1);
    if left == 0 {
        DEAD.set(true);
        resume_unwind(Box::new(Killed));
    }
    LEFT.set(left - 1);
    true
}

/// Ends the process here.
pub(crate) fn kill() -> ! {
    DEAD.set(true);
    resume_unwind(Box::new(Killed));
}

/// Which of the next syncs of this thread fail: the lowest bit is the next one.
pub(crate) fn fail_syncs(which: u64) {
    FAILING.set(which);
}

/// Has this thread's syncs count as steps: a life may then end between a store and the sync behind it.
pub(crate) fn count_syncs() {
    COUNTS_SYNCS.set(true);
}

pub(super) fn sync() -> io::Result<()> {
    if COUNTS_SYNCS.get() && !step() {
        return Err(io::Error::other("the process has ended"));
    }
    let failing = FAILING.replace(FAILING.get() >> 1);
    if DEAD.get() || failing & 1 == 1 { Err(io::Error::other("the disk is away")) } else { Ok(()) }
}

/// Whether this thread's process was killed and has not been started again.
pub(crate) fn is_dead() -> bool {
    DEAD.get()
}

/// Runs a process life that is killed before its step `steps` (from 0). `Ok` if it ended before that; `Err` with nothing if it was killed.
/// Other panics go on. Everything that the life held must be moved into `life`, as it dies with it.
pub(crate) fn killed_after<T>(steps: u64, life: impl FnOnce() -> T) -> Option<T> {
    LEFT.set(steps);
    TAKEN.set(0);
    let outcome = catch_unwind(AssertUnwindSafe(life));
    let killed = DEAD.replace(false);
    LEFT.set(u64::MAX);
    match outcome {
        Ok(value) if !killed => Some(value),
        Ok(_) => None,
        Err(panic) if killed && panic.is::<Killed>() => None,
        Err(panic) => resume_unwind(panic),
    }
}

/// How many steps a life takes that is not killed.
pub(crate) fn steps_of<T>(life: impl FnOnce() -> T) -> (u64, T) {
    LEFT.set(u64::MAX - 1);
    TAKEN.set(0);
    let value = life();
    LEFT.set(u64::MAX);
    (TAKEN.get(), value)
}
