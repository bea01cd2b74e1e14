//! Clients that pick any gateway, as fast as they are answered, and write down what came of each request and when.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::crash::Random;

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Shot {
    /// When it was sent and when it was answered, since the load began.
    pub sent: Duration,
    /// When the answer was there.
    pub answered: Duration,
    /// Which client sent it.
    pub client: u64,
    /// Which gateway it was sent to, by its place among the addresses.
    pub node: usize,
    /// The status; 0 for none.
    pub status: u16,
}

/// What came of all of them.
#[derive(Debug, Clone, Default)]
pub struct Passed(pub Vec<Shot>);

impl Passed {
    /// How many got this status.
    #[must_use]
    pub fn with(&self, status: u16) -> usize {
        self.0.iter().filter(|shot| shot.status == status).count()
    }

    /// How many of each status; 0 stands for no answer.
    #[must_use]
    pub fn statuses(&self) -> BTreeMap<u16, usize> {
        let mut statuses = BTreeMap::new();
        self.0.iter().for_each(|shot| *statuses.entry(shot.status).or_default() += 1);
        statuses
    }

    /// The longest that a request took.
    #[must_use]
    pub fn slowest(&self) -> Duration {
        self.0.iter().map(|shot| shot.answered.saturating_sub(shot.sent)).max().unwrap_or_default()
    }

    /// Those that a node got.
    #[must_use]
    pub fn of_node(&self, node: usize) -> Self {
        self.only(|shot| shot.node == node)
    }

    /// Those that are so.
    #[must_use]
    pub fn only(&self, is_so: impl Fn(&Shot) -> bool) -> Self {
        Self(self.0.iter().filter(|shot| is_so(shot)).copied().collect())
    }
}

/// A load that runs.
#[derive(Debug)]
pub struct Load {
    clients: JoinSet<()>,
    number: u64,
    shots: Arc<Mutex<Vec<Shot>>>,
    stop: Arc<AtomicBool>,
    began: Instant,
}

impl Load {
    /// Starts so many clients, each on any of the gateways for every request. `urls` may change while they run.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    #[must_use]
    pub fn start(clients: u64, urls: &Arc<Mutex<Vec<String>>>, key: &str, seed: u64, pause: Duration) -> Self {
        let (shots, stop) = (Arc::<Mutex<Vec<Shot>>>::default(), Arc::new(AtomicBool::new(false)));
        let mut set = JoinSet::new();
        let began = Instant::now();
        for client in 0..clients {
            let (urls, shots, stop) = (Arc::clone(urls), Arc::clone(&shots), Arc::clone(&stop));
            let key = key.to_owned();
            let mut random = Random::new(seed.wrapping_mul(1_000).wrapping_add(client));
            let number = client;
            set.spawn(async move {
                let mut connector = HttpConnector::new();
                connector.set_nodelay(true);
                let client = Client::builder(TokioExecutor::new()).build::<_, Empty<bytes::Bytes>>(connector);
                while !stop.load(Ordering::Relaxed) {
                    let (node, url) = {
                        let urls = urls.lock().unwrap();
                        let node = usize::try_from(random.within(0..u64::try_from(urls.len()).unwrap())).unwrap();
                        (node, urls[node].clone())
                    };
                    let request = Request::get(format!("{url}/status/200")).header("x-api-key", &key);
                    let sent = began.elapsed();
                    let answer = async {
                        let answer = client.request(request.body(Empty::new()).unwrap()).await.ok()?;
                        let status = answer.status().as_u16();
                        answer.into_body().collect().await.ok()?;
                        Some(status)
                    };
                    let answer = tokio::time::timeout(Duration::from_secs(30), answer).await.ok().flatten();
                    let shot =
                        Shot { sent, answered: began.elapsed(), client: number, node, status: answer.unwrap_or(0) };
                    shots.lock().unwrap().push(shot);
                    if answer.is_none() || !pause.is_zero() {
                        tokio::time::sleep(pause.max(Duration::from_millis(5))).await;
                    }
                }
            });
        }
        Self { clients: set, number: clients, shots, stop, began }
    }

    /// Whether each client has had an answer to a request that it sent after this instant, and so to all before.
    #[must_use]
    pub fn all_have_sent_after(&self, instant: Duration) -> bool {
        let passed = self.so_far();
        let after = |client| passed.0.iter().any(|shot| shot.client == client && shot.sent > instant);
        (0..self.number).all(after)
    }

    /// The present, as [`Shot`] counts it.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// What has come of them so far.
    ///
    /// # Panics
    /// If a client panicked.
    #[must_use]
    pub fn so_far(&self) -> Passed {
        Passed(self.shots.lock().unwrap().clone())
    }

    /// Lets each client end its request.
    ///
    /// # Panics
    /// If a client panicked.
    pub async fn stop(mut self) -> Passed {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        self.so_far()
    }
}
