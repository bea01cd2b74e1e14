//! Usage: the suite, and what many nodes do at once.

use super::fresh;

mod suite {
    crate::conformance::usage_store_tests!(super::fresh().await);
}
