//! The routes of `sample.toml` as the sample's traffic takes them: what a call weighs.

use usage_gate_core::model::{MeterIndex, Meters};
use usage_gate_core::store::UnitTotals;

use super::EXPORTS;
use super::random::Random;

/// A route, by what its calls take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    Search,
    Items,
    Exports,
    Feed,
}

impl Path {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Items => "items",
            Self::Exports => "exports",
            Self::Feed => "feed",
        }
    }

    /// What one call takes of each meter.
    pub(super) fn units(self, random: &mut Random, meters: &Meters) -> UnitTotals {
        let mut units = UnitTotals::default();
        units.set(MeterIndex::REQUESTS, 1);
        let (bytes_in, bytes_out, millis) = match self {
            Self::Search => (0, random.between(900, 9_000), random.between(18, 160)),
            Self::Items => (0, random.between(250, 1_400), random.between(4, 30)),
            Self::Exports => (random.between(180, 260), random.between(40_000, 400_000), random.between(400, 2_600)),
            Self::Feed => (0, random.between(3_000, 24_000), random.between(25, 90)),
        };
        units.set(MeterIndex::BYTES_IN, bytes_in);
        units.set(MeterIndex::BYTES_OUT, bytes_out);
        units.set(MeterIndex::DURATION_MS, millis);
        let named = match self {
            Self::Search => Some(("output_tokens", random.between(180, 1_100))),
            Self::Exports => Some((EXPORTS, 1)),
            Self::Items | Self::Feed => None,
        };
        if let Some((meter, amount)) = named
            && let Some(index) = meters.index(meter)
        {
            units.set(index, amount);
        }
        units
    }
}
