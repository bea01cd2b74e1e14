//! Ids: a prefix that says what it is, and a UUIDv7 (RFC 9562) in base62, so that they sort by creation.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{decode_u128, encode_u128};

/// Text that is not an id of the wanted kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id that starts with `{prefix}`")]
pub struct ParseIdError {
    prefix: &'static str,
}

/// An id that is a number, and no text that anybody outside of the program sees.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// Makes a new id; later ones sort after earlier ones, to the millisecond.
            #[must_use]
            pub fn generate() -> Self {
                Self(uuid::Uuid::now_v7().as_u128())
            }

            /// The number inside, for stores that keep 16 bytes.
            #[must_use]
            pub const fn as_u128(self) -> u128 {
                self.0
            }

            /// The id of a number that [`as_u128`](Self::as_u128) gave.
            #[must_use]
            pub const fn from_u128(value: u128) -> Self {
                Self(value)
            }
        }
    };
}

pub(crate) use number;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        number!($(#[$doc])* $name);

        impl $name {
            /// What the text of every such id starts with.
            pub const PREFIX: &'static str = $prefix;
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let digits = encode_u128::<22>(self.0);
                f.write_str($prefix)?;
                f.write_str(str::from_utf8(&digits).unwrap_or_default())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.strip_prefix($prefix)
                    .filter(|digits| digits.len() == 22)
                    .and_then(|digits| decode_u128(digits.as_bytes()))
                    .map(Self)
                    .ok_or(ParseIdError { prefix: $prefix })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// A tenant, `ten_…`.
    ///
    /// ```
    /// # use usage_gate_core::model::TenantId;
    /// let id = TenantId::generate();
    /// assert_eq!(id.to_string().parse(), Ok(id));
    /// assert!("usr_0000000000000000000000".parse::<TenantId>().is_err());
    /// ```
    TenantId,
    "ten_"
);
id!(
    /// A user of a tenant, `usr_…`.
    UserId,
    "usr_"
);
id!(
    /// A key, `key_…`: the name of the key, not a part of its secret text.
    KeyId,
    "key_"
);
id!(
    /// One journal stream: the life of one process.
    StreamId,
    "str_"
);

impl StreamId {
    /// The lower half of the number, by which the entries of a lease table name a life.
    pub(crate) fn tag(self) -> u64 {
        u64::try_from(self.0 & u128::from(u64::MAX)).unwrap_or(0)
    }
}

/// One request, `req_…`: ours, unique over processes, what usage is settled by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u128);

impl RequestId {
    /// Makes the next id: a random number of this process life, and a count.
    ///
    /// A count and not a random number each time: it costs one atomic add.
    #[must_use]
    pub fn generate() -> Self {
        static LIFE: LazyLock<u64> = LazyLock::new(|| {
            let [high, ..] = uuid_halves();
            high
        });
        static COUNT: AtomicU64 = AtomicU64::new(1);
        // Relaxed: only uniqueness is asked of the count, no other memory hangs on it.
        Self((u128::from(*LIFE) << 64) | u128::from(COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// The number inside.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0
    }

    /// The id of a number that [`as_u128`](Self::as_u128) gave.
    #[must_use]
    pub const fn from_u128(value: u128) -> Self {
        Self(value)
    }

    /// The text, 28 characters, without an allocation: `req_`, 16 hex digits of the process life, 8 or more of the count.
    #[must_use]
    pub fn text(self) -> [u8; 28] {
        let mut text = *b"req_000000000000000000000000";
        // 24 hex digits hold the life and the low half of the count: unique for 4 billion requests a process,
        // after which the upper half is folded into the life's digits.
        let count = self.0 & u128::from(u64::MAX);
        let number = ((self.0 >> 64) << 32 | (count & 0xffff_ffff)) ^ ((count >> 32) << 32);
        let [_, _, _, _, bytes @ ..] = number.to_be_bytes();
        let hex = |half: u8| half + if half < 10 { b'0' } else { b'a' - 10 };
        for (digits, byte) in text.as_chunks_mut().0.iter_mut().skip(2).zip(bytes) {
            *digits = [hex(byte >> 4), hex(byte & 15)];
        }
        text
    }
}

/// 122 random bits as two halves, mixed so that both are usable alone.
fn uuid_halves() -> [u64; 2] {
    let mut bytes = [0u8; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // Without a random source the clock of UUIDv7 still tells processes apart.
        bytes = uuid::Uuid::now_v7().into_bytes();
    }
    let (high, low) = bytes.split_at(8);
    [high, low].map(|half| half.iter().fold(0, |value, byte| (value << 8) | u64::from(*byte)))
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_unique_and_url_safe() {
        let (first, second) = (RequestId::generate(), RequestId::generate());
        assert_ne!(first.to_string(), second.to_string());
        assert_eq!(first.to_string().len(), 28);
        assert!(first.to_string().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
    }
}
