//! Stacked columns as SVG: one path a series, in pixels of height and ten units of width a day, stretched by the browser.
//!
//! Only heights are computed here, in whole pixels from cumulated sums, so that a column is as high as its total whatever its parts are
//! rounded to.

use std::fmt::Write as _;

/// Height of the columns in pixels; the sheet has the same number.
const HEIGHT: u64 = 200;
/// Grid lines at most, without the base.
const LINES: u64 = 3;

/// Geometry of a chart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Chart {
    /// Width of the inner drawing: ten a day.
    pub(crate) width: usize,
    /// A path for each series, in their order.
    pub(crate) paths: Vec<String>,
    /// Stubs of days on which nothing was used: a gap would be a missing day.
    pub(crate) zeros: String,
    /// The column of today, which is drawn apart because it is hatched.
    pub(crate) today: Option<Column>,
    /// Ticks of the last period, a day each.
    pub(crate) ghost: String,
    /// Grid lines: their height from the top, and the units they stand for.
    pub(crate) lines: Vec<(u64, u64)>,
}

/// One column of rectangles.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) x: String,
    pub(crate) width: String,
    /// From the top and height, a series each; `None` for nothing.
    pub(crate) parts: Vec<Option<(u64, u64)>>,
    /// From the top and height of all of it.
    pub(crate) whole: Option<(u64, u64)>,
}

impl Chart {
    /// Draws `days`, each with a number for each series; `before` are the totals of the last period's days, as far as they are compared.
    /// `today` is the day that is not over.
    /// Days after it are to come and stay empty.
    pub(crate) fn new(days: &[Vec<u64>], before: &[u64], today: Option<usize>, series: usize) -> Self {
        let totals = days.iter().map(|day| sum(day));
        let most = totals.chain(before.iter().copied()).max().unwrap_or(0);
        let step = step(most);
        // Room for the highest, to the next half of a line at most.
        let top = most.max(1);
        let height = |units: u64| scaled(units, top);
        let mut chart = Self {
            width: days.len() * 10,
            paths: vec![String::new(); series],
            lines: (1..=LINES + 1)
                .map(|line| line.saturating_mul(step))
                .filter(|units| step > 0 && *units <= most)
                .map(|units| (HEIGHT - height(units), units))
                .collect(),
            ..Self::default()
        };
        for (at, day) in days.iter().enumerate().take(today.map_or(days.len(), |today| today + 1)) {
            let parts = stack(day, top);
            if Some(at) == today {
                let whole = Some(sum(day)).filter(|total| *total > 0).map(|total| {
                    let height = height(total).max(1);
                    (HEIGHT - height, height)
                });
                chart.today =
                    Some(Column { x: place(at * 10 + 1, chart.width), width: place(8, chart.width), parts, whole });
                continue;
            }
            if sum(day) == 0 {
                let _ = write!(chart.zeros, "M{} {}v1", at * 10 + 5, HEIGHT - 1);
            }
            for (path, part) in chart.paths.iter_mut().zip(parts) {
                if let Some((from_top, height)) = part {
                    // Writing into a string does not fail.
                    let _ = write!(path, "M{} {from_top}v{height}", at * 10 + 5);
                }
            }
        }
        for (at, units) in before.iter().enumerate().take(days.len()).filter(|(_, units)| **units > 0) {
            let _ = write!(chart.ghost, "M{} {}h10", at * 10, HEIGHT - height(*units));
        }
        chart
    }
}

/// Where the label of a day stands, in percent of the width.
pub(crate) fn middle(day: usize, days: usize) -> String {
    place(day * 10 + 5, days * 10)
}

