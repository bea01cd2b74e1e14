//! The comparison, by request id, of what clients got, what the upstream saw and what the gateway says was used.
//!
//! 1. Nothing is there twice: no request at the upstream, none in the journal, none in the log.
//! 2. Heads that clients saw say how the request is billed: completed ⊆ served ⊆ billed ⊆ seen upstream ⊆ admitted.
//! 3. What is more on one side than on the next was in flight at a kill: at most (kills + 1) x the requests that clients have open at once.
//! 4. Journal, request log and sums say the same.
//! 5. No limit is exceeded, and each counter's use is the units of the records that cite it.
//!
//! It is given evidence and touches nothing, so that its own tests can lie to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::event::{End, Ending, Sight};
use super::ledger_view::{Logged, Record, Standing, Sum};

/// All that is known at the end.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// Of the upstream.
    pub seen: Vec<Sight>,
    /// Of all clients.
    pub endings: Vec<Ending>,
    /// Of the journal.
    pub records: Vec<Record>,
    /// Of the request log.
    pub logged: Vec<Logged>,
    /// Of the usage API: by tenant, by outcome.
    pub sums: BTreeMap<String, BTreeMap<String, Sum>>,
    /// How limits stand: the tenant, the key where it counts by key, and the limit.
    pub standings: Vec<(String, Option<String>, Standing)>,
    /// What could not be had: each is a fault.
    pub missing: Vec<String>,
    /// How often the gateway was killed.
    pub kills: u64,
    /// Requests that clients have open at once.
    pub in_flight: u64,
}

/// What is wrong, and how much of everything there was.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Each a sentence; none is a pass.
    pub faults: Vec<String>,
    /// Names and numbers, in order of a request's life.
    pub numbers: Vec<(String, u64)>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, number) in &self.numbers {
            writeln!(f, "{name:<34} {number:>10}")?;
        }
        self.faults.iter().try_for_each(|fault| writeln!(f, "FAULT {fault}"))
    }
}

/// Compares.
#[must_use]
pub fn judge(evidence: &Evidence) -> Verdict {
    let mut faults: Vec<String> = evidence.missing.clone();
    let sets = Sets::new(evidence, &mut faults);
    // Without a journal there is nothing to compare: a thousand ids would only hide why.
    if !evidence.missing.iter().any(|missing| missing.contains("journal dump")) {
        sets.subsets(&mut faults);
        sets.gaps(evidence, &mut faults);
        answers(evidence, &sets, &mut faults);
        witnesses(evidence, &sets, &mut faults);
        counters(evidence, &mut faults);
    }
    totals(evidence, &sets, &mut faults);
    caps(evidence, &mut faults);
    Verdict { faults, numbers: numbers(evidence, &sets) }
}

type Ids<'a> = BTreeSet<&'a str>;

/// The ids on each side.
struct Sets<'a> {
    seen: Ids<'a>,
    served: Ids<'a>,
    completed: Ids<'a>,
    billed: Ids<'a>,
    unbilled: Ids<'a>,
    records: BTreeMap<&'a str, &'a Record>,
}

impl<'a> Sets<'a> {
    fn new(evidence: &'a Evidence, faults: &mut Vec<String>) -> Self {
        let requests = || evidence.records.iter().filter(|record| record.kind == "record");
        let id = |record: &'a Record| record.request_id.as_deref().unwrap_or_default();
        let of = |wanted: fn(&Record) -> bool| requests().filter(|record| wanted(record)).map(id).collect();
        let clients = |wanted: fn(&Ending) -> bool| {
            evidence.endings.iter().filter(move |ending| wanted(ending)).map(|ending| ending.id.as_str())
        };
        once("answered to clients", clients(|ending| ending.status != 0), faults);
        once("in the journal", requests().map(id), faults);
        Self {
            seen: once("seen upstream", evidence.seen.iter().map(|sight| sight.id.as_str()), faults),
            served: clients(Ending::served).collect(),
            completed: clients(Ending::completed).collect(),
            billed: of(Record::billed),
            unbilled: of(|record| record.outcome == "unbilled"),
            records: requests().map(|record| (id(record), record)).collect(),
        }
    }

