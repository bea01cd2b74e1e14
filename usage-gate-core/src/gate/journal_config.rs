//! How a host wants usage to be kept until it is in the sink, and after.

use std::time::Duration;

use super::BuildError;
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
    /// Bytes that the journal takes at most, default 8 GiB, and room for three files at least. What the sink has goes first; beyond that there is no room.
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
/// The part of the journal that this room takes at most.
const AHEAD_PART: u64 = 4;
/// Bytes of the largest record.
const LARGEST: u64 = 512;
/// Files that there must be room for: the one that is written, and two for the room that is always made ahead.
const LEAST_SEGMENTS: u64 = 3;
/// What a journal in memory may take: it has nothing to keep once the sink has it.
const MOST_MEMORY: u64 = 256 << 20;

impl JournalConfig {
    /// The least that [`retention_bytes`](Self::retention_bytes) may be: room for three files. With less the journal would be full for ever.
    #[must_use]
    pub const fn least_retention_bytes(&self) -> u64 {
        self.segment_bytes.saturating_mul(LEAST_SEGMENTS)
    }

    pub(super) fn check(&self, in_memory: bool) -> Result<(), BuildError> {
        let options = self.options(in_memory);
        let least = Self { segment_bytes: options.segment_bytes, ..self.clone() }.least_retention_bytes();
        if options.most_bytes < least {
            return Err(BuildError::RetentionBytes { given: self.retention_bytes, least });
        }
        Ok(())
    }

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
        // A small journal has room for fewer ahead, so that the room itself does not fill it.
        let most = options.most_bytes / AHEAD_PART / LARGEST;
        options.seats = AHEAD.min(u32::try_from(most).unwrap_or(AHEAD));
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_without_room_for_three_files_is_refused_with_the_least() {
        let mut config = JournalConfig { retention_bytes: 3 << 20, segment_bytes: 1 << 20, ..JournalConfig::default() };
        assert!(config.check(false).is_ok());
        assert!(config.options(false).seats < AHEAD);
        config.retention_bytes -= 1;
        let refused = config.check(false).unwrap_err().to_string();
        assert_eq!(
            refused,
            "journal: retention_bytes is 3145727, and must be at least 3145728: three times segment_bytes"
        );
    }
}
