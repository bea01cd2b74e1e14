//! The authority of quotas as a pure state machine: no I/O, no clock, no lock. Class Q of the protocols.
//!
//! This file is the specification. The memory store is this ledger behind a lock. Stores in SQL keep the same rows, let the same
//! [`WindowRow`] decide, and run the same random calls against this ledger, step by step.
//!
//! A call is worked off in this order:
//!
//! 1. The node's registered process life must be the caller's, else nothing happens.
//! 2. Reports raise what is known of open leases.
//! 3. Returns close leases: the unspent rest is given back, or a debt is booked.
//! 4. Debts are booked: leases that were spent before anybody knew of them, and are closed at once. What is told of one is cumulative, and counts once.
//! 5. Requests get their grants; an id that is known gets the same grant again. Where too little is left for who waits, open leases are recalled. A call that is
//!    not newer than the latest of its life that asked for units is granted nothing new: what is not known of it got nothing, or nobody waits for it any more.
//!
//! Invariant: nothing here closes a lease because time passed. Only its holder, or the next life of its node, ends a lease (A6).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

pub(crate) use super::window::{MOST_UNITS, WindowRow, unused_window};
use crate::model::{StreamId, Timestamp};
use crate::period::Period;
use crate::store::{
    CounterId, CounterTag, LeaseAnswer, LeaseCall, LeaseDebt, LeaseGrant, LeaseId, LeaseReport, LeaseRequest,
    NodeIdentity, OpenLease, TableId, WindowQuery, WindowState,
};

/// How long a closed lease is remembered, so that a repeated call finds it: far longer than any node repeats one.
const CLOSED_LEASE_KEPT_MICROS: i64 = 3_600 * 1_000_000;
/// How long a debt is remembered: it is told again by the next life of a node that was killed before it knew the answer, and records of it may come late.
/// Far longer than a node that comes back at all is away, and than records are kept where they are written.
const DEBT_KEPT_MICROS: i64 = 30 * 86_400 * 1_000_000;
/// How long a window is kept after its period.
const WINDOW_KEPT_MICROS: i64 = 400 * 86_400 * 1_000_000;
/// Rows of each kind that one call forgets at most: more than it can add, so that what is kept stays bounded.
pub(crate) fn forgotten_at_most(call: &LeaseCall) -> usize {
    [call.requests.len(), call.returns.len(), call.debts.len()].into_iter().fold(64, usize::saturating_add)
}

/// Closed leases that were closed before this instant are forgotten.
pub(crate) const fn closed_leases_kept_since(now: Timestamp) -> Timestamp {
    now.plus_micros(-CLOSED_LEASE_KEPT_MICROS)
}

/// Debts that were told before this instant are forgotten.
pub(crate) const fn debts_kept_since(now: Timestamp) -> Timestamp {
    now.plus_micros(-DEBT_KEPT_MICROS)
}

/// Windows whose period ended before this instant are forgotten, leases and all.
pub(crate) const fn windows_kept_since(now: Timestamp) -> Timestamp {
    now.plus_micros(-WINDOW_KEPT_MICROS)
}

/// The caller's process life is not the node's latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superseded;

/// A debt as records cite it, by which what is told and what is recorded of it meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DebtKey {
    pub(crate) counter: CounterTag,
    /// Start of the period, in whole seconds.
    pub(crate) second: Timestamp,
    pub(crate) lease: u64,
}

impl DebtKey {
    pub(crate) fn of(debt: &LeaseDebt) -> Self {
        Self { counter: debt.counter.tag(), second: debt.period.start.floor_seconds(), lease: debt.lease.tag() }
    }
}

/// All windows, leases and nodes.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Ledger {
    nodes: HashMap<Arc<str>, Node>,
    windows: BTreeMap<CounterId, BTreeMap<Timestamp, Window>>,
    leases: HashMap<LeaseId, Lease>,
    /// Closed leases by the instant of closing, to be forgotten in that order.
    closed: BTreeSet<(Timestamp, LeaseId)>,
    /// What is booked of debts, and when that was told.
    debts: HashMap<DebtKey, (u64, Timestamp)>,
    /// Debts by the instant of telling, to be forgotten in that order.
    told: BTreeSet<(Timestamp, DebtKey)>,
    /// Windows by their end, the counter's text and the start, to be forgotten in that order: every store has one that can be compared.
    ends: BTreeMap<(Timestamp, String, Timestamp), CounterId>,
    /// Open leases of which others need units, by their holder.
    recalled: BTreeSet<(Arc<str>, LeaseId)>,
}

