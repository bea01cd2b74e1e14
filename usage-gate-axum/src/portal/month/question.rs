//! What the month page asks, and what the stores answer: rollups only, four questions at once.

use std::collections::BTreeMap;

use usage_gate_core::UsageGate;
use usage_gate_core::management::{Actor, ManagementError, usage_as};
use usage_gate_core::model::{Environment, Per, Timestamp};
use usage_gate_core::period::{AnchorDay, Calendar, Period, Zone, bucket_start};
use usage_gate_core::store::{Dimension, Outcome, UsageItem, UsagePage, UsageQuery, Window};

/// What columns are stacked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Key,
    Route,
    Outcome,
}

impl By {
    pub(crate) const ALL: [Self; 3] = [Self::Key, Self::Route, Self::Outcome];

    /// The word in the address of the page.
    pub(crate) const fn as_str(self) -> &'static str {
        self.dimension().as_str()
    }

    const fn dimension(self) -> Dimension {
        match self {
            Self::Key => Dimension::Key,
            Self::Route => Dimension::Route,
            Self::Outcome => Dimension::Outcome,
        }
    }
}

/// The part of a tenant's usage that is looked at.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) actor: Actor,
    pub(crate) zone: Zone,
    pub(crate) period: Period,
    /// The period before.
    pub(crate) previous: Period,
    pub(crate) meter: String,
    pub(crate) by: By,
    pub(crate) now: Timestamp,
}

/// Rollups are hours, so two periods are compared up to the last full one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compared {
    /// Up to here of this period.
    pub(crate) to: Timestamp,
    /// Up to here of the one before: the same day of it, the same hour.
    pub(crate) previous_to: Timestamp,
}

/// Units by member of the dimension.
pub(crate) type Totals = BTreeMap<Option<String>, u64>;

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Days of the period.
    pub(crate) days: Vec<Period>,
    /// Units a day, by member.
    pub(crate) by_day: BTreeMap<Option<String>, Vec<u64>>,
    /// Units of the period up to [`Compared::to`].
    pub(crate) compared: Totals,
    /// Units of the period before up to [`Compared::previous_to`].
    pub(crate) before: Totals,
    /// The same a day, of all members.
    pub(crate) before_by_day: Vec<u64>,
    /// Units that were served and count against no limit.
    pub(crate) unbilled: u64,
    /// Units that count against limits and are not billed: of calls whose end nobody knows, and of those that a crash took.
    pub(crate) uncharged: u64,
    /// All calls, by outcome, limit and key.
    pub(crate) calls: Vec<UsageItem>,
    /// Usage is whole up to here; `None` if nothing was ever shipped.
    pub(crate) complete_through: Option<Timestamp>,
}

/// Items of one answer, at most: a bound, not a page. The same as a file's, so that page and file have one sum.
const MOST_ITEMS: usize = 1_000_000;

impl Question {
    pub(crate) fn is_running(&self) -> bool {
        self.period.contains(self.now)
    }

    pub(crate) fn compared(&self) -> Compared {
        if !self.is_running() {
            return Compared { to: self.period.end, previous_to: self.previous.end };
        }
        let to = bucket_start(&self.zone, self.now).max(self.period.start);
        let days = self.zone.days_between(self.period.start, to);
        // A shorter month ends before the day: then all of it is compared.
        let previous_to = self.zone.same_time(self.previous.start, days, to);
        Compared { to, previous_to: previous_to.clamp(self.previous.start, self.previous.end) }
    }

    /// Asks. Whoever sees only their own keys is told those apart; keys of others are one member without a name.
    pub(crate) async fn ask(&self, gate: &UsageGate) -> Result<Answer, ManagementError> {
        let compared = self.compared();
        let by = self.by.dimension();
        let days_of = |period| self.query(period, Some(Window::Day), &[by], Some(&self.meter));
        let recent = self.query(Period { start: compared.to, end: self.period.end }, None, &[by], Some(&self.meter));
        let calls = UsageQuery {
            environment: None,
            ..self.query(self.period, None, &[Dimension::Key, Dimension::Outcome, Dimension::Limit], Some("requests"))
        };
        let before = days_of(Period { start: self.previous.start, end: compared.previous_to });
        let (now, before, recent, calls) = tokio::try_join!(
            self.read(gate, days_of(self.period)),
            self.read(gate, before),
            self.read(gate, recent),
            self.read(gate, calls)
        )?;

        let asked;
        let outcomes = match (self.by, self.meter.as_str()) {
            // Most pages need not ask: it is in what they have.
            (By::Outcome, _) => &now.items,
            (_, "requests") => &calls.items,
            _ => {
                let outcomes = self.query(self.period, None, &[Dimension::Outcome], Some(&self.meter));
                asked = self.read(gate, outcomes).await?;
                &asked.items
            }
        };
        let unbilled = units_that(outcomes, &[Outcome::Unbilled]);
        let uncharged = units_that(outcomes, &[Outcome::Indeterminate, Outcome::Forfeited]);
        let days = self.days(self.period);
        let mut by_day = BTreeMap::new();
        for item in &now.items {
            let sums = by_day.entry(value(item, by)).or_insert_with(|| vec![0; days.len()]);
            add(sums, &days, item);
        }
        // What is compared is all of it less the hour that is not over.
        let mut until: Totals = by_day.iter().map(|(member, sums)| (member.clone(), total(sums))).collect();
        for item in &recent.items {
            let sum = until.entry(value(item, by)).or_default();
            *sum = sum.saturating_sub(item.units);
        }
        let days_before = self.days(self.previous);
        let mut before_by_day = vec![0; days_before.len()];
        let mut sums_before = Totals::new();
        for item in &before.items {
            add(&mut before_by_day, &days_before, item);
            let sum = sums_before.entry(value(item, by)).or_default();
            *sum = sum.saturating_add(item.units);
        }
        Ok(Answer {
            days,
            by_day,
            compared: until,
            before: sums_before,
            before_by_day,
            unbilled,
            uncharged,
            calls: calls.items,
            complete_through: now.complete_through,
        })
    }

