//! Routes: named rules matched by method and path, compiled once.
//!
//! The most specific path wins: literal segments before `{name}` (one segment), that before `{*rest}` (what is left, or nothing). Paths are matched as
//! the bytes that will be forwarded, never decoded; where more than one rule exists, spellings that another server may read as
//! another path (`//`, `/../`, `%2f`, NUL, …) are refused, so that no request is judged by one rule and served by another.

mod metering;
mod rule;
mod table;

pub use metering::{BillOn, BillRetries, OnHangUp, TokenFormat};
pub use rule::{Auth, Cors, Route};
pub use table::{CompiledRoute, Matched, RouteError, RouteIndex, Routes};
