//! Money and prices. Charging by them comes with statements; here they are read, checked and kept.

mod money;

pub use money::{Money, ParseMoneyError};

/// One step of a graduated or volume price.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// The last unit of the step; `None` for the last step, which has no end.
    pub up_to: Option<u64>,
    /// Price of a unit in the step.
    pub unit_price: Money,
    /// Charged once when the step is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flat_price: Option<Money>,
}

/// How a meter's units become an amount.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "model", rename_all = "snake_case")]
pub enum PriceModel {
    /// A fee each period, whatever was used.
    Flat {
        /// The fee.
        amount: Money,
    },
    /// Each unit costs the same.
    PerUnit {
        /// Price of a unit.
        unit_price: Money,
    },
    /// Each unit costs what the step it falls into says.
    Graduated {
        /// Steps, rising; the last has no end.
        tiers: Vec<Tier>,
    },
    /// All units cost what the step that the total falls into says.
    Volume {
        /// Steps, rising; the last has no end.
        tiers: Vec<Tier>,
    },
    /// Each begun package costs the same.
    Package {
        /// Units in a package.
        package_units: u64,
        /// Price of a package.
        package_price: Money,
    },
}

/// The price of one meter in a plan.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Price {
    /// The meter whose units are charged; `None` for a flat fee.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meter: Option<String>,
    /// How.
    #[serde(flatten)]
    pub model: PriceModel,
    /// Units a period that cost nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub included_units: Option<u64>,
    /// The least that is charged a period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<Money>,
}
