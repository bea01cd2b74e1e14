//! Usage and limits as users of a tenant see them.
//!
//! Everybody sees the tenant's totals. Whoever sees only their own keys is told their own apart; what all others used is one sum without a
//! key and without a user.

use std::collections::{BTreeMap, BTreeSet};

use super::{Actor, ManagementError, Reach, accounts, key_as};
use crate::admission::LimitView;
use crate::gate::UsageGate;
use crate::model::{KeyId, Per, Tenant, Timestamp, UserId};
use crate::period::{Calendar, Period};
use crate::store::{Dimension, UsageItem, UsagePage, UsageQuery};

/// Items of one answer that are put together in memory; a tenant's month by the hour has some thousands.
const MOST_ITEMS: usize = 1_000_000;
/// Months that are listed: three years.
const MOST_PERIODS: usize = 36;

/// Answers a question about usage, confined to the actor's tenant and to what they may tell apart.
///
/// # Errors
/// `NotFound` for a key or user that they may not tell apart or that is not the tenant's, and where the gate reads no usage; `Store`.
pub async fn usage_as(gate: &UsageGate, actor: &Actor, query: UsageQuery) -> Result<UsagePage, ManagementError> {
    let query = UsageQuery { tenant: Some(actor.tenant), ..query };
    check_subjects(gate, actor, query.user, query.key).await?;
    let reader = gate.reader().ok_or(ManagementError::NotFound("usage"))?;
    let told = |query: &UsageQuery| [Dimension::Key, Dimension::User].iter().any(|by| query.group_by.contains(by));
    // A key or user that passed the check is the actor's own: nothing of others is in the answer.
    let own = actor.sees_usage() == Reach::All || query.user.is_some() || query.key.is_some();
    if own || !told(&query) {
        return Ok(reader.usage(&query).await?);
    }
    let mine = UsageQuery { user: Some(actor.user), skip: 0, size: MOST_ITEMS, ..query.clone() };
    let mine = reader.usage(&mine).await?;
    let group_by: BTreeSet<Dimension> =
        query.group_by.iter().copied().filter(|by| !matches!(by, Dimension::Key | Dimension::User)).collect();
    let all = UsageQuery { group_by, skip: 0, size: MOST_ITEMS, ..query.clone() };
    // Read after `mine`, so that it has at least as much.
    let all = reader.usage(&all).await?;
    Ok(merged(&query, mine, all))
}

/// The actor's own items, and for each sum of all what is left of it once theirs are taken off.
fn merged(query: &UsageQuery, mine: UsagePage, all: UsagePage) -> UsagePage {
    type Place = (Period, String, Vec<Option<String>>);
    let mut own = BTreeMap::<Place, (u64, u64)>::new();
    for item in &mine.items {
        let apart = |dimension: &Dimension| !matches!(dimension, Dimension::Key | Dimension::User);
        let group = item.group.iter().filter(|(dimension, _)| apart(dimension)).map(|(_, value)| value.clone());
        let sum = own.entry((item.period, item.meter.clone(), group.collect())).or_default();
        *sum = (sum.0.saturating_add(item.units), sum.1.saturating_add(item.requests));
    }
    let complete_through = mine.complete_through.min(all.complete_through);
    let others = all.items.into_iter().filter_map(|item| {
        let group: Vec<Option<String>> = item.group.iter().map(|(_, value)| value.clone()).collect();
        let (units, requests) = own.get(&(item.period, item.meter.clone(), group)).copied().unwrap_or_default();
        let (units, requests) = (item.units.saturating_sub(units), item.requests.saturating_sub(requests));
        let value = |by: &Dimension| item.group.iter().find(|(dimension, _)| dimension == by)?.1.clone();
        let group = query.group_by.iter().map(|by| (*by, value(by))).collect();
        (units > 0 || requests > 0).then_some(UsageItem { group, units, requests, ..item })
    });
    let mut items: Vec<UsageItem> = others.chain(mine.items).collect();
    items.sort_by(|a, b| (a.period, &a.meter, &a.group).cmp(&(b.period, &b.meter, &b.group)));
    let more = items.len() > query.skip.saturating_add(query.size);
    let items = items.into_iter().skip(query.skip).take(query.size).collect();
    UsagePage { items, more, complete_through }
}

