//! What was spent without a lease, killed at every step.

use std::sync::atomic::Ordering;

use super::*;

#[test]
fn b9_debts_are_counted_once_wherever_the_process_is_killed() {
    let runs = run(Broken::Nothing, true, false, 5).unwrap();
    assert!(runs > 1_000, "{runs}");
}

#[test]
fn b9_after_a_reboot_no_debt_is_counted_twice() {
    run(Broken::Nothing, true, true, 31).unwrap();
}

#[test]
fn b9_a_debt_whose_answer_was_lost_is_counted_once() {
    let world = World::new(Broken::Nothing, true);
    let life = Life::start(&world);
    life.settle(&life.admit(5).unwrap(), 5);
    world.ledger.losing.store(2, Ordering::Relaxed);
    assert!(at_once(life.driver.round(Round::Tick)).is_err());
    // The number that was told stays; what comes now is another debt.
    life.settle(&life.admit(2).unwrap(), 2);
    assert!(at_once(life.driver.round(Round::Tick)).is_err());
    assert_eq!((world.window().used, life.quota().window()), (5, None));
    at_once(life.driver.round(Round::Tick)).unwrap();
    assert_eq!(world.window().used, 7);
    drop(life);
    let (_, found) = LeaseTable::open(&world.area, "a", StreamId::from_u128(9), KernelBoot::from_u128(1)).unwrap();
    assert_eq!(found.len(), 0, "their entries are free");
}

#[test]
fn a_debt_waits_for_what_requests_give_back_but_not_for_ever() {
    let world = World::new(Broken::Nothing, true);
    let life = Life::start(&world);
    let (long, short) = (life.admit(5).unwrap(), life.admit(7).unwrap());
    at_once(life.driver.round(Round::Tick)).unwrap();
    assert_eq!(world.window().used, 0);
    life.settle(&short, 0);
    drop(short);
    world.clock.advance_millis(3_600_001);
    at_once(life.driver.round(Round::Tick)).unwrap();
    assert_eq!(world.window().used, 5);
    // What comes too late is not granted again.
    life.settle(&long, 1);
    drop(long);
    at_once(life.driver.give_back()).unwrap();
    judge(&world, false).unwrap();
    assert_eq!(world.window().used, 5);
}

#[test]
fn what_was_all_given_back_is_not_told() {
    let world = World::new(Broken::Nothing, true);
    let life = Life::start(&world);
    life.settle(&life.admit(5).unwrap(), 0);
    let calls = life.driver.calls.load(Ordering::Relaxed);
    at_once(life.driver.round(Round::Tick)).unwrap();
    assert_eq!(life.driver.calls.load(Ordering::Relaxed), calls);
    drop(life);
    let (_, found) = LeaseTable::open(&world.area, "a", StreamId::from_u128(9), KernelBoot::from_u128(1)).unwrap();
    assert_eq!(found.len(), 0, "its entry is free");
}

#[test]
fn debts_that_die_with_the_process_are_caught() {
    check_caught(Broken::DebtsNotTold, false);
}

#[test]
fn debts_that_are_told_under_another_id_are_caught() {
    check_caught(Broken::DebtsRenamed, false);
}

#[test]
fn b9_a_lease_takes_no_more_back_than_was_spent_of_it() {
    let world = World::new(Broken::Nothing, false);
    let life = Life::start(&world);
    let held = life.admit(10).unwrap();
    // What is left is too small for who waits: it goes back, with what is held of it.
    life.quota().start_waiting(30);
    life.ask();
    life.quota().stop_waiting(30);
    life.settle(&life.admit(2).unwrap(), 2);
    life.settle(&held, 3);
    drop(held);
    at_once(life.driver.give_back()).unwrap();
    let recorded: i64 = world.records.borrow().iter().map(|(.., units)| units).sum();
    assert_eq!((world.totals(), recorded), ((10, 10), 10), "seven were to be given back, and two had been spent");
}
