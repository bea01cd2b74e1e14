//! Limits as they are shown: to an operator, a user or the holder of a key.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::LimitState;
use super::caller::{CompiledLimit, CompiledPlan};
use crate::gate::GateCore;
use crate::lease::{Counter, CounterState};
use crate::model::{CountedBy, Key, KeyId, LimitKind, Per, Plan, Tenant, UserId};
use crate::store::{CounterId, PageRequest, StoreError, Subject, WindowQuery};

/// Whose limits are asked for; neither is the tenant's view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitView {
    /// As this user sees them.
    pub user: Option<UserId>,
    /// As this key sees them.
    pub key: Option<KeyId>,
    /// No subject is shown but this `user` and their keys: neither how another stands nor what it is called.
    pub confined: bool,
}

/// Subjects of one limit that are asked for, to find the tightest and to count them.
const MOST_SUBJECTS: usize = 1_000;
/// Keys of a confined view that are looked at.
const MOST_KEYS: usize = 200;

impl GateCore {
    /// States of all limits of the plan.
    ///
    /// A limit counted by user or key that the view does not single out shows its tightest subject.
    pub(crate) async fn limit_states(
        &self,
        tenant: &Tenant,
        plan: &Plan,
        view: LimitView,
    ) -> Result<Vec<LimitState>, StoreError> {
        // What this node spent is told first, so that the authority's answer is fresh.
        self.leases.report().await?;
        let mut view = view;
        if let (Some(key), None, Some(accounts)) = (view.key, view.user, &self.accounts) {
            view.user = accounts.key(key).await?.and_then(|key| key.user);
        }
        let compiled = CompiledPlan::new(plan, &self.routes, &self.meters);
        let own = match view.key {
            None if view.confined => Some(self.keys_of(tenant, view.user).await?),
            _ => None,
        };
        let mut states = Vec::with_capacity(compiled.limits.len());
        for limit in &compiled.limits {
            let mut state = match (&own, limit.limit.counted_by) {
                (Some(own), CountedBy::Key) => self.tightest_of(tenant, limit, own).await?,
                _ => self.limit_state(tenant, limit, view).await?,
            };
            if view.confined && limit.limit.counted_by == CountedBy::Ip {
                // How tight it is may be known, whose address it is not.
                state.subject.clear();
            }
            states.push(state);
        }
        Ok(states)
    }

    /// The keys of a user that can be used.
    async fn keys_of(&self, tenant: &Tenant, user: Option<UserId>) -> Result<Vec<Key>, StoreError> {
        let (Some(user), Some(accounts)) = (user, &self.accounts) else { return Ok(Vec::new()) };
        let page = PageRequest { after: None, size: MOST_KEYS };
        let keys = accounts.keys(tenant.id, Some(user), &page).await?.items;
        Ok(keys.into_iter().filter(|key| key.revoked_at.is_none()).collect())
    }

    /// The tightest of some keys.
    async fn tightest_of(
        &self,
        tenant: &Tenant,
        limit: &CompiledLimit,
        keys: &[Key],
    ) -> Result<LimitState, StoreError> {
        let mut tightest: Option<LimitState> = None;
        for key in keys {
            let mut state =
                self.state_of_subject(tenant, limit, &counter_id(tenant, limit, Subject::Key(key.id))).await?;
            state.subject_name = Some(key.name.clone());
            if tightest.as_ref().is_none_or(|tightest| state.remaining() < tightest.remaining()) {
                tightest = Some(state);
            }
        }
        let mut state = tightest.unwrap_or_else(|| limit.unused(String::new()));
        state.subjects = u64::try_from(keys.len()).ok();
        Ok(state)
    }

    async fn limit_state(
        &self,
        tenant: &Tenant,
        limit: &CompiledLimit,
        view: LimitView,
    ) -> Result<LimitState, StoreError> {
        let single = match limit.limit.counted_by {
            CountedBy::Tenant => Some(Subject::Tenant),
            CountedBy::User => (view.user.is_some() || view.key.is_some()).then_some(Subject::User(view.user)),
            CountedBy::Key => view.key.map(Subject::Key),
            CountedBy::Ip => None,
        };
        let id = |subject| counter_id(tenant, limit, subject);
        match single {
            Some(subject) => self.state_of_subject(tenant, limit, &id(subject)).await,
            None => self.tightest(tenant, limit, id(Subject::Tenant)).await,
        }
    }

