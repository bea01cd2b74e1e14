//! A few refusals one by one, for the request log: sums say how many, these say why.

use std::sync::{Mutex, PoisonError};

use crate::store::{Batch, RefusalSample};

/// What was refused since it was last taken: the first few, so that a flood costs a look at a length.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    kept: Mutex<Vec<RefusalSample>>,
}

impl Samples {
    /// Keeps one if there is room for it.
    pub(crate) fn keep(&self, sample: impl FnOnce() -> RefusalSample) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < Batch::MOST_SAMPLES {
            kept.push(sample());
        }
    }

    pub(crate) fn take(&self) -> Vec<RefusalSample> {
        std::mem::take(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