    /// 2.
    fn subsets(&self, faults: &mut Vec<String>) {
        let admitted: Ids<'_> = self.records.keys().copied().collect();
        let mut within = |what: &str, part: &Ids<'_>, whole: &Ids<'_>| {
            let outside: Vec<&str> = part.difference(whole).copied().collect();
            if !outside.is_empty() {
                faults.push(format!("{what}: {} requests{}", outside.len(), self.some(&outside)));
            }
        };
        within("completed for a client and not billed", &self.completed, &self.billed);
        within("begun for a client and not billed", &self.served, &self.billed);
        within("billed and not seen upstream", &self.billed, &self.seen);
        within("seen upstream and not admitted", &self.seen, &admitted);
    }

    /// 3.
    fn gaps(&self, evidence: &Evidence, faults: &mut Vec<String>) {
        let bound = usize::try_from((evidence.kills + 1) * evidence.in_flight).unwrap_or(usize::MAX);
        let judged: Ids<'_> = self.billed.union(&self.unbilled).copied().collect();
        let admitted: Ids<'_> = self.records.keys().copied().collect();
        // Clients that leave because they want to are billed, and are no gap.
        let left = evidence.endings.iter().filter(|ending| ending.served() && ending.end == End::Left);
        let paid_for: Ids<'_> = self.completed.iter().copied().chain(left.map(|ending| ending.id.as_str())).collect();
        for (what, large, small) in [
            ("billed and not completed", &self.billed, &paid_for),
            ("seen upstream and neither billed nor unbilled", &self.seen, &judged),
            ("admitted and not seen upstream", &admitted, &self.seen),
        ] {
            let gap: Vec<&str> = large.difference(small).copied().collect();
            if gap.len() > bound {
                faults.push(format!("{what}: {} requests, more than {bound}{}", gap.len(), self.some(&gap)));
            }
        }
    }

    /// The first few, with what the journal says of them.
    fn some(&self, ids: &[&str]) -> String {
        let shown = ids.iter().take(5).map(|id| {
            let record = self.records.get(id).map(|record| (record.outcome.as_str(), record.status, record.sequence));
            format!("\n        {id} {record:?}")
        });
        shown.collect()
    }
}

/// 1. The ids as a set; a fault if one is there twice, or nameless.
fn once<'a>(place: &str, ids: impl Iterator<Item = &'a str>, faults: &mut Vec<String>) -> Ids<'a> {
    let mut found = Ids::new();
    let again: Vec<&str> = ids.filter(|id| id.is_empty() || !found.insert(id)).collect();
    if !again.is_empty() {
        let shown = again[..again.len().min(5)].join(" ");
        faults.push(format!("twice or without an id {place}: {} requests, such as {shown}", again.len()));
    }
    found
}

/// 2, closer: what a client saw of a request is what its record says.
fn answers(evidence: &Evidence, sets: &Sets<'_>, faults: &mut Vec<String>) {
    let mut wrong: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for ending in evidence.endings.iter().filter(|ending| ending.status != 0 && ending.end != End::Refused) {
        let Some(record) = sets.records.get(ending.id.as_str()) else { continue };
        let mut say = |what, more: String| wrong.entry(what).or_default().push(format!("{} {more}", ending.id));
        if record.status != Some(ending.status) {
            say("another status is recorded than was answered", format!("{:?}, {}", record.status, ending.status));
        }
        if !ending.served() && record.outcome != "unbilled" {
            say("not served and not unbilled", record.outcome.clone());
        }
        // B2: the last frame is released after the record is published, so nothing is left to guess.
        if ending.completed() && record.outcome != "billed" {
            say("completed and recorded as something else", record.outcome.clone());
        }
        let bytes = record.units.get("bytes_out");
        if ending.completed() && bytes.is_some_and(|bytes| *bytes != ending.bytes) {
            say("completed with other bytes than recorded", format!("{bytes:?}, {}", ending.bytes));
        }
    }
    for (what, requests) in wrong {
        let shown = requests[..requests.len().min(5)].join("\n        ");
        faults.push(format!("{what}: {} requests\n        {shown}", requests.len()));
    }
}

