//! How much of a rate several nodes use between them, when nothing disturbs them and more is asked for than passes.

use super::Broken;
use super::world::{disturb, rate_parts};
use crate::clock::Monotonic;
use crate::rates::bucket::{Bucket, Incarnation, micros};
use crate::rates::held::{HeldRate, Low};
use crate::rates::samples;
use crate::simulation::Dice;
use crate::store::{RateGrant, RateRequest, RateTerms};

/// What became of the units that a run was asked for.
#[derive(Debug, Default)]
struct Outcome {
    asked: u64,
    admitted: u64,
    /// What one bucket without nodes would have admitted of them.
    by_one_bucket: u64,
    /// Admitted only after a call.
    waited: u64,
    calls: u64,
}

struct Node {
    held: HeldRate,
    /// How many thousandths of the rate it is asked for.
    demand: u64,
    /// Requests that wait, by when they give up.
    waiting: std::collections::VecDeque<u64>,
    /// When it is to call because little is left.
    low: Option<u64>,
    /// A call and when it arrives, an answer and when that arrives.
    call: Option<(u64, RateRequest)>,
    answer: Option<(u64, RateRequest, RateGrant)>,
}

/// Microseconds on the way to the authority, and back.
const TRIP: u64 = 1_000;
/// Microseconds for which a call is gathered that nobody waits for.
const GATHER: u64 = 10_000;
/// For how long a request waits.
const PATIENCE: u64 = 300_000;
const PARTS: i128 = 60_000_000;

/// Nodes, each with its demand in thousandths of the rate, for so many seconds. Requests come by chance.
fn run(terms: RateTerms, demands: &[u64], seconds: u64, broken: Broken) -> Outcome {
    let step = if terms.units / terms.seconds >= 10 { 500 } else { 5_000 };
    let node = |demand: &u64| Node {
        held: HeldRate::new(),
        demand: *demand,
        waiting: [].into(),
        low: None,
        call: None,
        answer: None,
    };
    let mut nodes: Vec<Node> = demands.iter().map(node).collect();
    let (mut dice, mut bucket, mut outcome) = (Dice::new(1), None, Outcome::default());
    let (full, leaks) = (i128::from(terms.burst) * PARTS, rate_parts(&terms) * i128::from(step));
    let (mut leaking, mut one_bucket) = (0, 0);
    let begin = 1_000_000_000;
    for now in (begin..begin + seconds * 1_000_000).step_by(usize::try_from(step).unwrap()) {
        leaking = (leaking - leaks).max(0);
        one_bucket = (one_bucket - leaks).max(0);
        for node in &mut nodes {
            let mono = Monotonic(now * 1_000);
            let before = (outcome.asked, outcome.admitted);
            node.turn(now, mono, terms, (step, &mut dice), &mut outcome);
            leaking += i128::from(outcome.admitted - before.1) * PARTS;
            assert!(leaking <= full, "the curve, with {demands:?} at {terms:?}");
            for _ in before.0..outcome.asked {
                if one_bucket + PARTS <= full {
                    one_bucket += PARTS;
                    outcome.by_one_bucket += 1;
                }
            }
            if let Some((_, request)) = node.call.take_if(|(at, _)| *at <= now) {
                outcome.calls += 1;
                let told = if broken == Broken::SpentNotReported { Vec::new() } else { request.spent.clone() };
                let heard = RateRequest { spent: told, ..request.clone() };
                let known = Some(Incarnation { id: 1, age: u64::MAX });
                let (after, grant) = Bucket::step(bucket.take(), now, known, &heard);
                bucket = Some(after);
                node.answer = Some((now + TRIP, request, grant));
            }
        }
    }
    outcome
}

