//! Two Valkeys of which one serves and the other takes over, behind an address that leads to whichever serves.

use std::time::Duration;

use super::fault::{Fault, FaultProxy};
use super::servers::OwnValkey;

/// A Valkey that fails over.
#[derive(Debug)]
pub struct ValkeyPair {
    serving: OwnValkey,
    other: OwnValkey,
    way: FaultProxy,
}

impl ValkeyPair {
    /// Starts both, empty.
    ///
    /// # Panics
    /// If they do not start.
    pub async fn start() -> Self {
        let (serving, other) = (OwnValkey::start().await, OwnValkey::start().await);
        let way = FaultProxy::in_front_of(&serving.url()).await;
        Self { serving, other, way }
    }

    /// The address that leads to the one that serves.
    #[must_use]
    pub fn url(&self) -> String {
        self.way.url()
    }

    /// The one that serves.
    pub const fn serving(&mut self) -> &mut OwnValkey {
        &mut self.serving
    }

    /// The other becomes a replica, hears nothing more of the one that serves, which goes on for so long, and takes over as it is.
    ///
    /// # Panics
    /// If one of them does not do as it is told.
    pub async fn fail_over(&mut self, behind: Duration) {
        self.other.kill().await;
        self.other.forget();
        self.other.start_again().await;
        let link = FaultProxy::in_front_of(&self.serving.url()).await;
        self.other.follow(&link.url()).await;
        link.set(Fault::BlackHole);
        tokio::time::sleep(behind).await;
        self.serving.kill().await;
        self.other.lead().await;
        self.way.lead_to(&self.other.url());
        std::mem::swap(&mut self.serving, &mut self.other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_takes_over_has_what_was_there_before_it_fell_behind() {
        let mut pair = ValkeyPair::start().await;
        let first = pair.serving().url();
        assert_eq!(pair.serving().ask("SET place here\r\n").await.as_deref(), Some("+OK"));
        pair.fail_over(Duration::from_millis(50)).await;
        assert_ne!(pair.serving().url(), first);
        assert_eq!(pair.serving().ask("STRLEN place\r\n").await.as_deref(), Some(":4"));
        assert!(pair.serving().replication().await.contains("role:master"));
    }
}
