//! The authorities: the product's ledger and bucket, on clocks that may be set, with memories that may go back; and what is wrong with broken ones.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Broken;
use super::books::{Books, Key, Lease};
use super::marks::{Mark, Marks};
use super::wire::{Question, Reply};
use crate::lease::ledger::{DebtKey, Ledger, WindowRow};
use crate::model::Timestamp;
use crate::rates::bucket::{Bucket, Incarnation, micros};
use crate::store::*;

/// The ledger's clock when a run begins.
const BEGINNING: i64 = 1_796_083_200_000_000 - 90_000_000;
/// How long a broken ledger waits for a node.
const PATIENCE: i64 = 2_000;

/// The ledger's clock at an instant of the clock that nobody sets; both are milliseconds apart from where they begin.
pub(super) const fn wall(now: i64) -> Timestamp {
    Timestamp::from_micros(BEGINNING + now * 1_000)
}

/// The ledger.
pub(super) struct Quotas {
    pub(super) ledger: Ledger,
    pub(super) counters: [CounterId; 2],
    /// How far its clock is ahead.
    pub(super) shift: i64,
    pub(super) away_until: i64,
    backup: Backup,
    broken: Broken,
    /// The latest life of each node that registered, and when each was last heard of.
    latest: HashMap<String, NodeIdentity>,
    heard: HashMap<String, i64>,
}

/// A state that the ledger may be put back to, and what had passed by then.
#[derive(Default)]
struct Backup {
    ledger: Ledger,
    at: i64,
    used: BTreeMap<Key, i64>,
}

impl Quotas {
    pub(super) fn new(counters: [CounterId; 2], broken: Broken) -> Self {
        Self {
            ledger: Ledger::default(),
            counters,
            shift: 0,
            away_until: 0,
            backup: Backup::default(),
            broken,
            latest: HashMap::new(),
            heard: HashMap::new(),
        }
    }

    pub(super) fn now(&self, now: i64) -> Timestamp {
        wall(now + self.shift)
    }

    fn place(&self, counter: &CounterId) -> usize {
        usize::from(*counter != self.counters[0])
    }

    pub(super) fn row(&self, key: Key) -> Option<WindowRow> {
        let counter = &self.counters[key.0];
        self.ledger.audited().find(|(id, start, ..)| *id == counter && *start == key.1).map(|(_, _, row, ..)| row)
    }

    fn open(&self, key: Key) -> BTreeSet<LeaseId> {
        self.ledger.open_in(&self.counters[key.0], key.1).into_iter().map(|(lease, _)| lease).collect()
    }

    /// A new life of a node. What it does not find open any more was closed as spent.
    pub(super) fn register(&mut self, node: usize, identity: &NodeIdentity, now: i64, books: &mut Books) -> Reply {
        let keys: BTreeSet<Key> = books.leases.values().map(|lease| lease.key).collect();
        let reported: HashMap<LeaseId, u64> =
            keys.iter().flat_map(|key| self.ledger.open_in(&self.counters[key.0], key.1)).collect();
        let open = self.ledger.register(identity, self.now(now));
        self.latest.insert(identity.node.clone(), identity.clone());
        self.heard.insert(identity.node.clone(), now);
        let is_open = |id: &LeaseId| open.iter().any(|open| open.lease == *id);
        let of_node = |lease: &Lease| lease.node == node && lease.closed.is_none();
        let gone = books.leases.iter().filter(|(id, lease)| of_node(lease) && !is_open(id)).map(|(id, _)| *id);
        for id in gone.collect::<Vec<_>>() {
            books.write_off(id, reported.get(&id).copied().unwrap_or(0));
        }
        Reply::Open(open)
    }

