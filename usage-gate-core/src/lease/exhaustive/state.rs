//! What a small instance is made of: the ledger, two machines with the tables of their leases, and what is on its way between them.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use super::{DAY, LAST_TICK_OF_PERIOD, MIDNIGHT};
use crate::clock::Monotonic;
use crate::lease::inherit::{Fate, inherit};
use crate::lease::ledger::Ledger;
use crate::lease::slot::{SlotState, TableEntry};
use crate::model::{Per, StreamId, TenantId, Timestamp};
use crate::period::{AnchorDay, Calendar, Period, Zone};
use crate::store::*;

/// The ledger, and the numbers that decide what it does next.
#[derive(Debug, Clone)]
pub(super) struct Books {
    pub(super) ledger: Ledger,
    pub(super) numbers: Vec<u128>,
}

impl PartialEq for Books {
    fn eq(&self, other: &Self) -> bool {
        self.numbers == other.numbers
    }
}

impl Eq for Books {}

impl Hash for Books {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.numbers.hash(state);
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) tick: u64,
    pub(super) books: Books,
    pub(super) nodes: [Node; 2],
    pub(super) messages: Vec<Message>,
    pub(super) calls: u8,
    pub(super) asks: u8,
    pub(super) returns: u8,
    pub(super) kills: u8,
    pub(super) reboots: u8,
    pub(super) repeats: u8,
    pub(super) refunded: bool,
    /// Units that passed, by period.
    pub(super) admitted: [u64; 2],
}

/// A machine with the table of its leases, and the process on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Node {
    pub(super) life: u8,
    pub(super) table: u8,
    /// Whether the life has taken over what its predecessor left.
    pub(super) serves: bool,
    /// The call under way, and when it was sent.
    pub(super) call: Option<(Call, u64)>,
    pub(super) leases: BTreeMap<u8, Held>,
}

