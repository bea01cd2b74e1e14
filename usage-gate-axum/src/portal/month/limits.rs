//! A limit as a row: what is left, a bar that proves it, the digits.

use usage_gate_core::admission::LimitState;
use usage_gate_core::model::{CountedBy, LimitKind, Per, Timestamp, WhenExceeded};

use crate::portal::locale::{Dates, Html, Language, about};
use crate::portal::meter::heading;

/// A row of the list of limits.
#[derive(Debug)]
pub(crate) struct LimitRow {
    /// The class that colours it: `near`, `full`, `over` or none.
    pub(crate) class: &'static str,
    pub(crate) title: String,
    /// The state in a word, since colour alone says nothing to many.
    pub(crate) tag: Option<&'static str>,
    pub(crate) scope: String,
    /// The name in headers and problems.
    pub(crate) name: String,
    pub(crate) left: String,
    pub(crate) below_left: Html,
    pub(crate) bar: Bar,
    pub(crate) facts: String,
    pub(crate) outlook: String,
}

/// Segments of a bar, as attributes of SVG rectangles.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Bar {
    pub(crate) used: Option<String>,
    /// Where the reserved part begins, and its width.
    pub(crate) held: Option<(String, String)>,
    /// The same of what is past the limit.
    pub(crate) past: Option<(String, String)>,
    /// How much of the period is gone.
    pub(crate) pace: Option<String>,
}

/// A limit that refuses now, for the notice on top.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) head: Html,
    pub(crate) time: String,
    pub(crate) text: String,
    /// The limit is one of some routes: the others are served.
    pub(crate) partly: bool,
}

/// From this share of a limit on it is running low, in percent.
const LOW: u64 = 80;
/// A pace is told from this share of the period on, in percent: before it a forecast is noise.
const FORECAST_FROM: u64 = 10;

impl LimitRow {
    pub(crate) fn new(state: &LimitState, language: Language, dates: &Dates, now: Timestamp) -> Self {
        let words = language.words();
        let limit = &state.limit;
        let quota = limit.kind == LimitKind::Quota;
        let (taken, remaining, over) = (state.used.saturating_add(state.reserved), state.remaining(), state.over());
        let blocks = limit.when_exceeded == WhenExceeded::Block;
        let (class, tag) = match () {
            () if quota && !blocks && over > 0 => ("over", Some(words.over)),
            () if quota && blocks && remaining == 0 => ("full", Some(words.full)),
            () if at_least(taken, state.ceiling, LOW) => ("near", Some(words.low)),
            () => ("", None),
        };
        let gone = state
            .period
            .filter(|_| quota)
            .map(|period| (period.start.micros_until(now), period.start.micros_until(period.end)));
        let per = limit.per.map_or("", Per::as_str);
        // Where nobody has used anything no subject is tighter than another.
        let subject = state.subject_name.as_deref().filter(|_| taken > 0);
        let below_left = match (&state.period, subject) {
            (_, Some(subject)) => Html::from(language.lowest_now(subject).as_str()),
            _ if class == "over" => Html::from(words.counted_on),
            (Some(period), None) if quota => language.resets(&dates.day_and_time(period.end)),
            _ => Html::from(words.right_now),
        };
        let outlook = match gone {
            _ if class == "full" => words.refused_until_reset.to_owned(),
            Some((gone, whole)) if at_least(gone, whole, FORECAST_FROM) && state.used > 0 => {
                language.on_pace(about(scaled(state.used, whole, gone)))
            }
            _ => String::new(),
        };
        Self {
            class,
            tag,
            title: title(state, language),
            scope: scope(state, language),
            name: limit.name.clone(),
            left: if class == "over" { language.over_by(over) } else { language.left(remaining) },
            below_left,
            bar: Bar::new(state, gone),
            facts: match limit.kind {
                LimitKind::Quota => language.used_of(state.used, state.reserved, state.ceiling),
                LimitKind::Rate => language.used_of_burst(state.used, state.ceiling, limit.units, per),
                LimitKind::Concurrency => language.open_now(state.used, state.ceiling),
            },
            outlook,
        }
    }
}

