//! Every order of a small instance: two nodes, a burst of two, a few half seconds; calls that are lost, late, repeated and out of order, a crash, a new incarnation.
//!
//! The authority is that of the product; a node is the least that keeps the protocol: it spends what it was lent, before the deadline, and tells what it has spent.

use stateright::{Checker, Model, Property};

use super::bucket::{Bucket, Incarnation};
use super::samples;
use super::simulation::{Broken, disturb};
use crate::store::{RateRequest, RateTerms};

/// Lent for a second, and a quarter of a unit in half a second.
const TERMS: RateTerms = RateTerms { units: 1, seconds: 2, burst: 2 };
const TICK: u64 = 500_000;
const LEASE_TICKS: u64 = 2;
const BEGINNING: u64 = 1_000 * TICK;
/// A unit in parts that a tick refills a whole number of.
const PARTS: i64 = 4;

/// What may happen how often.
struct Small {
    ticks: u64,
    asks: u8,
    restarts: u64,
    broken: Broken,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    tick: u64,
    bucket: Option<Bucket>,
    incarnation: u64,
    since: u64,
    nodes: [Node; 2],
    messages: Vec<Message>,
    asks: u8,
    crashed: bool,
    repeated: bool,
    /// What was admitted, as a bucket that leaks by the rate.
    admitted: i64,
}

/// Its call under way with the tick of sending, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
struct Node {
    asked: Option<(u8, u64)>,
    leases: Vec<Held>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Held {
    lease: u8,
    units: u64,
    spent: u64,
    deadline: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Message {
    Call { node: usize, lease: u8, want: u64, spent: Vec<(u8, u64)> },
    Answer { node: usize, lease: u8, units: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Tick,
    Ask { node: usize, want: u64 },
    Deliver { at: usize, stays: bool },
    Spend { node: usize },
    Crash { node: usize },
    Restart,
}

impl Model for Small {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            tick: 0,
            bucket: None,
            incarnation: 1,
            since: 0,
            nodes: Default::default(),
            messages: Vec::new(),
            asks: 0,
            crashed: false,
            repeated: false,
            admitted: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.tick < self.ticks {
            actions.push(Action::Tick);
        }
        for at in 0..state.messages.len() {
            actions.push(Action::Deliver { at, stays: false });
            if !state.repeated && matches!(state.messages[at], Message::Call { .. }) {
                actions.push(Action::Deliver { at, stays: true });
            }
        }
        for (node, has) in state.nodes.iter().enumerate() {
            if state.asks < self.asks && has.asked.is_none() {
                actions.extend([1, 2].map(|want| Action::Ask { node, want }));
            }
            if has.leases.iter().any(|held| held.spent < held.units && state.tick < held.deadline) {
                actions.push(Action::Spend { node });
            }
            if !state.crashed && !has.leases.is_empty() {
                actions.push(Action::Crash { node });
            }
        }
        if state.incarnation <= self.restarts {
            actions.push(Action::Restart);
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Tick => {
                state.tick += 1;
                state.admitted = (state.admitted - 1).max(0);
                for node in &mut state.nodes {
                    node.leases.retain(|held| state.tick < held.deadline);
                    node.asked.take_if(|(_, sent)| state.tick >= *sent + LEASE_TICKS);
                }
            }
            Action::Ask { node, want } => {
                state.asks += 1;
                let (lease, tick) = (state.asks, state.tick);
                state.nodes[node].asked = Some((lease, tick));
                let spent = state.nodes[node].leases.iter().map(|held| (held.lease, held.spent)).collect();
                state.messages.push(Message::Call { node, lease, want, spent });
            }
            Action::Deliver { at, stays } => {
                let message = state.messages[at].clone();
                if stays {
                    state.repeated = true;
                } else {
                    state.messages.remove(at);
                }
                self.deliver(&mut state, message);
            }
            Action::Spend { node } => {
                let tick = state.tick;
                let mut held = state.nodes[node].leases.iter_mut();
                held.find(|held| held.spent < held.units && tick < held.deadline)?.spent += 1;
                state.admitted += PARTS;
            }
            Action::Crash { node } => {
                state.crashed = true;
                state.nodes[node] = Node::default();
            }
            Action::Restart => {
                state.incarnation += 1;
                state.since = state.tick;
                state.bucket = None;
            }
        }
        // An answer that nobody waits for says nothing; the same messages in another order are the same. What is never delivered is lost.
        let nodes = &state.nodes;
        state.messages.retain(|message| match message {
            Message::Call { .. } => true,
            Message::Answer { node, lease, .. } => nodes[*node].asked.is_some_and(|(asked, _)| asked == *lease),
        });
        // The authority does not know nodes: with their names exchanged it is the same state.
        if state.nodes[1] < state.nodes[0] {
            state.nodes.swap(0, 1);
            for message in &mut state.messages {
                let (Message::Call { node, .. } | Message::Answer { node, .. }) = message;
                *node = 1 - *node;
            }
        }
        state.messages.sort_unstable();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("R1", |_, state: &State| {
                state.bucket.as_ref().is_none_or(|bucket| {
                    let lent = u128::from(bucket.outstanding()) * u128::from(bucket.scale);
                    bucket.level + lent <= u128::from(TERMS.burst) * u128::from(bucket.scale)
                })
            }),
            Property::always("curve", |_, state: &State| {
                state.admitted <= i64::try_from(TERMS.burst).unwrap_or(0) * PARTS
            }),
            Property::sometimes("all is used", |model: &Self, state: &State| {
                state.tick == model.ticks && state.admitted > PARTS
            }),
        ]
    }
}

impl Small {
    fn deliver(&self, state: &mut State, message: Message) {
        match message {
            Message::Call { node, lease, want, spent } => {
                let spent = spent.into_iter().map(|(lease, spent)| samples::report(lease.into(), spent)).collect();
                let request = RateRequest { spent, ..samples::request(TERMS, lease.into(), want) };
                let now = BEGINNING + state.tick * TICK;
                // The first incarnation is old.
                let age = if state.incarnation == 1 { u64::MAX } else { (state.tick - state.since) * TICK };
                let known = Some(Incarnation { id: state.incarnation, age });
                if let Some(bucket) = &mut state.bucket {
                    disturb(bucket, self.broken, now, &request);
                }
                let (bucket, grant) = Bucket::step(state.bucket.take(), now, known, &request);
                state.bucket = Some(bucket);
                state.messages.push(Message::Answer { node, lease, units: grant.units });
            }
            Message::Answer { node, lease, units } => {
                let node = &mut state.nodes[node];
                if let Some((_, sent)) = node.asked.take_if(|(asked, _)| *asked == lease)
                    && units > 0
                    && state.tick < sent + LEASE_TICKS
                {
                    node.leases.push(Held { lease, units, spent: 0, deadline: sent + LEASE_TICKS });
                    node.leases.sort_unstable();
                }
            }
        }
    }
}

fn explore(ticks: u64, asks: u8, restarts: u64, broken: Broken) -> impl Checker<Small> {
    // A run has a few hundred thousand to two million states.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Small { ticks, asks, restarts, broken }.checker().threads(threads).spawn_bfs().join()
}

#[test]
fn r1_and_the_curve_hold_in_every_order() {
    explore(5, 3, 0, Broken::Nothing).assert_properties();
}

#[test]
fn r1_and_the_curve_hold_in_every_order_through_a_restart() {
    explore(8, 2, 1, Broken::Nothing).assert_properties();
}

#[test]
fn reports_before_the_refill_break_the_curve() {
    assert!(explore(5, 3, 0, Broken::ReportsBeforeRefill).discovery("curve").is_some());
}
