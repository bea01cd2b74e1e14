//! Meters: what is counted.

use std::sync::Arc;

/// The most meters one gate can have, built-in ones included: a record holds this many numbers without an allocation.
pub const MAX_METERS: usize = 16;

/// The place of a meter in [`Meters`]; stable for the life of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeterIndex(u8);

impl MeterIndex {
    /// Calls: always there, 1 a request unless the route or the handler says otherwise.
    pub const REQUESTS: Self = Self(0);
    /// Bytes of request bodies.
    pub const BYTES_IN: Self = Self(1);
    /// Bytes of response bodies handed to the HTTP stack.
    pub const BYTES_OUT: Self = Self(2);
    /// Milliseconds from admission to the last frame.
    pub const DURATION_MS: Self = Self(3);
    /// Tokens that a model was given; what it took from a cache included.
    pub const INPUT_TOKENS: Self = Self(4);
    /// Tokens that a model made.
    pub const OUTPUT_TOKENS: Self = Self(5);

    /// The position, below [`MAX_METERS`].
    #[must_use]
    pub const fn position(self) -> usize {
        self.0 as usize
    }
}

/// The meters of a gate by name: the built-in ones and those the operator names.
///
/// ```
/// # use usage_gate_core::model::{MeterIndex, Meters};
/// let meters = Meters::new(["rows"])?;
/// assert_eq!(meters.index("requests"), Some(MeterIndex::REQUESTS));
/// assert_eq!(meters.name(meters.index("rows").unwrap()), "rows");
/// assert_eq!(meters.index("credits"), None);
/// # Ok::<(), usage_gate_core::model::MetersError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Meters {
    names: Arc<[Box<str>]>,
}

/// Why a set of meter names cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetersError {
    /// A name with other characters than `a-z`, `0-9` and `_`, or longer than 64.
    #[error("meter `{0}`: a name is 1 to 64 of a-z, 0-9 and _")]
    Name(String),
    /// More names than a record has room for.
    #[error("{0} meters: at most {MAX_METERS}, the built-in ones included")]
    TooMany(usize),
}

impl Meters {
    /// The built-in meters, in the order of their [`MeterIndex`].
    pub const BUILT_IN: [&'static str; 6] =
        ["requests", "bytes_in", "bytes_out", "duration_ms", "input_tokens", "output_tokens"];

    /// The built-in meters and `named`; a name given twice, or built in, counts once.
    ///
    /// # Errors
    /// [`MetersError`] if a name is malformed or there are too many.
    pub fn new<I>(named: I) -> Result<Self, MetersError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut names: Vec<Box<str>> = Self::BUILT_IN.iter().map(|name| (*name).into()).collect();
        for name in named {
            let name = name.as_ref();
            let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            if name.is_empty() || name.len() > 64 || !name.bytes().all(allowed) {
                return Err(MetersError::Name(name.to_owned()));
            }
            if !names.iter().any(|known| **known == *name) {
                names.push(name.into());
            }
        }
        if names.len() > MAX_METERS {
            return Err(MetersError::TooMany(names.len()));
        }
        Ok(Self { names: names.into() })
    }

    /// Where the meter of this name is; `None` if it is not declared.
    #[must_use]
    pub fn index(&self, name: &str) -> Option<MeterIndex> {
        let position = self.names.iter().position(|known| **known == *name)?;
        u8::try_from(position).ok().map(MeterIndex)
    }

    /// The name at an index that this set gave; empty for a foreign one.
    #[must_use]
    pub fn name(&self, index: MeterIndex) -> &str {
        self.names.get(index.position()).map_or("", |name| name)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (MeterIndex, &str)> {
        (0u8..).zip(self.names.iter()).map(|(at, name)| (MeterIndex(at), &**name))
    }
}

impl Default for Meters {
    fn default() -> Self {
        Self { names: Self::BUILT_IN.iter().map(|name| Box::from(*name)).collect() }
    }
}
