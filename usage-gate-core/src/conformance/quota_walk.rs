//! Random calls to a [`QuotaStore`], beside the ledger.

use super::quotas::{calendar, counter, next_life, node};
use crate::clock::{Clock, ManualClock};
use crate::model::{KeyId, Per};
use crate::period::{AnchorDay, Calendar, Zone};
use crate::store::{
    CounterId, LeaseAnswer, LeaseCall, LeaseDebt, LeaseId, LeaseReport, LeaseRequest, MemoryStore, NodeIdentity,
    QuotaStore, Subject, WindowQuery,
};

/// A few thousand random calls go to the store and to the ledger; every answer has to be the same. The store is empty and reads `clock`.
///
/// `USAGE_GATE_TEST_SEED` repeats a run: a failure says which seed it had.
pub async fn agrees_with_the_ledger<S: QuotaStore>(store: &S, clock: &ManualClock) {
    let seed = seed();
    let reference = MemoryStore::new(clock.clock());
    forgets_in_one_order(store, &reference, clock).await;
    let mut walk = Walk::new(seed, clock.clock());
    let started = clock.clock().wall();
    for step in 0..3_000 {
        let at = format!("step {step}, USAGE_GATE_TEST_SEED={seed}");
        match walk.below(100) {
            0..=2 => {
                let node = walk.register();
                let expected = reference.register(&node).await.expect("memory does not fail");
                assert_eq!(store.register(&node).await.expect("the store is there"), expected, "{at}");
            }
            3..=4 => clock.advance_millis(600_000),
            5 => clock.advance_millis(100),
            6 => {
                // Now and then the clock of a machine is set back, and now and then months pass.
                let days = i64::try_from(walk.below(1_000)).expect("a few");
                clock.set_wall(started.plus_micros(days * 86_400_000_000));
            }
            7 => {
                let incarnation = walk.below(4).to_string();
                let expected = reference.incarnation_age(&incarnation).await.expect("memory does not fail");
                assert_eq!(store.incarnation_age(&incarnation).await.expect("the store is there"), expected, "{at}");
            }
            8..=9 => {
                let template = walk.query();
                let expected = reference.subjects(&template, 5).await.expect("memory does not fail");
                assert_eq!(store.subjects(&template, 5).await.expect("the store is there"), expected, "{at}");
            }
            _ => {
                let call = walk.call();
                let expected = reference.lease(&call).await;
                let answer = store.lease(&call).await;
                match (&answer, &expected) {
                    (Ok(answer), Ok(expected)) => assert_eq!(answer, expected, "{at}: {call:?}"),
                    (Err(error), Err(expected)) => assert_eq!(error.kind(), expected.kind(), "{at}"),
                    _ => assert_eq!(format!("{answer:?}"), format!("{expected:?}"), "{at}: {call:?}"),
                }
                if let Ok(answer) = answer {
                    walk.learn(&answer);
                }
            }
        }
        reference.check_ledger();
        let queries: Vec<_> = (0..COUNTERS).map(|at| walk.query_of(at)).collect();
        let expected = reference.windows(&queries).await.expect("memory does not fail");
        assert_eq!(store.windows(&queries).await.expect("the store is there"), expected, "{at}");
    }
}

