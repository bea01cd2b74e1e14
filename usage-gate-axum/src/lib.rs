//! Placeholder while dependencies resolve.
