//! Dates and times as people read them, in the tenant's zone: absolute, 24 hours, the year only if it is another than this one.

use std::fmt;

use usage_gate_core::model::Timestamp;
use usage_gate_core::period::{LocalTime, Period, Zone};

use super::Language;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const MONTHS_IN_FULL: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const DAYS_JA: [&str; 7] = ["日", "月", "火", "水", "木", "金", "土"];

/// An instant in words; as HTML it carries the exact one. It holds no text of anybody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct When {
    exact: Timestamp,
    pub(crate) text: String,
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<time datetime=\"{}\">{}</time>", self.exact, self.text)
    }
}

/// Nothing in it needs escaping.
impl askama::filters::HtmlSafe for When {}

/// Text with exact instants in it, as HTML. Whatever somebody named is escaped where it goes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Html(String);

impl Html {
    pub(in crate::portal) const fn of(html: String) -> Self {
        Self(html)
    }

    pub(in crate::portal) fn escape(text: &str) -> String {
        let mut escaped = String::with_capacity(text.len());
        for letter in text.chars() {
            match letter {
                '&' => escaped.push_str("&amp;"),
                '<' => escaped.push_str("&lt;"),
                '>' => escaped.push_str("&gt;"),
                '"' => escaped.push_str("&quot;"),
                '\'' => escaped.push_str("&#39;"),
                other => escaped.push(other),
            }
        }
        escaped
    }
}

impl From<&str> for Html {
    fn from(text: &str) -> Self {
        Self(Self::escape(text))
    }
}

impl From<When> for Html {
    fn from(when: When) -> Self {
        Self(when.to_string())
    }
}

impl fmt::Display for Html {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl askama::filters::HtmlSafe for Html {}

/// Speaks of instants in a zone and a language.
#[derive(Debug, Clone)]
pub(crate) struct Dates {
    language: Language,
    zone: Zone,
    now: Timestamp,
    today: LocalTime,
}

impl Dates {
    pub(crate) fn new(language: Language, zone: Zone, now: Timestamp) -> Self {
        let today = zone.local(now);
        Self { language, zone, now, today }
    }

    fn japanese(&self) -> bool {
        self.language == Language::Japanese
    }

    fn when(exact: Timestamp, text: String) -> When {
        When { exact, text }
    }

    /// `24 Nov`, `11/24`.
    pub(crate) fn day(&self, at: Timestamp) -> String {
        self.day_of(&self.zone.local(at))
    }

    fn day_of(&self, local: &LocalTime) -> String {
        let LocalTime { year, month, day, .. } = *local;
        match (self.japanese(), year == self.today.year) {
            (true, true) => format!("{month}/{day}"),
            (true, false) => format!("{year}/{month}/{day}"),
            (false, true) => format!("{day} {}", name(&MONTHS, month)),
            (false, false) => format!("{day} {} {year}", name(&MONTHS, month)),
        }
    }

    /// `Tue 24 Nov`, `11/24（火）`.
    pub(crate) fn day_with_weekday(&self, at: Timestamp) -> String {
        let local = self.zone.local(at);
        let weekday = usize::from(local.weekday);
        let day = self.day_of(&local);
        if self.japanese() {
            format!("{day}（{}）", DAYS_JA.get(weekday).copied().unwrap_or_default())
        } else {
            format!("{} {day}", DAYS.get(weekday).copied().unwrap_or_default())
        }
    }

    /// The day of the month beside an axis.
    pub(crate) fn day_number(&self, at: Timestamp) -> u8 {
        self.zone.local(at).day
    }

    /// `14:32`.
    pub(crate) fn time(&self, at: Timestamp) -> String {
        let LocalTime { hour, minute, .. } = self.zone.local(at);
        format!("{hour:02}:{minute:02}")
    }

    /// `14:32:08`.
    pub(crate) fn clock(&self, at: Timestamp) -> When {
        let LocalTime { hour, minute, second, .. } = self.zone.local(at);
        Self::when(at, format!("{hour:02}:{minute:02}:{second:02}"))
    }

    /// `24 Nov 14:32`, `11/24 14:32`.
    pub(crate) fn day_and_time(&self, at: Timestamp) -> When {
        Self::when(at, format!("{} {}", self.day(at), self.time(at)))
    }

    /// The same of an instant that has passed: `today 14:32`, `yesterday 22:10`, `12 Nov 09:04`.
    pub(crate) fn past(&self, at: Timestamp) -> When {
        let words = self.language.words();
        let time = self.time(at);
        let text = match self.zone.days_between(at, self.now) {
            0 => format!("{} {time}", words.today_in_sentence),
            1 => format!("{} {time}", words.yesterday_in_sentence),
            _ => format!("{} {time}", self.day(at)),
        };
        Self::when(at, text)
    }

