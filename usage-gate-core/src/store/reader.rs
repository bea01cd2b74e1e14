//! Usage as dashboards ask for it: from rollups, never from records.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;

use super::{Audit, AuditQuery, RequestPage, RequestQuery, StoreError};
use crate::model::{Environment, KeyId, Per, TenantId, Timestamp, UserId};
use crate::period::{AnchorDay, Calendar, Period, Zone, bucket_start};

/// A dimension by which usage can be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the words say it")]
pub enum Dimension {
    Tenant,
    User,
    Key,
    Route,
    Outcome,
    Environment,
    Limit,
}

impl Dimension {
    /// Every dimension, in the order of columns.
    pub const ALL: [Self; 7] =
        [Self::Tenant, Self::User, Self::Key, Self::Route, Self::Outcome, Self::Environment, Self::Limit];

    /// The parameter and the member that name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::User => "user",
            Self::Key => "key",
            Self::Route => "route",
            Self::Outcome => "outcome",
            Self::Environment => "environment",
            Self::Limit => "limit",
        }
    }
}

/// How long the pieces are into which usage is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the words say it")]
pub enum Window {
    Hour,
    Day,
    Month,
}

impl Window {
    /// The calendar unit of the window.
    #[must_use]
    pub const fn per(self) -> Per {
        match self {
            Self::Hour => Per::Hour,
            Self::Day => Per::Day,
            Self::Month => Per::Month,
        }
    }
}

/// A question about usage.
#[derive(Debug, Clone)]
pub struct UsageQuery {
    /// `[from, to)`, by the start of buckets.
    pub period: Period,
    /// The zone in which windows are cut: calendar hours, days and months of it.
    pub zone: Zone,
    /// Pieces; one item a meter and group without.
    pub window: Option<Window>,
    /// Dimensions by which to split.
    pub group_by: BTreeSet<Dimension>,
    /// Only this tenant.
    pub tenant: Option<TenantId>,
    /// Only this user.
    pub user: Option<UserId>,
    /// Only this key.
    pub key: Option<KeyId>,
    /// Only this route.
    pub route: Option<String>,
    /// Only this meter.
    pub meter: Option<String>,
    /// Only this outcome.
    pub outcome: Option<String>,
    /// Only this environment.
    pub environment: Option<Environment>,
    /// Items to skip: the list is ordered by start, meter and the dimensions.
    pub skip: usize,
    /// At most this many.
    pub size: usize,
}

impl UsageQuery {
    /// All usage of a time, as one sum a meter; at most 10,000 items.
    ///
    /// ```
    /// # use usage_gate_core::{period::{Period, Zone}, store::{Dimension, UsageQuery}};
    /// # let period = Period { start: "2026-11-01T00:00:00Z".parse()?, end: "2026-12-01T00:00:00Z".parse()? };
    /// let by_key = UsageQuery { group_by: [Dimension::Key].into(), ..UsageQuery::new(period, Zone::UTC) };
    /// # drop(by_key); Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn new(period: Period, zone: Zone) -> Self {
        Self {
            period,
            zone,
            window: None,
            group_by: BTreeSet::new(),
            tenant: None,
            user: None,
            key: None,
            route: None,
            meter: None,
            outcome: None,
            environment: None,
            skip: 0,
            size: 10_000,
        }
    }
}

/// One sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageItem {
    /// The piece: the window, or the whole period asked for; cut to that period.
    pub period: Period,
    /// Which meter.
    pub meter: String,
    /// Values of the dimensions in `group_by`, in the order of [`Dimension::ALL`]; `None` where usage has none (a key without a user).
    pub group: Vec<(Dimension, Option<String>)>,
    /// Units of the meter.
    pub units: u64,
    /// Calls.
    pub requests: u64,
}

/// An answer about usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsagePage {
    /// Sums.
    pub items: Vec<UsageItem>,
    /// Whether there are more.
    pub more: bool,
    /// Every living stream's usage up to here is in it; `None` if nothing was ever shipped.
    pub complete_through: Option<Timestamp>,
}

/// Reads usage.
#[async_trait::async_trait]
pub trait UsageReader: Send + Sync + Debug + 'static {
    /// Answers from rollups.
    ///
    /// # Errors
    /// [`Unavailable`](super::StoreErrorKind::Unavailable).
    async fn usage(&self, query: &UsageQuery) -> Result<UsagePage, StoreError>;

    /// Answers from the request log, the newest first.
    ///
    /// # Errors
    /// [`Unavailable`](super::StoreErrorKind::Unavailable).
    async fn requests(&self, query: &RequestQuery) -> Result<RequestPage, StoreError>;

    /// Everything that an audit compares, as it was at one instant: watermarks, rollups, digests and counters.
    ///
    /// It reads all usage of the time asked for, and is not for pages.
    ///
    /// # Errors
    /// [`Unavailable`](super::StoreErrorKind::Unavailable).
    async fn audit(&self, query: &AuditQuery) -> Result<Audit, StoreError>;
}

/// Usage of one bucket (or of the whole period, if no window is asked for), split by the dimensions asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UsageRow {
    pub(crate) bucket: Timestamp,
    pub(crate) meter: String,
    /// One for each dimension of the query, in its order.
    pub(crate) group: Vec<Option<String>>,
    pub(crate) units: u64,
    pub(crate) requests: u64,
}

