//! Durations as people write them: `250ms`, `30s`, `5m`, `72h`, `7d`, and `none` where there may be no bound.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserializer, Error, Visitor};

const WANTED: &str = "is not a duration such as 250ms, 30s, 5m, 72h or 7d";

fn parse(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let seconds = match unit {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    // A century is more than any timer holds; what is longer is a typing error.
    number.checked_mul(seconds).filter(|seconds| *seconds <= 100 * 366 * 86_400).map(Duration::from_secs)
}

/// Takes a text. A bare number is the usual mistake: whose unit is meant nobody knows.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    from.deserialize_any(Text)
}

struct Text;

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as \"30s\"")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<String, E> {
        Err(E::custom(format_args!("`{number}` has no unit: write \"{number}s\" for seconds")))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

/// A duration that must be one.
pub(super) fn some<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = text(from)?;
    parse(&text).ok_or_else(|| D::Error::custom(format_args!("`{text}` {WANTED}")))
}

/// A duration above zero.
pub(super) fn above_zero<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    match some(from)? {
        Duration::ZERO => Err(D::Error::custom("must be above zero")),
        duration => Ok(duration),
    }
}

/// A duration above zero, or `none`.
pub(super) fn or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = text(from)?;
    if text == "none" {
        return Ok(None);
    }
    match parse(&text) {
        Some(Duration::ZERO) => Err(D::Error::custom("must be above zero; write \"none\" for no bound")),
        Some(duration) => Ok(Some(duration)),
        None => Err(D::Error::custom(format_args!("`{text}` {WANTED}, nor none"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<u64>) {
        assert_eq!(parse(text), expected.map(Duration::from_millis), "{text}");
    }

    #[test]
    fn a_number_needs_one_unit() {
        check("250ms", Some(250));
        check("30s", Some(30_000));
        check("5m", Some(300_000));
        check("1h", Some(3_600_000));
        check("0s", Some(0));
        for text in ["", "s", "30", "1.5s", "-1s", "5 m", "1m30s", "99999999999999999999s", "9999999999d"] {
            check(text, None);
        }
    }
}
