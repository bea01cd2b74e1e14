//! How much of quotas and of a rate several nodes use between them, when nothing disturbs them and more is asked for than passes.

use super::request::{Order, PATIENCE};
use super::wire::lock;
use super::world::World;
use super::{Broken, Dice};
use crate::lease::Round;
use crate::store::RateTerms;

/// Milliseconds of a step: letters take one.
const STEP: i64 = 5;

/// Nodes are asked for so many requests a second, each, for so many seconds; one that takes nothing of the rate if it has none.
fn run(world: &mut World, demands: &[u64], seconds: i64, rate: u64) -> Result<(), String> {
    let until = world.now + seconds * 1_000;
    while world.now < until {
        world.pass_time(STEP);
        let letters = std::mem::take(&mut lock(&world.post).letters);
        for letter in letters {
            world.deliver(letter)?;
        }
        for (at, demand) in demands.iter().enumerate() {
            let demand = demand * u64::try_from(STEP).unwrap();
            let count = demand / 1_000 + u64::from(world.dice.below(1_000) < demand % 1_000);
            let round = match world.now {
                now if now % 1_000 == 0 => Round::Tick,
                now if now % 250 == 0 => Round::Recall,
                _ => Round::Queued,
            };
            world.on(at, |world, process| {
                if !process.serves() {
                    return Ok(());
                }
                process.wake(world)?;
                for _ in 0..count {
                    let (until, asked_at) = (world.now + PATIENCE, world.now);
                    process.request(world, Order { units: [1, 1], rate, is_bound: false, until, asked_at })?;
                    process.flights.clear();
                }
                process.ask(world, round);
                process.ask_for_rate(world);
                Ok(())
            })?;
        }
    }
    Ok(())
}

const HUNDRED: RateTerms = RateTerms { units: 100, seconds: 1, burst: 20 };

#[test]
fn nodes_use_nearly_all_of_the_curve_beside_their_quotas() {
    for demands in [&[60, 60][..], &[45; 3], &[35; 4], &[200, 3, 3]] {
        let nodes = u64::try_from(demands.len()).unwrap();
        let mut world = World::of(nodes, [1_000_000, 100_000], HUNDRED, Broken::Nothing, Dice::new(1));
        run(&mut world, demands, 20, 1).unwrap();
        let (passed, whole) = (world.passed, HUNDRED.burst + 20 * HUNDRED.units);
        assert!(passed * 100 >= whole * 95, "{passed} of {whole} with {demands:?}");
    }
}

/// Units of the smaller quota that were used, of 400: three nodes lease, then one alone is asked for units.
fn used_of_400(broken: Broken) -> i64 {
    let mut world = World::of(3, [1_000_000, 400], HUNDRED, broken, Dice::new(2));
    run(&mut world, &[30; 3], 2, 0).unwrap();
    run(&mut world, &[100, 0, 0], 10, 0).unwrap();
    world.books.by_key.iter().filter(|((at, _), _)| *at == 1).map(|(_, book)| book.used).sum()
}

#[test]
fn one_node_uses_what_the_others_do_not() {
    assert_eq!(used_of_400(Broken::Nothing), 400);
    assert!(used_of_400(Broken::RecallsLost) < 400, "nobody noticed that others were never asked for their units");
}
