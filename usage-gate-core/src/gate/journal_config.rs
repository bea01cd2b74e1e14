//! How a host wants usage to be kept until it is in the sink, and after.

use std::time::Duration;

use crate::journal::{JournalDurability, JournalOptions};

/// What becomes of requests for whose records there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// They are refused with `journal_unavailable`: nothing is served uncounted.
    #[default]
    Refuse,
    /// They are served, counted in a metric, and never billed. Limits hold.
    CountUnbilled,
}

/// What a gate does about usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recording {
    /// Every request has a record, or what the host wants where there is no room for one.
    Records(WhenFull),
    /// Nothing: the host only wants limits.
    Off,
}

/// How usage is kept.
///
/// ```
/// # use std::time::Duration; use usage_gate_core::{JournalConfig, JournalDurability};
/// let mut config = JournalConfig::default();
/// config.durability = JournalDurability::Disk;
/// config.retention = Duration::from_secs(7 * 86_400);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct JournalConfig {
    /// What a record survives before the last frame of its response is released; default the end of the process.
    pub durability: JournalDurability,
    /// How long records stay after the sink has them, so that a sink restored from a backup is healed; default 72 hours.
    pub retention: Duration,
    /// Bytes that the journal takes at most, default 8 GiB. What the sink has goes first; beyond that there is no room.
    pub retention_bytes: u64,
    /// What happens then; default refuse.
    pub when_full: WhenFull,
    /// Bytes of one file, default 16 MiB. One is always made ahead.
    pub segment_bytes: u64,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            durability: JournalDurability::Process,
            retention: Duration::from_secs(72 * 3_600),
            retention_bytes: 8 << 30,
            when_full: WhenFull::Refuse,
            segment_bytes: 16 << 20,
        }
    }
}

/// Requests for whose records room is made ahead.
const AHEAD: u32 = 4_096;
/// What a journal in memory may take: it has nothing to keep once the sink has it.
const MOST_MEMORY: u64 = 256 << 20;

impl JournalConfig {
    /// The same for the journal; in memory it is small, and nothing stays that the sink has.
    pub(super) fn options(&self, in_memory: bool) -> JournalOptions {
        let mut options = JournalOptions {
            segment_bytes: self.segment_bytes,
            retention: self.retention,
            retention_bytes: self.retention_bytes,
            most_bytes: self.retention_bytes,
            seats: AHEAD,
            durability: self.durability,
        };
        if in_memory {
            options.segment_bytes = self.segment_bytes.min(4 << 20);
            options.retention = Duration::ZERO;
            options.most_bytes = self.retention_bytes.min(MOST_MEMORY);
            // There is no disk to wait for.
            options.durability = JournalDurability::Process;
        }
        options
    }
}
