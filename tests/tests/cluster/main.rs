//! Several gateways on one PostgreSQL, with a Valkey and without: no limit is passed by one unit over all of them.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not test functions, and a failed unwrap fails the test")]
#![expect(clippy::print_stdout, reason = "what a run measured is shown beside its verdict")]

mod chaos;
mod cold_start;
mod commands;
mod moving_up;
mod outages;
mod plans;
mod quota;
mod rates;
mod revocation;