/// 4.
fn witnesses(evidence: &Evidence, sets: &Sets<'_>, faults: &mut Vec<String>) {
    once(
        "in the request log",
        evidence.logged.iter().map(|logged| logged.request_id.as_deref().unwrap_or_default()),
        faults,
    );
    let logged: BTreeSet<(&str, &str)> = evidence
        .logged
        .iter()
        .map(|logged| (logged.request_id.as_deref().unwrap_or_default(), logged.outcome.as_str()))
        .collect();
    let recorded: BTreeSet<(&str, &str)> =
        sets.records.iter().map(|(id, record)| (*id, record.outcome.as_str())).collect();
    for (what, one, other) in [
        ("in the journal and not in the request log", &recorded, &logged),
        ("in the request log and not in the journal", &logged, &recorded),
    ] {
        let alone: Vec<_> = one.difference(other).collect();
        if !alone.is_empty() {
            faults.push(format!("{what}: {}, such as {:?}", alone.len(), &alone[..alone.len().min(5)]));
        }
    }

    let mut summed: BTreeMap<&str, BTreeMap<String, Sum>> = BTreeMap::new();
    for record in &evidence.records {
        let tenant = summed.entry(record.tenant.as_deref().unwrap_or_default()).or_default();
        let sum = tenant.entry(record.outcome.clone()).or_default();
        sum.requests += u64::from(record.kind == "record");
        sum.units += record.units.get("requests").copied().unwrap_or_default();
    }
    for (tenant, sums) in &evidence.sums {
        let told = sums.iter().filter(|(outcome, _)| !outcome.starts_with("refused"));
        let told: BTreeMap<String, Sum> = told.map(|(outcome, sum)| (outcome.clone(), *sum)).collect();
        let expected = summed.get(tenant.as_str()).cloned().unwrap_or_default();
        if told != expected {
            faults.push(format!("sums of {tenant}: the journal says {expected:?}, the usage API {told:?}"));
        }
    }
}

/// 2 and 4 without ids: what can be said even where the journal cannot be read.
fn totals(evidence: &Evidence, sets: &Sets<'_>, faults: &mut Vec<String>) {
    let billed =
        evidence.sums.values().flatten().filter(|(outcome, _)| matches!(outcome.as_str(), "billed" | "aborted"));
    let billed: u64 = billed.map(|(_, sum)| sum.requests).sum();
    if u64::try_from(sets.served.len()).is_ok_and(|served| served > billed) {
        faults.push(format!("{} requests were begun for clients, {billed} are billed in sums", sets.served.len()));
    }
}

/// What the records say of a counter.
#[derive(Default)]
struct Counted {
    units: i64,
    tenants: BTreeSet<String>,
    keys: BTreeSet<String>,
}

/// 5, the second half: B9 once nothing is open any more.
fn counters(evidence: &Evidence, faults: &mut Vec<String>) {
    let mut counted: BTreeMap<String, Counted> = BTreeMap::new();
    for record in &evidence.records {
        for quota in &record.quotas {
            let counter = counted.entry(quota.counter.to_string()).or_default();
            counter.units += quota.units;
            counter.tenants.extend(record.tenant.clone());
            counter.keys.extend(record.key.clone());
        }
    }
    for (tenant, key, standing) in &evidence.standings {
        // Which counter is which limit's follows from who is counted there: a tenant's counter has several keys.
        let here = counted.values().filter(|counter| counter.tenants.contains(tenant));
        let its = |counter: &&Counted| match key {
            Some(key) => counter.keys.len() == 1 && counter.keys.contains(key),
            None => counter.keys.len() > 1,
        };
        let units: i64 = here.filter(its).map(|counter| counter.units).sum();
        if i64::try_from(standing.used).ok() != Some(units) {
            let who = key.as_ref().unwrap_or(tenant);
            faults.push(format!("limit {} of {who}: {} used, {units} in records", standing.name, standing.used));
        }
    }
}