    fn query(&self, period: Period, window: Option<Window>, group_by: &[Dimension], meter: Option<&str>) -> UsageQuery {
        UsageQuery {
            window,
            group_by: group_by.iter().copied().collect(),
            tenant: Some(self.actor.tenant),
            meter: meter.map(ToOwned::to_owned),
            // Test keys are never billed and take no quota: they would make the sum another than the limit's.
            environment: Some(Environment::Live),
            size: MOST_ITEMS,
            ..UsageQuery::new(period, self.zone.clone())
        }
    }

    async fn read(&self, gate: &UsageGate, query: UsageQuery) -> Result<UsagePage, ManagementError> {
        // The period has only begun: there is nothing between its ends.
        if query.period.start >= query.period.end {
            return Ok(UsagePage { items: Vec::new(), more: false, complete_through: None });
        }
        usage_as(gate, &self.actor, query).await
    }

    /// The days of a period by the zone's calendar.
    fn days(&self, period: Period) -> Vec<Period> {
        let calendar = Calendar::new(self.zone.clone(), AnchorDay::FIRST);
        let mut days = Vec::with_capacity(31);
        let mut start = period.start;
        while start < period.end {
            let end = calendar.period(Per::Day, start).end.min(period.end);
            days.push(Period { start, end });
            start = end;
        }
        days
    }
}

/// Units of those that ended so.
fn units_that(items: &[UsageItem], ended: &[Outcome]) -> u64 {
    let ended = |item: &&UsageItem| {
        let outcome = value(item, Dimension::Outcome);
        ended.iter().any(|one| Some(one.as_str()) == outcome.as_deref())
    };
    items.iter().filter(ended).fold(0, |sum, item| sum.saturating_add(item.units))
}

fn add(sums: &mut [u64], days: &[Period], item: &UsageItem) {
    let at = days.partition_point(|day| day.end <= item.period.start);
    if let Some(sum) = sums.get_mut(at) {
        *sum = sum.saturating_add(item.units);
    }
}

pub(crate) fn total(sums: &[u64]) -> u64 {
    sums.iter().fold(0, |sum, one| sum.saturating_add(*one))
}

fn value(item: &UsageItem, wanted: Dimension) -> Option<String> {
    item.group.iter().find(|(dimension, _)| *dimension == wanted).and_then(|(_, value)| value.clone())
}

#[cfg(test)]
mod tests {
    use usage_gate_core::model::{Role, Tenant, TenantId, TenantStatus, User, UserId};

    use super::*;

    fn accounts() -> (User, Tenant) {
        let tenant = Tenant {
            id: TenantId::generate(),
            external_id: None,
            name: "Acme".into(),
            status: TenantStatus::Active,
            plan: "starter".into(),
            plan_version: 1,
            calendar: Calendar::new("Asia/Tokyo".parse().unwrap(), AnchorDay::FIRST),
            metadata: "{}".into(),
            created_at: Timestamp::default(),
            deleted_at: None,
        };
        let user = User {
            id: UserId::generate(),
            tenant: tenant.id,
            external_id: None,
            email: "ann@acme.test".into(),
            name: "Ann".into(),
            role: Role::Owner,
            created_at: Timestamp::default(),
            deleted_at: None,
        };
        (user, tenant)
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn question(period: (&str, &str), previous: (&str, &str), now: &str) -> Question {
        let (user, tenant) = accounts();
        Question {
            actor: Actor::new(&user, &tenant),
            zone: "Asia/Tokyo".parse().unwrap(),
            period: Period { start: at(period.0), end: at(period.1) },
            previous: Period { start: at(previous.0), end: at(previous.1) },
            meter: "requests".into(),
            by: By::Key,
            now: at(now),
        }
    }

    const OCTOBER: (&str, &str) = ("2026-09-30T15:00:00Z", "2026-10-31T15:00:00Z");
    const NOVEMBER: (&str, &str) = ("2026-10-31T15:00:00Z", "2026-11-30T15:00:00Z");

    #[test]
    fn a_running_month_is_compared_to_the_same_day_and_hour() {
        let compared = question(NOVEMBER, OCTOBER, "2026-11-24T05:32:08Z").compared();
        assert_eq!((compared.to, compared.previous_to), (at("2026-11-24T05:00:00Z"), at("2026-10-24T05:00:00Z")));
    }

    #[test]
    fn a_closed_month_is_compared_whole() {
        let compared =
            question(OCTOBER, ("2026-08-31T15:00:00Z", "2026-09-30T15:00:00Z"), "2026-11-24T05:32:08Z").compared();
        assert_eq!((compared.to, compared.previous_to), (at(OCTOBER.1), at("2026-09-30T15:00:00Z")));
    }

    #[test]
    fn the_31st_is_compared_with_all_of_a_shorter_month() {
        let december = ("2026-11-30T15:00:00Z", "2026-12-31T15:00:00Z");
        assert_eq!(question(december, NOVEMBER, "2026-12-31T05:00:00Z").compared().previous_to, at(NOVEMBER.1));
    }

    #[test]
    fn a_period_has_the_days_of_its_calendar() {
        let asked = question(NOVEMBER, OCTOBER, "2026-11-24T05:32:08Z");
        let days = asked.days(asked.period);
        assert_eq!((days.len(), days[0].start, days[29].end), (30, at(NOVEMBER.0), at(NOVEMBER.1)));
    }
}
