//! Several nodes on one ledger, and on one authority of a rate, with requests that take of two quotas and the rate, all or none.
//!
//! One seed is one run. What nodes do is that of the product: lease tables, counters, both drivers with their calls under way, starts that take over what
//! a former life has left. So is what the ledger and the bucket do. The network between them is the dice's, and so is what happens to them: kills at any store
//! into the table, reboots, lost disks, nodes that stop, letters that are lost, late, repeated and out of order, plans that change, periods that end, authorities that are away,
//! forget, fall back to an older state or have their clocks set. At every step A1 to A6 and R1 to R5 hold, and of each quota no more passes than its cap and
//! what the protocols' A.4 allows for what has happened in that run. In the end all is given back, and the ledger counts what was used.
//!
//! [`Broken`] variants leave out what the protocols demand; each must be caught, and every [`Mark`](marks::Mark) must be met.

mod authority;
mod books;
mod faults;
mod marks;
mod process;
mod request;
mod throughput;
mod wire;
mod world;

use self::marks::MARKS;
use self::world::World;
use super::{Dice, run_seeds, seeds};

/// A part of the protocols that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// What a node holds that was not heard of for long is taken for unused.
    RefundByTimeout,
    /// Calls of a life are heard although a later one has registered.
    FormerLifeHeard,
    /// What was spent without a lease is not booked.
    DebtsNotBooked,
    /// A call that was granted nothing is granted something where it arrives once more.
    RefusalsForgotten,
    /// A plan that is not the latest changes the cap.
    OldPlanWins,
    /// Others are not told that units are needed.
    RecallsLost,
    /// Units of the next period are taken for those of the present one.
    EarlyIsNow,
    /// The lease table is believed although the machine has lost its power.
    TableTrustedAfterReboot,
    /// A refused request keeps what other limits gave it.
    NotAllOrNone,
    /// A node goes on without the ledger for as long as it likes.
    OverdraftUnbounded,
}

#[test]
fn a1_to_a6_and_r1_to_r5_hold_for_several_nodes() {
    let runs = seeds(100_000);
    let met = run_seeds(runs.clone(), |seed| World::run(seed, Broken::Nothing));
    if runs.end - runs.start >= 10_000 {
        let missing: Vec<u8> = (0..MARKS).filter(|mark| met & (1 << mark) == 0).collect();
        assert_eq!(missing, [0_u8; 0], "situations that did not come up, by their place in `Mark`");
    }
}

#[test]
fn broken_protocols_of_several_nodes_are_caught() {
    for broken in [
        Broken::RefundByTimeout,
        Broken::FormerLifeHeard,
        Broken::DebtsNotBooked,
        Broken::RefusalsForgotten,
        Broken::OldPlanWins,
        Broken::EarlyIsNow,
        Broken::TableTrustedAfterReboot,
        Broken::NotAllOrNone,
        Broken::OverdraftUnbounded,
    ] {
        let is_caught =
            |seed: u64| std::panic::catch_unwind(|| World::run(seed, broken)).map_or(true, |outcome| outcome.is_err());
        assert!((0..20_000).any(is_caught), "{broken:?} was not noticed");
    }
}