    /// One call, and what is wrong with the answer.
    pub(super) fn lease(
        &mut self,
        call: &LeaseCall,
        now: i64,
        books: &mut Books,
        marks: &Marks,
    ) -> Result<Reply, String> {
        let (mut call, wall) = (call.clone(), self.now(now));
        if self.broken == Broken::RefusalsForgotten {
            // A number that the ledger has not heard.
            call.number = LeaseCall::new(&call.node).number;
        }
        let plans = self.plans_of(&call, wall, books);
        match self.broken {
            Broken::FormerLifeHeard => {
                if let Some(latest) = self.latest.get(&call.node.node) {
                    call.node = latest.clone();
                }
            }
            Broken::DebtsNotBooked => call.debts.clear(),
            Broken::OldPlanWins => call.requests.iter_mut().for_each(|request| request.cap_version = 1),
            Broken::RefundByTimeout => self.refund(&call.node.node, now, books)?,
            _ => {}
        }
        if self.ledger.has_heard(&call) {
            marks.hit(Mark::HeardAgain);
        }
        self.heard.insert(call.node.node.clone(), now);
        let told = call.debts.iter().filter(|debt| !self.ledger.knows(&DebtKey::of(debt))).count();
        let Ok(mut answer) = self.ledger.lease(&call, wall) else {
            marks.hit(Mark::Superseded);
            return Ok(Reply::Superseded);
        };
        for (key, version, cap) in plans {
            let latest = &mut books.book(key).latest;
            // The latest plan that the window has seen decides, whoever asks.
            if version >= latest.0 {
                *latest = (version, i64::try_from(cap).unwrap());
            }
        }
        if told > 0 {
            marks.hit(Mark::DebtTold);
        }
        if !answer.recalled.is_empty() {
            marks.hit(Mark::Recalled);
        }
        self.closed(&call.returns, books)?;
        for (request, grant) in call.requests.iter().zip(&answer.grants) {
            self.granted(request, grant, (&call.node.node, now), books, marks)?;
        }
        match self.broken {
            Broken::RecallsLost => answer.recalled.clear(),
            Broken::EarlyIsNow => {
                let starts = answer.grants.iter().map(|grant| grant.window.period.start);
                answer.now = starts.max().map_or(wall, |start| start.max(wall));
            }
            _ => {}
        }
        Ok(Reply::Leased(answer))
    }

    /// Which plans the call asks with: the versions and caps of windows that debts make, and those of requests that are new.
    fn plans_of(&self, call: &LeaseCall, now: Timestamp, books: &Books) -> Vec<(Key, u32, u64)> {
        let of_debt = |debt: &LeaseDebt| ((self.place(&debt.counter), debt.period.start), debt.cap_version, debt.cap);
        let debts = call.debts.iter().map(of_debt).filter(|(key, ..)| self.row(*key).is_none());
        let heard = self.ledger.has_heard(call);
        let is_new =
            |request: &&LeaseRequest| !heard && books.leases.get(&request.lease).is_none_or(|known| known.lost);
        let requests = call.requests.iter().filter(is_new);
        debts.chain(requests.map(|request| (self.key(request, now), request.cap_version, request.cap))).collect()
    }

    fn key(&self, request: &LeaseRequest, now: Timestamp) -> Key {
        (self.place(&request.counter), request.period(now).start)
    }

    /// Leases of nodes that were not heard of for long go back with what was reported of them.
    fn refund(&mut self, but: &str, now: i64, books: &mut Books) -> Result<(), String> {
        let wall = self.now(now);
        let silent = |(node, identity): (&String, &NodeIdentity)| {
            (node != but && now - self.heard[node] > PATIENCE).then(|| identity.clone())
        };
        for node in self.latest.iter().filter_map(silent).collect::<Vec<_>>() {
            let open = self.ledger.register(&node, wall);
            let returns = open.iter().map(|open| LeaseReport { lease: open.lease, used: open.used }).collect();
            let call = LeaseCall { returns, ..LeaseCall::new(&node) };
            drop(self.ledger.lease(&call, wall));
            self.closed(&call.returns, books)?;
        }
        Ok(())
    }

    /// Takes note of which leases these have closed.
    fn closed(&self, returns: &[LeaseReport], books: &mut Books) -> Result<(), String> {
        for returned in returns {
            let Some(lease) = books.leases.get(&returned.lease).filter(|lease| lease.closed.is_none()) else {
                continue;
            };
            if !self.open(lease.key).contains(&returned.lease) {
                books.close(returned.lease, i64::try_from(returned.used).unwrap())?;
            }
        }
        Ok(())
    }

