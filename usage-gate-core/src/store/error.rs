//! What can go wrong in a store, as far as callers can act on it.

use std::error::Error;
use std::fmt;

/// What a caller can do about a [`StoreError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The store is away, or the outcome is unknown: repeat the same call later.
    Unavailable,
    /// Something unique exists already; [`StoreError::field`] names what.
    Conflict,
    /// This process life has been replaced by a later one of the same node: stop.
    Superseded,
    /// The schema or the data is not what this version can work with: an operator must act.
    Unusable,
}

/// A failed call to a store.
///
/// The driver's own error stays in [`source`](Error::source), for logs; clients never see it.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    what: &'static str,
    field: Option<&'static str>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl StoreError {
    /// The outcome is unknown or the store is away. `what` names the call, such as `lease units`.
    pub fn unavailable(what: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind: StoreErrorKind::Unavailable, what, field: None, source: Some(source.into()) }
    }

    /// The value of `field` exists already.
    #[must_use]
    pub const fn conflict(what: &'static str, field: &'static str) -> Self {
        Self { kind: StoreErrorKind::Conflict, what, field: Some(field), source: None }
    }

    /// A later process life of this node has registered.
    #[must_use]
    pub const fn superseded(what: &'static str) -> Self {
        Self { kind: StoreErrorKind::Superseded, what, field: None, source: None }
    }

    /// The store cannot be worked with until somebody mends it.
    pub fn unusable(what: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind: StoreErrorKind::Unusable, what, field: None, source: Some(source.into()) }
    }

    /// What a caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// The field that is in conflict.
    #[must_use]
    pub const fn field(&self) -> Option<&'static str> {
        self.field
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self.kind {
            StoreErrorKind::Unavailable => "the store is away or the outcome unknown",
            StoreErrorKind::Conflict => "exists already",
            StoreErrorKind::Superseded => "a later process of this node has taken over: stop this one",
            StoreErrorKind::Unusable => "the store cannot be used as it is",
        };
        match self.field {
            Some(field) => write!(f, "{}: {field}: {reason}", self.what),
            None => write!(f, "{}: {reason}", self.what),
        }
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}
