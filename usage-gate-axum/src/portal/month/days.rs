//! Use by day: the sum, the chart, the table under it and the days in words.

use std::collections::BTreeMap;

use usage_gate_core::routes::Routes;

use super::chart::{self, Chart};
use super::question::{Answer, By, Compared, Question, Totals, total};
use super::series::{COLOURS, Colour, Series, series};
use crate::portal::locale::{Dates, Html, Language, axis, change, grouped, share};
use crate::portal::meter::heading;

/// Everything that the section shows.
#[derive(Debug)]
pub(crate) struct Days {
    pub(crate) meter: String,
    pub(crate) by: &'static str,
    pub(crate) caption: String,
    pub(crate) sum: String,
    pub(crate) compared: String,
    pub(crate) not_billed: Option<String>,
    /// What counts against limits and is not billed all the same.
    pub(crate) not_charged: Option<String>,
    pub(crate) series: Vec<SeriesRow>,
    pub(crate) total: SeriesRow,
    pub(crate) before_head: String,
    pub(crate) change_note: Option<String>,
    pub(crate) chart: Chart,
    pub(crate) days: Vec<DayRow>,
    /// Columns that have no day yet.
    pub(crate) to_come: usize,
    pub(crate) labels: Vec<Label>,
    pub(crate) lines: Vec<(u64, String)>,
    pub(crate) empty: bool,
}

/// A row of the table, and an entry of the legend.
#[derive(Debug)]
pub(crate) struct SeriesRow {
    /// The class with its colour.
    pub(crate) class: String,
    pub(crate) name: String,
    pub(crate) total: String,
    pub(crate) share: String,
    pub(crate) before: String,
    pub(crate) change: String,
}

/// A day in words.
#[derive(Debug)]
pub(crate) struct DayRow {
    pub(crate) name: String,
    pub(crate) total: String,
    pub(crate) so_far: bool,
    pub(crate) before: Option<String>,
    pub(crate) values: Vec<String>,
    pub(crate) chosen: bool,
}

/// A label of the axis.
#[derive(Debug)]
pub(crate) struct Label {
    pub(crate) x: String,
    pub(crate) text: String,
    pub(crate) today: bool,
}

/// What members are called, and in which colours they wish to stand.
#[derive(Debug)]
pub(crate) struct Members<'a> {
    pub(crate) keys: &'a BTreeMap<String, String>,
    pub(crate) routes: &'a Routes,
    pub(crate) by: By,
    /// Whether they are told the keys of all apart.
    pub(crate) sees_all: bool,
    pub(crate) language: Language,
}

impl Members<'_> {
    fn name(&self, member: Option<&str>) -> String {
        let words = self.language.words();
        match (self.by, member) {
            // What a crash took is of no key; nothing else is without one for those who see all.
            (By::Key, None) if self.sees_all => words.forfeited.to_owned(),
            (By::Key, None) => words.foreign_keys.to_owned(),
            (By::Key, Some(key)) => self.keys.get(key).cloned().unwrap_or_else(|| key.to_owned()),
            (By::Route, None | Some("")) => words.no_route.to_owned(),
            (By::Route, Some(route)) => route.to_owned(),
            (By::Outcome, outcome) => match outcome.unwrap_or_default() {
                "billed" => words.billed.to_owned(),
                "unbilled" => words.unbilled.to_owned(),
                "aborted" => words.aborted.to_owned(),
                "indeterminate" => words.indeterminate.to_owned(),
                "forfeited" => words.forfeited.to_owned(),
                "test" => words.test_calls.to_owned(),
                other => other.to_owned(),
            },
        }
    }

    fn colour(&self, member: Option<&str>) -> Colour {
        match (self.by, member) {
            (By::Key, None) => Colour::Grey,
            // Its place among all keys, which stays: keys are made in the order of their ids and none goes away.
            (By::Key, Some(key)) => {
                Colour::Wished(self.keys.keys().take_while(|known| known.as_str() < key).count() % COLOURS)
            }
            (By::Route, route) => {
                let route = route.unwrap_or_default();
                Colour::Wished(
                    self.routes.iter().position(|known| *known.name == *route).unwrap_or(COLOURS - 1) % COLOURS,
                )
            }
            (By::Outcome, outcome) => match outcome.unwrap_or_default() {
                "billed" => Colour::Wished(0),
                "aborted" => Colour::Wished(2),
                "indeterminate" => Colour::Wished(3),
                "unbilled" | "forfeited" => Colour::Grey,
                _ => Colour::Wished(5),
            },
        }
    }
}

