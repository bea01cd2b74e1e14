//! Requests in flight. A request that is admitted owns a seat until its record is published.
//!
//! A seat reserves the room of the record it will leave, so that settling, which happens in `Drop` and cannot wait, never fails (B7). It lies in a
//! mapped file and says at every moment what a crash would have to know: who, what was taken of quotas, whether a head was released and
//! how much of the body. Taking and freeing one is a compare-and-swap; what it says are stores.
//!
//! - [`table`]: a seat in the order of a request: take, forward, head, progress, place of the record, free.
//! - [`recovery`]: the records of requests that a dead life left.
//! - [`layout`], [`free_list`]: what is where in the file, and which seats are free.

#[cfg(test)]
mod crashes;
mod free_list;
mod layout;
mod recovery;
mod table;

pub(crate) use layout::SeatContents;
pub(crate) use recovery::{DeadLife, DeadSeats, held};
pub(crate) use table::{Notes, Seat, SeatTable};