/// The latest life of a node.
#[derive(Debug, Clone, Copy)]
struct Node {
    boot: StreamId,
    table: TableId,
    /// The largest number of a call that asked for units.
    heard: u64,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Window {
    row: WindowRow,
    open: BTreeSet<LeaseId>,
    closed: BTreeSet<LeaseId>,
}

impl Window {
    fn new(period: Period, cap: u64, cap_version: u32) -> Self {
        let row = WindowRow::new(period, cap, cap_version);
        Self { row, open: BTreeSet::new(), closed: BTreeSet::new() }
    }
}

#[derive(Debug, Clone)]
struct Lease {
    counter: CounterId,
    start: Timestamp,
    node: Arc<str>,
    boot: StreamId,
    size: u64,
    used: u64,
    /// Nothing while it is open.
    closed_at: Option<Timestamp>,
}

impl Lease {
    fn is_open_of(&self, node: &str) -> bool {
        self.closed_at.is_none() && *self.node == *node
    }
}

impl Ledger {
    /// A new process life of a node, and what the node has open. What earlier lives left open goes over to it if it has their table; else it
    /// is closed as spent, because nobody can say what was left of it (A6).
    pub(crate) fn register(&mut self, identity: &NodeIdentity, now: Timestamp) -> Vec<OpenLease> {
        let former = self.nodes.get(&*identity.node).copied();
        if former.is_none_or(|former| former.boot != identity.boot) {
            let of_node = |lease: &Lease| lease.is_open_of(&identity.node);
            if former.is_some_and(|former| former.table == identity.table) {
                for lease in self.leases.values_mut().filter(|lease| of_node(lease)) {
                    lease.boot = identity.boot;
                }
            } else {
                let left = self.leases.iter().filter(|(_, lease)| of_node(lease)).map(|(id, _)| *id);
                for id in left.collect::<Vec<LeaseId>>() {
                    self.end(id, now, |row, lease| row.write_off(lease.size, lease.used));
                }
            }
            let node = Node { boot: identity.boot, table: identity.table, heard: 0 };
            self.nodes.insert(identity.node.as_str().into(), node);
        }
        self.open_of(&identity.node)
    }

    /// Open leases of a node, by id.
    fn open_of(&self, node: &str) -> Vec<OpenLease> {
        let open = self.leases.iter().filter(|(_, lease)| lease.is_open_of(node));
        let mut open: Vec<OpenLease> = open
            .filter_map(|(id, lease)| {
                let period = self.window(&lease.counter, lease.start)?.row.period;
                Some(OpenLease { lease: *id, size: lease.size, used: lease.used, period })
            })
            .collect();
        open.sort_unstable_by_key(|open| open.lease);
        open
    }

    /// One call, whole or not at all.
    pub(crate) fn lease(&mut self, call: &LeaseCall, now: Timestamp) -> Result<LeaseAnswer, Superseded> {
        let (node, heard) = match self.nodes.get_key_value(&*call.node.node) {
            Some((node, latest)) if latest.boot == call.node.boot => (Arc::clone(node), latest.heard),
            _ => return Err(Superseded),
        };
        for report in &call.reports {
            self.report(report, &node);
        }
        for returned in &call.returns {
            // The last word of its holder, which may be less than was reported: units that were held at that time have come back.
            if self.is_open_of(returned.lease, &node) {
                self.close(returned.lease, returned.used.min(MOST_UNITS), now);
            }
        }
        for debt in &call.debts {
            self.book(debt, now);
        }
        let is_new = call.number > heard;
        if is_new && !call.requests.is_empty() {
            self.nodes.entry(Arc::clone(&node)).and_modify(|latest| latest.heard = call.number);
        }
        let mut active_nodes = 1;
        let mut granted = Vec::with_capacity(call.requests.len());
        for request in &call.requests {
            let (units, start, nodes) = self.grant(request, &node, call.node.boot, is_new, now);
            active_nodes = active_nodes.max(nodes);
            granted.push((request, units, start));
        }
        // The state after the whole call, also where it asks twice for one counter.
        let grants = granted
            .into_iter()
            .map(|(request, units, start)| {
                let counter = self.leases.get(&request.lease).map_or(&request.counter, |lease| &lease.counter);
                let window =
                    self.state(counter, start).unwrap_or_else(|| unused_window(request.period(now), request.cap));
                LeaseGrant { lease: request.lease, units, window }
            })
            .collect();
        let recalled = self.recalled_of(&node);
        self.forget(forgotten_at_most(call), now);
        Ok(LeaseAnswer { now, active_nodes, grants, recalled })
    }