    async fn state_of_subject(
        &self,
        tenant: &Tenant,
        limit: &CompiledLimit,
        id: &CounterId,
    ) -> Result<LimitState, StoreError> {
        let mut state = limit.unused(subject_text(id));
        if limit.limit.kind == LimitKind::Quota {
            let query = WindowQuery { counter: id.clone(), calendar: tenant.calendar.clone(), cap: limit.limit.units };
            if let Some(window) = self.quotas.windows(&[query]).await?.first() {
                state.fill(window);
            }
        } else if let Some(counter) = self.counters.known(limit.limit.kind, id.clone()) {
            state = self.state_of(limit, &counter, state.subject, self.clock.monotonic());
        }
        Ok(state)
    }

    async fn tightest(
        &self,
        tenant: &Tenant,
        limit: &CompiledLimit,
        template: CounterId,
    ) -> Result<LimitState, StoreError> {
        let (mut state, subject, subjects) = if limit.limit.kind == LimitKind::Quota {
            let query =
                WindowQuery { counter: template.clone(), calendar: tenant.calendar.clone(), cap: limit.limit.units };
            let known = self.quotas.subjects(&query, MOST_SUBJECTS).await?;
            let count = known.len();
            let Some((id, window)) = known.into_iter().next() else { return Ok(limit.unused(String::new())) };
            let mut state = limit.unused(subject_text(&id));
            state.fill(&window);
            (state, id.subject, count)
        } else {
            let now = self.clock.monotonic();
            let known = self.counters.of_limit(limit.limit.kind, &template);
            let count = known.len();
            let free = |counter: &Arc<Counter>| match &counter.state {
                CounterState::Rate(bucket) => bucket.remaining(&limit.rate, now).0,
                CounterState::Open(open) => limit.limit.units.saturating_sub(open.load(Ordering::Relaxed)),
                CounterState::SharedRate(rate) => rate.level(now).saturating_add(rate.remaining(now).0),
                CounterState::SharedSlots(slots) => {
                    let (here, elsewhere) = slots.in_use();
                    slots.limit().saturating_sub(here.saturating_add(elsewhere))
                }
                CounterState::Quota(_) => u64::MAX,
            };
            let Some(counter) = known.into_iter().min_by_key(free) else { return Ok(limit.unused(String::new())) };
            let state = self.state_of(limit, &counter, subject_text(&counter.id), now);
            (state, counter.id.subject, count)
        };
        state.subjects = u64::try_from(subjects).ok();
        state.subject_name = self.subject_name(subject).await?;
        Ok(state)
    }

    async fn subject_name(&self, subject: Subject) -> Result<Option<String>, StoreError> {
        let Some(accounts) = &self.accounts else { return Ok(None) };
        Ok(match subject {
            Subject::Key(key) => accounts.key(key).await?.map(|key| key.name),
            Subject::User(Some(user)) => accounts.user(user).await?.map(|user| user.name),
            Subject::Tenant | Subject::User(None) | Subject::Ip(_) => None,
        })
    }
}

fn counter_id(tenant: &Tenant, limit: &CompiledLimit, subject: Subject) -> CounterId {
    CounterId {
        tenant: tenant.id,
        subject,
        limit: Arc::clone(&limit.name),
        meter: limit.limit.meter.as_str().into(),
        per: limit.limit.per.unwrap_or(Per::Second),
    }
}

fn subject_text(id: &CounterId) -> String {
    match id.subject {
        Subject::Tenant => id.tenant.to_string(),
        Subject::User(user) => user.map_or_else(String::new, |user| user.to_string()),
        Subject::Key(key) => key.to_string(),
        Subject::Ip(address) => address.to_string(),
    }
}
