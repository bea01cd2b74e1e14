//! Step 7: bodies that count what passes through them.

mod followed;
mod held;
mod meter;
mod read_ahead;
mod request;
mod response;

pub(crate) use followed::Followed;
pub(crate) use meter::Meter;
pub(crate) use read_ahead::ReadAhead;
pub(crate) use request::Source;
pub use request::{RequestBody, RequestBodyError};
pub(crate) use response::Counting;
pub use response::ResponseBody;

/// What a body gives when it is asked for a frame.
type NextFrame<D, E> = Option<Result<http_body::Frame<D>, E>>;
