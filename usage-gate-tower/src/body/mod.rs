//! Step 7: bodies that count what passes through them.

mod request;
mod response;

pub use request::{RequestBody, RequestBodyError};
pub(crate) use response::Meter;
pub use response::ResponseBody;