    /// Until when, from now: only the time if that is today's or the coming midnight.
    pub(crate) fn until(&self, at: Timestamp) -> When {
        let midnight = self.zone.days_between(self.now, at) == 1 && self.time(at) == "00:00";
        if midnight || self.zone.days_between(self.now, at) == 0 {
            return Self::when(at, self.time(at));
        }
        self.day_and_time(at)
    }

    /// What a period is called: `November 2026`, or its days if it does not begin on the first.
    pub(crate) fn period(&self, period: Period) -> String {
        let (first, last) = (self.zone.local(period.start), self.zone.local(period.end.plus_micros(-1)));
        let whole = first.day == 1 && first.month == last.month;
        match (self.japanese(), whole) {
            (true, true) => format!("{}年{}月", first.year, first.month),
            (false, true) => format!("{} {}", name(&MONTHS_IN_FULL, first.month), first.year),
            (true, false) => {
                format!("{}年{}/{}〜{}/{}", first.year, first.month, first.day, last.month, last.day)
            }
            (false, false) => format!(
                "{} {} – {} {} {}",
                first.day,
                name(&MONTHS, first.month),
                last.day,
                name(&MONTHS, last.month),
                last.year
            ),
        }
    }

    /// What a neighbouring period is called: `October`, with the year if it is another.
    pub(crate) fn neighbour(&self, period: Period) -> String {
        let (first, last) = (self.zone.local(period.start), self.zone.local(period.end.plus_micros(-1)));
        if first.day != 1 || first.month != last.month {
            return self.span(period.start, period.end);
        }
        match (self.japanese(), first.year == self.today.year) {
            (true, true) => format!("{}月", first.month),
            (true, false) => format!("{}年{}月", first.year, first.month),
            (false, true) => name(&MONTHS_IN_FULL, first.month).to_owned(),
            (false, false) => format!("{} {}", name(&MONTHS_IN_FULL, first.month), first.year),
        }
    }

    /// The days of `[start, end)`: `1–24 Oct`, `10/1〜10/24`.
    pub(crate) fn span(&self, start: Timestamp, end: Timestamp) -> String {
        let (first, last) = (self.zone.local(start), self.zone.local(end.plus_micros(-1).max(start)));
        if (first.year, first.month, first.day) == (last.year, last.month, last.day) {
            return self.day_of(&first);
        }
        match (self.japanese(), (first.year, first.month) == (last.year, last.month)) {
            (true, _) => format!("{}〜{}", self.day_of(&first), self.day_of(&last)),
            (false, true) => format!("{}–{}", first.day, self.day_of(&last)),
            (false, false) => format!("{} – {}", self.day_of(&first), self.day_of(&last)),
        }
    }

    /// How long until then: `6 days 9 h`, `9 h 28 min`, `3 min`.
    pub(crate) fn in_time(&self, at: Timestamp) -> String {
        let minutes = self.now.micros_until(at).div_ceil(60_000_000);
        let (days, hours, minutes) = (minutes / 1_440, minutes / 60 % 24, minutes % 60);
        let parts: &[(u64, [&str; 3])] = match (days, hours) {
            (1.., _) => &[(days, [" day", " days", "日"]), (hours, [" h", " h", "時間"])],
            (0, 1..) => &[(hours, [" h", " h", "時間"]), (minutes, [" min", " min", "分"])],
            (0, 0) => &[(minutes, [" min", " min", "分"])],
        };
        let shown = parts.iter().enumerate().filter(|(at, (count, _))| *at == 0 || *count > 0);
        let shown = shown.map(|(_, (count, [one, many, japanese]))| {
            let unit = if self.japanese() {
                japanese
            } else if *count == 1 {
                one
            } else {
                many
            };
            format!("{count}{unit}")
        });
        shown.collect::<Vec<_>>().join(if self.japanese() { "" } else { " " })
    }

    /// `Asia/Tokyo`.
    pub(crate) fn zone(&self) -> &str {
        self.zone.name()
    }

