//! An upstream that counts what reaches it.
//!
//! `/status/N` answers with a status; `/bytes/N` streams N bytes in chunks; `/echo` gives the body back; `/count` reads the body and says how long
//! it was; `/drip` sends 64 KiB and then waits for ever; everything else answers its own head as JSON.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// What reached the upstream of one request.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Method and path with query.
    pub line: String,
    /// All header fields.
    pub headers: HeaderMap,
}

/// A running upstream; ends when dropped.
#[derive(Debug)]
pub struct Upstream {
    /// `http://address`.
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

type Body = BoxBody<Bytes, Infallible>;

impl Upstream {
    /// Starts one.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn start() -> Self {
        Self::start_on("127.0.0.1:0").await
    }

    /// Starts one on an address.
    ///
    /// # Panics
    /// If it cannot listen there.
    pub async fn start_on(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let noted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            // Connections end with the upstream, as they do when a process ends.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let _ = stream.set_nodelay(true);
                let noted = Arc::clone(&noted);
                let service = hyper::service::service_fn(move |request| answer(Arc::clone(&noted), request));
                connections.spawn(async move {
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { url, seen, task }
    }

    /// What reached it so far.
    ///
    /// # Panics
    /// If a handler panicked.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many requests reached it.
    ///
    /// # Panics
    /// If a handler panicked.
    #[must_use]
    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(noted: Arc<Mutex<Vec<Seen>>>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let line = format!("{} {}", request.method(), request.uri());
    noted.lock().unwrap().push(Seen { line, headers: request.headers().clone() });
    let path = request.uri().path().to_owned();
    let number = |prefix: &str| path.strip_prefix(prefix).and_then(|rest| rest.parse::<u64>().ok());
    let full = |bytes: Bytes| Full::new(bytes).boxed();
    Ok(if let Some(status) = number("/status/") {
        Response::builder().status(u16::try_from(status).unwrap()).body(Empty::new().boxed()).unwrap()
    } else if let Some(bytes) = number("/bytes/") {
        Response::new(chunks(bytes, false))
    } else if path == "/drip" {
        Response::new(chunks(65_536, true))
    } else if path == "/echo" {
        Response::new(full(request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default()))
    } else if path == "/count" {
        let mut body = request.into_body();
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
        }
        Response::new(full(bytes.to_string().into()))
    } else {
        let headers = request.headers().iter();
        let fields: Map<String, Value> =
            headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("?").into())).collect();
        Response::new(full(Value::Object(fields).to_string().into()))
    })
}

/// Zeros in chunks of 64 KiB, then the end or nothing more.
fn chunks(bytes: u64, forever: bool) -> Body {
    const CHUNK: usize = 65_536;
    static ZEROS: [u8; CHUNK] = [0; CHUNK];
    let (send, receive) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(4);
    tokio::spawn(async move {
        let mut left = bytes;
        while left > 0 {
            let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            if send.send(Ok(Frame::data(Bytes::from_static(&ZEROS[..size])))).await.is_err() {
                return;
            }
            left -= u64::try_from(size).unwrap();
        }
        if forever {
            send.closed().await;
        }
    });
    BodyExt::boxed(StreamBody::new(stream::Received(receive)))
}

mod stream {
    //! A channel as a stream, which takes no crate.

    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::sync::mpsc::Receiver;

    pub(super) struct Received<T>(pub(super) Receiver<T>);

    impl<T> futures_core::Stream for Received<T> {
        type Item = T;

        fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
            self.0.poll_recv(cx)
        }
    }
}