    /// Present use of counters.
    pub(crate) fn windows(&self, queries: &[WindowQuery], now: Timestamp) -> Vec<WindowState> {
        queries
            .iter()
            .map(|query| {
                let period = query.calendar.period(query.counter.per, now);
                self.state(&query.counter, period.start)
                    .map_or_else(|| unused_window(period, query.cap), |state| WindowState { period, ..state })
            })
            .collect()
    }

    /// Subjects of a tenant's limit in the present period, those with most granted first, then by the counter's text.
    pub(crate) fn subjects(
        &self,
        template: &WindowQuery,
        most: usize,
        now: Timestamp,
    ) -> Vec<(CounterId, WindowState)> {
        let wanted = &template.counter;
        let period = template.calendar.period(wanted.per, now);
        // Counters are ordered by tenant first.
        let first = CounterId {
            tenant: wanted.tenant,
            subject: crate::store::Subject::Tenant,
            limit: "".into(),
            meter: "".into(),
            per: crate::model::Per::Second,
        };
        let mut found: Vec<(CounterId, WindowState)> = self
            .windows
            .range(first..)
            .take_while(|(counter, _)| counter.tenant == wanted.tenant)
            .filter(|(counter, _)| {
                counter.limit == wanted.limit && counter.meter == wanted.meter && counter.per == wanted.per
            })
            .filter_map(|(counter, _)| {
                let state = self.state(counter, period.start)?;
                Some((counter.clone(), WindowState { period, ..state }))
            })
            .collect();
        found.sort_by_cached_key(|(counter, state)| (std::cmp::Reverse(state.granted), counter.to_string()));
        found.truncate(most);
        found
    }

    /// Every window, with its start, and sizes and reported use of its open leases.
    pub(crate) fn audited(&self) -> impl Iterator<Item = (&CounterId, Timestamp, WindowRow, u64, u64)> {
        self.windows.iter().flat_map(move |(counter, starts)| {
            starts.iter().map(move |(start, window)| {
                let open = || window.open.iter().filter_map(|id| self.leases.get(id));
                let size = open().fold(0_u64, |sum, lease| sum.saturating_add(lease.size));
                let used = open().fold(0_u64, |sum, lease| sum.saturating_add(lease.used));
                (counter, *start, window.row, size, used)
            })
        })
    }

    /// Whether a call is granted nothing new, for tests.
    #[cfg(test)]
    pub(crate) fn has_heard(&self, call: &LeaseCall) -> bool {
        self.nodes
            .get(&*call.node.node)
            .is_some_and(|latest| latest.boot == call.node.boot && call.number <= latest.heard)
    }

    /// Whether a debt was told, for tests.
    #[cfg(test)]
    pub(crate) fn knows(&self, debt: &DebtKey) -> bool {
        self.debts.contains_key(debt)
    }

    /// Open leases of a window with their reported use, for tests.
    #[cfg(test)]
    pub(crate) fn open_in(&self, counter: &CounterId, start: Timestamp) -> Vec<(LeaseId, u64)> {
        let window = self.windows.get(counter).and_then(|starts| starts.get(&start));
        let open = window.into_iter().flat_map(|window| &window.open);
        open.filter_map(|id| Some((*id, self.leases.get(id)?.used))).collect()
    }

