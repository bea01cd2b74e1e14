//! A gate with many keys, over any stores.

use std::error::Error;
use std::path::PathBuf;

use usage_gate_core::management::{self, LimitDraft, PlanDraft};
use usage_gate_core::model::{CountedBy, LimitKind, Per, StreamId};
use usage_gate_core::secret::Pepper;
use usage_gate_core::{UsageGate, UsageGateBuilder};

use crate::rounds::Turns;

const TENANTS: usize = 100;
const KEYS_OF_EACH: usize = 10;
/// All gates of one database have the same.
const PEPPER: &[u8] = b"the pepper of benchmarks, which hides nothing";

/// A thousand keys of a hundred tenants, each key with a quota of a month and a rate of its own, which never refuse: a rate by the minute whose burst is a minute of it, as most plans have
/// it. Its units are lent for a second; those of a rate by the second with a burst of a second are lent for a quarter of one, which makes four times as many calls.
#[derive(Debug)]
pub struct Crowd {
    /// The gate.
    pub gate: UsageGate,
    /// All keys.
    pub keys: Turns,
    folder: PathBuf,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Crowd {
    /// Makes the gate and its keys. The builder has the stores.
    ///
    /// # Errors
    /// What a store or the gate says.
    pub async fn on(stores: UsageGateBuilder) -> Result<Self, Box<dyn Error>> {
        let folder = crate::new_folder()?;
        let gate = crate::served_here(stores, &folder).pepper(Pepper::new(PEPPER)).build().await?;
        let by_key = |limit: LimitDraft, per| LimitDraft { per: Some(per), counted_by: Some(CountedBy::Key), ..limit };
        let limits = vec![
            by_key(LimitDraft::new("burst", LimitKind::Rate, 60_000_000), Per::Minute),
            by_key(LimitDraft::new("month", LimitKind::Quota, 1_000_000_000_000), Per::Month),
        ];
        // The database may have been used before.
        let plan = format!("bench-{:x}", StreamId::generate().as_u128());
        management::create_plan(&gate, PlanDraft::new(&plan, limits)).await?;
        let mut keys = Vec::with_capacity(TENANTS * KEYS_OF_EACH);
        for _ in 0..TENANTS {
            let (tenant, first) = crate::tenant_with_key(&gate, &plan).await?;
            keys.push(first);
            for _ in 1..KEYS_OF_EACH {
                keys.push(crate::key(&gate, tenant).await?);
            }
        }
        Ok(Self { gate, keys: Turns::of(keys), folder })
    }
}
