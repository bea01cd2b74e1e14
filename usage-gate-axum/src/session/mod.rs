//! Who is signed in to the portal: by our own session, which a one-time link begins, or by the host's login.
//!
//! The session's token is in a cookie that scripts cannot read. An API key is no session and opens no page; a session is no key and is not
//! taken where a key is asked for.

pub(crate) mod cookie;
mod enter;
mod identity;
mod sign_out;
mod signed_in;

pub use identity::Identity;

pub(crate) use enter::{enter, looked_at, private};
pub(crate) use sign_out::{end, sign_out};
pub(crate) use signed_in::{NotSignedIn, SignedIn};
