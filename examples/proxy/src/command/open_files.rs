//! How many files and connections this process may have open at once.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Takes what the system allows: shells and service managers begin with 1,024 for programs that use `select`, which this one does not. Each request in flight
/// takes two connections, and the journal a file for each 16 MiB that are not in the database yet.
pub(super) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => tracing::debug!(before = current, now = maximum, "raised the limit of open files"),
        Err(fault) => tracing::debug!(%fault, now = current, "the limit of open files stays as it is"),
    }
}
