//! One connection to the gateway, as a client that takes every fault for an answer.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// The body of a request.
pub(super) type Body = BoxBody<Bytes, Infallible>;

/// Closed when dropped.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Body>,
    task: JoinHandle<()>,
}

impl Connection {
    /// Connects; none while nobody listens.
    pub(super) async fn open(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
        let task = tokio::spawn(async move {
            let _ = connection.await;
        });
        Some(Self { sender, task })
    }

    /// Sends a request; none if no head comes.
    pub(super) async fn send(&mut self, request: Request<Body>) -> Option<Response<Incoming>> {
        self.sender.ready().await.ok()?;
        self.sender.send_request(request).await.ok()
    }

    /// True if another request can be sent.
    pub(super) fn usable(&self) -> bool {
        !self.sender.is_closed()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `GET` on a connection of its own: status and body, or none without a whole answer in time.
pub async fn ask(address: SocketAddr, path: &str, header: (&str, &str), time: Duration) -> Option<(u16, Bytes)> {
    let whole = async {
        let mut connection = Connection::open(address).await?;
        let request = Request::get(path).header("host", address.to_string()).header(header.0, header.1);
        let response = connection.send(request.body(Full::default().boxed()).ok()?).await?;
        let status = response.status().as_u16();
        Some((status, response.into_body().collect().await.ok()?.to_bytes()))
    };
    tokio::time::timeout(time, whole).await.ok()?
}
