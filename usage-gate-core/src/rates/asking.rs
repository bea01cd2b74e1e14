//! What a node tells and asks of one rate: pure, but for the leases that it looks at.
//!
//! A node holds about what it used in the last lease time; requests that wait come on top. Where less than two units are used in a lease time nothing is held ahead: most of it
//! would die unused. How often it calls depends on how the bucket stood at the last answer:
//!
//! - **Plenty**: all of the wish was granted, and half of the burst is left. Nobody misses units that die, or whose use is told late: both leave the bucket when their lease
//!   ends, after a quarter of the time in which it refills. So a request calls when a quarter of the units or an eighth of the time is left, no sooner; that call tells what
//!   was spent, and nothing is told or given back otherwise. Who is not asked for anything any more does not call at all.
//! - **Otherwise**, or where leases are so short that the next has to be asked for at once: a request calls when half is gone; what was spent is told twice in a lease time,
//!   since that makes room for others; and a lease that will not be used up goes back in the last quarter of its life, because what dies with it is lost to all nodes.
//!
//! One call at a time; one whose outcome is unknown is repeated with the same lease, and counts from when it was sent first (R2).

use smallvec::SmallVec;
use std::sync::Arc;
use std::time::Duration;

use super::held::{Leases, Needs, sum};
use super::lease::RateLease;
use crate::clock::Monotonic;
use crate::store::{CounterId, RateGrant, RateLeaseId, RateReport, RateRequest, RateState, RateTerms};

/// More leases are not held of one rate: a request looks through all.
const MOST_LEASES: usize = 16;
/// The shortest leases whose last eighth is time enough for a call that others are gathered into.
const LEAST_OF_PLENTY: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
pub(super) struct Asking {
    asked: Option<Asked>,
    /// What went back and is not confirmed, and when it would be dead.
    ending: SmallVec<[(RateReport, Monotonic); 1]>,
    terms: Option<RateTerms>,
    demand: Demand,
    /// What requests wait for, as of the last wish, and the most of it that one of them needs.
    waiting: u64,
    needed: u64,
    last: Option<Answer>,
    told_at: Option<Monotonic>,
    failed_at: Option<Monotonic>,
    /// All that is held is too little for who waits.
    useless: bool,
}

/// A wish, until it is answered or its lease would be dead.
#[derive(Debug, Clone, Copy)]
struct Asked {
    lease: RateLeaseId,
    want: u64,
    terms: RateTerms,
    deadline: Monotonic,
    under_way: bool,
}

#[derive(Debug, Clone, Copy)]
struct Answer {
    state: RateState,
    at: Monotonic,
    /// Less was granted than wanted.
    short: bool,
    /// All was granted, and so much is left that nobody misses what dies.
    plenty: bool,
}

/// When a request is to call the driver after it has taken units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LowWater {
    /// With no more than this left,
    pub(super) units: u64,
    /// or from then on. Who is called that early can wait for others to go with it.
    pub(super) from: Option<Monotonic>,
}

impl LowWater {
    fn is_reached(&self, left: u64, now: Monotonic) -> bool {
        left <= self.units || self.from.is_some_and(|from| from <= now)
    }
}

/// Units used in a lease time.
#[derive(Debug, Default)]
struct Demand {
    since: Option<Monotonic>,
    used: u64,
    peak: u64,
    /// Of all leases that are gone, and of all as of the last look.
    gone: u64,
    total: u64,
}

impl Demand {
    /// Looks at what was spent. The most of some lease times counts, less with each that passes.
    fn look(&mut self, leases: &Leases, lease_time: u64, now: Monotonic) {
        let since = *self.since.get_or_insert(now);
        let time = now.nanos_since(since);
        let passed = time / lease_time.max(1);
        let total = leases.iter().fold(self.gone, |sum, lease| sum.wrapping_add(lease.spent()));
        // What was undone since the last look makes it less.
        let more = total.wrapping_sub(self.total);
        self.used = self.used.saturating_add(if more > u64::MAX / 2 { 0 } else { more });
        self.total = total;
        if passed > 0 {
            let decayed = |peak: u64| (0..passed.min(64)).fold(peak, |peak, _| peak / 4 * 3 + peak % 4 * 3 / 4);
            // Of more than one lease time, which is what passes between two looks.
            let used = part(self.used, lease_time, time);
            self.peak = if passed == 1 { used.max(decayed(self.peak)) } else { decayed(self.used.max(self.peak)) };
            (self.since, self.used) = (Some(now), 0);
        }
    }

