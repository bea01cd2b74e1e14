//! The language of a page: which one, its words, its numbers and dates.

mod date;
mod number;
mod phrase;
mod words;

use http::HeaderMap;
use http::header::ACCEPT_LANGUAGE;

pub(crate) use date::{Dates, Html, When};
pub(crate) use number::{about, axis, change, grouped, share};
pub(crate) use words::Words;

/// A language that the pages speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    English,
    Japanese,
}

impl Language {
    /// The language that the browser asks for (RFC 9110, 12.5.4), unless somebody chose one.
    pub(crate) fn of(chosen: Option<&str>, headers: &HeaderMap) -> Self {
        if let Some(language) = chosen.and_then(Self::known) {
            return language;
        }
        let asked = headers.get_all(ACCEPT_LANGUAGE).iter().filter_map(|value| value.to_str().ok());
        let ranges = asked.flat_map(|value| value.split(',')).filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let language = Self::known(parts.next()?)?;
            let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(1_000, thousandths);
            (weight > 0).then_some((weight, language))
        });
        // Of equals the first: `max_by_key` would take the last.
        let best = ranges.reduce(|best, next| if next.0 > best.0 { next } else { best });
        best.map_or(Self::English, |(_, language)| language)
    }

    fn known(tag: &str) -> Option<Self> {
        match tag.split('-').next()?.to_ascii_lowercase().as_str() {
            "en" => Some(Self::English),
            "ja" => Some(Self::Japanese),
            _ => None,
        }
    }

    /// The tag, as in `lang`.
    pub(crate) const fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Japanese => "ja",
        }
    }

    /// The words of the pages.
    pub(crate) const fn words(self) -> &'static Words {
        match self {
            Self::English => &words::ENGLISH,
            Self::Japanese => &words::JAPANESE,
        }
    }
}

/// A weight such as `0.8` as 800.
fn thousandths(text: &str) -> u32 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.chars().chain("000".chars()).take(3).collect::<String>();
    match (whole.parse::<u32>(), digits.parse::<u32>()) {
        (Ok(whole), Ok(fraction)) => whole.min(1).saturating_mul(1_000).saturating_add(fraction).min(1_000),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(chosen: Option<&str>, accept: &str, expected: Language) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_LANGUAGE, accept.parse().unwrap());
        assert_eq!(Language::of(chosen, &headers), expected, "{accept}");
    }

    #[test]
    fn the_browser_is_asked_unless_somebody_chose() {
        check(None, "ja,en-US;q=0.9,en;q=0.8", Language::Japanese);
        check(None, "de-DE,de;q=0.9,en;q=0.5,ja;q=0.4", Language::English);
        check(None, "en;q=0.3, ja-JP;q=0.31", Language::Japanese);
        check(None, "ja;q=0, en", Language::English);
        check(None, "fr", Language::English);
        check(Some("en"), "ja", Language::English);
        check(Some("klingon"), "ja", Language::Japanese);
    }
}
