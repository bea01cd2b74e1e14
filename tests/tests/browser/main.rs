//! Pages in a real browser. `site` is a server of pages that are wrong on purpose: the tests in `harness` show that the harness sees it.
#![expect(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

mod harness;
mod site;
