//! The bells: a connection of its own that listens, so that a change of the feed is read at once and not at the next look, and units that others need go back at once. They may
//! ring for nothing; and what they fail to ring for, because its connection was lost or a pooler stands between, is found within [`PATIENCE`](crate::store::feed::PATIENCE) all the same.

use std::error::Error;
use std::future::poll_fn;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Config, Socket};

use super::connect::Address;

/// Before the first try to connect again; doubled with every further one.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What rings.
#[derive(Debug, Clone)]
pub(super) struct Bells {
    /// Marked as changed whenever there may be something new in the feed.
    pub(super) changes: watch::Sender<()>,
    /// The same of leases that are recalled.
    pub(super) recalls: watch::Sender<()>,
}

impl Bells {
    fn ring_all(&self) {
        self.changes.send_replace(());
        self.recalls.send_replace(());
    }

    fn ring(&self, word: &str) {
        match word {
            "recall" => self.recalls.send_replace(()),
            _ => self.changes.send_replace(()),
        }
    }
}

pub(super) struct Listener {
    address: Address,
    bells: Bells,
    /// Started by who first waits: a store that only serves management listens to nothing.
    task: OnceLock<JoinHandle<()>>,
}

impl Listener {
    pub(super) fn new(address: Address) -> Self {
        let bells = Bells { changes: watch::Sender::new(()), recalls: watch::Sender::new(()) };
        Self { address, bells, task: OnceLock::new() }
    }

    /// What rings from now on.
    pub(super) fn bells(&self) -> &Bells {
        self.task.get_or_init(|| tokio::spawn(listen(self.address.clone(), self.bells.clone())));
        &self.bells
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

async fn listen(address: Address, bells: Bells) {
    let mut pause = SHORTEST_PAUSE;
    loop {
        let mut heard = false;
        let outcome = address.listen(&bells, &mut heard).await;
        if heard {
            pause = SHORTEST_PAUSE;
        }
        tracing::warn!(
            error = outcome.as_ref().err().map(|error| &**error as &(dyn Error + 'static)),
            "changes are looked for every second until the database tells of them again"
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Listens on one connection until it is lost; `heard` says whether it came to listening.
pub(super) async fn listen_on<T>(
    config: &Config,
    tls: T,
    patience: Duration,
    bells: &Bells,
    heard: &mut bool,
) -> Result<(), Box<dyn Error + Send + Sync>>
where
    T: MakeTlsConnect<Socket>,
{
    let (client, mut connection) = tokio::time::timeout(patience, config.connect(tls)).await??;
    let mut asked = std::pin::pin!(tokio::time::timeout(patience, client.batch_execute("LISTEN usage_gate")));
    loop {
        tokio::select! {
            outcome = &mut asked, if !*heard => {
                outcome??;
                *heard = true;
                // What was committed since the last connection was lost rang nowhere.
                bells.ring_all();
            }
            message = poll_fn(|context| connection.poll_message(context)) => match message {
                Some(Ok(AsyncMessage::Notification(told))) => bells.ring(told.payload()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
        }
    }
}
