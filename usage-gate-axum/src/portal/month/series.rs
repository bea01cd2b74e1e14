//! What a chart is stacked of: the biggest in an order and colours of their own, the rest as one.

use std::collections::BTreeMap;

/// Series that have a colour of their own; a seventh goes to "Other" together with the smallest of them.
pub(crate) const COLOURS: usize = 6;

/// A series of a stacked chart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Series {
    /// What its members are called in usage; several for "Other".
    pub(crate) members: Vec<Option<String>>,
    /// 1 to 6; 0 is the colour of "Other".
    pub(crate) colour: usize,
    /// Units in the period.
    pub(crate) total: u64,
    pub(crate) other: bool,
}

/// How a member gets its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    /// This one, or the next that is free: then it stays the same in other meters and months, as long as neighbours allow.
    Wished(usize),
    /// The colour of "Other".
    Grey,
}

/// Puts members in order of size, the rest together at the end.
pub(crate) fn series(totals: &BTreeMap<Option<String>, u64>, wish: impl Fn(Option<&str>) -> Colour) -> Vec<Series> {
    let mut members: Vec<(&Option<String>, u64)> = totals.iter().map(|(member, total)| (member, *total)).collect();
    members.retain(|(_, total)| *total > 0);
    // Of equals the first by name, so that a reload shows the same.
    members.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    let shown = if members.len() > COLOURS { COLOURS - 1 } else { members.len() };
    let rest = members.split_off(shown);

    let mut colours: BTreeMap<&Option<String>, usize> = BTreeMap::new();
    let mut free = [true; COLOURS];
    let mut names: Vec<&Option<String>> = members.iter().map(|(member, _)| *member).collect();
    names.sort_unstable();
    for member in names {
        let Colour::Wished(wished) = wish(member.as_deref()) else { continue };
        let slot =
            (0..COLOURS).map(|by| (wished + by) % COLOURS).find(|slot| free.get(*slot).copied().unwrap_or(false));
        if let Some(slot) = slot {
            free[slot] = false;
            colours.insert(member, slot + 1);
        }
    }
    let mut series: Vec<Series> = members
        .iter()
        .map(|(member, total)| Series {
            members: vec![(*member).clone()],
            colour: colours.get(member).copied().unwrap_or(0),
            total: *total,
            other: false,
        })
        .collect();
    if !rest.is_empty() {
        series.push(Series {
            total: rest.iter().fold(0, |sum, (_, total)| sum.saturating_add(*total)),
            members: rest.into_iter().map(|(member, _)| member.clone()).collect(),
            colour: 0,
            other: true,
        });
    }
    series
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(totals: &[(&str, u64)]) -> Vec<Series> {
        let totals = totals.iter().map(|(name, total)| (Some((*name).to_owned()), *total)).collect();
        series(&totals, |name| Colour::Wished(name.map_or(0, str::len)))
    }

    #[test]
    fn the_biggest_is_at_the_base_and_a_seventh_goes_to_other() {
        let six = of(&[("a", 1), ("b", 6), ("c", 5), ("d", 4), ("e", 3), ("f", 2), ("unused", 0)]);
        assert_eq!(six.iter().map(|one| one.total).collect::<Vec<_>>(), [6, 5, 4, 3, 2, 1]);
        assert!(six.iter().all(|one| !one.other));
        let seven = of(&[("a", 1), ("b", 6), ("c", 5), ("d", 4), ("e", 3), ("f", 2), ("g", 2)]);
        let other = seven.last().unwrap();
        assert_eq!((seven.len(), other.other, other.total, other.members.len(), other.colour), (6, true, 3, 2, 0));
    }

    #[test]
    fn colours_are_distinct_and_stay() {
        let all = of(&[("a", 1), ("b", 6), ("c", 5)]);
        let mut colours: Vec<usize> = all.iter().map(|one| one.colour).collect();
        colours.sort_unstable();
        assert_eq!(colours, [2, 3, 4]);
        let less = of(&[("a", 9), ("b", 6)]);
        let colour = |series: &[Series], name: &str| {
            series.iter().find(|one| one.members[0].as_deref() == Some(name)).unwrap().colour
        };
        assert_eq!(colour(&all, "a"), colour(&less, "a"));
        assert_eq!(colour(&all, "b"), colour(&less, "b"));
    }
}
