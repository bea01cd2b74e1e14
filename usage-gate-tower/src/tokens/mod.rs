//! Step 7 on token routes: what bodies say of tokens, as they pass.
//!
//! 1. `request`: how much may be made, and whether the usage chunk must be asked for.
//! 2. `reader`: the response, as events (`sse`) or as one document (`member`), in the words of `openai` or `anthropic`.
//! 3. `tally`: what was reported or counted, and which of the two it is.
//!
//! Everything here is bytes in, numbers and bytes out: no I/O, no clock, and the same whatever the pieces are that a body comes in.

mod anthropic;
#[cfg(test)]
mod fixtures;
mod member;
mod openai;
mod reader;
mod request;
mod sse;
mod tally;

pub(crate) use reader::TokenReader;
pub(crate) use request::{Asked, MOST_READ_AHEAD};
pub(crate) use tally::TokenCount;
