//! Lives that start while the authority is away: they spend on, are killed at every step, and find it again.

use super::*;
use crate::lease::LeaseQueue;

/// A process that the authority has not heard of.
struct Away<'a> {
    life: Life<'a>,
    found: FoundLeases,
}

impl<'a> Away<'a> {
    fn start(world: &'a World) -> Self {
        let (mut driver, found) = Life::begin(world);
        driver.queue = Arc::new(LeaseQueue::closed());
        let mut found = FoundLeases::new(found);
        driver.spend_on(&mut found);
        Self { life: Life::of(world, driver), found }
    }

    /// What can be done without the authority: requests on what is held, and where the limit goes on, beyond it.
    fn work(&self) {
        for (units, cost) in [(4, 3), (2, 2), (1, 1)] {
            let held = self.life.quota().can_serve(units, self.life.driver.clock.monotonic());
            if !held && !self.life.world.beyond_cap {
                continue;
            }
            let request = self.life.admit(units).unwrap();
            self.life.settle(&request, cost);
        }
        assert!(at_once(self.life.driver.round(Round::Tick)).is_err(), "nobody is told anything");
    }

    /// The authority is back.
    fn join(mut self) -> Life<'a> {
        let driver = &self.life.driver;
        let open = at_once(driver.store.register(&driver.node)).unwrap();
        match self.life.world.broken {
            Broken::SpentOnForgotten => self.found = FoundLeases::new(Vec::new()),
            Broken::GoneSpentOn => {
                self.found = FoundLeases::new(Vec::new());
                driver.queue.open();
                return self.life;
            }
            _ => {}
        }
        at_once(driver.take_over(&open, &mut self.found)).unwrap();
        driver.queue.open();
        self.life
    }
}

/// Kills the first life at each `stride`th step, and the second, which begins without the authority, at every one of its own.
fn run_away(broken: Broken, beyond_cap: bool, stride: usize) -> Result<u64, String> {
    let (steps, ()) = crash::steps_of(|| Life::start(&World::new(broken, beyond_cap)).work());
    let mut runs = 0;
    for killed in (0..=steps).step_by(stride) {
        for killed_again in 0.. {
            let world = World::new(broken, beyond_cap);
            crash::killed_after(killed, || Life::start(&world).work());
            let second = || {
                let away = Away::start(&world);
                away.work();
                away.join().work();
            };
            let whole = crash::killed_after(killed_again, second).is_some();
            let third = Away::start(&world);
            third.work();
            third.join().finish();
            runs += 1;
            judge(&world, false).map_err(|fault| format!("{fault}; killed at {killed}, then at {killed_again}"))?;
            if whole {
                break;
            }
        }
    }
    Ok(runs)
}

#[test]
fn a1_to_a6_b9_a_life_that_starts_without_the_authority_loses_no_unit_and_creates_none() {
    for beyond_cap in [false, true] {
        let runs = run_away(Broken::Nothing, beyond_cap, 5).unwrap();
        assert!(runs > 1_000, "{runs}");
    }
}

#[test]
fn leases_that_are_spent_on_and_given_back_all_the_same_are_caught() {
    assert!(run_away(Broken::SpentOnForgotten, false, 11).is_err());
}

/// A life that was killed with a lease in its table, which spends on without the authority.
fn spending(world: &World) -> Away<'_> {
    let life = Life::start(world);
    let request = life.admit(7).unwrap();
    life.settle(&request, 7);
    drop((request, life));
    Away::start(world)
}

#[test]
fn a6_what_was_granted_is_spent_on_and_nothing_else() {
    let world = World::new(Broken::Nothing, false);
    let away = spending(&world);
    let now = world.clock.clock().monotonic();
    let left = away.life.quota().held(now);
    assert!(left > 0);
    let request = away.life.admit(1).unwrap();
    away.life.settle(&request, 1);
    drop(request);
    let (before, used) = (world.window().granted, world.window().used);
    assert!(at_once(away.life.driver.give_back()).is_err(), "nobody is there to take it");
    assert_eq!((world.window().granted, world.window().used), (before, used));
    let life = away.join();
    assert_eq!(life.quota().held(now), left - 1, "it goes on");
    assert_eq!((world.window().granted, world.window().used), (before, 8), "and the authority knows what was spent");
}