    /// Whether this node can go on with a lease, for tests: it is open, or closed as spent.
    #[cfg(test)]
    pub(super) fn keeps(&self, lease: LeaseId, node: &str) -> bool {
        self.leases
            .get(&lease)
            .is_some_and(|lease| *lease.node == *node && (lease.closed_at.is_none() || lease.used >= lease.size))
    }

    /// Nodes, windows and leases in numbers, in one order, for tests that compare whole states. What is recalled, and when anything happened, is left out.
    #[cfg(test)]
    pub(super) fn numbers(&self) -> Vec<u128> {
        let nodes: BTreeMap<&str, &Node> = self.nodes.iter().map(|(name, node)| (&**name, node)).collect();
        let leases: BTreeMap<LeaseId, &Lease> = self.leases.iter().map(|(id, lease)| (*id, lease)).collect();
        let rows = self.audited().map(|(_, start, row, ..)| (start, row));
        let mut numbers: Vec<u128> =
            nodes.values().flat_map(|node| [node.boot.as_u128(), node.table.as_u128(), node.heard.into()]).collect();
        numbers.extend(rows.flat_map(|(start, row)| {
            [start.as_micros().unsigned_abs(), row.cap, row.ceiling, row.granted, row.overrun, row.used_closed]
                .map(u128::from)
        }));
        for (id, lease) in leases {
            let closed = u64::from(lease.closed_at.is_some());
            numbers.extend([id.as_u128(), lease.boot.as_u128()]);
            numbers.extend([lease.start.as_micros().unsigned_abs(), lease.size, lease.used, closed].map(u128::from));
        }
        numbers
    }

    /// Asserts A1 and A2 for every window, for tests.
    #[cfg(any(test, feature = "conformance"))]
    pub(crate) fn check(&self) {
        for (counter, starts) in &self.windows {
            for window in starts.values() {
                let row = &window.row;
                assert!(row.keeps_a1(), "A1 is broken for {counter}: {row:?}");
                let open: u64 = window.open.iter().filter_map(|id| self.leases.get(id)).map(|lease| lease.size).sum();
                assert_eq!(open.saturating_add(row.used_closed), row.granted, "A2 is broken for {counter}: {row:?}");
            }
        }
    }

    /// Whether this node has the lease open. A5: what is said of any other changes nothing.
    fn is_open_of(&self, lease: LeaseId, node: &str) -> bool {
        self.leases.get(&lease).is_some_and(|lease| lease.is_open_of(node))
    }

    /// Raises what is known of an open lease of this node.
    fn report(&mut self, report: &LeaseReport, node: &str) {
        if self.is_open_of(report.lease, node)
            && let Some(lease) = self.leases.get_mut(&report.lease)
        {
            lease.used = lease.used.max(report.used.min(MOST_UNITS));
        }
    }

    fn close(&mut self, id: LeaseId, used: u64, now: Timestamp) {
        self.end(id, now, |row, lease| row.close(lease.size, used));
    }

    /// Closes a lease with what `book` makes of it.
    fn end(&mut self, id: LeaseId, now: Timestamp, book: impl FnOnce(&mut WindowRow, &Lease) -> u64) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        let window = self.windows.get_mut(&lease.counter).and_then(|starts| starts.get_mut(&lease.start));
        let Some(window) = window else { return };
        lease.used = book(&mut window.row, lease);
        lease.closed_at = Some(now);
        window.open.remove(&id);
        window.closed.insert(id);
        self.recalled.remove(&(Arc::clone(&lease.node), id));
        self.closed.insert((now, id));
    }

    /// Books what is not booked yet of a debt.
    fn book(&mut self, debt: &LeaseDebt, now: Timestamp) {
        let key = DebtKey::of(debt);
        let known = self.debts.get(&key).copied();
        let (booked, used) = (known.map_or(0, |(booked, _)| booked), debt.used.min(MOST_UNITS));
        if used <= booked || debt.period.end < windows_kept_since(now) {
            return;
        }
        let (start, end) = (debt.period.start, debt.period.end);
        let window = self.windows.entry(debt.counter.clone()).or_default().entry(start).or_insert_with(|| {
            self.ends.insert((end, debt.counter.to_string(), start), debt.counter.clone());
            Window::new(debt.period, debt.cap, debt.cap_version)
        });
        window.row.close(0, used.saturating_sub(booked));
        if let Some((_, told)) = known {
            self.told.remove(&(told, key));
        }
        self.debts.insert(key, (used, now));
        self.told.insert((now, key));
    }