/// Sums rows into the windows of the query, orders them and cuts the page out: the same for every store.
pub(crate) fn fold(
    query: &UsageQuery,
    rows: impl IntoIterator<Item = UsageRow>,
    complete_through: Option<Timestamp>,
) -> UsagePage {
    let mut periods = HashMap::<Timestamp, Period>::new();
    let mut sums = BTreeMap::<(Period, String, Vec<Option<String>>), (u64, u64)>::new();
    for row in rows {
        let period = *periods.entry(row.bucket).or_insert_with(|| piece(query, row.bucket));
        let (units, requests) = sums.entry((period, row.meter, row.group)).or_default();
        *units = units.saturating_add(row.units);
        *requests = requests.saturating_add(row.requests);
    }
    let more = sums.len() > query.skip.saturating_add(query.size);
    let items = sums
        .into_iter()
        .skip(query.skip)
        .take(query.size)
        .map(|((period, meter, group), (units, requests))| UsageItem {
            period,
            meter,
            group: query.group_by.iter().copied().zip(group).collect(),
            units,
            requests,
        })
        .collect();
    UsagePage { items, more, complete_through }
}

/// The window that a bucket is in, cut to the period asked for.
fn piece(query: &UsageQuery, bucket: Timestamp) -> Period {
    let whole = match query.window {
        None => query.period,
        Some(Window::Hour) => hour(&query.zone, bucket),
        Some(window) => Calendar::new(query.zone.clone(), AnchorDay::FIRST).period(window.per(), bucket),
    };
    Period { start: whole.start.max(query.period.start), end: whole.end.min(query.period.end) }
}

/// The hour of the zone's clock that the instant is in, which ends where the next begins, also where clocks change inside an hour.
fn hour(zone: &Zone, instant: Timestamp) -> Period {
    let start = bucket_start(zone, instant);
    let mut end = bucket_start(zone, start.plus_micros(3_600_000_000));
    // No zone changes its clocks more often than this in an hour.
    for _ in 0..4 {
        let before = bucket_start(zone, end.plus_micros(-1));
        if before <= start {
            break;
        }
        end = before;
    }
    Period { start, end }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn query(zone: &str, window: Option<Window>, from: &str, to: &str) -> UsageQuery {
        UsageQuery {
            period: Period { start: at(from), end: at(to) },
            zone: zone.parse().unwrap(),
            window,
            group_by: BTreeSet::new(),
            tenant: None,
            user: None,
            key: None,
            route: None,
            meter: None,
            outcome: None,
            environment: None,
            skip: 0,
            size: 10,
        }
    }

    #[track_caller]
    fn check(query: &UsageQuery, buckets: &[&str], expected: &[(&str, &str, u64)]) {
        let rows = buckets.iter().map(|bucket| UsageRow {
            bucket: at(bucket),
            meter: "requests".into(),
            group: Vec::new(),
            units: 1,
            requests: 1,
        });
        let page = fold(query, rows, None);
        let found: Vec<_> = page
            .items
            .iter()
            .map(|item| (item.period.start.to_string(), item.period.end.to_string(), item.units))
            .collect();
        let expected: Vec<_> = expected.iter().map(|(a, b, c)| (a.to_string(), b.to_string(), *c)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn days_are_those_of_the_zone_and_are_cut_to_the_period() {
        check(
            &query("Asia/Tokyo", Some(Window::Day), "2026-11-23T20:00:00Z", "2026-11-24T20:00:00Z"),
            &["2026-11-23T20:00:00Z", "2026-11-24T14:00:00Z", "2026-11-24T15:00:00Z"],
            &[("2026-11-23T20:00:00Z", "2026-11-24T15:00:00Z", 2), ("2026-11-24T15:00:00Z", "2026-11-24T20:00:00Z", 1)],
        );
    }

    #[test]
    fn without_a_window_the_piece_is_the_period() {
        check(
            &query("UTC", None, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
            &["2026-11-02T00:00:00Z", "2026-11-24T14:00:00Z"],
            &[("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", 2)],
        );
    }

    #[test]
    fn an_hour_in_which_clocks_change_is_two_pieces() {
        check(
            &query("Australia/Lord_Howe", Some(Window::Hour), "2026-04-04T00:00:00Z", "2026-04-05T00:00:00Z"),
            &["2026-04-04T14:00:00Z", "2026-04-04T15:00:00Z", "2026-04-04T15:30:00Z"],
            &[
                ("2026-04-04T14:00:00Z", "2026-04-04T15:00:00Z", 1),
                ("2026-04-04T15:00:00Z", "2026-04-04T15:30:00Z", 1),
                ("2026-04-04T15:30:00Z", "2026-04-04T16:30:00Z", 1),
            ],
        );
    }

    #[test]
    fn a_page_says_whether_there_are_more() {
        let mut asked = query("UTC", Some(Window::Hour), "2026-11-24T00:00:00Z", "2026-11-25T00:00:00Z");
        (asked.skip, asked.size) = (1, 1);
        let rows = |count: i64| {
            (0..count).map(|hour| UsageRow {
                bucket: at("2026-11-24T00:00:00Z").plus_micros(hour * 3_600_000_000),
                meter: "requests".into(),
                group: Vec::new(),
                units: 1,
                requests: 1,
            })
        };
        assert!(!fold(&asked, rows(2), None).more);
        assert!(fold(&asked, rows(3), None).more);
    }
}
