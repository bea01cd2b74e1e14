//! How limits stand: for `RateLimit` headers, and for the refusal that names every limit in the way.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::admit::with_counter;
use super::caller::CompiledLimit;
use super::{Caller, Code, LimitState, Refusal};
use crate::clock::Monotonic;
use crate::gate::GateCore;
use crate::lease::{Counter, CounterState, QuotaCounter};
use crate::model::{CountedBy, LimitKind};
use crate::period::Period;
use crate::routes::RouteIndex;

/// How a limit stands for a caller: what `RateLimit` headers say.
#[derive(Debug, Clone)]
pub struct Standing<N = Arc<str>> {
    /// The limit's name.
    pub name: N,
    /// Units that may be used: the quota, the burst, or the requests that may be open.
    pub ceiling: u64,
    /// Units that are surely left.
    pub remaining: u64,
    /// Seconds until there are more; `None` for concurrency.
    pub reset_seconds: Option<u64>,
}

impl GateCore {
    /// The refusal by limits, each with its state.
    pub(super) fn violation(&self, caller: &Arc<Caller>, violated: &[(usize, u64)], client: Option<IpAddr>) -> Refusal {
        let now = self.clock.monotonic();
        let wall = self.wall_at(now);
        let mut states = Vec::with_capacity(violated.len());
        let mut retry_after = 1;
        let mut code = Code::ConcurrencyLimited;
        for (at, wait) in violated {
            let Some(compiled) = caller.plan.limits.get(*at) else { continue };
            let Some(counter) = caller.counter(*at, client, &self.counters) else { continue };
            let mut state = self.state_of(compiled, &counter, subject_text(compiled, caller, client), now);
            match &counter.state {
                CounterState::Rate(_) | CounterState::SharedRate(_) => {
                    if code != Code::QuotaExceeded {
                        code = Code::RateLimited;
                    }
                    state.resets_at = Some(wall.plus_micros(i64::try_from(wait.div_ceil(1_000)).unwrap_or(i64::MAX)));
                    retry_after = retry_after.max(wait.div_ceil(1_000_000_000));
                }
                CounterState::Quota(_) => {
                    code = Code::QuotaExceeded;
                    let end = state.period.map_or(1, |period| wall.micros_until(period.end).div_ceil(1_000_000));
                    retry_after = retry_after.max(end);
                }
                CounterState::Open(_) | CounterState::SharedSlots(_) => {}
            }
            states.push(state);
        }
        // The longest wait decides what the refusal is called, and stands first.
        states.sort_by_key(|state| std::cmp::Reverse(state.resets_at));
        let detail = detail(code, states.first());
        Refusal { code, detail: detail.into(), violated: states, retry_after: Some(retry_after), allow: None }
    }

    /// A limit as this node knows it.
    pub(crate) fn state_of(
        &self,
        compiled: &CompiledLimit,
        counter: &Counter,
        subject: String,
        now: Monotonic,
    ) -> LimitState {
        let mut state = compiled.unused(subject);
        match &counter.state {
            CounterState::Open(open) => state.used = open.load(Ordering::Relaxed),
            CounterState::Rate(bucket) => {
                let (remaining, next) = bucket.remaining(&compiled.rate, now);
                state.used = state.ceiling.saturating_sub(remaining);
                let next = i64::try_from(next.div_ceil(1_000)).unwrap_or(i64::MAX);
                state.resets_at = (next > 0).then(|| self.wall_at(now).plus_micros(next));
            }
            CounterState::SharedRate(rate) => {
                let (held, next) = rate.remaining(now);
                let free = rate.level(now).saturating_add(held);
                state.used = state.ceiling.saturating_sub(free);
                let next = i64::try_from(next.div_ceil(1_000)).unwrap_or(i64::MAX);
                state.resets_at = (next > 0).then(|| self.wall_at(now).plus_micros(next));
            }
            CounterState::SharedSlots(slots) => {
                let (here, elsewhere) = slots.in_use();
                state.used = here.saturating_add(elsewhere);
            }
            CounterState::Quota(quota) => {
                let period = self.period_of(compiled, quota, now);
                state.period = period;
                state.resets_at = period.map(|period| period.end);
                if let Some(window) = quota.window().filter(|window| Some(window.period) == period) {
                    state.fill(&window);
                }
            }
        }
        state
    }

    /// How every limit of a route stands for a caller.
    pub(crate) fn standings(&self, caller: &Arc<Caller>, route: RouteIndex, client: Option<IpAddr>) -> Vec<Standing> {
        let mut standings = Vec::new();
        self.each_standing(caller, route, client, |standing| {
            let Standing { name, ceiling, remaining, reset_seconds } = standing;
            standings.push(Standing { name: Arc::from(name), ceiling, remaining, reset_seconds });
        });
        standings
    }

