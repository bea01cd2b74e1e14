//! Journal, seats, flusher, lease table and ledger together, as one node on one database, through crashes at every step.
//!
//! One seed is one run: a few lives of a process, each killed at a chosen store into mapped memory (in requests, in the driver's rounds, in shipping, in the
//! recovery that follows) or ended by a loss of power, with answers of the database that are lost, late or never given; then a last life that settles, gives
//! back and ships everything. The start, the driver, the recorder, the seats, the journal, the flusher and the ledger are those of the product; requests
//! do what `admission` does, in steps between which others go on. Between any two actions, and after each start, the invariants are
//! asserted: A1 to A6 of leases, B1 to B9 of usage.
//!
//! [`Broken`] variants leave out what the protocol demands; each must be caught, and every [`Mark`](marks::Mark) must be met. `USAGE_GATE_SIMULATION_RUNS`
//! and `USAGE_GATE_SIMULATION_SEED` run another number of seeds, or one.

mod database;
mod dice;
mod life;
mod marks;
mod nodes;
mod request;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use self::dice::Dice;
use self::life::Life;
use self::marks::{MARKS, Mark};
use self::world::World;
use crate::mapped::crash;

/// A part of the protocols that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// A node that has died is taken for gone, and its leases for unused.
    RefundByTimeout,
    /// A lease that the table has lost is taken for full.
    AbsentIsFull,
    /// What goes back is read before the lease is marked.
    NumberBeforeMark,
    /// The lease table is believed although the machine has lost its power.
    TableTrustedAfterReboot,
    /// A seat is free before its record is published.
    SeatFreedBeforePublish,
    /// Usage and watermark move apart.
    TwoTransactions,
    /// The journal forgets what the sink was only offered.
    CutAtTheAck,
    /// Leases that were spent on while the database was away are given back as if the table lacked them.
    SpentOnForgotten,
}

/// What may happen to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Faults {
    /// Processes are killed.
    Kills,
    /// And the machine loses its power.
    Power,
    /// Processes are killed, and the database is put back to an earlier state.
    Restores,
}

/// Actions of a life that is not killed.
const ACTIONS: u64 = 60;
const MOST_LIVES: u64 = 4;

/// One run: the marks that it came across, or the first breach.
fn run(seed: u64, faults: Faults, broken: Broken) -> Result<u64, String> {
    let world = World::new(seed, faults, broken);
    for _ in 0..1 + world.below(MOST_LIVES) {
        world.database.calm(world.one_in(3));
        // Few steps end it in its recovery.
        let most = if world.one_in(2) { 200 } else { 6_000 };
        let steps = world.below(most);
        let outcome = crash::killed_after(steps, || live(&world));
        world.tell(|| format!("life {} ended by {steps} steps", world.life()));
        match outcome {
            Some(outcome) => outcome?,
            None => world.marks.hit(if world.starting.get() { Mark::KilledInRecovery } else { Mark::KilledInLife }),
        }
        world.died();
        if faults == Faults::Power && world.one_in(2) {
            world.lose_power();
        }
        if faults == Faults::Restores && world.one_in(2) {
            world.restore();
        }
    }
    world.database.calm(true);
    let mut last = Life::start(&world).map_err(|error| format!("the last start failed: {error}"))?;
    world.recovered(last.stream)?;
    world.check(&last.held())?;
    for _ in 0..10 {
        last.act()?;
        world.check(&last.held())?;
    }
    last.drain()?;
    world.check(&[])?;
    world.finish()?;
    Ok(world.marks.bits())
}

/// A life until its end, if nobody kills it.
fn live(world: &World) -> Result<(), String> {
    let Ok(mut life) = Life::start(world) else {
        return Ok(());
    };
    world.recovered(life.stream)?;
    world.check(&life.held())?;
    for _ in 0..ACTIONS {
        life.act()?;
        world.check(&life.held())?;
    }
    // Whatever is dropped here is as dead as after any other kill.
    crash::kill()
}

