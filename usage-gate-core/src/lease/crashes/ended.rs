//! Leases that end although nobody was killed: unused, old, or of a process that was replaced.

use super::*;

#[test]
fn a6_leases_that_nobody_asks_for_go_back_after_a_while() {
    let world = World::new(Broken::Nothing, false);
    let life = Life::start(&world);
    let request = life.admit(5).unwrap();
    life.settle(&request, 5);
    drop((request, life));
    let (stream, kernel) = (StreamId::from_u128(9), KernelBoot::from_u128(1));
    let (table, found) = LeaseTable::open(&world.area, "a", stream, kernel).unwrap();
    assert_eq!(found.len(), 1);
    let driver = driver(&world, stream, table);
    let open = at_once(driver.store.register(&driver.node)).unwrap();
    at_once(driver.take_over(&open, &mut FoundLeases::new(found))).unwrap();
    at_once(driver.round(Round::Tick)).unwrap();
    assert_eq!((world.window().granted, world.window().used), (16, 5));
    world.clock.advance_millis(31_000);
    at_once(driver.round(Round::Tick)).unwrap();
    assert_eq!((world.window().granted, world.window().used), (5, 5));
    drop(driver);
    let (_, found) = LeaseTable::open(&world.area, "a", stream, kernel).unwrap();
    assert_eq!(found.len(), 0, "their entries are free");
}

#[test]
fn a_lease_does_not_become_idle_by_being_looked_at() {
    let world = World::new(Broken::Nothing, false);
    let life = Life::start(&world);
    let mut used = 0;
    for second in 0..20 {
        // Somebody looks at the limits all the time, and once in two seconds there is a request.
        if second % 2 == 0 && used < 10 {
            let request = life.admit(1).unwrap();
            life.settle(&request, 1);
            used += 1;
        }
        (0..9).for_each(|_| at_once(life.driver.report()).unwrap());
        assert_eq!((world.window().granted, world.window().used), (16, used));
        at_once(life.driver.round(Round::Tick)).unwrap();
        assert_eq!(world.window().granted, 16, "second {second}");
    }
}

#[test]
fn b9_a_lease_does_not_grow_older_than_its_records_are_kept() {
    let world = World::new(Broken::Nothing, false);
    let life = Life::start(&world);
    let request = life.admit(5).unwrap();
    life.settle(&request, 5);
    drop(request);
    world.clock.advance_millis(3_600_000);
    at_once(life.driver.round(Round::Tick)).unwrap();
    assert_eq!(world.window().granted, 16);
    world.clock.advance_millis(1);
    at_once(life.driver.round(Round::Tick)).unwrap();
    assert_eq!(world.window().granted, 5);
}

#[test]
fn a_refused_call_leaves_nothing_in_the_table() {
    let world = World::new(Broken::Nothing, false);
    let life = Life::start(&world);
    drop(life.admit(7));
    drop(life);
    let life = Life::start(&world);
    // Another process has taken over while this one runs: its calls are refused, whatever they are for.
    let later = NodeIdentity { boot: StreamId::from_u128(99), ..life.driver.node.clone() };
    at_once(world.ledger.register(&later)).unwrap();
    for round in [Round::Queued, Round::Drain, Round::Drain] {
        life.driver.queue.ask_for(&life.counter);
        assert!(at_once(life.driver.round(round)).is_err());
    }
    drop(life);
    let (_, found) = LeaseTable::open(&world.area, "a", later.boot, KernelBoot::from_u128(1)).unwrap();
    assert_eq!(found.len(), 1, "the lease of the first life, and no wish");
}