impl Node {
    /// Answers, requests and a wish of one moment.
    fn turn(
        &mut self,
        now: u64,
        mono: Monotonic,
        terms: RateTerms,
        (step, dice): (u64, &mut Dice),
        outcome: &mut Outcome,
    ) {
        if let Some((_, request, grant)) = self.answer.take_if(|(at, ..)| *at <= now) {
            self.held.granted(&request, &grant, mono);
            while !self.waiting.is_empty() && self.held.take(1, mono).is_some() {
                self.held.stop_waiting(1);
                self.waiting.pop_front();
                outcome.admitted += 1;
                outcome.waited += 1;
            }
        }
        while self.waiting.front().is_some_and(|until| *until <= now) {
            self.waiting.pop_front();
            self.held.stop_waiting(1);
        }
        let millionths = step * terms.units * self.demand / terms.seconds / 1_000;
        // Up to four at once: some nodes are asked for more than one a step.
        for _ in 0..4 {
            if dice.below(4_000_000) >= millionths {
                continue;
            }
            outcome.asked += 1;
            if let Some((_, low)) = self.held.take(1, mono) {
                outcome.admitted += 1;
                let at = match low {
                    Low::No => None,
                    Low::Soon => Some(now + GATHER),
                    Low::Now => Some(now),
                };
                self.low = self.low.or(at);
            } else if self.held.short_for(1, mono).is_none_or(|wait| wait < PATIENCE * 1_000) {
                self.held.start_waiting(1);
                self.waiting.push_back(now + PATIENCE);
            }
        }
        let is_low = self.low.take_if(|at| *at <= now).is_some();
        let calls = self.held.due() <= mono || is_low || !self.waiting.is_empty();
        if calls && let Some(request) = self.held.wish(&samples::counter(), terms, mono) {
            self.call = Some((now + TRIP, request));
        }
    }
}

const RATES: [(RateTerms, u64); 5] = [
    (RateTerms { units: 100, seconds: 1, burst: 100 }, 20),
    (RateTerms { units: 100, seconds: 1, burst: 20 }, 20),
    (RateTerms { units: 1_000, seconds: 1, burst: 50 }, 10),
    (RateTerms { units: 10, seconds: 1, burst: 10 }, 60),
    (RateTerms { units: 5, seconds: 60, burst: 5 }, 1_200),
];

fn thousandths((terms, seconds): (RateTerms, u64), outcome: &Outcome) -> u64 {
    outcome.admitted * 1_000 / (terms.burst + terms.units * seconds / terms.seconds)
}

#[test]
fn nodes_use_nearly_all_of_a_rate_between_them() {
    for (terms, seconds) in RATES {
        for demands in [&[1_500][..], &[1_200; 2], &[1_200; 3], &[1_200; 4], &[2_500, 20, 20, 20], &[300, 1_500, 1_500]]
        {
            let outcome = run(terms, demands, seconds, Broken::Nothing);
            let used = thousandths((terms, seconds), &outcome);
            assert!(used >= 950, "{used} of a thousand with {demands:?} at {terms:?}: {outcome:?}");
            // Not a call for every request: a node asks four times in a lease time at most.
            let most = 1_000_000 / micros(terms.lease_time()) * 4 * demands.len() as u64 + 4;
            assert!(outcome.calls / seconds <= most, "{outcome:?} with {demands:?} at {terms:?}");
        }
    }
}

#[test]
fn below_the_rate_nodes_admit_what_one_bucket_would() {
    for (terms, seconds) in RATES {
        for demands in [&[800][..], &[400; 2], &[200; 4], &[700, 50, 50]] {
            let outcome = run(terms, demands, seconds, Broken::Nothing);
            let enough = outcome.admitted * 100 >= outcome.by_one_bucket * 98;
            assert!(enough, "{outcome:?} with {demands:?} at {terms:?}");
            // Where it is more than one in a lease time, most find what they need.
            let often = terms.units * micros(terms.lease_time()) * demands[0] / terms.seconds >= 10_000_000_000;
            assert!(!often || outcome.waited * 4 < outcome.asked, "{outcome:?} with {demands:?} at {terms:?}");
        }
    }
}

#[test]
fn a_rate_whose_use_is_not_told_is_not_used() {
    let used =
        |rate: &(RateTerms, u64)| thousandths(*rate, &run(rate.0, &[1_200; 3], rate.1, Broken::SpentNotReported));
    assert!(RATES.iter().map(used).any(|used| used < 950), "nobody noticed that what is spent was never told");
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
