//! Which seats are free: a stack of indexes in plain memory.
//!
//! The seat that was freed last is taken first, since its lines are still cached. The head carries a tag that every change moves on, so that a
//! thread that was away while the same index came back notices (ABA), and counts what is free.

use std::sync::atomic::Ordering;

use crate::mapped::Word;

/// Indexes from 0; lock-free.
#[derive(Debug)]
pub(super) struct FreeList {
    /// The head alone in its line, then for each index the one below it in the stack, and a number that its holder counts up. Indexes are kept as one
    /// more, 0 is none.
    words: Box<[Word]>,
}

const HEAD: usize = 0;
/// Words of the head's cache line.
const FIRST: usize = 8;
/// Words of an index.
const EACH: usize = 2;
/// Bits of an index, and of the number of them that are free: enough for a million. The tag has the 22 above: a thread would have to be away for four
/// million changes.
const BITS: u32 = 21;
const INDEX: u64 = (1 << BITS) - 1;
const ONE_FREE: u64 = 1 << BITS;
const ONE_TAG: u64 = 1 << (2 * BITS);

impl FreeList {
    /// All of them are free; the lowest is taken first.
    pub(super) fn new(indexes: u32) -> Self {
        let words: Box<[Word]> = (0..below(indexes)).map(|_| Word::default()).collect();
        for (below, next) in words.iter().skip(FIRST).step_by(EACH).zip(2u64..=u64::from(indexes)) {
            below.store(next, Ordering::Relaxed);
        }
        if let Some(head) = words.get(HEAD) {
            head.store(u64::from(indexes) << BITS | u64::from(indexes.min(1)), Ordering::Relaxed);
        }
        Self { words }
    }

    /// How many are free now.
    pub(super) fn free(&self) -> usize {
        let head = self.words.get(HEAD).map_or(0, |head| head.load(Ordering::Relaxed));
        usize::try_from(head >> BITS & INDEX).unwrap_or(0)
    }

    /// Counts up the number of an index. Its holder has it alone, so that this is a load and a store: one number for all would be one more line that every
    /// request takes from another core.
    pub(super) fn count(&self, index: u32) {
        if let Some(count) = self.words.get(below(index) + 1) {
            // Relaxed: `push` and `pop` order the holders; others want a number that is right once they rest.
            count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }

    /// The sum of all numbers.
    pub(super) fn counted(&self) -> u64 {
        self.words.iter().skip(FIRST + 1).step_by(EACH).map(|count| count.load(Ordering::Relaxed)).sum()
    }

    pub(super) fn pop(&self) -> Option<u32> {
        let head = self.words.get(HEAD)?;
        // Acquire pairs with the Release of `push`: who takes an index sees what its last holder stored, and what is below it.
        let mut seen = head.load(Ordering::Acquire);
        loop {
            let index = u32::try_from((seen & INDEX).checked_sub(1)?).ok()?;
            let below = self.words.get(below(index))?.load(Ordering::Relaxed);
            let next = (seen & !INDEX).wrapping_add(ONE_TAG).wrapping_sub(ONE_FREE) | below;
            match head.compare_exchange_weak(seen, next, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(index),
                Err(current) => seen = current,
            }
        }
    }

    /// Gives an index back. Its holder has it alone, so that it is given back once.
    pub(super) fn push(&self, index: u32) {
        let (Some(head), Some(below)) = (self.words.get(HEAD), self.words.get(below(index))) else { return };
        let mut seen = head.load(Ordering::Relaxed);
        loop {
            below.store(seen & INDEX, Ordering::Relaxed);
            let next = (seen & !INDEX).wrapping_add(ONE_TAG).wrapping_add(ONE_FREE) | (u64::from(index) + 1);
            // Release: pairs with `pop`.
            match head.compare_exchange_weak(seen, next, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(current) => seen = current,
            }
        }
    }
}

/// Where an index has the one below it.
const fn below(index: u32) -> usize {
    FIRST + EACH * index as usize
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn each_index_is_taken_once_and_the_last_freed_first() {
        let list = FreeList::new(3);
        assert_eq!([list.pop(), list.pop(), list.pop(), list.pop()], [Some(0), Some(1), Some(2), None]);
        list.push(1);
        list.push(2);
        assert_eq!([list.pop(), list.pop(), list.pop()], [Some(2), Some(1), None]);
        list.push(0);
        assert_eq!((list.free(), FreeList::new(0).free()), (1, 0));
        [0, 2, 2].into_iter().for_each(|index| list.count(index));
        assert_eq!(list.counted(), 3);
        assert_eq!(FreeList::new(0).pop(), None);
    }

    #[test]
    fn no_two_threads_hold_one_index() {
        let list = Arc::new(FreeList::new(3));
        let held: Arc<[AtomicBool]> = (0..3).map(|_| AtomicBool::new(false)).collect();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (list, held) = (Arc::clone(&list), Arc::clone(&held));
                std::thread::spawn(move || {
                    for _ in 0..50_000 {
                        let Some(index) = list.pop() else { continue };
                        let flag = &held[index as usize];
                        assert!(!flag.swap(true, Ordering::Relaxed), "{index} was taken twice");
                        flag.store(false, Ordering::Relaxed);
                        list.push(index);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(std::iter::from_fn(|| list.pop()).count(), 3);
    }
}
