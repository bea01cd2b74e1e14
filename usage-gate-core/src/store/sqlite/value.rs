//! How values become columns and columns values, and what a failure means.

use std::error::Error;
use std::str::FromStr;

use rusqlite::types::Type;
use rusqlite::{ErrorCode, Row};
use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;

use crate::model::Timestamp;
use crate::store::StoreError;

/// What can go wrong inside a job.
#[derive(Debug)]
pub(super) enum Fault {
    /// The database failed.
    Sqlite(rusqlite::Error),
    /// The store's own answer.
    Store(StoreError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
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

impl Fault {
    /// The error for the caller of `what`.
    pub(super) fn into_store(self, what: &'static str) -> StoreError {
        let error = match self {
            Self::Store(error) => return error,
            Self::Sqlite(error) => error,
        };
        let unusable = match &error {
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..) => true,
            other => matches!(
                other.sqlite_error_code(),
                Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt | ErrorCode::ReadOnly)
            ),
        };
        if unusable { StoreError::unusable(what, error) } else { StoreError::unavailable(what, error) }
    }
}

/// Units or a count as a column; what is larger than a column holds becomes the largest.
pub(super) fn to_column(units: u64) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX)
}

/// Units or a count from a column.
pub(super) fn units(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(at)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(at, value))
}

/// An id's 16 bytes.
pub(super) fn id(row: &Row<'_>, at: usize) -> rusqlite::Result<u128> {
    row.get(at).map(u128::from_be_bytes)
}

/// An id's 16 bytes, or nothing.
pub(super) fn optional_id(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<u128>> {
    Ok(row.get::<_, Option<[u8; 16]>>(at)?.map(u128::from_be_bytes))
}

pub(super) fn instant(row: &Row<'_>, at: usize) -> rusqlite::Result<Timestamp> {
    row.get(at).map(Timestamp::from_micros)
}

pub(super) fn optional_instant(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(at)?.map(Timestamp::from_micros))
}

/// A value by its text.
pub(super) fn parsed<T>(row: &Row<'_>, at: usize) -> rusqlite::Result<T>
where
    T: FromStr,
    T::Err: Error + Send + Sync + 'static,
{
    row.get_ref(at)?.as_str()?.parse().map_err(|error: T::Err| unreadable(at, error))
}

/// An enum by its word in documents.
pub(super) fn word<T: serde::de::DeserializeOwned>(row: &Row<'_>, at: usize) -> rusqlite::Result<T> {
    let text: StrDeserializer<'_, serde::de::value::Error> = row.get_ref(at)?.as_str()?.into_deserializer();
    T::deserialize(text).map_err(|error| unreadable(at, error))
}

/// A JSON document.
pub(super) fn document<T: serde::de::DeserializeOwned>(row: &Row<'_>, at: usize) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(at)?.as_str()?).map_err(|error| unreadable(at, error))
}

/// A column whose text means nothing to this version.
pub(super) fn unreadable(at: usize, error: impl Into<Box<dyn Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(at, Type::Text, error.into())
}