#[test]
fn a6_what_was_only_asked_for_or_goes_back_is_not_spent() {
    let world = World::new(Broken::Nothing, false);
    let life = Life::start(&world);
    // The answers are lost: a grant that nobody learned of, and a return that nobody confirmed.
    world.ledger.losing.store(1, Ordering::Relaxed);
    life.driver.queue.ask_for(&life.counter);
    assert!(at_once(life.driver.round(Round::Queued)).is_err());
    assert!(world.window().granted > 0);
    drop(life);
    let away = Away::start(&world);
    assert_eq!(away.life.quota().held(world.clock.clock().monotonic()), 0);
    drop(away);

    let world = World::new(Broken::Nothing, false);
    let life = Life::start(&world);
    let request = life.admit(3).unwrap();
    life.settle(&request, 3);
    drop(request);
    world.ledger.losing.store(1, Ordering::Relaxed);
    assert!(at_once(life.driver.give_back()).is_err());
    drop(life);
    let away = Away::start(&world);
    assert_eq!(away.life.quota().held(world.clock.clock().monotonic()), 0);
    at_once(away.join().driver.round(Round::Tick)).unwrap();
    assert_eq!((world.window().granted, world.window().used), (3, 3));
}

#[test]
fn a6_a_lease_that_went_back_is_spent_by_nobody_although_the_answer_was_lost() {
    let world = World::new(Broken::Nothing, false);
    let life = Life::start(&world);
    let request = life.admit(3).unwrap();
    life.settle(&request, 3);
    drop((request, life));

    // A life that cannot be sure that the period has begun gives the lease back, and does not hear that it has.
    let (mut driver, found) = Life::begin(&world);
    let (now, later) = (world.clock.clock().wall(), found[0].entry.period.start.plus_micros(1_000_000));
    driver.shared = true;
    let mut found = FoundLeases::new(found);
    let open = at_once(driver.store.register(&driver.node)).unwrap();
    world.clock.set_wall(later);
    world.ledger.losing.store(1, Ordering::Relaxed);
    assert!(at_once(driver.take_over(&open, &mut found)).is_err());
    assert_eq!(world.window().granted, 3, "it has gone back");
    world.clock.set_wall(now);
    let life = Life::of(&world, driver);
    life.driver.spend_on(&mut found);
    assert_eq!(life.quota().held(world.clock.clock().monotonic()), 0);
    drop((life, found));
    let away = Away::start(&world);
    assert_eq!(away.life.quota().held(world.clock.clock().monotonic()), 0, "nor by the next");
}

#[test]
fn a5_a_lease_that_the_authority_does_not_know_is_spent_no_more() {
    for broken in [Broken::Nothing, Broken::GoneSpentOn] {
        let world = World::new(broken, false);
        let away = spending(&world);
        // Somebody puts a database in its place that has never heard of this node.
        *world.ledger.ledger.lock().unwrap() = Ledger::default();
        let now = world.clock.clock().monotonic();
        assert!(away.life.quota().held(now) > 0);
        let life = away.join();
        assert_eq!(life.quota().held(now) > 0, broken == Broken::GoneSpentOn, "{broken:?}");
    }
}

#[test]
fn a4_a_lease_of_a_period_that_ends_meanwhile_is_not_spent_on() {
    let world = World::new(Broken::Nothing, false);
    let life = Life::start(&world);
    let request = life.admit(7).unwrap();
    life.settle(&request, 7);
    drop((request, life));
    world.clock.advance_millis(32 * 86_400_000);
    let away = Away::start(&world);
    assert_eq!(away.life.quota().held(world.clock.clock().monotonic()), 0);
}

#[test]
fn what_an_earlier_life_overdrew_counts_until_it_is_told() {
    let world = World::new(Broken::Nothing, true);
    let life = Life::start(&world);
    let request = life.admit(5).unwrap();
    life.settle(&request, 5);
    drop((request, life));
    let away = Away::start(&world);
    let period = world.window().period;
    let untold = |driver: &LeaseDriver| driver.counters.untold(&world.counter, period);
    assert_eq!(untold(&away.life.driver), 5);
    let life = away.join();
    assert_eq!((untold(&life.driver), world.window().used), (0, 5));
}
