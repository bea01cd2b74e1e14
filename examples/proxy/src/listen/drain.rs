//! Going away without losing a request.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The state of a shutdown, shared by listeners and connections.
///
/// 1. Running. 2. Stopped: nothing new is accepted, open requests finish. 3. Aborted: what is left is cut off.
#[derive(Debug, Clone, Default)]
pub(crate) struct Drain {
    stop: CancellationToken,
    abort: CancellationToken,
    tasks: TaskTracker,
}

impl Drain {
    pub(super) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    pub(super) async fn aborted(&self) {
        self.abort.cancelled().await;
    }

    /// Runs a listener or a connection as one of those that are waited for. Listeners too: else one that has just accepted
    /// could hand over its connection after the wait.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Stops, waits for at most `patience`, cuts off the rest. Gives how many those were.
    pub(crate) async fn run(&self, patience: Duration) -> usize {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(patience, self.tasks.wait()).await.is_ok() {
            return 0;
        }
        let left = self.tasks.len();
        self.abort.cancel();
        // Their tasks end at once; their guards settle on the way out.
        self.tasks.wait().await;
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn open_connections_are_waited_for_and_then_cut_off() {
        let drain = Drain::default();
        drain.spawn(tokio::time::sleep(Duration::from_secs(1)));
        let inner = drain.clone();
        drain.spawn(async move { inner.aborted().await });
        assert_eq!(drain.run(Duration::from_secs(5)).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_as_soon_as_nothing_is_open() {
        let drain = Drain::default();
        drain.spawn(tokio::time::sleep(Duration::from_secs(1)));
        let begun = tokio::time::Instant::now();
        assert_eq!(drain.run(Duration::from_secs(30)).await, 0);
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}
