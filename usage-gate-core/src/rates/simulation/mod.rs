//! Nodes and the authority of one rate together, through calls that are lost, late, repeated and out of order, nodes that crash or stop, and an authority that
//! forgets, falls back to an older state, or has its clock set.
//!
//! One seed is one run. What nodes do is that of the product ([`HeldRate`](super::held::HeldRate)), and so is what the authority does ([`Bucket`](super::bucket::Bucket));
//! the network between them is the dice's. At every step: R1, what is in the bucket and lent is never more than the burst; R2, no node spends a lease that
//! the authority may have granted to others; R3, a new incarnation grants nothing before all that former ones lent is dead; and of all that was admitted, whatever
//! the interval, no more than the burst and what the rate brings in its time.
//!
//! [`Broken`] variants leave out what the protocol demands; each must be caught, and every [`Mark`](world::Mark) must be met. `USAGE_GATE_SIMULATION_RUNS` and
//! `USAGE_GATE_SIMULATION_SEED` run another number of seeds, or one.

mod throughput;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

pub(super) use self::world::disturb;
use self::world::{MARKS, World};

/// A part of the protocol that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    Nothing,
    /// Leases are dropped first, and then the bucket refills as though they had never been.
    UnorderedExpiry,
    /// The bucket refills beside leases that have ended, which are dropped afterwards.
    RefillBeforeExpiry,
    /// The bucket refills as though what is told now had been spent long ago.
    ReportsBeforeRefill,
    /// Another memory is taken for the same.
    NoIncarnation,
    /// What is not there is taken for full.
    AbsentIsFull,
    /// Nodes do not say what they have spent.
    SpentNotReported,
    /// A node goes on with a lease that is over.
    SpendsAfterTheDeadline,
    /// What was told as spent comes back.
    UndoAfterAReport,
}

#[expect(clippy::disallowed_methods, reason = "who looks for a fault says which runs")]
fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    match number("USAGE_GATE_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("USAGE_GATE_SIMULATION_RUNS").unwrap_or(default),
    }
}

#[test]
fn r1_to_r3_and_the_curve_hold_whatever_happens() {
    let seeds = seeds(150_000);
    let (next, marks) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let failures: Vec<(u64, String)> = std::thread::scope(|scope| {
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return None;
                }
                match World::run(seed, Broken::Nothing) {
                    Ok(met) => drop(marks.fetch_or(met, Ordering::Relaxed)),
                    Err(fault) => return Some((seed, fault)),
                }
            }
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().filter_map(|worker| worker.join().unwrap()).collect()
    });
    if let Some((seed, fault)) = failures.into_iter().min() {
        panic!("USAGE_GATE_SIMULATION_SEED={seed}: {fault}");
    }
    if seeds.end - seeds.start >= 10_000 {
        let met = marks.load(Ordering::Relaxed);
        let missing: Vec<u8> = (0..MARKS).filter(|mark| met & (1 << mark) == 0).collect();
        assert_eq!(missing, [0_u8; 0], "situations that did not come up, by their place in `Mark`");
    }
}

#[test]
fn broken_protocols_are_caught() {
    for broken in [
        Broken::UnorderedExpiry,
        Broken::ReportsBeforeRefill,
        Broken::NoIncarnation,
        Broken::AbsentIsFull,
        Broken::SpendsAfterTheDeadline,
        Broken::UndoAfterAReport,
    ] {
        let caught = (0..20_000).find_map(|seed| World::run(seed, broken).err());
        assert!(caught.is_some(), "{broken:?} was not noticed");
    }
}