/// More windows that end together than one call forgets: both keep the same ones.
async fn forgets_in_one_order<S: QuotaStore>(store: &S, reference: &MemoryStore, clock: &ManualClock) {
    let (node, base, began) = (node("a"), counter(), clock.clock().wall());
    let request = |per| LeaseRequest {
        lease: LeaseId::generate(),
        counter: CounterId { per, subject: Subject::Key(KeyId::generate()), ..base.clone() },
        calendar: calendar(),
        cap: 100,
        cap_version: 1,
        want: 1,
        beyond_cap: false,
        early: false,
        needed: 0,
    };
    // At the end of a month, so that all kinds of periods end with it.
    let month = calendar().period(Per::Month, began);
    clock.set_wall(month.end.plus_micros(-1));
    let pers = [Per::Month, Per::Day, Per::Hour];
    let mut requests: Vec<_> = (0..90).map(|number| request(pers[number % 3])).collect();
    requests.reverse();
    let (nothing, call) = (LeaseCall::new(&node), LeaseCall { requests, ..LeaseCall::new(&node) });
    let stores: [&dyn QuotaStore; 2] = [store, reference];
    for store in stores {
        store.register(&node).await.expect("the store is there");
        store.lease(&call).await.expect("the store is there");
    }
    clock.set_wall(month.end.plus_micros(401 * 86_400_000_000));
    for store in stores {
        store.lease(&nothing).await.expect("the store is there");
    }
    clock.set_wall(month.end.plus_micros(-1));
    let query =
        |request: &LeaseRequest| WindowQuery { counter: request.counter.clone(), calendar: calendar(), cap: 100 };
    let queries: Vec<_> = call.requests.iter().map(query).collect();
    let expected = reference.windows(&queries).await.expect("memory does not fail");
    assert!(expected.iter().any(|window| window.granted == 0) && expected.iter().any(|window| window.granted == 1));
    assert_eq!(store.windows(&queries).await.expect("the store is there"), expected);
    clock.set_wall(began);
}

