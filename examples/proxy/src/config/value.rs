//! How single values are read, and what is said of those that cannot be.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

/// A text that parses.
pub(super) fn parsed<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    parse(&String::deserialize(from)?)
}

/// A text that parses; the empty one is the absent value, so that the environment can unset a key.
pub(super) fn optional<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    let text = String::deserialize(from)?;
    if text.is_empty() { Ok(None) } else { parse(&text).map(Some) }
}

/// Texts that parse.
pub(super) fn parsed_list<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    Vec::<String>::deserialize(from)?.iter().map(|text| parse(text)).collect()
}

fn parse<T: FromStr<Err: Display>, E: Error>(text: &str) -> Result<T, E> {
    text.parse().map_err(|fault| E::custom(format_args!("`{text}`: {fault}")))
}

/// An address to listen on.
pub(super) fn address<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(from)?;
    text.parse()
        .map_err(|_| D::Error::custom(format_args!("`{text}` is not an address and port such as 127.0.0.1:8080")))
}

/// A node's name; it becomes part of lease ids and of file contents.
pub(super) fn node<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    if text.len() > 64 || !text.bytes().all(allowed) {
        return Err(D::Error::custom(format_args!(
            "`{text}`: a node's name is at most 64 of letters, digits and `.-_`"
        )));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// A count that has no unit.
pub(super) fn count<'de, D: Deserializer<'de>>(from: D) -> Result<u16, D::Error> {
    from.deserialize_any(Count)
}

struct Count;

impl Visitor<'_> for Count {
    type Value = u16;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number from 0 to 65535")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<u16, E> {
        u16::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
    }
}

/// What keys begin with.
pub(super) fn key_prefix<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if text.is_empty() || text.len() > 16 || !text.bytes().all(allowed) {
        return Err(D::Error::custom(format_args!("`{text}`: a key prefix is 1 to 16 of a-z and 0-9")));
    }
    Ok(text)
}

/// The part of the public listener's paths that is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReservedPrefix(String);

impl Default for ReservedPrefix {
    fn default() -> Self {
        Self("/usage-gate".into())
    }
}

impl ReservedPrefix {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a path is ours. Compared as bytes: another spelling of it is the upstream's.
    pub(crate) fn covers(&self, path: &str) -> bool {
        path.strip_prefix(&*self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for ReservedPrefix {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/-_.".contains(&b);
        let plain = text.split('/').skip(1).all(|segment| !["", ".", ".."].contains(&segment));
        if !text.starts_with('/') || !text.bytes().all(allowed) || !plain {
            return Err("must be a path such as /usage-gate, of letters, digits and `-_.`, without a slash at its end");
        }
        Ok(Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserved_prefix_covers_whole_segments() {
        let prefix = ReservedPrefix::default();
        assert!(prefix.covers("/usage-gate") && prefix.covers("/usage-gate/v1/me"));
        assert!(!prefix.covers("/usage-gates") && !prefix.covers("/v1/usage-gate") && !prefix.covers("//usage-gate"));
        for text in ["", "usage-gate", "/", "/a/", "/a//b", "/../a", "/{a}"] {
            assert!(text.parse::<ReservedPrefix>().is_err(), "{text}");
        }
    }
}
