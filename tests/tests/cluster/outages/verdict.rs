//! What an outage may do, and what it has done: a line of the table for each caller, and every promise that was not kept.

use std::fmt::Write;
use std::time::Duration;

use usage_gate_tests::cluster::{Curve, Passed};

use super::callers::{OVERDRAFT, Policy, RATE};
use super::world::{Answers, Probe, Seen};

/// No request waits longer: two seconds for units or for a key, and what a busy machine adds.
const LONGEST: Duration = Duration::from_millis(2_500);
/// From the end of a fault until everything is as before: what was asked last and never answered is given up after five seconds, and asked again after two.
const HEALING: Duration = Duration::from_secs(10);
/// From a fault until each node has found out, and from its end until each has found that out: an answer is late after a second, and who waits for it waits for two.
const NOTICED: Duration = Duration::from_millis(2_500);

/// The lines of the table, and what was wrong.
pub(super) fn judge(seen: &Seen) -> (String, Vec<String>) {
    let name = seen.case.name;
    let mut rows = String::new();
    let mut faults: Vec<String> = seen.misread.iter().map(|fault| format!("{name}: {fault}")).collect();
    if seen.healing > HEALING {
        faults.push(format!("{name}: healed after {:?}", seen.healing));
    }
    for answers in &seen.callers {
        let judged = Judged::new(seen, answers);
        let _ = writeln!(rows, "{}", judged.row());
        faults.extend(judged.faults.iter().map(|fault| format!("{name}: {}: {fault}", answers.policy.words())));
    }
    let _ = writeln!(rows, "{}", strangers(seen, &mut faults));
    (rows, faults)
}

struct Judged<'a> {
    seen: &'a Seen,
    answers: &'a Answers,
    before: Passed,
    during: Passed,
    healing: Passed,
    after: Passed,
    limit: String,
    usage: String,
    faults: Vec<String>,
}

impl<'a> Judged<'a> {
    fn new(seen: &'a Seen, answers: &'a Answers) -> Self {
        let Answers { passed, down, up, healed, .. } = answers;
        let mut judged = Self {
            seen,
            answers,
            before: passed.only(|shot| shot.answered < *down),
            during: passed.only(|shot| shot.answered >= *down && shot.sent < *up),
            healing: passed.only(|shot| shot.sent >= *up && shot.sent < *healed),
            after: passed.only(|shot| shot.sent >= *healed),
            limit: String::new(),
            usage: String::new(),
            faults: Vec::new(),
        };
        judged.statuses();
        if answers.policy.is_rate() {
            judged.rate()
        } else {
            judged.quota()
        }
        judged.usage();
        judged
    }

    fn check(&mut self, is_kept: bool, fault: impl FnOnce() -> String) {
        if !is_kept {
            self.faults.push(fault());
        }
    }

    fn statuses(&mut self) {
        let case = &self.seen.case;
        let policy = self.answers.policy;
        let without = if policy.is_rate() { case.without_rates() } else { case.without_quotas() };
        // With units enough, or a part of its own, a node refuses nobody for want of a store.
        let refuses = without > 0 && matches!(policy, Policy::Exact | Policy::Overdraft | Policy::Refuse);
        let with_stores: &[u16] = if policy == Policy::Plenty { &[200] } else { &[200, 429] };
        let meanwhile: &[u16] = if refuses { &[200, 429, 503] } else { with_stores };
        let phases = [
            ("before", self.before.clone(), with_stores),
            ("meanwhile", self.during.clone(), meanwhile),
            ("until it had healed", self.healing.clone(), meanwhile),
            ("afterwards", self.after.clone(), with_stores),
        ];
        for (phase, passed, allowed) in phases {
            let statuses = passed.statuses();
            self.check(statuses.keys().all(|status| allowed.contains(status)), || format!("{phase}: {statuses:?}"));
        }
        let refused = self.during.with(503);
        self.check((refused > 0) == refuses, || format!("{refused} answers of 503 meanwhile"));
        let (served, healed) = (self.during.with(200), self.after.with(200));
        // All that a limit that refuses has is what was lent before.
        self.check(served > 0 || policy == Policy::Refuse, || "nobody was served meanwhile".to_owned());
        let used_up = matches!(policy, Policy::Exact | Policy::Overdraft);
        self.check(healed > 0 || used_up, || "nobody is served afterwards".to_owned());
        let slowest = self.answers.passed.slowest();
        self.check(slowest < LONGEST, || format!("a request took {slowest:?}"));
    }

