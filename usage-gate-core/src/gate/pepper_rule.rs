//! One store, one pepper: whether keys in the store are hashed with the pepper of this gate. Asked at the start, or as soon as the store is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::store::{KeyStore, StoreError};

const UNKNOWN: u8 = 0;
const KEPT: u8 = 1;
const BROKEN: u8 = 2;

/// What is wrong, and what to do about it.
pub(super) const OTHER_PEPPER: &str = "this pepper is not the one that keys in the store were made with: every node has the same one, give the file of the first";

/// Whether it is kept, as far as it is known.
#[derive(Debug)]
pub(crate) struct PepperRule {
    keys: Arc<dyn KeyStore>,
    ours: u64,
    state: AtomicU8,
}

impl PepperRule {
    pub(super) fn new(keys: Arc<dyn KeyStore>, ours: u64) -> Self {
        Self { keys, ours, state: AtomicU8::new(UNKNOWN) }
    }

    /// Whether it is known to be broken: then nothing can be said of a key, not even that it is made up.
    pub(crate) fn is_broken(&self) -> bool {
        self.state.load(Ordering::Relaxed) == BROKEN
    }

    /// Before anything of the store is used. Asks it unless the rule is known to be kept.
    ///
    /// # Errors
    /// [`Unusable`](crate::store::StoreErrorKind::Unusable) if it is broken; what the store says otherwise.
    pub(crate) async fn check(&self) -> Result<(), StoreError> {
        if self.state.load(Ordering::Relaxed) == KEPT {
            return Ok(());
        }
        let kept = self.keys.pepper_fingerprint(self.ours).await? == self.ours;
        let before = self.state.swap(if kept { KEPT } else { BROKEN }, Ordering::Relaxed);
        if kept {
            return Ok(());
        }
        if before != BROKEN {
            tracing::error!(store = self.keys.backend(), OTHER_PEPPER);
        }
        Err(StoreError::unusable("compare peppers", OTHER_PEPPER))
    }
}