impl Days {
    pub(crate) fn of(question: &Question, answer: &Answer, members: &Members<'_>, dates: &Dates) -> Self {
        let language = members.language;
        let totals: Totals = answer.by_day.iter().map(|(member, sums)| (member.clone(), total(sums))).collect();
        let series = series(&totals, |member| members.colour(member));
        let all = total(&totals.values().copied().collect::<Vec<_>>());
        let compared = question.compared();
        let comparison = Comparison { compared, answer, language, running: question.is_running() };

        let columns: Vec<Vec<u64>> = (0..answer.days.len())
            .map(|day| {
                series
                    .iter()
                    .map(|one| sum_of(one, |member| answer.by_day.get(member).and_then(|sums| sums.get(day)).copied()))
                    .collect()
            })
            .collect();
        let today = answer.days.iter().position(|day| day.contains(question.now));
        // The mark of the last period ends at the day up to which it is compared.
        let ghosts: Vec<u64> = answer.before_by_day.iter().copied().take(answer.days.len()).collect();
        let chart = Chart::new(&columns, &ghosts, today, series.len());
        let shown = today.map_or(answer.days.len(), |today| today + 1);
        let days = (0..shown).map(|day| comparison.day(question, day, &columns, today, dates)).collect();

        let span_before = dates.span(question.previous.start, compared.previous_to);
        let to = question.is_running().then(|| dates.time(compared.to));
        let meter = heading(&question.meter, language);
        let before = total(&answer.before.values().copied().collect::<Vec<_>>());
        let until = total(&answer.compared.values().copied().collect::<Vec<_>>());
        let by = match members.by {
            By::Key => language.words().key,
            By::Route => language.words().route,
            By::Outcome => language.words().outcome,
        };
        Self {
            caption: language.chart(&meter, by),
            sum: language.amount(all, &meter),
            compared: match change(until, before) {
                Some(change) => language.compared(&change, &span_before, to.as_deref(), before),
                None => language.nothing_before(&span_before),
            },
            not_billed: (answer.unbilled > 0).then(|| language.not_billed(answer.unbilled)),
            not_charged: (answer.uncharged > 0).then(|| language.not_charged(answer.uncharged)),
            series: series.iter().map(|one| comparison.row(one, all, members)).collect(),
            total: SeriesRow {
                class: String::new(),
                name: language.words().total.to_owned(),
                total: grouped(all),
                share: share(all, all),
                before: grouped(before),
                change: comparison.change(until, before),
            },
            before_head: span_before,
            change_note: to.map(|to| language.change_explained(&to)),
            labels: labels(question, answer, today, dates, language),
            lines: chart.lines.iter().map(|(from_top, units)| (*from_top, axis(*units, language))).collect(),
            to_come: answer.days.len() - shown,
            empty: all == 0 && before == 0,
            meter,
            by,
            chart,
            days,
        }
    }
}

struct Comparison<'a> {
    compared: Compared,
    answer: &'a Answer,
    language: Language,
    running: bool,
}