    fn drop_lease(&mut self, spent: u64) {
        self.gone = self.gone.wrapping_add(spent);
    }

    /// What is held ahead.
    fn ahead(&self) -> u64 {
        Some(self.used.max(self.peak)).filter(|units| *units > 1).unwrap_or(0)
    }
}

/// So much of the units as `time` is of `whole`.
fn part(units: u64, time: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(units) * u128::from(time) / u128::from(whole.max(1))).unwrap_or(u64::MAX)
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// R2: two per cent and 5 ms before the authority takes it for dead, for clocks that do not go equally fast.
pub(super) const fn deadline(sent: Monotonic, lease_nanos: u64) -> Monotonic {
    sent.plus_nanos(lease_nanos.saturating_sub(lease_nanos / 50).saturating_sub(5_000_000))
}

impl Asking {
    pub(super) fn is_under_way(&self) -> bool {
        self.asked.is_some_and(|asked| asked.under_way)
    }

    pub(super) fn wish(
        &mut self,
        leases: &mut Leases,
        counter: &CounterId,
        terms: RateTerms,
        needs: &Needs,
        now: Monotonic,
    ) -> Option<RateRequest> {
        let lease_time = nanos(terms.lease_time());
        self.terms = Some(terms);
        self.waiting = needs.waiting;
        self.needed = self.needed.max(needs.needed).min(needs.waiting);
        self.demand.look(leases, lease_time, now);
        self.drop_done(leases, now);
        self.ending.retain(|(_, deadline)| now < *deadline);
        // Under other terms units are lent for another time: the deadline would not hold for the repeated call.
        self.asked = self.asked.filter(|asked| now < asked.deadline && asked.terms == terms);

        let surplus = !self.is_plenty() && self.end_surplus(leases, lease_time, now);
        let (lease, want) = self.want(leases, surplus, now).unwrap_or_else(|| (RateLeaseId::generate(), 0));
        let tells = self.tells_at(leases, lease_time).is_some_and(|at| at <= now);
        if want == 0 && self.ending.is_empty() && !tells {
            self.asked = None;
            return None;
        }
        let known = self.asked.filter(|asked| asked.lease == lease);
        let deadline = known.map_or_else(|| deadline(now, lease_time), |asked| asked.deadline);
        self.asked = Some(Asked { lease, want, terms, deadline, under_way: true });
        self.told_at = Some(now);
        let spent: Vec<RateReport> = leases.iter().filter(|lease| lease.has_news()).map(|lease| lease.tell()).collect();
        let returned = self.ending.iter().map(|(report, _)| *report).collect();
        Some(RateRequest { counter: counter.clone(), terms, spent, returned, lease, want })
    }

    /// Ends leases that will not be used up, or that are too little for who waits. Whether there were any of the first kind.
    fn end_surplus(&mut self, leases: &mut Leases, lease_time: u64, now: Monotonic) -> bool {
        let useless = std::mem::take(&mut self.useless) && sum(leases, now) < self.needed;
        let (mut kept, mut surplus) = (self.waiting, false);
        let ahead = self.demand.ahead();
        let (demand, ending) = (&mut self.demand, &mut self.ending);
        let mut held = 0_u64;
        leases.retain(|lease| {
            let left = lease.left(now);
            let remains = lease.deadline.nanos_since(now);
            kept = kept.max(part(ahead, remains, lease_time));
            let is_surplus = remains <= lease_time / 4 && held.saturating_add(left) > kept;
            let ends = left > 0 && (useless || is_surplus);
            if ends {
                surplus |= is_surplus && !useless;
                // No unit is spent of it from here on.
                let last_word = lease.end();
                demand.drop_lease(last_word.spent);
                ending.push((last_word, lease.deadline));
            } else {
                held = held.saturating_add(left);
            }
            !ends
        });
        if surplus {
            self.demand.peak /= 2;
        }
        surplus
    }