impl Notice {
    /// The notice of the first limit that refuses everything it counts until its period ends.
    pub(crate) fn of(states: &[LimitState], language: Language, dates: &Dates) -> Option<Self> {
        let state = states.iter().find(|state| {
            state.limit.kind == LimitKind::Quota
                && state.limit.when_exceeded == WhenExceeded::Block
                && state.remaining() == 0
                // One key or user that has used its own up is shown in its row; the others are served.
                && state.limit.counted_by == CountedBy::Tenant
        })?;
        let end = state.period?.end;
        Some(Self {
            head: language.refused_until(&title(state, language), &dates.until(end)),
            time: language.in_brackets(&dates.in_time(end)),
            partly: state.limit.routes.is_some(),
            text: language.all_used(state.ceiling, state.limit.per.map_or("", Per::as_str)),
        })
    }
}

impl Bar {
    fn new(state: &LimitState, gone: Option<(u64, u64)>) -> Self {
        let taken = state.used.saturating_add(state.reserved);
        // Past a limit that counts on the bar shows all that was used, and the limit moves inside. One that blocks is simply full, also where
        // it was lowered below what was used.
        let counts_on = state.limit.when_exceeded == WhenExceeded::Allow;
        let taken = if counts_on { taken } else { taken.min(state.ceiling) };
        let whole = state.ceiling.max(taken).max(1);
        let limit = state.ceiling.min(whole);
        let (used, held) = (state.used.min(limit), state.reserved.min(limit.saturating_sub(state.used.min(limit))));
        let past = taken.saturating_sub(limit);
        Self {
            used: (used > 0).then(|| width(used, whole)),
            held: (held > 0).then(|| (percent(used, whole), width(held, whole))),
            past: (past > 0).then(|| (percent(limit, whole), width(past, whole))),
            pace: gone.map(|(gone, period)| percent(scaled(limit, gone.min(period), period), whole)),
        }
    }
}

fn title(state: &LimitState, language: Language) -> String {
    let meter = heading(&state.limit.meter, language);
    match (state.limit.kind, language) {
        (LimitKind::Quota, _) => meter,
        (LimitKind::Rate, Language::English) => format!("{} rate", meter.strip_suffix('s').unwrap_or(&meter)),
        (LimitKind::Rate, Language::Japanese) => format!("{meter}レート"),
        (LimitKind::Concurrency, _) => language.words().calls_at_once.to_owned(),
    }
}

/// What it counts: `per month, whole team`.
fn scope(state: &LimitState, language: Language) -> String {
    let (limit, words) = (&state.limit, language.words());
    let per = limit.per.map_or("", Per::as_str);
    let per = match limit.kind {
        LimitKind::Quota => language.per(per).to_owned(),
        LimitKind::Rate => language.rate(limit.units, per),
        LimitKind::Concurrency => String::new(),
    };
    let by = match limit.counted_by {
        CountedBy::Tenant => words.whole_team,
        CountedBy::User => words.each_user,
        CountedBy::Key => words.each_key,
        CountedBy::Ip => words.each_address,
    };
    let routes = limit.routes.as_ref().map(|routes| language.on_routes(&routes.join(", ")));
    let parts = [per, by.to_owned(), routes.unwrap_or_default()];
    let separator = if language == Language::Japanese { "・" } else { ", " };
    parts.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join(separator)
}

/// Whether `part` is at least so many percent of `whole`.
fn at_least(part: u64, whole: u64, percent: u64) -> bool {
    whole > 0 && u128::from(part) * 100 >= u128::from(whole) * u128::from(percent)
}

/// `number * times / by`, rounded.
fn scaled(number: u64, times: u64, by: u64) -> u64 {
    let by = u128::from(by.max(1));
    u64::try_from((u128::from(number) * u128::from(times) + by / 2) / by).unwrap_or(u64::MAX)
}