/// Parts of a column from the base upwards, with a pixel of page between them.
fn stack(day: &[u64], top: u64) -> Vec<Option<(u64, u64)>> {
    let (mut below, mut at) = (0u64, 0u64);
    let mut parts = Vec::with_capacity(day.len());
    for units in day {
        below = below.saturating_add(*units);
        let upper = scaled(below, top);
        let gap = u64::from(at > 0);
        let height = upper.saturating_sub(at + gap);
        // A part without a pixel of its own is left out; the column keeps its height.
        parts.push((height > 0).then(|| (HEIGHT - upper, height)));
        at = if height > 0 { upper } else { at };
    }
    if below > 0 && parts.iter().all(Option::is_none) {
        // What there is is seen, be it ever so small.
        if let Some(first) = day.iter().position(|units| *units > 0).and_then(|first| parts.get_mut(first)) {
            *first = Some((HEIGHT - 1, 1));
        }
    }
    parts
}

fn sum(day: &[u64]) -> u64 {
    day.iter().fold(0, |sum, units| sum.saturating_add(*units))
}

/// Units as pixels of height.
fn scaled(units: u64, top: u64) -> u64 {
    let (units, top) = (u128::from(units), u128::from(top.max(1)));
    u64::try_from((units * u128::from(HEIGHT) + top / 2) / top).unwrap_or(HEIGHT).min(HEIGHT)
}

/// Units between grid lines: 1, 2 or 5 times a power of ten, for two or three lines.
fn step(most: u64) -> u64 {
    let mut unit = 1u64;
    loop {
        for times in [1, 2, 5] {
            let step = unit.saturating_mul(times);
            if most / step <= LINES {
                // A single line says less than two at half of it.
                return if most == 0 { 0 } else { step };
            }
        }
        unit = unit.saturating_mul(10);
    }
}

/// A place on the axis in percent.
fn place(part: usize, whole: usize) -> String {
    let hundredths = (part * 10_000 + whole / 2) / whole.max(1);
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn columns_stand_on_the_base_with_a_pixel_between_their_parts() {
        let chart = Chart::new(&[vec![100, 50], vec![200, 0]], &[150], None, 2);
        assert_eq!(chart.paths, ["M5 100v100M15 0v200", "M5 50v49"]);
        assert_eq!(chart.ghost, "M0 50h10");
        assert_eq!(chart.width, 20);
    }

    #[test]
    fn today_is_drawn_apart() {
        let chart = Chart::new(&[vec![100], vec![50]], &[], Some(1), 1);
        assert_eq!(chart.paths, ["M5 0v200"]);
        let today = chart.today.unwrap();
        assert_eq!((today.x.as_str(), today.width.as_str()), ("55.00%", "40.00%"));
        assert_eq!((today.whole, today.parts), (Some((100, 100)), vec![Some((100, 100))]));
    }

    #[test]
    fn lines_stand_at_round_numbers() {
        let lines = |most: u64| {
            Chart::new(&[vec![most]], &[], None, 1).lines.iter().map(|(_, units)| *units).collect::<Vec<_>>()
        };
        assert_eq!(lines(23_602), [10_000, 20_000]);
        assert_eq!(lines(3), [1, 2, 3]);
        assert_eq!(lines(0), [0u64; 0]);
        assert_eq!(lines(7_000), [2_000, 4_000, 6_000]);
        assert!(!lines(u64::MAX).is_empty());
    }

    #[test]
    fn a_single_call_beside_a_million_is_a_stub() {
        let chart = Chart::new(&[vec![1_000_000], vec![1]], &[], None, 1);
        assert_eq!(chart.paths, ["M5 0v200M15 199v1"]);
    }

    proptest! {
        #[test]
        fn no_column_leaves_the_chart_or_overlaps(days in prop::collection::vec(prop::collection::vec(any::<u64>(), 3), 1..32)) {
            let top = days.iter().map(|day| sum(day)).max().unwrap_or(1);
            for day in &days {
                let mut below = HEIGHT;
                for (from_top, height) in stack(day, top).into_iter().flatten() {
                    prop_assert!(from_top + height <= below);
                    below = from_top;
                }
            }
        }
    }
}