    /// Which lease to ask for, and how much.
    fn want(&self, leases: &Leases, surplus: bool, now: Monotonic) -> Option<(RateLeaseId, u64)> {
        let (left, ahead) = (sum(leases, now), self.demand.ahead());
        let is_low = !surplus && self.low_water(leases, now).is_some_and(|low| low.is_reached(left, now));
        if (self.waiting <= left && !is_low) || leases.len() >= MOST_LEASES {
            return None;
        }
        if let Some(asked) = self.asked.filter(|asked| asked.want > 0) {
            // Its outcome is unknown: the same lease gets the same grant.
            return Some((asked.lease, asked.want));
        }
        let missing = self.needed.saturating_sub(left).max(1);
        let lasts = if self.is_plenty() { self.lasts(leases, now) } else { left };
        let want = ahead.max(self.waiting).saturating_sub(lasts).max(1);
        (self.asks_at(missing, now)? <= now).then(|| (RateLeaseId::generate(), want))
    }

    fn is_plenty(&self) -> bool {
        self.last.is_some_and(|answer| answer.plenty)
    }

    /// When more is to be asked for; `None` while nothing is held ahead.
    fn low_water(&self, leases: &Leases, now: Monotonic) -> Option<LowWater> {
        let ahead = Some(self.demand.ahead()).filter(|ahead| *ahead > 0)?;
        let lease_time = nanos(self.terms?.lease_time());
        if !self.is_plenty() {
            return Some(LowWater { units: ahead / 2, from: None });
        }
        // Once all of it is dead, nothing is asked for before a request waits.
        let last = leases.last().filter(|lease| now < lease.deadline)?.deadline;
        Some(LowWater { units: ahead / 4, from: Some(Monotonic(last.0.saturating_sub(lease_time / 8))) })
    }

    /// So much of what is held will be used before it dies. Who waits uses it at once.
    fn lasts(&self, leases: &Leases, now: Monotonic) -> u64 {
        let (ahead, lease_time) = (self.demand.ahead(), self.terms.map_or(0, |terms| nanos(terms.lease_time())));
        leases.iter().fold(0, |lasts: u64, lease| {
            let used = part(ahead, lease.deadline.nanos_since(now), lease_time);
            lasts.saturating_add(lease.left(now)).min(lasts.max(used).max(self.waiting))
        })
    }

    /// When it is worth asking for `missing` units.
    fn asks_at(&self, missing: u64, now: Monotonic) -> Option<Monotonic> {
        let lease_time = nanos(self.terms?.lease_time());
        let Some(answer) = self.last.filter(|answer| answer.short) else { return Some(now) };
        let there = self.free_at(&answer, missing)?;
        let [soonest, latest] = [lease_time / 4, lease_time].map(|wait| answer.at.plus_nanos(wait));
        Some(there.max(soonest).min(latest))
    }

    /// When so many units are free, if nobody else takes or gives back any.
    fn free_at(&self, answer: &Answer, units: u64) -> Option<Monotonic> {
        let Some(more) = units.saturating_sub(answer.state.level).checked_sub(1) else { return Some(answer.at) };
        let terms = self.terms?;
        let wait = u128::from(more) * u128::from(terms.seconds) * 1_000_000_000 / u128::from(terms.units.max(1));
        let wait = u64::try_from(wait).unwrap_or(u64::MAX);
        Some(answer.at.plus_nanos(nanos(answer.state.next_in).saturating_add(wait)))
    }

    /// When the authority is to be told what was spent, even if nothing is asked for: it makes room for others.
    fn tells_at(&self, leases: &Leases, lease_time: u64) -> Option<Monotonic> {
        if self.is_plenty() {
            return None;
        }
        let told = self.told_at.unwrap_or(Monotonic(0));
        leases.iter().any(|lease| lease.has_news()).then(|| told.plus_nanos(lease_time / 2))
    }