impl Comparison<'_> {
    fn row(&self, one: &Series, all: u64, members: &Members<'_>) -> SeriesRow {
        let (until, before) = (sum_in(one, &self.answer.compared), sum_in(one, &self.answer.before));
        let name = match (one.other, one.members.first()) {
            (false, Some(member)) => members.name(member.as_deref()),
            _ => self.language.other_series(one.members.len()),
        };
        SeriesRow {
            class: format!("s{}", one.colour),
            name,
            total: grouped(one.total),
            share: share(one.total, all),
            before: grouped(before),
            change: self.change(until, before),
        }
    }

    fn change(&self, until: u64, before: u64) -> String {
        match change(until, before) {
            Some(change) => change,
            None if until > 0 => self.language.words().new.to_owned(),
            None => "–".to_owned(),
        }
    }

    fn day(
        &self,
        question: &Question,
        day: usize,
        columns: &[Vec<u64>],
        today: Option<usize>,
        dates: &Dates,
    ) -> DayRow {
        let start = self.answer.days.get(day).map_or(question.period.start, |day| day.start);
        let values = columns.get(day).cloned().unwrap_or_default();
        let is_today = Some(day) == today;
        let that_day =
            question.zone.same_time(question.previous.start, i64::try_from(day).unwrap_or(0), question.previous.start);
        let before =
            self.answer.before_by_day.get(day).copied().filter(|_| that_day < self.compared.previous_to).map(|units| {
                let name = dates.day(that_day);
                if is_today && self.running {
                    self.language.on_day_to(units, &name, &dates.time(self.compared.to))
                } else {
                    self.language.on_day(units, &name)
                }
            });
        DayRow {
            name: dates.day_with_weekday(start),
            total: grouped(total(&values)),
            so_far: is_today,
            before,
            chosen: is_today || (today.is_none() && day + 1 == columns.len()),
            values: values.into_iter().map(grouped).collect(),
        }
    }
}

/// A label a week, and one for today; a weekly one that would touch it is left out.
fn labels(question: &Question, answer: &Answer, today: Option<usize>, dates: &Dates, language: Language) -> Vec<Label> {
    let count = answer.days.len();
    let mut labels = Vec::new();
    for (at, day) in answer.days.iter().enumerate() {
        let is_today = Some(at) == today;
        if !is_today && (at % 7 != 0 || today.is_some_and(|today| today.abs_diff(at) < 4)) {
            continue;
        }
        let text = if is_today {
            language.words().today.to_owned()
        } else {
            dates.day_number(day.start.max(question.period.start)).to_string()
        };
        labels.push(Label { x: chart::middle(at, count), text, today: is_today });
    }
    labels
}

fn sum_in(one: &Series, totals: &Totals) -> u64 {
    sum_of(one, |member| totals.get(member).copied())
}

fn sum_of(one: &Series, units: impl Fn(&Option<String>) -> Option<u64>) -> u64 {
    one.members.iter().fold(0, |sum, member| sum.saturating_add(units(member).unwrap_or(0)))
}

/// The head of the page: since when usage is known.
#[derive(Debug)]
pub(crate) struct AsOf {
    /// `live`, `quiet` or `stale`.
    pub(crate) class: &'static str,
    pub(crate) text: Html,
}

impl AsOf {
    /// The mark; `swap` takes the place of the one that is shown.
    pub(crate) fn html(&self, swap: bool) -> Html {
        let swap = if swap { " hx-swap-oob=\"true\"" } else { "" };
        Html::of(format!("<p id=\"as-of\" class=\"{} soft\"{swap}><span>{}</span></p>", self.class, self.text))
    }
}

/// As fresh as this it is called live, in microseconds.
const LIVE: u64 = 60_000_000;
/// As old as this somebody should know.
const STALE: u64 = 300_000_000;

impl AsOf {
    pub(crate) fn of(
        complete_through: Option<usage_gate_core::model::Timestamp>,
        now: usage_gate_core::model::Timestamp,
        dates: &Dates,
        language: Language,
    ) -> Self {
        let through = complete_through.unwrap_or(now).min(now);
        let clock = dates.clock(through);
        match through.micros_until(now) {
            age if age < LIVE => Self { class: "live", text: language.as_of(&clock) },
            age if age < STALE => Self { class: "live quiet", text: language.as_of(&clock) },
            _ => Self { class: "live stale", text: language.as_of_stale(&dates.past(through)) },
        }
    }
}