    fn granted(
        &self,
        request: &LeaseRequest,
        grant: &LeaseGrant,
        (node, now): (&str, i64),
        books: &mut Books,
        marks: &Marks,
    ) -> Result<(), String> {
        if grant.units == 0 {
            marks.hit(Mark::NothingLeft);
            return Ok(());
        }
        let period = grant.window.period;
        let key = (self.place(&request.counter), period.start);
        let millis = |instant: Timestamp| (instant.as_micros() - BEGINNING) / 1_000 - self.shift;
        let (from, until) = (millis(period.start), millis(period.end));
        if let Some(known) = books.leases.get_mut(&request.lease)
            && !known.lost
        {
            // The same grant again. Where the clock was set in between, the node may go by this answer or the former one.
            (known.from, known.until) = (known.from.min(from), known.until.max(until));
            marks.hit(Mark::GrantedAgain);
            return Ok(());
        }
        if from > now {
            marks.hit(Mark::Early);
        }
        let size = i64::try_from(grant.units).unwrap();
        let (node, granted_at) = (super::world::number_of(node), now);
        let lease = Lease { key, node, from, until, size, granted_at, spent: 0, closed: None, lost: false };
        books.leases.insert(request.lease, lease);
        if request.beyond_cap {
            return Ok(());
        }
        let (cap, after) = (books.book(key).latest.1, i64::try_from(grant.window.granted).unwrap());
        if after > cap {
            return Err(format!("A1: {size} units were granted of {cap}, which makes {after}, for {request:?}"));
        }
        let book = books.book(key);
        book.cap = book.cap.max(cap);
        Ok(())
    }

    pub(super) fn back_up(&mut self, now: i64, books: &Books) {
        let used = books.by_key.iter().map(|(key, book)| (*key, book.used)).collect();
        self.backup = Backup { ledger: self.ledger.clone(), at: now, used };
    }

    /// Puts the backup in place of everything. It knows nothing of what was granted since, and nothing of what was used.
    pub(super) fn restore(&mut self, books: &mut Books) {
        self.ledger = self.backup.ledger.clone();
        let mut held: BTreeMap<Key, i64> = BTreeMap::new();
        for (id, lease) in &mut books.leases {
            let known = self.ledger.open_in(&self.counters[lease.key.0], lease.key.1);
            lease.lost |= lease.granted_at >= self.backup.at && !known.iter().any(|(open, _)| open == id);
            if lease.lost && lease.closed.is_none() {
                *held.entry(lease.key).or_default() += (lease.size - lease.spent).max(0);
            }
        }
        books.restored = true;
        let unsure = books.unsure;
        for (key, book) in &mut books.by_key {
            let row = self.row(*key);
            book.latest = row.map_or((0, 0), |row| (row.cap_version, i64::try_from(row.cap).unwrap()));
            let since = book.used - self.backup.used.get(key).copied().unwrap_or(0);
            book.forgotten += since.max(0) + held.get(key).copied().unwrap_or(0) + unsure[key.0];
        }
        self.latest.clear();
    }

    /// When every node has given back what it knows of: nothing is open of which nobody knows.
    pub(super) fn all_is_back(&self, books: &Books) -> Result<(), String> {
        for (counter, start, row, open, _) in self.ledger.audited().filter(|_| !books.restored) {
            if open > 0 {
                return Err(format!("A2: {open} units of {counter} from {start} are open, and nobody knows: {row:?}"));
            }
        }
        Ok(())
    }