/// 5, the first half.
fn caps(evidence: &Evidence, faults: &mut Vec<String>) {
    for (tenant, key, standing) in &evidence.standings {
        let who = key.as_ref().unwrap_or(tenant);
        if standing.used + standing.reserved > standing.limit {
            faults.push(format!("limit {} of {who} is exceeded: {standing:?}", standing.name));
        }
        let theirs = evidence.endings.iter().filter(|ending| {
            ending.completed() && ending.tenant == *tenant && key.as_ref().is_none_or(|key| ending.key == *key)
        });
        let completed = u64::try_from(theirs.count()).unwrap_or(u64::MAX);
        if completed > standing.limit {
            faults.push(format!("limit {} of {who}: {completed} completed, {} allowed", standing.name, standing.limit));
        }
    }
}

fn numbers(evidence: &Evidence, sets: &Sets<'_>) -> Vec<(String, u64)> {
    let count = |wanted: &dyn Fn(&Ending) -> bool| evidence.endings.iter().filter(|ending| wanted(ending)).count();
    let mut numbers = vec![
        ("requests sent", evidence.endings.len()),
        ("  completed", count(&Ending::completed)),
        ("  completed, not 2xx", count(&|ending| ending.end == End::Complete && !ending.served())),
        ("  cut", count(&|ending| ending.end == End::Cut)),
        ("  left by the client", count(&|ending| ending.end == End::Left)),
        ("  without an answer", count(&|ending| ending.end == End::NoAnswer)),
        ("  refused", count(&|ending| ending.end == End::Refused)),
        ("seen upstream", sets.seen.len()),
        ("in the journal", sets.records.len()),
    ]
    .into_iter()
    .map(|(name, number)| (name.to_owned(), u64::try_from(number).unwrap_or(u64::MAX)))
    .collect::<Vec<_>>();
    let mut outcomes: BTreeMap<&str, Sum> = BTreeMap::new();
    for record in &evidence.records {
        let sum = outcomes.entry(record.outcome.as_str()).or_default();
        sum.requests += 1;
        sum.units += record.units.get("requests").copied().unwrap_or_default();
    }
    for (outcome, sum) in outcomes {
        let what = if outcome == "forfeited" { ("units", sum.units) } else { ("requests", sum.requests) };
        numbers.push((format!("  {outcome}, {}", what.0), what.1));
    }
    numbers.push(("in the request log".to_owned(), u64::try_from(evidence.logged.len()).unwrap_or(u64::MAX)));
    let mut told: BTreeMap<&str, u64> = BTreeMap::new();
    for (outcome, sum) in evidence.sums.values().flatten() {
        *told.entry(outcome.as_str()).or_default() += sum.units.max(sum.requests);
    }
    numbers.push(("in sums".to_owned(), evidence.sums.values().flatten().map(|(_, sum)| sum.units).sum()));
    numbers.extend(told.into_iter().map(|(outcome, number)| (format!("  {outcome}"), number)));
    let mut refused: BTreeMap<&str, u64> = BTreeMap::new();
    for ending in evidence.endings.iter().filter(|ending| !ending.code.is_empty()) {
        *refused.entry(ending.code.as_str()).or_default() += 1;
    }
    numbers.extend(refused.into_iter().map(|(code, number)| (format!("answered {code}"), number)));
    numbers
}

#[cfg(test)]
mod tests;
