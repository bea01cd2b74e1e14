//! Sums rows by what a question tells apart. A text is made once a group, not once a row: a month can be a million rows.

use std::collections::HashMap;

use rusqlite::Row;
use rusqlite::types::ValueRef;

use super::value::units;
use crate::model::{KeyId, TenantId, Timestamp, UserId};
use crate::store::reader::UsageRow;
use crate::store::{Dimension, UsageQuery};

/// Where the columns of a row are: units, requests, then those by which rows are told apart.
const UNITS: usize = 0;
const REQUESTS: usize = 1;
const FIRST_PART: usize = 2;

/// The sums so far.
#[derive(Debug)]
pub(super) struct Sums<'q> {
    query: &'q UsageQuery,
    /// A group by the bytes of its columns.
    places: HashMap<Vec<u8>, usize>,
    rows: Vec<UsageRow>,
    /// The group of the row before: neighbours are mostly of one.
    bytes: Vec<u8>,
    last: Option<usize>,
    scratch: Vec<u8>,
}

impl<'q> Sums<'q> {
    pub(super) fn new(query: &'q UsageQuery) -> Self {
        Self { query, places: HashMap::new(), rows: Vec::new(), bytes: Vec::new(), last: None, scratch: Vec::new() }
    }

    /// Adds a row with the columns units, requests, the instant if there are windows, the meter if there is no `meter`, and the dimensions of
    /// the question in their order.
    pub(super) fn add(&mut self, row: &Row<'_>, meter: Option<&str>) -> rusqlite::Result<()> {
        self.scratch.clear();
        if let Some(meter) = meter {
            put(&mut self.scratch, meter.as_bytes());
        }
        let parts = usize::from(self.query.window.is_some()) + usize::from(meter.is_none()) + self.query.group_by.len();
        for at in FIRST_PART..FIRST_PART + parts {
            match row.get_ref(at)? {
                ValueRef::Text(bytes) | ValueRef::Blob(bytes) => put(&mut self.scratch, bytes),
                ValueRef::Integer(number) => self.scratch.extend_from_slice(&number.to_be_bytes()),
                ValueRef::Null | ValueRef::Real(_) => put(&mut self.scratch, &[]),
            }
        }
        let (units, requests) = (units(row, UNITS)?, units(row, REQUESTS)?);
        let place = match self.last {
            Some(last) if self.scratch == self.bytes => last,
            _ => self.place(row, meter)?,
        };
        if let Some(sum) = self.rows.get_mut(place) {
            sum.units = sum.units.saturating_add(units);
            sum.requests = sum.requests.saturating_add(requests);
        }
        Ok(())
    }

    fn place(&mut self, row: &Row<'_>, meter: Option<&str>) -> rusqlite::Result<usize> {
        std::mem::swap(&mut self.bytes, &mut self.scratch);
        let place = match self.places.get(&self.bytes) {
            Some(place) => *place,
            None => {
                self.rows.push(group(self.query, row, meter)?);
                self.places.insert(self.bytes.clone(), self.rows.len() - 1);
                self.rows.len() - 1
            }
        };
        self.last = Some(place);
        Ok(place)
    }

    pub(super) fn into_rows(self) -> Vec<UsageRow> {
        self.rows
    }
}

/// Appends bytes of any length so that no two lists of them are alike.
fn put(bytes: &mut Vec<u8>, value: &[u8]) {
    bytes.extend_from_slice(&value.len().to_be_bytes());
    bytes.extend_from_slice(value);
}

fn group(query: &UsageQuery, row: &Row<'_>, meter: Option<&str>) -> rusqlite::Result<UsageRow> {
    let mut at = FIRST_PART;
    let mut next = || {
        at += 1;
        at - 1
    };
    // Without windows every row is of the one piece.
    let bucket = match query.window {
        Some(_) => Timestamp::from_micros(row.get(next())?),
        None => query.period.start,
    };
    let meter = match meter {
        Some(meter) => meter.to_owned(),
        None => row.get(next())?,
    };
    let group = query.group_by.iter().map(|dimension| value(*dimension, row, next())).collect::<Result<_, _>>()?;
    Ok(UsageRow { bucket, meter, group, units: 0, requests: 0 })
}

fn value(dimension: Dimension, row: &Row<'_>, at: usize) -> rusqlite::Result<Option<String>> {
    let id = |row: &Row<'_>| row.get(at).map(u128::from_be_bytes);
    Ok(match dimension {
        Dimension::Tenant => Some(TenantId::from_u128(id(row)?).to_string()),
        // The nil key of what was forfeited is none.
        Dimension::Key => Some(id(row)?).filter(|key| *key != 0).map(|key| KeyId::from_u128(key).to_string()),
        // A key without a user is counted under an empty one.
        Dimension::User if row.get_ref(at)?.as_blob()?.is_empty() => None,
        Dimension::User => Some(UserId::from_u128(id(row)?).to_string()),
        Dimension::Limit => Some(row.get::<_, String>(at)?).filter(|limit| !limit.is_empty()),
        Dimension::Route | Dimension::Outcome | Dimension::Environment => Some(row.get(at)?),
    })
}