    /// After further lives: what was used is what the ledger counts, and the rest can be granted.
    pub(super) fn finish(&self, books: &Books) -> Result<(), String> {
        if books.restored {
            // Leases that were closed since the backup are open for nobody.
            return Ok(());
        }
        for (counter, start, row, open, _) in self.ledger.audited() {
            if open > 0 || row.granted != row.used_closed {
                return Err(format!(
                    "A2: everything went back, and not all of {counter} from {start} can be granted: {row:?}"
                ));
            }
        }
        for (key, book) in &books.by_key {
            let counted = self.row(*key).map_or(0, |row| i64::try_from(row.used_closed).unwrap());
            let (spent, unsure) = (book.used + book.forfeited, books.unsure[key.0]);
            if counted < spent - book.untold - unsure || counted > spent + unsure {
                return Err(format!("A2, A6: the ledger counts {counted} of {key:?}; {book:?}, {unsure} unsure"));
            }
        }
        Ok(())
    }
}

/// The authority of the rate.
pub(super) struct Rates {
    pub(super) bucket: Option<Bucket>,
    /// What a replica has that is behind.
    pub(super) replica: Option<Bucket>,
    incarnation: u64,
    since: i64,
    pub(super) shift: i64,
    pub(super) set_forward_at: i64,
    pub(super) away_until: i64,
    pub(super) terms: RateTerms,
    /// When each lease is dead at the latest, by the clock that nobody sets, and of which incarnation it is.
    ends: HashMap<RateLeaseId, (i64, u64)>,
}

impl Rates {
    pub(super) fn new(terms: RateTerms, age: i64) -> Self {
        Self {
            bucket: None,
            replica: None,
            incarnation: 1,
            since: -age,
            shift: 0,
            set_forward_at: i64::MIN,
            away_until: 0,
            terms,
            ends: HashMap::new(),
        }
    }

    pub(super) fn lease(&mut self, call: &RateCall, nodes: u32, now: i64) -> Result<Reply, String> {
        let micros_of = |millis: i64| u64::try_from(millis).unwrap() * 1_000;
        let known = Some(Incarnation { id: self.incarnation, age: micros_of(now - self.since) });
        let at = micros_of(1_000_000_000 + now + self.shift);
        let mut answer = RateAnswer { active_nodes: nodes, ..RateAnswer::default() };
        for request in &call.rates {
            let leases = self.bucket.as_ref().map_or(0, |bucket| bucket.leases.len());
            let (bucket, grant) = Bucket::step(self.bucket.take(), at, known, request);
            if grant.units > 0 && bucket.leases.len() > leases && self.set_forward_at < self.since {
                let living = self.ends.values().find(|(ends, of)| *of < self.incarnation && *ends > now);
                if let Some((ends, of)) = living {
                    return Err(format!("R3: granted at {now}, and a lease of incarnation {of} lives until {ends}"));
                }
            }
            if grant.units > 0 {
                let time = i64::try_from(micros(request.terms.lease_time()) / 1_000).unwrap();
                self.ends.entry(request.lease).or_insert((now + time, self.incarnation));
            }
            self.bucket = Some(bucket);
            answer.rates.push(grant);
        }
        Ok(Reply::Rated(answer))
    }

    /// R2: a lease is spent.
    pub(super) fn spend(&self, id: RateLeaseId, now: i64) -> Result<(), String> {
        match self.ends.get(&id) {
            Some((ends, _)) if now < *ends => Ok(()),
            ends => Err(format!("R2: {id:?} is spent at {now}, and ended at {ends:?}")),
        }
    }

    pub(super) fn begin_incarnation(&mut self, bucket: Option<Bucket>, now: i64) {
        self.bucket = bucket;
        self.incarnation += 1;
        self.since = now;
    }

    /// R1.
    pub(super) fn check(&self) -> Result<(), String> {
        let Some(bucket) = &self.bucket else { return Ok(()) };
        let all = bucket.level + u128::from(bucket.outstanding()) * u128::from(bucket.scale);
        let most = u128::from(self.terms.burst) * u128::from(bucket.scale);
        if all > most { Err(format!("R1: {bucket:?} with {:?}", self.terms)) } else { Ok(()) }
    }
}

impl Question {
    /// Whether the ledger is asked.
    pub(super) const fn is_of_quotas(&self) -> bool {
        !matches!(self, Self::Rates(_))
    }
}
