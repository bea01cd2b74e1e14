//! What a failure means for the caller.

use std::error::Error;

use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

use crate::store::StoreError;

/// What can go wrong inside a call.
#[derive(Debug)]
pub(super) enum Fault {
    /// The database failed.
    Postgres(tokio_postgres::Error),
    /// The store's own answer.
    Store(StoreError),
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Self::Store(StoreError::unusable("write a document", error))
    }
}

pub(super) fn of_pool(error: PoolError) -> Fault {
    match error {
        PoolError::Backend(error) => Fault::Postgres(error),
        other => Fault::Store(StoreError::unavailable(super::connect::WHAT, other)),
    }
}

impl Fault {
    /// The error for the caller of `what`.
    pub(super) fn into_store(self, what: &'static str) -> StoreError {
        let error = match self {
            Self::Store(error) => return error,
            Self::Postgres(error) => error,
        };
        if error.code().is_some_and(must_be_mended) || is_distrust(&error) {
            StoreError::unusable(what, error)
        } else {
            // Away, too slow, in conflict with another call, or the answer was lost: the same call may succeed later.
            StoreError::unavailable(what, error)
        }
    }

    /// Whether the connection was lost, as all are when the server stops. What was asked may have been done.
    pub(super) fn is_lost_connection(&self) -> bool {
        let Self::Postgres(error) = self else { return false };
        match error.code() {
            Some(code) => [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN].contains(code),
            None => error.is_closed() || error.source().is_some_and(<dyn Error>::is::<std::io::Error>),
        }
    }

    /// Whether the database has undone what was asked, because another call stood in the way in that moment: it may be asked again, and is not done twice.
    pub(super) fn was_undone(&self) -> bool {
        let Self::Postgres(error) = self else { return false };
        let codes = [SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE];
        error.code().is_some_and(|code| codes.contains(code))
    }

    /// The name of the unique index in which something exists already.
    pub(super) fn taken_index(&self) -> Option<&str> {
        let Self::Postgres(error) = self else { return None };
        let error = error.as_db_error().filter(|error| *error.code() == SqlState::UNIQUE_VIOLATION)?;
        error.constraint()
    }
}

/// Whether nothing but an operator changes this: a login or a right that is missing, a database or a table that is not there, a row that breaks a rule.
fn must_be_mended(code: &SqlState) -> bool {
    let class = code.code().get(..2).unwrap_or_default();
    matches!(class, "22" | "23" | "28" | "3D" | "3F" | "42")
}

/// Whether the server's certificate is not one that the address lets through.
#[cfg(feature = "postgres-tls")]
fn is_distrust(error: &tokio_postgres::Error) -> bool {
    let refused =
        error.source().and_then(|source| source.downcast_ref::<std::io::Error>()).and_then(std::io::Error::get_ref);
    let refused = refused.and_then(|refused| refused.downcast_ref::<rustls::Error>());
    matches!(refused, Some(rustls::Error::InvalidCertificate(_)))
}

#[cfg(not(feature = "postgres-tls"))]
const fn is_distrust(_: &tokio_postgres::Error) -> bool {
    false
}