/// Whose limits an actor is shown: those asked for, else the tenant's; who sees only their own keys is shown no others' standing.
///
/// # Errors
/// `NotFound` as for [`usage_as`]; `Store`.
pub async fn limit_view_as(
    gate: &UsageGate,
    actor: &Actor,
    user: Option<UserId>,
    key: Option<KeyId>,
) -> Result<LimitView, ManagementError> {
    check_subjects(gate, actor, user, key).await?;
    Ok(match actor.sees_usage() {
        Reach::All => LimitView { user, key, confined: false },
        Reach::Own | Reach::Nothing => LimitView { user: Some(actor.user), key, confined: true },
    })
}

/// A month of a tenant's calendar.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamedPeriod {
    /// Its start on the tenant's own clock: `2026-11`, or `2026-11-15` if it begins on another day than the first.
    pub name: String,
    /// From when to when.
    pub period: Period,
}

/// The tenant's months from the one in which it was made to the present one, the newest first, at most three years of them.
#[must_use]
pub fn periods(tenant: &Tenant, now: Timestamp) -> Vec<NamedPeriod> {
    let calendar = &tenant.calendar;
    let mut periods = Vec::new();
    let mut period = calendar.period(Per::Month, now);
    while periods.len() < MOST_PERIODS {
        periods.push(NamedPeriod { name: name(calendar, period.start), period });
        if period.start <= tenant.created_at {
            break;
        }
        period = month_before(calendar, period);
    }
    periods
}

/// The month that ends where this one begins.
///
/// Before a change of calendar whole months are shown, which end where the next begins. A zone further east has begun its month some hours
/// before the change: those hours belong to the month before, since no two months have one name.
#[must_use]
pub fn month_before(calendar: &Calendar, period: Period) -> Period {
    let mut before = calendar.period(Per::Month, period.start.plus_micros(-1));
    if name(calendar, before.start) == name(calendar, period.start) {
        before.start = calendar.period(Per::Month, before.start.plus_micros(-1)).start;
    }
    Period { end: before.end.min(period.start), ..before }
}

fn name(calendar: &Calendar, start: Timestamp) -> String {
    let date = calendar.zone_at(start).rules().to_datetime(start.to_jiff()).date();
    if date.day() == 1 { date.strftime("%Y-%m").to_string() } else { date.to_string() }
}

/// A key or user that is asked for is the tenant's, and one that the actor is told apart.
pub(super) async fn check_subjects(
    gate: &UsageGate,
    actor: &Actor,
    user: Option<UserId>,
    key: Option<KeyId>,
) -> Result<(), ManagementError> {
    if let Some(key) = key {
        key_as(gate, actor, key).await?;
    }
    match user {
        Some(user) => visible_user(gate, actor, user).await,
        None => Ok(()),
    }
}