/// An entry of the table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Held {
    /// Nothing before the grant is known.
    pub(super) granted: Option<Granted>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Granted {
    pub(super) size: u64,
    pub(super) left: u64,
    pub(super) second_period: bool,
    /// From this tick on nothing is spent of it.
    pub(super) deadline: u64,
    pub(super) returning: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Call {
    pub(super) number: u8,
    pub(super) asks: Option<(u8, u64)>,
    pub(super) returns: Vec<(u8, u64)>,
    pub(super) reports: Vec<(u8, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Body {
    Register,
    Open(Vec<(u8, u64, u64)>),
    Lease(Call),
    /// Units of what was asked for, of which period, and for how many ticks from then.
    Answer {
        number: u8,
        units: u64,
        second_period: bool,
        ticks: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Message {
    pub(super) node: usize,
    pub(super) life: u8,
    pub(super) table: u8,
    pub(super) body: Body,
}

pub(super) fn lease_id(lease: u8) -> LeaseId {
    LeaseId::from_u128(u128::from(lease))
}

pub(super) fn number(id: LeaseId) -> u8 {
    u8::try_from(id.as_u128()).unwrap()
}

pub(super) fn wall(tick: u64) -> Timestamp {
    let ticks = i64::try_from(tick).unwrap() - i64::try_from(LAST_TICK_OF_PERIOD).unwrap();
    Timestamp::from_micros(MIDNIGHT + ticks * 3_600_000_000 - 1_800_000_000)
}

pub(super) fn calendar() -> Calendar {
    Calendar::new(Zone::UTC, AnchorDay::FIRST)
}

pub(super) fn counter() -> CounterId {
    let (limit, meter) = ("daily".into(), "requests".into());
    CounterId { tenant: TenantId::from_u128(1), subject: Subject::Tenant, limit, meter, per: Per::Day }
}

pub(super) fn reports(of: &[(u8, u64)]) -> Vec<LeaseReport> {
    of.iter().map(|(lease, used)| LeaseReport { lease: lease_id(*lease), used: *used }).collect()
}

pub(super) fn identity(node: usize, life: u8, table: u8) -> NodeIdentity {
    NodeIdentity {
        node: node.to_string(),
        boot: StreamId::from_u128(u128::from(life)),
        table: TableId::from_u128(u128::from(table)),
    }
}

impl Books {
    pub(super) fn change<T>(&mut self, change: impl FnOnce(&mut Ledger) -> T) -> T {
        let answer = change(&mut self.ledger);
        self.numbers = self.ledger.numbers();
        answer
    }

    /// Leases that the ledger has open for a node.
    pub(super) fn open_of(&self, node: usize) -> Vec<u8> {
        let open =
            [MIDNIGHT - DAY, MIDNIGHT].map(|start| self.ledger.open_in(&counter(), Timestamp::from_micros(start)));
        let name = node.to_string();
        let of_node = open.iter().flatten().filter(|(lease, _)| self.ledger.keeps(*lease, &name));
        of_node.map(|(lease, _)| number(*lease)).collect()
    }
}

impl Held {
    pub(super) fn used(&self) -> u64 {
        self.granted.map_or(0, |granted| granted.size - granted.left)
    }

    /// As the table has it.
    pub(super) fn entry(&self, lease: u8) -> TableEntry {
        let granted =
            self.granted.unwrap_or(Granted { size: 0, left: 0, second_period: false, deadline: 0, returning: false });
        TableEntry {
            state: if self.granted.is_some() { SlotState::Open } else { SlotState::Asked },
            lease: lease_id(lease),
            counter: counter(),
            period: Period { start: wall(0), end: wall(0) },
            deadline: Monotonic(granted.deadline),
            size: granted.size,
            left: i64::try_from(granted.left).unwrap(),
            returning: granted.returning,
            base: 0,
            life: 0,
            cap: 0,
            cap_version: 0,
        }
    }
}

impl Node {
    pub(super) fn spendable(&self, tick: u64) -> impl Iterator<Item = u8> {
        let can = move |held: &Held| held.granted.is_some_and(|of| of.left > 0 && !of.returning && tick < of.deadline);
        self.leases.iter().filter(move |(_, held)| self.serves && can(held)).map(|(lease, _)| *lease)
    }

    /// The next life: what the table says stays.
    pub(super) fn restart(&mut self) {
        self.life += 1;
        (self.serves, self.call) = (false, None);
    }
}

impl State {
    pub(super) fn send(&mut self, node: usize, body: Body) {
        let Node { life, table, .. } = self.nodes[node];
        self.messages.push(Message { node, life, table, body });
    }

    /// A call begins, with what is to be reported.
    pub(super) fn call(&mut self, node: usize, asks: Option<(u8, u64)>, returns: Vec<(u8, u64)>) {
        self.calls += 1;
        let (number, tick) = (self.calls, self.tick);
        let has = &mut self.nodes[node];
        let open = has.leases.iter().filter(|(_, held)| held.granted.is_some_and(|granted| !granted.returning));
        let reports = open.map(|(lease, held)| (*lease, held.used())).filter(|(_, used)| *used > 0).collect();
        let call = Call { number, asks, returns, reports };
        has.call = Some((call.clone(), tick));
        self.send(node, Body::Lease(call));
    }

    /// Takes over what the ledger has open and the table knows.
    pub(super) fn take_over(&mut self, node: usize, open: &[(u8, u64, u64)]) {
        let period = Period { start: wall(0), end: wall(0) };
        let open: Vec<OpenLease> = open
            .iter()
            .map(|(lease, size, used)| OpenLease { lease: lease_id(*lease), size: *size, used: *used, period })
            .collect();
        let has = &mut self.nodes[node];
        let entries: Vec<TableEntry> = has.leases.iter().map(|(lease, held)| held.entry(*lease)).collect();
        let plan = inherit(&open, &entries, Monotonic(self.tick), None);
        for (entry, fate) in entries.iter().zip(&plan.fates) {
            match has.leases.get_mut(&number(entry.lease)).and_then(|held| held.granted.as_mut()) {
                // Until the ledger has closed it, it stays in the table.
                Some(granted) if *fate == Fate::Freed => granted.returning = true,
                _ => {}
            }
        }
        let returns: Vec<(u8, u64)> = plan.returns.iter().map(|of| (number(of.lease), of.used)).collect();
        if returns.is_empty() {
            self.begin_serving(node);
        } else {
            self.call(node, None, returns);
        }
    }

    pub(super) fn begin_serving(&mut self, node: usize) {
        let has = &mut self.nodes[node];
        has.serves = true;
        has.leases.retain(|_, held| held.granted.is_some_and(|granted| !granted.returning));
    }
}