#[expect(clippy::disallowed_methods, reason = "who looks for a fault says which runs")]
fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    match number("USAGE_GATE_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("USAGE_GATE_SIMULATION_RUNS").unwrap_or(default),
    }
}

/// Runs seeds on all processors; the marks that were met. Panics with the lowest seed that fails.
fn run_seeds(seeds: std::ops::Range<u64>, run: impl Fn(u64) -> Result<u64, String> + Sync) -> u64 {
    let (next, marks) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let failures: Vec<(u64, String)> = std::thread::scope(|scope| {
        let work = || {
            let mut failures = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end || !failures.is_empty() {
                    return failures;
                }
                match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed))) {
                    Ok(Ok(bits)) => drop(marks.fetch_or(bits, Ordering::Relaxed)),
                    Ok(Err(fault)) => failures.push((seed, fault)),
                    Err(panic) => {
                        let said = panic.downcast_ref::<String>().map_or("a panic", String::as_str);
                        failures.push((seed, said.to_owned()));
                    }
                }
            }
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    if let Some((seed, fault)) = failures.into_iter().min_by_key(|(seed, _)| *seed) {
        panic!("USAGE_GATE_SIMULATION_SEED={seed}: {fault}");
    }
    marks.load(Ordering::Relaxed)
}

/// The same for one node, with what may happen to its machine.
fn run_all(faults: Faults, default: u64, impossible: &[Mark]) {
    let seeds = seeds(default);
    let met = run_seeds(seeds.clone(), |seed| run(seed, faults, Broken::Nothing));
    if seeds.end - seeds.start >= 10_000 {
        let impossible = impossible.iter().fold(0_u64, |bits, mark| bits | 1 << *mark as u8);
        let missing: Vec<u8> = (0..MARKS).filter(|mark| (met ^ impossible) & (1 << mark) == 0).collect();
        assert_eq!(
            missing, [0_u8; 0],
            "situations that did not come up, or were said not to, by their place in `Mark`"
        );
    }
}

#[test]
fn a1_to_a6_and_b1_to_b9_hold_through_kills() {
    run_all(
        Faults::Kills,
        50_000,
        &[Mark::PowerLost, Mark::PowerLostInRecovery, Mark::SyncFailed, Mark::WaitedForTheDisk, Mark::Restored],
    );
}

#[test]
fn a1_to_a6_and_b1_to_b9_hold_through_losses_of_power() {
    run_all(Faults::Power, 25_000, &[Mark::Restored]);
}

#[test]
fn b1_to_b8_hold_when_the_database_is_put_back() {
    run_all(
        Faults::Restores,
        25_000,
        &[
            Mark::PowerLost,
            Mark::PowerLostInRecovery,
            Mark::SyncFailed,
            Mark::WaitedForTheDisk,
            Mark::SegmentGone,
            Mark::Cut,
        ],
    );
}

#[track_caller]
fn check_caught(faults: Faults, broken: Broken) {
    let caught = (0..20_000)
        .find(|seed| std::panic::catch_unwind(|| run(*seed, faults, broken)).map_or(true, |outcome| outcome.is_err()));
    assert!(caught.is_some(), "{broken:?} was not noticed");
}

#[test]
fn broken_leases_are_caught() {
    check_caught(Faults::Kills, Broken::RefundByTimeout);
    check_caught(Faults::Kills, Broken::AbsentIsFull);
    check_caught(Faults::Kills, Broken::NumberBeforeMark);
    check_caught(Faults::Kills, Broken::SpentOnForgotten);
    check_caught(Faults::Power, Broken::TableTrustedAfterReboot);
}

#[test]
fn broken_usage_is_caught() {
    check_caught(Faults::Kills, Broken::SeatFreedBeforePublish);
    check_caught(Faults::Kills, Broken::TwoTransactions);
    check_caught(Faults::Kills, Broken::CutAtTheAck);
}