#[expect(
    clippy::disallowed_methods,
    reason = "a failed run is repeated by its seed, which only the environment can carry"
)]
pub(super) fn seed() -> u64 {
    let random = || u64::try_from(uuid::Uuid::now_v7().as_u128() & u128::from(u32::MAX)).unwrap_or(1);
    std::env::var("USAGE_GATE_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(random)
}

const COUNTERS: usize = 5;

/// What random nodes do: mostly sensible, now and then not.
#[derive(Debug)]
struct Walk {
    state: u64,
    counters: Vec<CounterId>,
    /// Of each counter: one is changed at the end of the month in which the walk begins.
    calendars: Vec<Calendar>,
    /// The latest life of each node.
    nodes: Vec<NodeIdentity>,
    former: Vec<NodeIdentity>,
    leases: Vec<LeaseId>,
    debts: Vec<LeaseDebt>,
    calls: Vec<LeaseCall>,
    clock: Clock,
    version: u32,
    caps: Vec<u64>,
}

impl Walk {
    fn new(seed: u64, clock: Clock) -> Self {
        let base = counter();
        let counters = vec![
            base.clone(),
            CounterId { subject: Subject::User(None), ..base.clone() },
            CounterId { subject: Subject::Key(KeyId::generate()), ..base.clone() },
            CounterId { per: Per::Day, ..base.clone() },
            CounterId { per: Per::Hour, ..base },
        ];
        let zone = |name: &str| name.parse::<Zone>().expect("a zone of the database");
        let late = AnchorDay::new(31).expect("a day of the month");
        let calendars = vec![
            Calendar::new(zone("Asia/Kolkata"), late),
            calendar().changed(zone("Asia/Tokyo"), AnchorDay::FIRST, clock.wall()),
            calendar(),
            Calendar::new(zone("America/New_York"), AnchorDay::FIRST),
            calendar(),
        ];
        let nodes = ["a", "b", "c"].map(node).to_vec();
        let caps = vec![100; COUNTERS];
        let (former, leases, debts, calls) = (vec![], vec![], vec![], vec![]);
        Self { state: seed, counters, calendars, nodes, former, leases, debts, calls, clock, version: 1, caps }
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn index(&mut self, length: usize) -> usize {
        let bound = u64::try_from(length.max(1)).unwrap_or(1);
        usize::try_from(self.below(bound)).unwrap_or(0)
    }

    fn register(&mut self) -> NodeIdentity {
        let at = self.index(self.nodes.len());
        if self.below(3) > 0 {
            let fresh = if self.below(2) == 0 { next_life(&self.nodes[at]) } else { node(&self.nodes[at].node) };
            let former = std::mem::replace(&mut self.nodes[at], fresh);
            self.former.push(former);
        }
        self.nodes[at].clone()
    }

    fn query_of(&self, at: usize) -> WindowQuery {
        WindowQuery { counter: self.counters[at].clone(), calendar: self.calendars[at].clone(), cap: self.caps[at] }
    }

    fn query(&mut self) -> WindowQuery {
        let at = self.index(COUNTERS);
        self.query_of(at)
    }

    fn reports(&mut self) -> Vec<LeaseReport> {
        let count = self.below(3);
        (0..count)
            .map(|_| {
                let known = !self.leases.is_empty() && self.below(10) > 0;
                let recent = self.leases.len().saturating_sub(12);
                let at = if self.below(4) > 0 {
                    recent + self.index(self.leases.len() - recent)
                } else {
                    self.index(self.leases.len())
                };
                let lease = if known { self.leases[at] } else { LeaseId::generate() };
                LeaseReport { lease, used: if self.below(50) == 0 { self.next() } else { self.below(40) } }
            })
            .collect()
    }

    /// Of this period and some others, new ones and such that were told before.
    fn debts(&mut self) -> Vec<LeaseDebt> {
        let count = self.below(4).saturating_sub(1);
        (0..count)
            .map(|_| {
                if !self.debts.is_empty() && self.below(3) == 0 {
                    let at = self.index(self.debts.len());
                    let used = if self.below(2) == 0 { self.debts[at].used } else { self.below(40) };
                    return LeaseDebt { used, ..self.debts[at].clone() };
                }
                let at = self.index(COUNTERS);
                let days = i64::try_from(self.below(450)).expect("a few");
                let ago = if self.below(4) == 0 { days * 86_400_000_000 } else { 0 };
                let counter = self.counters[at].clone();
                let debt = LeaseDebt {
                    lease: LeaseId::generate_debt(),
                    period: self.calendars[at].period(counter.per, self.clock.wall().plus_micros(-ago)),
                    counter,
                    cap: self.caps[at],
                    cap_version: if self.below(2) == 0 { 0 } else { self.version },
                    used: if self.below(50) == 0 { self.next() } else { self.below(20) },
                };
                self.debts.push(debt.clone());
                debt
            })
            .collect()
    }

    fn request(&mut self) -> LeaseRequest {
        let at = self.index(COUNTERS);
        if self.below(25) == 0 {
            self.version += 1;
            self.caps[at] = self.below(200);
        }
        let older = u32::from(self.below(10) == 0);
        LeaseRequest {
            lease: LeaseId::generate(),
            counter: self.counters[at].clone(),
            calendar: self.calendars[at].clone(),
            cap: if older == 1 { 1_000 } else { self.caps[at] },
            cap_version: self.version - older.min(self.version),
            want: self.below(40),
            beyond_cap: self.below(15) == 0,
            early: self.below(6) == 0,
            needed: self.below(40).saturating_sub(20),
        }
    }

    fn call(&mut self) -> LeaseCall {
        if !self.calls.is_empty() && self.below(8) == 0 {
            let at = self.index(self.calls.len());
            return self.calls[at].clone();
        }
        let at = self.index(self.nodes.len());
        let mut node = self.nodes[at].clone();
        if !self.former.is_empty() && self.below(20) == 0 {
            let at = self.index(self.former.len());
            node = self.former[at].clone();
        }
        let (reports, returns) = (self.reports(), self.reports());
        let count = self.below(4);
        let mut requests: Vec<_> = (0..count).map(|_| self.request()).collect();
        requests.sort_by(|one, other| one.counter.cmp(&other.counter));
        let debts = self.debts();
        let call = LeaseCall { reports, returns, debts, requests, ..LeaseCall::new(&node) };
        self.calls.push(call.clone());
        call
    }

    fn learn(&mut self, answer: &LeaseAnswer) {
        self.leases.extend(answer.grants.iter().filter(|grant| grant.units > 0).map(|grant| grant.lease));
    }
}