/// A user whose keys and usage the actor is told apart; any other is as one who is not there.
pub(super) async fn visible_user(gate: &UsageGate, actor: &Actor, user: UserId) -> Result<(), ManagementError> {
    let known = match actor.sees_usage() {
        Reach::All => accounts(gate)?.user(user).await?.is_some_and(|user| user.tenant == actor.tenant),
        Reach::Own => user == actor.user,
        Reach::Nothing => false,
    };
    if known { Ok(()) } else { Err(ManagementError::NotFound("user")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;
    use crate::period::{AnchorDay, Zone};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[track_caller]
    fn check(calendar: Calendar, made: &str, now: &str, expected: &[(&str, &str, &str)]) {
        let tenant = Tenant { calendar, created_at: at(made), ..conformance::tenant(&conformance::plan("starter")) };
        let found: Vec<_> = periods(&tenant, at(now))
            .into_iter()
            .map(|month| (month.name, month.period.start.to_string(), month.period.end.to_string()))
            .collect();
        let expected: Vec<_> =
            expected.iter().map(|(a, b, c)| ((*a).to_owned(), (*b).to_owned(), (*c).to_owned())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn months_go_back_to_the_one_in_which_the_tenant_was_made() {
        check(
            Calendar::new("Asia/Tokyo".parse().unwrap(), AnchorDay::FIRST),
            "2026-10-31T14:59:59Z",
            "2026-11-24T12:00:00Z",
            &[
                ("2026-11", "2026-10-31T15:00:00Z", "2026-11-30T15:00:00Z"),
                ("2026-10", "2026-09-30T15:00:00Z", "2026-10-31T15:00:00Z"),
            ],
        );
        check(
            Calendar::new(Zone::UTC, AnchorDay::new(15).unwrap()),
            "2026-11-15T00:00:00Z",
            "2026-11-24T12:00:00Z",
            &[("2026-11-15", "2026-11-15T00:00:00Z", "2026-12-15T00:00:00Z")],
        );
    }

    #[test]
    fn months_do_not_overlap_where_the_calendar_changed() {
        let mut calendar = Calendar::new(Zone::UTC, AnchorDay::new(15).unwrap());
        calendar.since = Some(at("2026-11-01T00:00:00Z"));
        check(
            calendar,
            "2026-10-20T00:00:00Z",
            "2026-11-24T12:00:00Z",
            &[
                ("2026-11-15", "2026-11-15T00:00:00Z", "2026-12-15T00:00:00Z"),
                ("2026-11", "2026-11-01T00:00:00Z", "2026-11-15T00:00:00Z"),
                ("2026-10-15", "2026-10-15T00:00:00Z", "2026-11-01T00:00:00Z"),
            ],
        );
    }

    #[test]
    fn hours_of_a_month_that_had_begun_further_east_belong_to_the_one_before() {
        let mut calendar = Calendar::new("Asia/Tokyo".parse().unwrap(), AnchorDay::FIRST);
        calendar.since = Some(at("2026-11-01T00:00:00Z"));
        check(
            calendar,
            "2026-09-20T00:00:00Z",
            "2026-11-24T12:00:00Z",
            &[
                ("2026-11", "2026-11-01T00:00:00Z", "2026-11-30T15:00:00Z"),
                ("2026-10", "2026-09-30T15:00:00Z", "2026-11-01T00:00:00Z"),
                ("2026-09", "2026-08-31T15:00:00Z", "2026-09-30T15:00:00Z"),
            ],
        );
    }

    #[test]
    fn three_years_are_enough() {
        let tenant = Tenant { created_at: at("2000-01-01T00:00:00Z"), ..conformance::tenant(&conformance::plan("a")) };
        assert_eq!(periods(&tenant, at("2026-11-24T12:00:00Z")).len(), 36);
    }

    fn item(key: Option<&str>, outcome: &str, units: u64) -> UsageItem {
        let period = Period { start: at("2026-11-01T00:00:00Z"), end: at("2026-12-01T00:00:00Z") };
        let mut group = vec![(Dimension::Outcome, Some(outcome.to_owned()))];
        if let Some(key) = key {
            group.insert(0, (Dimension::Key, (!key.is_empty()).then(|| key.to_owned())));
        }
        UsageItem { period, meter: "requests".into(), group, units, requests: units }
    }

    #[test]
    fn what_others_used_is_one_sum_without_a_key() {
        let query = UsageQuery {
            period: item(None, "billed", 0).period,
            zone: Zone::UTC,
            window: None,
            group_by: [Dimension::Key, Dimension::Outcome].into(),
            tenant: None,
            user: None,
            key: None,
            route: None,
            meter: None,
            outcome: None,
            environment: None,
            skip: 0,
            size: 10,
        };
        let page = |items| UsagePage { items, more: false, complete_through: None };
        let mine = || page(vec![item(Some("key_a"), "billed", 3), item(Some("key_b"), "billed", 4)]);
        let all = || page(vec![item(None, "billed", 10), item(None, "refused:x", 2)]);
        let expected = [
            item(Some(""), "billed", 3),
            item(Some(""), "refused:x", 2),
            item(Some("key_a"), "billed", 3),
            item(Some("key_b"), "billed", 4),
        ];
        assert_eq!(merged(&query, mine(), all()).items, expected);
        let first = merged(&UsageQuery { skip: 1, size: 2, ..query.clone() }, mine(), all());
        assert_eq!((first.items.as_slice(), first.more), (&expected[1..3], true));
        let alone = merged(&query, mine(), page(vec![item(None, "billed", 7)]));
        assert_eq!(alone.items, expected[2..], "nobody else used anything");
    }
}
