//! How values become columns and columns values. Ids are `uuid`, which is 16 bytes in the order of the number; instants are `int8` microseconds.

use std::error::Error;
use std::str::FromStr;

use bytes::{BufMut, BytesMut};
use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

use super::fault::Fault;
use crate::model::Timestamp;
use crate::store::StoreError;

/// An id as a column: its 16 bytes, the highest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(pub(super) u128);

impl ToSql for Id {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_u128(self.0);
        Ok(IsNull::No)
    }

    accepts!(UUID);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Id {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(u128::from_be_bytes(raw.try_into()?)))
    }

    accepts!(UUID);
}

/// An id's number.
pub(super) fn id(row: &Row, at: usize) -> Result<u128, Fault> {
    Ok(row.try_get::<_, Id>(at)?.0)
}

/// An id's number, or nothing.
pub(super) fn optional_id(row: &Row, at: usize) -> Result<Option<u128>, Fault> {
    Ok(row.try_get::<_, Option<Id>>(at)?.map(|id| id.0))
}

/// Units or a count as a column; what is larger than a column holds becomes the largest.
pub(super) fn to_column(units: u64) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX)
}

/// Units or a count from a column.
pub(super) fn units(row: &Row, at: usize) -> Result<u64, Fault> {
    let value: i64 = row.try_get(at)?;
    u64::try_from(value).map_err(|error| unreadable(error).into())
}

pub(super) fn instant(row: &Row, at: usize) -> Result<Timestamp, Fault> {
    Ok(Timestamp::from_micros(row.try_get(at)?))
}

pub(super) fn optional_instant(row: &Row, at: usize) -> Result<Option<Timestamp>, Fault> {
    Ok(row.try_get::<_, Option<i64>>(at)?.map(Timestamp::from_micros))
}

/// A value by its text.
pub(super) fn parsed<T>(row: &Row, at: usize) -> Result<T, Fault>
where
    T: FromStr,
    T::Err: Error + Send + Sync + 'static,
{
    row.try_get::<_, &str>(at)?.parse().map_err(|error: T::Err| unreadable(error).into())
}

/// An enum by its word in documents.
pub(super) fn word<T: serde::de::DeserializeOwned>(row: &Row, at: usize) -> Result<T, Fault> {
    let text: StrDeserializer<'_, serde::de::value::Error> = row.try_get::<_, &str>(at)?.into_deserializer();
    T::deserialize(text).map_err(|error| unreadable(error).into())
}

/// A JSON document, kept as text.
pub(super) fn document<T: serde::de::DeserializeOwned>(row: &Row, at: usize) -> Result<T, Fault> {
    serde_json::from_str(row.try_get(at)?).map_err(|error| unreadable(error).into())
}

/// A hash's 32 bytes.
pub(super) fn hash(bytes: &[u8]) -> Result<[u8; 32], Fault> {
    bytes.try_into().map_err(|error: std::array::TryFromSliceError| unreadable(error).into())
}

/// Whether PostgreSQL can hold a text at all: of all characters it has none for U+0000. What it cannot hold is not in it either.
pub(super) fn can_hold(text: &str) -> bool {
    !text.contains('\0')
}

/// Refuses texts that PostgreSQL cannot hold, by the name of the field.
pub(super) fn check_texts<'a>(
    what: &'static str,
    fields: impl IntoIterator<Item = (&'static str, Option<&'a str>)>,
) -> Result<(), StoreError> {
    for (field, text) in fields {
        if text.is_some_and(|text| !can_hold(text)) {
            let detail = format!("{field} has the character U+0000, which PostgreSQL cannot hold: leave it out");
            return Err(StoreError::unusable(what, detail));
        }
    }
    Ok(())
}

/// A column that means nothing to this version.
pub(super) fn unreadable(error: impl Into<Box<dyn Error + Send + Sync>>) -> StoreError {
    StoreError::unusable("read a row", error)
}