    fn drop_done(&mut self, leases: &mut Leases, now: Monotonic) {
        leases.retain(|lease| {
            let done = lease.is_done(now);
            if done {
                self.demand.drop_lease(lease.spent());
            }
            !done
        });
    }

    pub(super) fn granted(&mut self, leases: &mut Leases, request: &RateRequest, grant: &RateGrant, now: Monotonic) {
        for report in &request.spent {
            if let Some(lease) = leases.iter().find(|lease| lease.id == report.lease) {
                lease.confirm(report.spent);
            }
        }
        self.ending.retain(|(ended, _)| !request.returned.iter().any(|returned| returned.lease == ended.lease));
        // A late answer to a wish that was given up brings nothing: its units die unused.
        let Some(asked) = self.asked.filter(|asked| asked.lease == request.lease) else { return };
        (self.asked, self.failed_at) = (None, None);
        let before = self.last.is_some_and(|answer| answer.short);
        let short = if asked.want > 0 { grant.units < asked.want } else { before };
        let is_long = request.terms.lease_time() >= LEAST_OF_PLENTY;
        let plenty = is_long && !short && grant.state.level >= request.terms.burst.div_ceil(2);
        self.last = Some(Answer { state: grant.state, at: now, short, plenty });
        self.demand.look(leases, nanos(request.terms.lease_time()), now);
        if grant.units > 0 && now < asked.deadline {
            let at = leases.partition_point(|lease| lease.deadline <= asked.deadline);
            leases.insert(at, Arc::new(RateLease::new(asked.lease, grant.units, asked.deadline)));
        }
        self.drop_done(leases, now);
        let left = sum(leases, now);
        self.useless = short && left > 0 && left < self.needed;
    }

    pub(super) fn failed(&mut self, lease: RateLeaseId, now: Monotonic) {
        if let Some(asked) = self.asked.as_mut().filter(|asked| asked.lease == lease) {
            asked.under_way = false;
            self.failed_at = Some(now);
        }
    }

    pub(super) fn failed_since(&self, since: Monotonic) -> bool {
        self.failed_at.is_some_and(|at| at >= since)
    }

    pub(super) fn answered(&self) -> Option<(RateState, Monotonic)> {
        self.last.map(|answer| (answer.state, answer.at))
    }

    /// Nanoseconds until it is worth asking for `missing` units; `None` if it is now. Who comes before is refused: to wait for an answer would be to wait for nothing.
    pub(super) fn short_for(&self, missing: u64, now: Monotonic) -> Option<u64> {
        let wait = self.asks_at(missing, now)?.nanos_since(now);
        (wait > 0).then_some(wait)
    }

    /// When to look again without being called, and when a request should call before.
    pub(super) fn next(&self, leases: &Leases, now: Monotonic) -> (Option<Monotonic>, Option<LowWater>) {
        let Some(terms) = self.terms.filter(|_| !self.is_under_way()) else { return (None, None) };
        let lease_time = nanos(terms.lease_time());
        let (left, low) = (sum(leases, now), self.low_water(leases, now));
        let again = (self.asked.is_some() || !self.ending.is_empty()).then(|| now.plus_nanos(lease_time / 8));
        // In the last quarter of its life it may go back, and in the end it is dropped. Where there is plenty, a request comes before that, or nobody misses it.
        let ends = leases
            .iter()
            .flat_map(|lease| [Monotonic(lease.deadline.0.saturating_sub(lease_time / 4)), lease.deadline])
            .filter(|at| *at > now && !self.is_plenty());
        let is_low = !self.is_plenty() && low.is_some_and(|low| low.is_reached(left, now));
        let asks = (self.waiting > left || is_low) && leases.len() < MOST_LEASES && again.is_none();
        let missing = self.needed.saturating_sub(left).max(1);
        let ask = asks.then(|| self.asks_at(missing, now)).flatten();
        let useless = self.useless.then_some(now);
        let due = ends.chain(again).chain(self.tells_at(leases, lease_time)).chain(ask).chain(useless).min();
        let short = self.last.is_some_and(|answer| answer.short);
        (due, low.filter(|_| !short))
    }
}
