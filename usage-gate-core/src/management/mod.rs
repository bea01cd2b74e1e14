//! The rules for plans, tenants, users and keys. Web layers translate to and from these; stores keep what comes of them.

mod invalid;

pub use invalid::{Fault, Invalid};
