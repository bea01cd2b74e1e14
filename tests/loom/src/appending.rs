//! Threads that append to a stream, one that makes room in it, and one that reads.

use loom::sync::Arc;
use loom::thread;

use crate::journal::append::Appender;
use crate::journal::segment::{Found, LEAST_SLOTS, Segment};
use crate::journal::slot::{Encoded, Kind, MOST_SLOTS, Salt, Sink};
use crate::mapped::Words;

const SALT: u64 = 7;
/// Slots of a segment in which room for one item is kept for its end, and two more have room.
const SLOTS: u64 = 3 * MOST_SLOTS;

/// Runs a model for all orders in which its threads are interrupted up to three times.
fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(run);
}

fn segment(first: u64, slots: u64) -> Segment {
    let words = Segment::header_words("") + usize::try_from(slots).unwrap() * 8;
    Segment::begin(Words::memory(words), 1, SALT, first, "").unwrap()
}

/// An item that is known by its number.
fn item(number: u64, slots: u64) -> Encoded {
    let mut item = Encoded::new(Kind::Record);
    for _ in 0..slots * 8 - 7 {
        item.push(number);
    }
    item
}

fn append(appender: &Appender, number: u64, slots: u64) -> bool {
    let reserved = appender.reserve().is_some();
    if reserved {
        appender.begin(slots).unwrap().publish(&item(number, slots));
    }
    reserved
}

/// Numbers of what is published from the beginning to the first hole, and where that is. What is published must be whole.
fn read(appender: &Appender) -> (Vec<u64>, u64) {
    let (mut found, mut at) = (Vec::new(), 1);
    for segment in appender.live().iter() {
        while let Found::Item(head) = segment.at(at) {
            let words = segment.read(at, head.slots);
            assert!(head.fits(&Salt::new(SALT), at, &words), "it is of another place");
            if head.kind == Kind::Record {
                let carried = usize::try_from(head.slots).unwrap() * 8 - 7;
                assert!(words[1..=carried].iter().all(|word| *word == words[1]), "half of an item is published");
                found.push(words[1]);
            }
            at += head.slots;
        }
        if at < segment.end() {
            break;
        }
    }
    (found, at)
}

#[test]
fn a_reader_sees_whole_items_and_in_the_end_all() {
    model(|| {
        let appender = Arc::new(Appender::new(1));
        appender.add(segment(1, LEAST_SLOTS));
        appender.add(segment(1 + LEAST_SLOTS, LEAST_SLOTS));
        let threads = [1, 2].map(|number| {
            let appender = Arc::clone(&appender);
            thread::spawn(move || assert!(append(&appender, number, 1), "there is room for both"))
        });
        let early = read(&appender).0;
        for thread in threads {
            thread.join().unwrap();
        }
        let (mut all, end) = read(&appender);
        assert!(all.starts_with(&early), "what was read does not change");
        all.sort_unstable();
        assert_eq!((all, end), (vec![1, 2], 3));
    });
}

#[test]
fn what_two_threads_sum_while_it_is_published_is_whole() {
    model(|| {
        let appender = Arc::new(Appender::new(1));
        appender.add(segment(1, LEAST_SLOTS));
        let (writer, other) = (Arc::clone(&appender), Arc::clone(&appender));
        let writer = thread::spawn(move || assert!(append(&writer, 1, 1)));
        let other = thread::spawn(move || other.live()[0].sum_at(1));
        let live = appender.live();
        live[0].sum_all();
        let summed = live[0].verified_by_sum_at(1);
        assert!(live[0].at(1) == Found::Unpublished || matches!(live[0].verified_at(1), Found::Item(_)));
        writer.join().unwrap();
        other.join().unwrap();
        live[0].sum_all();
        let all = live[0].verified_by_sum_at(1);
        assert!(matches!(all, Found::Item(_)) && [all, Found::Unpublished].contains(&summed));
    });
}

#[test]
fn b7_who_has_reserved_finds_the_segment_that_another_thread_has_added() {
    model(|| {
        let appender = Arc::new(Appender::new(1));
        appender.add(segment(1, SLOTS));
        // Places that are dropped are pads, which take one store.
        let pass = |appender: &Appender| {
            let reserved = appender.reserve().is_some();
            if reserved {
                drop(appender.begin(MOST_SLOTS).unwrap());
            }
            reserved
        };
        assert!(pass(&appender));
        // One place is left without another segment, and two that are taken then push it over into that.
        let [two, one] = [2, 1].map(|times| {
            let appender = Arc::clone(&appender);
            thread::spawn(move || (0..times).filter(|_| pass(&appender)).count())
        });
        appender.add(segment(1 + SLOTS, SLOTS));
        let passed = 1 + two.join().unwrap() + one.join().unwrap();
        let next = 1 + passed as u64 * MOST_SLOTS;
        assert_eq!((read(&appender).1, appender.next()), (next, next));
    });
}

#[test]
fn who_unwinds_does_not_hold_up_readers() {
    model(|| {
        let appender = Arc::new(Appender::new(1));
        appender.add(segment(1, LEAST_SLOTS));
        appender.add(segment(1 + LEAST_SLOTS, LEAST_SLOTS));
        let unwinding = {
            let appender = Arc::clone(&appender);
            thread::spawn(move || {
                assert!(appender.reserve().is_some());
                drop(appender.begin(2));
            })
        };
        assert!(append(&appender, 1, 1));
        unwinding.join().unwrap();
        assert_eq!(read(&appender), (vec![1], 4));
    });
}
