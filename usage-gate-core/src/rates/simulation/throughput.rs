//! How much of a rate several nodes use between them, when nothing disturbs them and more is asked for than passes.

use super::Broken;
use super::world::{disturb, rate_parts};
use crate::clock::Monotonic;
use crate::rates::bucket::{Bucket, Incarnation, micros};
use crate::rates::held::HeldRate;
use crate::rates::samples;
use crate::store::{RateGrant, RateRequest, RateTerms};

/// What a run admits of what it could, in thousandths.
struct Outcome {
    used: u128,
    calls: u64,
}

struct Node {
    held: HeldRate,
    /// Parts of a request that are yet to come.
    due: u64,
    /// Requests that wait, by when they give up.
    waiting: std::collections::VecDeque<u64>,
    /// A call and when it arrives, an answer and when that arrives.
    call: Option<(u64, RateRequest)>,
    answer: Option<(u64, RateRequest, RateGrant)>,
}

/// Microseconds on the way to the authority, and back.
const TRIP: u64 = 1_000;
/// For how long a request waits.
const PATIENCE: u64 = 300_000;
const PARTS: i128 = 60_000_000;

/// `count` nodes, of which each is asked for as much as the whole rate gives, for so many seconds.
fn run(terms: RateTerms, count: usize, seconds: u64, broken: Broken) -> Outcome {
    let step = if terms.units / terms.seconds >= 10 { 500 } else { 5_000 };
    let node = || Node { held: HeldRate::new(), due: 0, waiting: [].into(), call: None, answer: None };
    let mut nodes: Vec<Node> = (0..count).map(|_| node()).collect();
    let (mut bucket, mut admitted, mut calls) = (None, 0_u128, 0);
    let mut leaking = 0_i128;
    let begin = 1_000_000_000;
    for now in (begin..begin + seconds * 1_000_000).step_by(step) {
        leaking = (leaking - rate_parts(&terms) * i128::from(step as u64)).max(0);
        for node in &mut nodes {
            let mono = Monotonic(now * 1_000);
            let units = node.turn(now, mono, terms, step as u64);
            admitted += u128::from(units);
            leaking += i128::from(units) * PARTS;
            assert!(leaking <= i128::from(terms.burst) * PARTS, "the curve, with {count} nodes at {terms:?}");
            if let Some((_, request)) = node.call.take_if(|(at, _)| *at <= now) {
                calls += 1;
                let told = if broken == Broken::SpentNotReported { Vec::new() } else { request.spent.clone() };
                let heard = RateRequest { spent: told, ..request.clone() };
                let known = Some(Incarnation { id: 1, age: u64::MAX });
                let (after, grant) = Bucket::step(bucket.take(), now, known, &heard);
                bucket = Some(after);
                node.answer = Some((now + TRIP, request, grant));
            }
        }
    }
    let micros = u128::from(seconds) * 1_000_000;
    let possible = u128::from(terms.burst) + u128::from(terms.units) * micros / u128::from(terms.seconds) / 1_000_000;
    Outcome { used: admitted * 1_000 / possible, calls }
}

impl Node {
    /// Answers, requests and a wish of one moment; gives the units admitted.
    fn turn(&mut self, now: u64, mono: Monotonic, terms: RateTerms, step: u64) -> u64 {
        let mut admitted = 0;
        if let Some((_, request, grant)) = self.answer.take_if(|(at, ..)| *at <= now) {
            self.held.granted(&request, &grant, mono);
            while !self.waiting.is_empty() && self.held.take(1, mono).is_some() {
                self.held.stop_waiting(1);
                self.waiting.pop_front();
                admitted += 1;
            }
        }
        while self.waiting.front().is_some_and(|until| *until <= now) {
            self.waiting.pop_front();
            self.held.stop_waiting(1);
        }
        // A tenth more than the rate, on each node.
        self.due += step * terms.units * 11 / 10;
        let one = terms.seconds * 1_000_000;
        while self.due >= one {
            self.due -= one;
            if self.held.take(1, mono).is_some() {
                admitted += 1;
            } else if self.held.short_for(1, mono).is_none_or(|wait| wait < PATIENCE * 1_000) {
                self.held.start_waiting(1);
                self.waiting.push_back(now + PATIENCE);
            }
        }
        let calls = self.held.due() <= mono || self.held.runs_low(mono) || !self.waiting.is_empty();
        if calls && let Some(request) = self.held.wish(&samples::counter(), terms, mono) {
            self.call = Some((now + TRIP, request));
        }
        admitted
    }
}

const RATES: [(RateTerms, u64); 5] = [
    (RateTerms { units: 100, seconds: 1, burst: 100 }, 20),
    (RateTerms { units: 100, seconds: 1, burst: 20 }, 20),
    (RateTerms { units: 1_000, seconds: 1, burst: 50 }, 10),
    (RateTerms { units: 10, seconds: 1, burst: 10 }, 60),
    (RateTerms { units: 5, seconds: 60, burst: 5 }, 1_200),
];

#[test]
fn nodes_use_nearly_all_of_a_rate_between_them() {
    for (terms, seconds) in RATES {
        for count in 1..=4 {
            let Outcome { used, calls } = run(terms, count, seconds, Broken::Nothing);
            assert!(used >= 950, "{used} of a thousand with {count} nodes at {terms:?}");
            // Not a call for every request: a node asks four times in a lease time at most.
            let most = 1_000_000 / micros(terms.lease_time()) * 4 * count as u64 + 4;
            assert!(calls / seconds <= most, "{} calls a second of {count} nodes at {terms:?}", calls / seconds);
        }
    }
}

#[test]
fn a_rate_whose_use_is_not_told_is_not_used() {
    let unused = RATES.iter().find(|(terms, seconds)| run(*terms, 3, *seconds, Broken::SpentNotReported).used < 950);
    assert!(unused.is_some(), "nobody noticed that what is spent was never told");
}

/// A node dies with the whole burst; another asks when half of it has come back since.
fn after_a_death(broken: Broken) -> u64 {
    let (terms, _) = RATES[0];
    let (known, now) = (Some(Incarnation { id: 1, age: u64::MAX }), 1_000_000_000);
    let (mut bucket, grant) = Bucket::step(None, now, known, &samples::request(terms, 1, 100));
    assert_eq!(grant.units, 100);
    let (now, request) = (now + micros(terms.lease_time()) + 500_000, samples::request(terms, 2, 100));
    disturb(&mut bucket, broken, now, &request);
    Bucket::step(Some(bucket), now, known, &request).1.units
}

#[test]
fn what_a_dead_node_held_comes_back_from_its_end_on() {
    assert_eq!(after_a_death(Broken::Nothing), 50);
    assert_ne!(after_a_death(Broken::RefillBeforeExpiry), 50);
    assert_ne!(after_a_death(Broken::UnorderedExpiry), 50);
}
