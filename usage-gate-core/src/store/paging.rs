//! Where a list goes on, the same for every store.

use std::str::FromStr;

use super::{Page, PageRequest};

/// The most items of one part of a list.
const MOST_ITEMS: usize = 200;

/// Where a list begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin<T> {
    /// At the first item.
    First,
    /// After this one.
    After(T),
    /// Nowhere: what it should follow is no such id.
    Nowhere,
}

/// Reads where the list is to go on.
pub(crate) fn begin<T: FromStr>(request: &PageRequest) -> Begin<T> {
    match request.after.as_deref().map(str::parse) {
        None => Begin::First,
        Some(Ok(id)) => Begin::After(id),
        Some(Err(_)) => Begin::Nowhere,
    }
}

/// Items wanted, within bounds.
pub(crate) fn size(request: &PageRequest) -> usize {
    request.size.clamp(1, MOST_ITEMS)
}

/// One more than the page holds, to know whether there are more: what SQL is asked for.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) fn one_too_many(request: &PageRequest) -> i64 {
    i64::try_from(size(request)).unwrap_or(i64::MAX).saturating_add(1)
}

/// Makes a page of items of which there may be one too many.
pub(crate) fn page<T>(items: impl IntoIterator<Item = T>, request: &PageRequest) -> Page<T> {
    let size = size(request);
    let mut items: Vec<T> = items.into_iter().take(size + 1).collect();
    let more = items.len() > size;
    items.truncate(size);
    Page { items, more }
}

/// A page without items.
pub(crate) const fn empty<T>() -> Page<T> {
    Page { items: Vec::new(), more: false }
}
