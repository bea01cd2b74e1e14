//! Sizes of bodies: `1048576`, `64KiB`, `10MiB`, `2GB`, and `none`.

use std::fmt;

use serde::de::{Deserializer, Error, Visitor};

fn parse(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let bytes = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(bytes)
}

/// A number of bytes, or `none`.
pub(super) fn or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    from.deserialize_any(Size)
}

/// A number of bytes that must be one.
pub(super) fn some<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    or_none(from)?.ok_or_else(|| D::Error::custom("there must be a bound: write a size such as 8GiB"))
}

/// The size of one file of the journal: large enough that files are few, and no larger than a disk likes to give at once.
pub(super) fn segment<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    match some(from)? {
        bytes @ 1_048_576..=67_108_864 => Ok(bytes),
        _ => Err(D::Error::custom("must be from 1MiB to 64MiB")),
    }
}

struct Size;

impl Visitor<'_> for Size {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes, a size such as 10MiB, or none")
    }

    fn visit_i64<E: Error>(self, bytes: i64) -> Result<Self::Value, E> {
        u64::try_from(bytes).map(Some).map_err(|_| E::custom("must not be negative"))
    }

    fn visit_u64<E: Error>(self, bytes: u64) -> Result<Self::Value, E> {
        Ok(Some(bytes))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        if text == "none" {
            return Ok(None);
        }
        let bytes =
            parse(text).ok_or_else(|| E::custom(format_args!("`{text}` is not a size such as 10MiB, nor none")))?;
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_decimal_or_binary_as_written() {
        assert_eq!(parse("10"), Some(10));
        assert_eq!(parse("10MiB"), Some(10 << 20));
        assert_eq!(parse("2GB"), Some(2_000_000_000));
        for text in ["", "MiB", "1 MiB", "1.5MiB", "-1", "99999999999999GiB"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