    /// The same without a list.
    pub(crate) fn each_standing(
        &self,
        caller: &Arc<Caller>,
        route: RouteIndex,
        client: Option<IpAddr>,
        mut tell: impl FnMut(Standing<&str>),
    ) {
        let now = self.clock.monotonic();
        let Some(limits) = caller.plan.on_route(route, caller.environment) else { return };
        for limit in &limits.applied {
            let Some(compiled) = caller.plan.limits.get(limit.at) else { continue };
            with_counter(self, caller, limit.at, client, |counter| match &counter.state {
                CounterState::Open(open) => {
                    let free = compiled.limit.units.saturating_sub(open.load(Ordering::Relaxed));
                    tell(compiled.standing(free, None));
                }
                CounterState::Rate(bucket) => {
                    let (remaining, next) = bucket.remaining(&compiled.rate, now);
                    tell(compiled.standing(remaining, Some(next.div_ceil(1_000_000_000))));
                }
                CounterState::SharedRate(rate) => {
                    let (remaining, next) = rate.remaining(now);
                    tell(compiled.standing(remaining, Some(next.div_ceil(1_000_000_000))));
                }
                CounterState::SharedSlots(slots) => tell(compiled.standing(slots.free(), None)),
                CounterState::Quota(quota) => {
                    let (remaining, until) = quota.remaining(now);
                    let until = until.unwrap_or_else(|| self.until_period_end(compiled, quota, now));
                    tell(compiled.standing(remaining, Some(until.div_ceil(1_000_000_000))));
                }
            });
        }
    }

    /// The period of a quota at `now`, by the tenant's calendar and this node's clock.
    pub(super) fn period_of(&self, compiled: &CompiledLimit, quota: &QuotaCounter, now: Monotonic) -> Option<Period> {
        compiled.limit.per.map(|per| quota.terms().calendar.period(per, self.wall_at(now)))
    }

    fn until_period_end(&self, compiled: &CompiledLimit, quota: &QuotaCounter, now: Monotonic) -> u64 {
        let end = self.period_of(compiled, quota, now).map(|period| period.end);
        end.map_or(0, |end| self.wall_at(now).micros_until(end).saturating_mul(1_000))
    }
}

impl CompiledLimit {
    fn standing(&self, remaining: u64, reset_seconds: Option<u64>) -> Standing<&str> {
        Standing { name: &self.name, ceiling: self.ceiling(), remaining, reset_seconds }
    }

    /// Units that may be used: the burst of a rate, else the limit's units.
    fn ceiling(&self) -> u64 {
        if self.limit.kind == LimitKind::Rate { self.limit.burst } else { self.limit.units }
    }

    /// The limit of a subject that has used nothing.
    pub(super) fn unused(&self, subject: String) -> LimitState {
        LimitState {
            ceiling: self.ceiling(),
            limit: Arc::clone(&self.limit),
            subject,
            subject_name: None,
            subjects: None,
            used: 0,
            reserved: 0,
            period: None,
            resets_at: None,
        }
    }
}

impl Caller {
    /// The `RateLimit-Policy` of a route for this caller.
    #[must_use]
    pub fn policy(&self, route: RouteIndex) -> Option<&http::HeaderValue> {
        self.plan.on_route(route, self.environment)?.policy.as_ref()
    }
}

pub(crate) fn subject_text(compiled: &CompiledLimit, caller: &Caller, client: Option<IpAddr>) -> String {
    match compiled.limit.counted_by {
        CountedBy::Tenant => caller.tenant.to_string(),
        CountedBy::User => caller.user.map_or_else(String::new, |user| user.to_string()),
        CountedBy::Key => caller.key.to_string(),
        CountedBy::Ip => client.map_or_else(String::new, |client| client.to_canonical().to_string()),
    }
}

fn detail(code: Code, first: Option<&LimitState>) -> String {
    let Some(state) = first else { return code.title().to_owned() };
    let limit = &state.limit;
    let per = limit.per.map_or("", crate::model::Per::as_str);
    let when = state.resets_at.map_or_else(String::new, |at| format!(" There is more at {at}."));
    match code {
        Code::QuotaExceeded => {
            format!("The quota `{}` of {} {} per {per} is used up.{when}", limit.name, limit.units, limit.meter)
        }
        Code::RateLimited => format!(
            "The rate `{}` of {} {} per {per} (burst {}) is used up for now.{when}",
            limit.name, limit.units, limit.meter, limit.burst
        ),
        _ => format!("The limit `{}` of {} open requests is reached. Wait for one to end.", limit.name, limit.units),
    }
}
