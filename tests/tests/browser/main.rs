//! Pages in a real browser: the portal's, and those of `site`, a server of pages that are wrong on purpose, by which `harness` shows that the
//! harness sees it.
#![expect(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

mod harness;
mod portal;
mod site;
