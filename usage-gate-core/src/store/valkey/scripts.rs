//! The scripts, and the names by which the server knows them.

use std::sync::LazyLock;

/// A script of this program.
pub(super) struct Script {
    text: &'static str,
    hash: String,
}

/// A bucket, which is a rate.
pub(super) static BUCKET: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("bucket.lua")));
/// Places of requests open at once.
pub(super) static SLOTS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("slots.lua")));
/// Which nodes were heard of.
pub(super) static NODES: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("nodes.lua")));

impl Script {
    fn new(text: &'static str) -> Self {
        Self { text, hash: redis::Script::new(text).get_hash().to_owned() }
    }

    pub(super) const fn text(&self) -> &'static str {
        self.text
    }

    /// SHA-1, as the server computes it.
    pub(super) fn hash(&self) -> &str {
        &self.hash
    }
}
