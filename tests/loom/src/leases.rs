//! The word of a lease under every order of threads.

use crate::left::Left;
use crate::mapped::Word;
use loom::sync::Arc;

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

#[test]
fn a3_no_more_is_credited_than_was_spent() {
    loom::model(|| {
        let word = Arc::new(Word::default());
        Left(&word).begin(2);
        let of = |word: &Arc<Word>, change: fn(Left<'_>) -> i64| {
            let word = Arc::clone(word);
            loom::thread::spawn(move || change(Left(&word)))
        };
        let spender = of(&word, |left| i64::from(left.spend(1)));
        // Units of a lease that has ended are given back on this one.
        let credited = of(&word, |left| left.credit(2, 2));
        let left = Left(&word).begin_return();
        let (spent, credited) = (spender.join().unwrap(), credited.join().unwrap());
        assert!(credited <= spent);
        assert_eq!(spent - credited, 2 - left, "A2");
    });
}

#[test]
fn b9_what_is_told_of_a_debt_is_what_was_spent_on_it() {
    loom::model(|| {
        let word = Arc::new(Word::default());
        Left(&word).begin(0);
        let request = |takes: i64, gives: i64| {
            let word = Arc::clone(&word);
            loom::thread::spawn(move || {
                let left = Left(&word);
                // What is told already takes no more: another debt does.
                if !left.adjust(-takes) {
                    return 0;
                }
                if left.adjust(gives) { takes - gives } else { takes }
            })
        };
        let (one, two) = (request(3, 3), request(2, 1));
        let told = -Left(&word).begin_return();
        assert_eq!(one.join().unwrap() + two.join().unwrap(), told);
    });
}