    fn quota(&mut self) {
        let (passed, units) = (self.answers.passed.with(200), self.seen.units);
        let without = self.seen.case.without_quotas();
        let most = match self.answers.policy {
            Policy::Overdraft => units + without * OVERDRAFT,
            Policy::Exact => units,
            Policy::Plenty | Policy::Share | Policy::Refuse => {
                self.limit = "not reached".to_owned();
                return;
            }
        };
        self.limit = format!("{passed} of {units}");
        // Not one more, and not one is lost.
        self.check((units..=most).contains(&passed), || format!("{passed} passed, and {units} to {most} may"));
    }

    fn rate(&mut self) {
        let Answers { policy, down, up, healed, .. } = *self.answers;
        let case = &self.seen.case;
        let (rate, nodes) = (f64::from(RATE), f64::from(u32::try_from(case.away.len()).unwrap()));
        let without = case.without_rates();
        let mut curve = Curve::new(rate, rate);
        // What A.4 allows, and nothing of it where the policy is to refuse.
        if without > 0 && policy == Policy::Share {
            curve = curve.change_over(down, down + NOTICED).change_over(up, healed.max(up + NOTICED));
            // The part of a node that was killed begins full once more.
            if let Some((gone, there)) = self.answers.restarted {
                curve = curve.change_over(gone, there + NOTICED);
            }
            if without < case.away.len() {
                let cut_off = f64::from(u32::try_from(without).unwrap());
                curve = curve.faster(down, healed, rate * cut_off / nodes);
            }
        }
        let above = curve.passed_by(&self.answers.passed);
        self.limit = format!("kept, {:.1} units from it", -above);
        self.check(above <= 0.0, || format!("an interval is {above:.1} above the curve"));
        // What is there is given, too: most of it, once nodes have found out that they are alone.
        let shared = policy == Policy::Share || without == 0;
        let served = self.during.with(200);
        let fair = rate * 0.8 * (up - down).saturating_sub(NOTICED).as_secs_f64();
        let served_so_much = f64::from(u32::try_from(served).unwrap()) >= fair;
        self.check(!shared || served_so_much, || format!("{served} units were given meanwhile, fewer than {fair:.0}"));
    }

    fn usage(&mut self) {
        let Answers { passed, upstream, billed, .. } = self.answers;
        let mut ids = upstream.clone();
        ids.dedup();
        let (clients, reached) = (passed.with(200), upstream.len());
        let same = clients == reached && ids == *billed;
        self.usage = if same { format!("{reached}, each once") } else { "WRONG".to_owned() };
        self.check(same, || {
            let strange = billed.iter().filter(|id| ids.binary_search(id).is_err()).count();
            let lost = ids.iter().filter(|id| billed.binary_search(id).is_err()).count();
            format!(
                "clients got {clients}, the upstream {reached}, {} are billed: {lost} are lost, {strange} are strange",
                billed.len()
            )
        });
    }

    fn row(&self) -> String {
        let slowest = self.answers.passed.slowest();
        let phases = [&self.before, &self.during, &self.healing, &self.after].map(told);
        let (name, policy) = (self.seen.case.name, self.answers.policy.words());
        format!(
            "| {name} | {policy} | {} | {:.2} s | {} | {} |",
            phases.join(" | "),
            slowest.as_secs_f64(),
            self.limit,
            self.usage
        )
    }
}

/// Every status, and how often.
fn told(passed: &Passed) -> String {
    let statuses = passed.statuses();
    let told: Vec<String> = statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect();
    if told.is_empty() { "-".to_owned() } else { told.join(", ") }
}

/// Keys that no node knows.
fn strangers(seen: &Seen, faults: &mut Vec<String>) -> String {
    let name = seen.case.name;
    let slowest = seen.probes.iter().map(|probe| probe.took).max().unwrap_or_default();
    if slowest > LONGEST {
        faults.push(format!("{name}: a request with an unknown key took {slowest:?}"));
    }
    let (made_up, real): (Vec<&Probe>, Vec<&Probe>) = seen.probes.iter().partition(|probe| probe.made_up);
    if made_up.iter().any(|probe| probe.status != 401) {
        faults.push(format!("{name}: a key that was made up got {made_up:?}"));
    }
    let (away, there): (Vec<&Probe>, Vec<&Probe>) = real.into_iter().partition(|probe| probe.away);
    let refused = away.iter().all(|probe| probe.status == 503);
    let looked_up = there.iter().all(|probe| probe.status == 200 || probe.status == 503);
    if !refused || !looked_up {
        faults.push(format!("{name}: a key that a node had not seen got {away:?}, and with PostgreSQL {there:?}"));
    }
    let count = |status: u16| seen.probes.iter().filter(|probe| probe.status == status).count();
    format!(
        "| {name} | none, unknown keys | - | 200: {}, 401: {}, 503: {} | healed in {:.1} s | away for {} s | {:.2} s | - | - |",
        count(200),
        count(401),
        count(503),
        seen.healing.as_secs_f64(),
        seen.outage.as_secs(),
        slowest.as_secs_f64()
    )
}
