//! `[journal]`: how usage is kept until it is in the database, and after.

use std::time::Duration;

use serde::Deserialize;
use usage_gate_core::{JournalConfig as GateJournal, JournalDurability, WhenFull};

use super::{duration, size};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DurabilityWord {
    /// Survives the end of the process.
    #[default]
    Process,
    /// Survives power loss.
    Disk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WhenFullWord {
    #[default]
    Refuse,
    CountUnbilled,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct JournalConfig {
    durability: DurabilityWord,
    #[serde(deserialize_with = "duration::some")]
    retention: Duration,
    #[serde(deserialize_with = "size::some")]
    retention_bytes: u64,
    when_full: WhenFullWord,
    /// Bytes of one file.
    #[serde(deserialize_with = "size::segment")]
    segment_bytes: u64,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            durability: DurabilityWord::default(),
            retention: Duration::from_secs(72 * 3_600),
            retention_bytes: 8 << 30,
            when_full: WhenFullWord::default(),
            segment_bytes: 16 << 20,
        }
    }
}

impl JournalConfig {
    /// What is wrong with values that are right one by one.
    pub(super) fn fault(&self) -> Option<String> {
        let least = self.to_gate().least_retention_bytes();
        (self.retention_bytes < least)
            .then(|| format!("must be at least {least} bytes: three times journal.segment_bytes"))
    }

    /// Lets nothing go that is there: for who finishes a journal and does not know for how long its gate wanted to keep it.
    pub(crate) fn keep_all(&mut self) {
        self.retention = Duration::from_secs(10 * 366 * 86_400);
        self.retention_bytes = 1 << 50;
    }

    /// In the gate's words.
    pub(crate) fn to_gate(&self) -> GateJournal {
        let mut journal = GateJournal::default();
        journal.durability = match self.durability {
            DurabilityWord::Process => JournalDurability::Process,
            DurabilityWord::Disk => JournalDurability::Disk,
        };
        journal.retention = self.retention;
        journal.retention_bytes = self.retention_bytes;
        journal.when_full = match self.when_full {
            WhenFullWord::Refuse => WhenFull::Refuse,
            WhenFullWord::CountUnbilled => WhenFull::CountUnbilled,
        };
        journal.segment_bytes = self.segment_bytes;
        journal
    }
}
