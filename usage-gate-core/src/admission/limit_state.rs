//! How one limit stands, as it is shown wherever a limit is shown.

use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::model::{Limit, Per, Timestamp};
use crate::period::Period;
use crate::store::WindowState;

/// One limit as it stands for a subject; members as in the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitState {
    /// The limit, as the plan has it.
    pub limit: Arc<Limit>,
    /// Whose counter: a tenant's, user's or key's id, or an address.
    pub subject: String,
    /// The subject's name, where a view over several shows the tightest.
    pub subject_name: Option<String>,
    /// How many subjects there are, in such a view.
    pub subjects: Option<u64>,
    /// Units that may be used: the quota, the burst, or the requests that may be open.
    pub ceiling: u64,
    /// Spent, as far as is known; for concurrency what is open.
    pub used: u64,
    /// Leased or in flight.
    pub reserved: u64,
    /// The period, for quotas.
    pub period: Option<Period>,
    /// When the period ends, or when the refused cost would pass.
    pub resets_at: Option<Timestamp>,
}

impl LimitState {
    /// `max(0, limit - used - reserved)`.
    #[must_use]
    pub const fn remaining(&self) -> u64 {
        self.ceiling.saturating_sub(self.used).saturating_sub(self.reserved)
    }

    /// Takes over what the authority knows of a quota.
    pub(crate) fn fill(&mut self, window: &WindowState) {
        self.ceiling = window.cap;
        self.used = window.used;
        self.reserved = window.reserved();
        self.period = Some(window.period);
        self.resets_at = Some(window.period.end);
    }

    /// `max(0, used + reserved - limit)`.
    #[must_use]
    pub const fn over(&self) -> u64 {
        self.used.saturating_add(self.reserved).saturating_sub(self.ceiling)
    }
}

/// The limit state of documents.
impl Serialize for LimitState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let limit = &self.limit;
        let mut members = serializer.serialize_map(None)?;
        members.serialize_entry("name", &limit.name)?;
        members.serialize_entry("kind", limit.kind.as_str())?;
        members.serialize_entry("meter", &limit.meter)?;
        members.serialize_entry("counted_by", limit.counted_by.as_str())?;
        members.serialize_entry("subject", &self.subject)?;
        members.serialize_entry("units", &limit.units)?;
        members.serialize_entry("per", &limit.per.map(Per::as_str))?;
        members.serialize_entry("when_exceeded", limit.when_exceeded.as_str())?;
        members.serialize_entry("limit", &self.ceiling)?;
        members.serialize_entry("used", &self.used)?;
        members.serialize_entry("reserved", &self.reserved)?;
        members.serialize_entry("remaining", &self.remaining())?;
        members.serialize_entry("over", &self.over())?;
        members.serialize_entry("period", &self.period.map(Interval))?;
        members.serialize_entry("resets_at", &self.resets_at)?;
        if let Some(name) = &self.subject_name {
            members.serialize_entry("subject_name", name)?;
        }
        if let Some(subjects) = self.subjects {
            members.serialize_entry("subjects", &subjects)?;
        }
        members.end()
    }
}

struct Interval(Period);

impl Serialize for Interval {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_map(Some(2))?;
        members.serialize_entry("start", &self.0.start)?;
        members.serialize_entry("end", &self.0.end)?;
        members.end()
    }
}
