//! The word of a lease under every order of threads.
#![cfg(loom)]
#![expect(
    dead_code,
    clippy::unwrap_used,
    reason = "sources are used in part; what a test cannot go on without fails it"
)]

#[path = "../../../usage-gate-core/src/lease/left.rs"]
mod left;

mod mapped {
    #[path = "../../../../../usage-gate-core/src/mapped/crash.rs"]
    pub(crate) mod crash;
    #[path = "../../../../../usage-gate-core/src/mapped/word.rs"]
    mod word;
    pub(crate) use word::Word;
}

use left::Left;
use loom::sync::Arc;
use mapped::Word;

/// A lease of `units`, on which two requests spend, one of them gives some back, while the driver returns it with `begin`.
fn model(units: i64, begin: fn(Left<'_>) -> i64) {
    loom::model(move || {
        let word = Arc::new(Word::default());
        Left(&word).begin(units);
        let request = |takes: i64, gives: i64| {
            let word = Arc::clone(&word);
            loom::thread::spawn(move || {
                let left = Left(&word);
                let taken = if left.spend(takes) { takes } else { 0 };
                // What a returning lease does not take back another one does.
                let given = if taken > 0 && gives > 0 && left.adjust(gives) { gives } else { 0 };
                taken - given
            })
        };
        let (one, two) = (request(2, 1), request(2, 0));
        let left = begin(Left(&word));
        let spent = one.join().unwrap() + two.join().unwrap();
        assert_eq!(spent, units - left, "A2: what went back was spent too, or is lost");
        assert!(spent <= units, "A3");
        assert_eq!(Left(&word).read(), (left, true));
    });
}

#[test]
fn a2_a3_what_goes_back_was_not_spent() {
    model(3, |left| left.begin_return());
    model(4, |left| left.begin_return());
}

#[test]
#[should_panic(expected = "A2")]
fn a_number_that_is_read_before_the_mark_is_caught() {
    model(3, |left| {
        let (units, _) = left.read();
        left.begin_return();
        units
    });
}
