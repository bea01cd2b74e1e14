//! Amounts of money: whole numbers of 1e-9 of the currency's unit, decimal strings at the edge, never floats.

use std::fmt;
use std::str::FromStr;

const NANOS: u64 = 1_000_000_000;

/// An amount of no particular currency, 0 or more.
///
/// ```
/// # use usage_gate_core::price::Money;
/// let price: Money = "0.0004".parse()?;
/// assert_eq!(price.as_nanos(), 400_000);
/// assert_eq!(price.to_string(), "0.0004");
/// assert!("0.00000000001".parse::<Money>().is_err(), "finer than 1e-9");
/// # Ok::<(), usage_gate_core::price::ParseMoneyError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Money(u64);

/// Text that is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an amount: a decimal string such as \"0.0004\", 0 to 9999999999, at most 9 decimals")]
pub struct ParseMoneyError;

impl Money {
    /// The amount in 1e-9 of the unit.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }
}

impl FromStr for Money {
    type Err = ParseMoneyError;

    fn from_str(text: &str) -> Result<Self, ParseMoneyError> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits =
            |part: &str, most: usize| (1..=most).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole, 10) || !digits(decimals, 9) {
            return Err(ParseMoneyError);
        }
        let whole: u64 = whole.parse().map_err(|_| ParseMoneyError)?;
        let nanos: u64 = format!("{decimals:0<9}").parse().map_err(|_| ParseMoneyError)?;
        whole.checked_mul(NANOS).and_then(|value| value.checked_add(nanos)).map(Self).ok_or(ParseMoneyError)
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, nanos) = (self.0 / NANOS, self.0 % NANOS);
        if nanos == 0 {
            return write!(f, "{whole}");
        }
        let decimals = format!("{nanos:09}");
        write!(f, "{whole}.{}", decimals.trim_end_matches('0'))
    }
}

impl serde::Serialize for Money {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Money {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
