//! Accepting connections: HTTP/1.1 on hyper itself, because every bound is ours to set.

pub(crate) mod admin;
mod drain;
mod observe;
pub(crate) mod public;
mod stall;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

pub(crate) use drain::Drain;
pub(crate) use observe::install as install_metrics;
use stall::Stall;

/// Connections that a listener holds at once; more wait in the system's backlog.
const MAX_CONNECTIONS: usize = 10_000;
/// Bytes of a request's head: the line and the fields.
const MAX_HEAD: usize = 32 * 1024;
/// hyper itself answers a head beyond this, without our document; up to it the answer is ours.
const MAX_HEAD_READ: usize = 64 * 1024;
/// For the whole head, and for the wait between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Takes an address, or says which key to change.
pub(crate) async fn bind(address: SocketAddr, key: &str, option: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|fault| {
        let reason = match fault.kind() {
            io::ErrorKind::AddrInUse => "another process listens there".into(),
            io::ErrorKind::PermissionDenied => "not permitted".into(),
            io::ErrorKind::AddrNotAvailable => "this machine has no such address".into(),
            _ => fault.to_string(),
        };
        anyhow::anyhow!("cannot listen on {address}: {reason}: choose another {key} (or {option})")
    })
}

/// Accepts until the drain begins, then sees every open connection through.
///
/// `service` makes the service of a connection from the peer's address. `write_timeout` ends a connection whose
/// client takes nothing for so long.
pub(crate) async fn accept<S, B>(
    listener: TcpListener,
    drain: Drain,
    write_timeout: Option<Duration>,
    service: impl Fn(SocketAddr) -> S,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = async {
            // The semaphore is never closed, so a place always comes.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            biased;
            () = drain.stopped() => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = serve_connection(stream, drain.clone(), write_timeout, service(peer));
                drain.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(fault) => back_off(&fault).await,
        }
    }
}

/// A connection that was gone before it was taken is nothing; out of file descriptors, others must end first.
async fn back_off(fault: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    if matches!(fault.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted) {
        return;
    }
    tracing::warn!(%fault, "cannot accept a connection; trying again in a second");
    tokio::time::sleep(Duration::from_secs(1)).await;
}

async fn serve_connection<S, B>(stream: TcpStream, drain: Drain, write_timeout: Option<Duration>, service: S)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Without it small answers may wait for the client's acknowledgement; a socket that has gone says so later.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_READ)
        .serve_connection(TokioIo::new(Stall::new(stream, write_timeout)), service);
    let mut connection = pin!(connection);
    let mut closing = false;
    let ended = loop {
        tokio::select! {
            biased;
            () = drain.aborted() => return,
            () = drain.stopped(), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
            ended = connection.as_mut() => break ended,
        }
    };
    if let Err(fault) = ended {
        tracing::debug!(%fault, "connection ended early");
    }
}
