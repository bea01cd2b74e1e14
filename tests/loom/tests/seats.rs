//! The list of free seats under every order of threads.
#![cfg(loom)]
#![expect(
    dead_code,
    unused_imports,
    irrefutable_let_patterns,
    clippy::unwrap_used,
    reason = "sources are used in part; what a test cannot go on without fails it"
)]

#[path = "../../../usage-gate-core/src/seat/free_list.rs"]
mod free_list;

mod mapped {
    #[path = "../../../../../usage-gate-core/src/mapped/crash.rs"]
    pub(crate) mod crash;
    #[path = "../../../../../usage-gate-core/src/mapped/word.rs"]
    mod word;
    #[path = "../../../../../usage-gate-core/src/mapped/words.rs"]
    mod words;
    pub(crate) use word::Word;
    pub(crate) use words::Words;
}

use free_list::FreeList;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};

/// Seats as their holders see them: each counts itself in by a load and a store, so that a count is missing where two hold one seat, or where one does
/// not see what the last holder wrote.
struct Seats {
    list: FreeList,
    contents: Vec<AtomicU32>,
}

impl Seats {
    fn new(seats: u32) -> Arc<Self> {
        Arc::new(Self { list: FreeList::new(seats), contents: (0..seats).map(|_| AtomicU32::new(0)).collect() })
    }

    fn use_one(&self) -> bool {
        let Some(index) = self.list.pop() else { return false };
        self.write(index);
        self.list.push(index);
        true
    }

    fn write(&self, index: u32) {
        let contents = &self.contents[index as usize];
        contents.store(contents.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn written(&self) -> u32 {
        self.contents.iter().map(|contents| contents.load(Ordering::Relaxed)).sum()
    }

    fn free(&self) -> usize {
        std::iter::from_fn(|| self.list.pop()).count()
    }
}

#[test]
fn b7_a_seat_is_one_request_s() {
    loom::model(|| {
        let seats = Seats::new(1);
        let other = Arc::clone(&seats);
        let thread = loom::thread::spawn(move || other.use_one());
        let mine = seats.use_one();
        let theirs = thread.join().unwrap();
        assert_eq!(seats.written(), u32::from(mine) + u32::from(theirs));
        assert_eq!(seats.free(), 1);
    });
}

/// One thread takes the first while the other takes two and gives the first back: without a tag the list would end in a seat that is taken.
#[test]
fn b7_an_index_that_came_back_is_noticed() {
    loom::model(|| {
        let seats = Seats::new(3);
        let other = Arc::clone(&seats);
        let thread = loom::thread::spawn(move || {
            let (first, second) = (other.list.pop().unwrap(), other.list.pop().unwrap());
            other.write(first);
            other.list.push(first);
            other.write(second);
            second
        });
        let mine = seats.list.pop().unwrap();
        seats.write(mine);
        let theirs = thread.join().unwrap();
        assert_ne!(mine, theirs);
        assert_eq!(seats.written(), 3);
        assert_eq!(seats.free(), 1);
    });
}
