//! Recording clients: what they send, and what they write down of each answer.
//!
//! Every request leaves exactly one line, however it ends. While the gateway is down they try to connect again and again; an attempt that did not
//! connect is no request.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::connection::{Body, Connection};
use super::event::{End, Ending, EventLog};
use super::paced::Paced;
use super::random::Random;

/// No answer takes so long; a client waits no longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(2);

/// What a client is told to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Orders {
    /// Where the gateway listens.
    pub address: SocketAddr,
    /// Where lines go.
    pub events: PathBuf,
    /// Of everything that is drawn.
    pub seed: u64,
    /// Requests in flight at once.
    pub tasks: u64,
    /// What is sent.
    pub mix: Mix,
    /// How many requests in all; without it until the client is stopped.
    pub requests: Option<u64>,
    /// The longest pause between two requests of a task.
    pub pause_ms: u64,
    /// Whose keys are used.
    pub accounts: Vec<Account>,
}

/// What a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mix {
    /// All kinds of requests and answers.
    Everything,
    /// Small answers of a known length, for a great many of them.
    Small,
}

/// A key, and how often it is used beside the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its tenant's id.
    pub tenant: String,
    /// Its id.
    pub key: String,
    /// What a caller presents.
    pub secret: String,
    /// Its share of the requests.
    pub weight: u64,
}

/// Sends until it is stopped or has sent what it was told to.
pub async fn run(orders: Orders, stop: watch::Receiver<bool>) {
    let log = EventLog::open(&orders.events);
    let mut random = Random::new(orders.seed);
    let mut tasks = JoinSet::new();
    for task in 0..orders.tasks {
        // What does not divide evenly is sent by the first tasks.
        let share = orders.requests.map(|all| all / orders.tasks + u64::from(task < all % orders.tasks));
        let sender =
            Sender { orders: orders.clone(), log: log.clone(), random: Random::new(random.seed()), connection: None };
        tasks.spawn(sender.run(share, stop.clone()));
    }
    tasks.join_all().await;
}

/// One task: one request at a time.
struct Sender {
    orders: Orders,
    log: EventLog,
    random: Random,
    connection: Option<Connection>,
}

impl Sender {
    async fn run(mut self, share: Option<u64>, stop: watch::Receiver<bool>) {
        let mut left = share;
        while left != Some(0) && !*stop.borrow() {
            let Some(mut connection) = self.connected().await else { continue };
            let (ending, reusable) = self.call(&mut connection).await;
            self.log.append(&ending);
            self.connection = reusable.then_some(connection).filter(Connection::usable);
            left = left.map(|left| left - 1);
            if self.orders.pause_ms > 0 {
                sleep(Duration::from_millis(self.random.within(0..self.orders.pause_ms + 1))).await;
            }
        }
    }

    async fn connected(&mut self) -> Option<Connection> {
        if let Some(connection) = self.connection.take() {
            return Some(connection);
        }
        let connection = Connection::open(self.orders.address).await;
        if connection.is_none() {
            sleep(RETRY).await;
        }
        connection
    }

    /// One request; its ending, and whether the connection can carry another.
    async fn call(&mut self, connection: &mut Connection) -> (Ending, bool) {
        let kind = self.kind();
        let at = self.random.weighted(self.orders.accounts.iter().map(|account| account.weight));
        let account = self.orders.accounts[at].clone();
        let (method, path, body) = self.request(kind);
        let mut ending = Ending {
            id: String::new(),
            tenant: account.tenant,
            key: account.key,
            line: format!("{method} {path}"),
            status: 0,
            bytes: 0,
            end: End::NoAnswer,
            code: String::new(),
        };
        let request = Request::builder().method(method).uri(path).header("host", self.orders.address.to_string());
        let request = request.header("x-api-key", account.secret).body(body).unwrap();
        let reusable = timeout(PATIENCE, take(connection, request, kind == Kind::Left, &mut ending)).await;
        (ending, reusable.unwrap_or(false))
    }

    fn kind(&mut self) -> Kind {
        if self.orders.mix == Mix::Small {
            return Kind::Plain;
        }
        KINDS[self.random.weighted(KINDS.iter().map(|(_, weight)| *weight))].0
    }

    fn request(&mut self, kind: Kind) -> (Method, String, Body) {
        let random = &mut self.random;
        let small = self.orders.mix == Mix::Small;
        let none = || Full::default().boxed();
        match kind {
            Kind::Plain if small => (Method::GET, "/plain/16".to_owned(), none()),
            Kind::Plain => (Method::GET, format!("/plain/{}", random.within(1..4_096)), none()),
            Kind::Chunked => {
                (Method::GET, format!("/chunked/{}/{}", random.within(16..200_000), random.within(1..16)), none())
            }
            Kind::Stream | Kind::Left => {
                (Method::GET, format!("/sse/{}/{}", random.within(5..40), random.within(50..300)), none())
            }
            Kind::Head => (Method::HEAD, format!("/plain/{}", random.within(1..4_096)), none()),
            Kind::Empty => (Method::GET, "/status/204".to_owned(), none()),
            Kind::Fault => (Method::GET, "/status/500".to_owned(), none()),
            Kind::Upload => {
                let piece = Bytes::from(vec![b'x'; usize::try_from(random.within(1..16_384)).unwrap()]);
                let pieces = random.within(1..4);
                let paced = Paced::new(piece.clone(), pieces, Duration::from_millis(1));
                let body = if random.one_in(2) { paced.boxed() } else { Full::new(piece).boxed() };
                (Method::POST, "/echo".to_owned(), body)
            }
        }
    }
}

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Chunked,
    Stream,
    Left,
    Head,
    Empty,
    Upload,
    Fault,
}

/// How many of a hundred.
const KINDS: [(Kind, u64); 8] = [
    (Kind::Plain, 34),
    (Kind::Chunked, 12),
    (Kind::Stream, 14),
    (Kind::Left, 10),
    (Kind::Head, 7),
    (Kind::Empty, 6),
    (Kind::Upload, 12),
    (Kind::Fault, 5),
];

/// Sends, reads, and notes each thing as it comes: what is in `ending` when this is dropped is what was seen.
async fn take(connection: &mut Connection, request: Request<Body>, leave: bool, ending: &mut Ending) -> bool {
    let Some(response) = connection.send(request).await else { return false };
    let text = |headers: &HeaderMap, name: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    ending.id = text(response.headers(), "x-request-id");
    ending.status = response.status().as_u16();
    ending.end = End::Cut;
    let ours = text(response.headers(), CONTENT_TYPE.as_str()) == "application/problem+json";
    let mut problem = Vec::new();
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        let data = frame.into_data().unwrap_or_default();
        ending.bytes += u64::try_from(data.len()).unwrap();
        if ours {
            problem.extend_from_slice(&data);
        } else if leave {
            ending.end = End::Left;
            return false;
        }
    }
    ending.end = End::Complete;
    // What the gate says for the upstream was admitted all the same.
    if ours && !matches!(ending.status, 502 | 504) {
        ending.end = End::Refused;
        let problem: serde_json::Value = serde_json::from_slice(&problem).unwrap_or_default();
        // An answer to HEAD has no body to say it in.
        let unsaid = || format!("{} without a body", ending.status);
        ending.code = problem["code"].as_str().map_or_else(unsaid, str::to_owned);
    }
    true
}