    /// Gives units, the start of the window, and how many nodes share it.
    fn grant(
        &mut self,
        request: &LeaseRequest,
        node: &Arc<str>,
        boot: StreamId,
        is_new: bool,
        now: Timestamp,
    ) -> (u64, Timestamp, u32) {
        if let Some(known) = self.leases.get(&request.lease) {
            let nodes = self.nodes_of(&known.counter, known.start, node);
            return (known.size, known.start, nodes);
        }
        let period = request.period(now);
        let nodes = self.nodes_of(&request.counter, period.start, node);
        if !is_new {
            return (0, period.start, nodes);
        }
        let starts = self.windows.entry(request.counter.clone()).or_default();
        let new = || Window::new(period, request.cap, request.cap_version);
        let window = starts.entry(period.start).or_insert_with(new);
        let end_before = window.row.period.end;
        window.row.refresh(request, period);
        let units = window.row.grant(request, nodes);
        // Before the new lease is there, which is not meant.
        if window.row.recall(request, units, nodes, now) {
            let open = window.open.iter().filter_map(|id| Some((Arc::clone(&self.leases.get(id)?.node), *id)));
            self.recalled.extend(open);
        }
        if units > 0 {
            window.open.insert(request.lease);
            self.leases.insert(
                request.lease,
                Lease {
                    counter: request.counter.clone(),
                    start: period.start,
                    node: Arc::clone(node),
                    boot,
                    size: units,
                    used: 0,
                    closed_at: None,
                },
            );
        }
        if end_before != period.end {
            self.ends.remove(&(end_before, request.counter.to_string(), period.start));
        }
        self.ends.insert((period.end, request.counter.to_string(), period.start), request.counter.clone());
        (units, period.start, nodes)
    }

    /// Nodes that hold open leases of a window, and this one.
    fn nodes_of(&self, counter: &CounterId, start: Timestamp, node: &str) -> u32 {
        let open = self.window(counter, start).map(|window| &window.open);
        let mut nodes: BTreeSet<&str> =
            open.into_iter().flatten().filter_map(|id| self.leases.get(id)).map(|lease| &*lease.node).collect();
        nodes.insert(node);
        u32::try_from(nodes.len()).unwrap_or(u32::MAX)
    }

    /// Open leases of a node that are recalled, by id.
    fn recalled_of(&self, node: &Arc<str>) -> Vec<LeaseId> {
        let first = (Arc::clone(node), LeaseId::from_u128(0));
        self.recalled.range(first..).take_while(|(holder, _)| holder == node).map(|(_, id)| *id).collect()
    }

    fn window(&self, counter: &CounterId, start: Timestamp) -> Option<&Window> {
        self.windows.get(counter)?.get(&start)
    }

    fn state(&self, counter: &CounterId, start: Timestamp) -> Option<WindowState> {
        let window = self.window(counter, start)?;
        let used_open = window
            .open
            .iter()
            .filter_map(|id| self.leases.get(id))
            .fold(0u64, |sum, lease| sum.saturating_add(lease.used));
        Some(window.row.state(used_open))
    }