/// A share as an SVG length.
fn percent(part: u64, whole: u64) -> String {
    let hundredths = scaled(part, 10_000, whole);
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

/// The same for a segment: what is there is seen, be it ever so small.
fn width(part: u64, whole: u64) -> String {
    if u128::from(part) * 300 < u128::from(whole) { "2".to_owned() } else { percent(part, whole) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use usage_gate_core::model::{Limit, StoreAway};
    use usage_gate_core::period::{Period, Zone};

    use super::*;

    const NOW: &str = "2026-11-24T14:32:08Z";

    fn state(kind: LimitKind, when_exceeded: WhenExceeded, units: u64, used: u64, reserved: u64) -> LimitState {
        let per = if kind == LimitKind::Rate { Per::Second } else { Per::Month };
        let limit = Limit {
            name: "month".into(),
            kind,
            meter: "output_tokens".into(),
            units,
            per: (kind != LimitKind::Concurrency).then_some(per),
            burst: units,
            counted_by: CountedBy::Tenant,
            routes: None,
            when_exceeded,
            store_away: StoreAway::Share,
        };
        let period =
            Period { start: "2026-11-01T00:00:00Z".parse().unwrap(), end: "2026-12-01T00:00:00Z".parse().unwrap() };
        LimitState {
            limit: Arc::new(limit),
            subject: "ten_1".into(),
            subject_name: None,
            subjects: None,
            ceiling: units,
            used,
            reserved,
            period: (kind == LimitKind::Quota).then_some(period),
            resets_at: None,
        }
    }

    fn row(state: &LimitState) -> LimitRow {
        let now = NOW.parse().unwrap();
        LimitRow::new(state, Language::English, &Dates::new(Language::English, Zone::UTC, now), now)
    }

    #[test]
    fn a_limit_on_its_way_says_what_is_left_and_whether_it_lasts() {
        let row = row(&state(LimitKind::Quota, WhenExceeded::Block, 600_000, 412_806, 7_194));
        assert_eq!((row.class, row.tag, row.left.as_str()), ("", None, "180,000 left"));
        assert_eq!(row.facts, "412,806 used · 7,194 reserved · of 600,000");
        assert_eq!(row.outlook, "On pace for about 524,600");
        assert_eq!((row.title.as_str(), row.scope.as_str()), ("Output tokens", "per month, whole team"));
        assert_eq!(row.bar.used.as_deref(), Some("68.80%"));
        assert_eq!(row.bar.held, Some(("68.80%".into(), "1.20%".into())));
        assert!(row.below_left.to_string().contains("1 Dec 00:00"));
    }

    #[test]
    fn states_are_words() {
        let tag = |state: &LimitState| (row(state).class, row(state).tag);
        assert_eq!(tag(&state(LimitKind::Quota, WhenExceeded::Block, 100, 79, 0)), ("", None));
        assert_eq!(tag(&state(LimitKind::Quota, WhenExceeded::Block, 100, 70, 10)), ("near", Some("Low")));
        assert_eq!(tag(&state(LimitKind::Quota, WhenExceeded::Block, 100, 99, 1)), ("full", Some("Full")));
        assert_eq!(tag(&state(LimitKind::Quota, WhenExceeded::Allow, 100, 100, 0)), ("near", Some("Low")));
        assert_eq!(tag(&state(LimitKind::Quota, WhenExceeded::Allow, 100, 101, 0)), ("over", Some("Over")));
        assert_eq!(tag(&state(LimitKind::Rate, WhenExceeded::Block, 100, 100, 0)), ("near", Some("Low")));
    }

    #[test]
    fn past_its_limit_a_bar_shows_all_that_was_used() {
        let bar = row(&state(LimitKind::Quota, WhenExceeded::Allow, 40_000_000, 41_268_400, 0)).bar;
        assert_eq!(bar.used.as_deref(), Some("96.93%"));
        assert_eq!(bar.past, Some(("96.93%".into(), "3.07%".into())));
    }

    #[test]
    fn what_is_tiny_is_still_seen() {
        let bar = row(&state(LimitKind::Quota, WhenExceeded::Block, 1_000_000, 1, 0)).bar;
        assert_eq!(bar.used.as_deref(), Some("2"));
        let bar = row(&state(LimitKind::Quota, WhenExceeded::Block, 0, 0, 0)).bar;
        assert_eq!((bar.used, bar.past), (None, None));
    }
}