    /// `UTC+9`, `UTC+5:30`, `UTC−3`.
    pub(crate) fn offset(&self, at: Timestamp) -> String {
        let seconds = self.zone.local(at).offset_seconds;
        let (sign, minutes) = (if seconds < 0 { '−' } else { '+' }, seconds.unsigned_abs() / 60);
        match (minutes / 60, minutes % 60) {
            (0, 0) => "UTC".to_owned(),
            (hours, 0) => format!("UTC{sign}{hours}"),
            (hours, minutes) => format!("UTC{sign}{hours}:{minutes:02}"),
        }
    }
}

fn name(names: &[&'static str; 12], month: u8) -> &'static str {
    names.get(usize::from(month).wrapping_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn dates(language: Language, zone: &str) -> Dates {
        Dates::new(language, zone.parse().unwrap(), at("2026-11-24T05:32:08Z"))
    }

    fn period(start: &str, end: &str) -> Period {
        Period { start: at(start), end: at(end) }
    }

    #[test]
    fn english_and_japanese_say_when() {
        let (en, ja) = (dates(Language::English, "Asia/Tokyo"), dates(Language::Japanese, "Asia/Tokyo"));
        let then = at("2026-11-12T00:04:00Z");
        assert_eq!(
            (en.day_and_time(then).text, ja.day_and_time(then).text),
            ("12 Nov 09:04".into(), "11/12 09:04".into())
        );
        assert_eq!(
            (en.past(at("2026-11-23T15:04:00Z")).text, ja.past(then).text),
            ("today 00:04".into(), "11/12 09:04".into())
        );
        assert_eq!(
            (en.past(at("2026-11-23T14:59:00Z")).text, ja.past(at("2026-11-23T14:59:00Z")).text),
            ("yesterday 23:59".into(), "昨日 23:59".into())
        );
        assert_eq!((en.day_with_weekday(then), ja.day_with_weekday(then)), ("Thu 12 Nov".into(), "11/12（木）".into()));
        assert_eq!(en.day(at("2025-12-31T15:00:00Z")), "1 Jan");
        assert_eq!(en.day(at("2025-12-31T14:00:00Z")), "31 Dec 2025");
        assert_eq!(
            en.clock(at("2026-11-24T05:32:08Z")).to_string(),
            "<time datetime=\"2026-11-24T05:32:08Z\">14:32:08</time>"
        );
    }

    #[test]
    fn periods_have_names() {
        let (en, ja) = (dates(Language::English, "Asia/Tokyo"), dates(Language::Japanese, "Asia/Tokyo"));
        let november = period("2026-10-31T15:00:00Z", "2026-11-30T15:00:00Z");
        assert_eq!((en.period(november), ja.period(november)), ("November 2026".into(), "2026年11月".into()));
        assert_eq!((en.neighbour(november), ja.neighbour(november)), ("November".into(), "11月".into()));
        let anchored = period("2026-10-14T15:00:00Z", "2026-11-14T15:00:00Z");
        assert_eq!(
            (en.period(anchored), ja.period(anchored)),
            ("15 Oct – 14 Nov 2026".into(), "2026年10/15〜11/14".into())
        );
        assert_eq!(
            (en.span(november.start, november.end), ja.span(november.start, november.end)),
            ("1–30 Nov".into(), "11/1〜11/30".into())
        );
    }

    #[test]
    fn what_is_left_is_told_in_two_units() {
        let (en, ja) = (dates(Language::English, "UTC"), dates(Language::Japanese, "UTC"));
        let check = |then: &str, english: &str, japanese: &str| {
            assert_eq!((en.in_time(at(then)).as_str(), ja.in_time(at(then)).as_str()), (english, japanese));
        };
        check("2026-11-30T15:00:00Z", "6 days 9 h", "6日9時間");
        check("2026-11-24T15:00:00Z", "9 h 28 min", "9時間28分");
        check("2026-11-25T05:32:08Z", "1 day", "1日");
        check("2026-11-24T05:32:30Z", "1 min", "1分");
    }

    #[test]
    fn midnight_needs_no_date() {
        let en = dates(Language::English, "Asia/Tokyo");
        assert_eq!(en.until(at("2026-11-24T15:00:00Z")).text, "00:00");
        assert_eq!(en.until(at("2026-11-30T15:00:00Z")).text, "1 Dec 00:00");
    }

    #[test]
    fn offsets_are_those_of_the_instant() {
        let shown = |zone: &str, instant: &str| dates(Language::English, zone).offset(at(instant));
        assert_eq!(shown("Asia/Kolkata", "2026-11-24T00:00:00Z"), "UTC+5:30");
        assert_eq!(shown("America/Santiago", "2026-11-24T00:00:00Z"), "UTC−3");
        assert_eq!(shown("UTC", "2026-11-24T00:00:00Z"), "UTC");
    }
}