    /// Forgets some of what nobody will ask for again. A forgotten lease id would be a new lease: its units stay debited, none are created (A5).
    fn forget(&mut self, most: usize, now: Timestamp) {
        for _ in 0..most {
            let Some((at, id)) = self.closed.first().copied() else { break };
            if at >= closed_leases_kept_since(now) {
                break;
            }
            self.closed.pop_first();
            if let Some(lease) = self.leases.remove(&id)
                && let Some(window) =
                    self.windows.get_mut(&lease.counter).and_then(|starts| starts.get_mut(&lease.start))
            {
                window.closed.remove(&id);
            }
        }
        for _ in 0..most {
            let Some((_, debt)) = self.told.first().copied().filter(|(at, _)| *at < debts_kept_since(now)) else {
                break;
            };
            self.told.pop_first();
            self.debts.remove(&debt);
        }
        for _ in 0..most {
            if self.ends.first_key_value().is_none_or(|((end, ..), _)| *end >= windows_kept_since(now)) {
                break;
            }
            let Some(((.., start), counter)) = self.ends.pop_first() else { break };
            let Some(starts) = self.windows.get_mut(&counter) else { continue };
            if let Some(window) = starts.remove(&start) {
                for id in window.open.iter().chain(&window.closed) {
                    let Some(lease) = self.leases.remove(id) else { continue };
                    self.recalled.remove(&(lease.node, *id));
                    // Left there, it would forget an open lease of this id, which a call that is repeated now asks for anew.
                    if let Some(at) = lease.closed_at {
                        self.closed.remove(&(at, *id));
                    }
                }
            }
            if starts.is_empty() {
                self.windows.remove(&counter);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::period::{AnchorDay, Calendar, Zone};

    const HOUR: i64 = 3_600 * 1_000_000;

    fn node() -> NodeIdentity {
        NodeIdentity { node: "a".to_owned(), boot: StreamId::generate(), table: TableId::generate() }
    }

    fn daily() -> LeaseRequest {
        LeaseRequest {
            lease: LeaseId::generate(),
            counter: CounterId {
                tenant: crate::model::TenantId::generate(),
                subject: crate::store::Subject::Tenant,
                limit: "daily".into(),
                meter: "requests".into(),
                per: crate::model::Per::Day,
            },
            calendar: Calendar::new(Zone::UTC, AnchorDay::FIRST),
            cap: 1_000,
            cap_version: 1,
            want: 1,
            beyond_cap: false,
            early: false,
            needed: 0,
        }
    }

    fn call(node: &NodeIdentity, requests: Vec<LeaseRequest>) -> LeaseCall {
        LeaseCall { requests, ..LeaseCall::new(node) }
    }

    #[test]
    fn a2_a_lease_that_is_asked_for_again_after_all_is_open() {
        let (mut ledger, node, request) = (Ledger::default(), node(), daily());
        let mut now = Timestamp::from_micros(0);
        ledger.register(&node, now);
        ledger.lease(&call(&node, vec![request.clone()]), now).unwrap();
        // Given back so late that its window goes with it; then its id is used once more.
        now = now.plus_micros(500 * 24 * HOUR);
        let returns = vec![LeaseReport { lease: request.lease, used: 1 }];
        ledger.lease(&LeaseCall { returns, ..call(&node, vec![]) }, now).unwrap();
        ledger.lease(&call(&node, vec![request.clone()]), now).unwrap();
        ledger.lease(&call(&node, vec![]), now.plus_micros(2 * HOUR)).unwrap();
        ledger.check();
        assert_eq!(ledger.register(&node, now)[0].lease, request.lease);
    }

    #[test]
    fn what_is_kept_stays_bounded() {
        let (mut ledger, node, first) = (Ledger::default(), node(), daily());
        let mut now = Timestamp::from_micros(0);
        ledger.register(&node, now);
        let mut returns = Vec::new();
        for _ in 0..1_000 {
            now = now.plus_micros(12 * HOUR);
            let another = |_| LeaseRequest { lease: LeaseId::generate(), ..first.clone() };
            let requests: Vec<LeaseRequest> = (0..100).map(another).collect();
            let debt = |_| LeaseDebt {
                lease: LeaseId::generate_debt(),
                counter: first.counter.clone(),
                period: first.period(now),
                cap: 1_000,
                cap_version: 1,
                used: 1,
            };
            let debts = (0..100).map(debt).collect();
            let held = requests.iter().map(|request| LeaseReport { lease: request.lease, used: 1 }).collect();
            ledger.lease(&LeaseCall { returns, debts, ..call(&node, requests) }, now).unwrap();
            returns = held;
            ledger.check();
        }
        assert!(ledger.leases.len() <= 300, "{} leases", ledger.leases.len());
        let windows: usize = ledger.windows.values().map(BTreeMap::len).sum();
        assert_eq!((windows, ledger.ends.len()), (402, 402));
        assert!(ledger.debts.len() == ledger.told.len() && ledger.debts.len() <= 6_100, "{} debts", ledger.debts.len());
    }
}
