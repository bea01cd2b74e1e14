//! The counting upstream: a process of its own, which notes a request before it looks at anything else.
//!
//! `/plain/N` answers N bytes of a known length; `/chunked/N/P` N bytes in P pieces; `/sse/F/MS` F events over MS milliseconds; `/status/S` an
//! empty answer; `/echo` the body that came.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::event::{EventLog, Sight};
use super::paced::Paced;

type Body = BoxBody<Bytes, Infallible>;

/// The bytes of one event.
const EVENT: &[u8] = b"data: {\"delta\":\"and then another word\"}\n\n";

/// Listens on a free port of loopback, tells the address, and serves until it is stopped.
///
/// # Panics
/// If it cannot listen.
pub async fn serve(events: &Path, tell: impl FnOnce(String)) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let log = EventLog::open(events);
    tell(listener.local_addr().unwrap().to_string());
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let log = log.clone();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            note(&log, &request);
            answer(request)
        });
        tokio::spawn(async move {
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn note(log: &EventLog, request: &Request<Incoming>) {
    let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok());
    log.append(&Sight {
        id: id.unwrap_or_default().to_owned(),
        line: format!("{} {}", request.method(), request.uri().path()),
    });
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(1);
    let body: Body = match words[0] {
        "chunked" => Paced::new(zeros(number(1) / number(2).max(1)), number(2), Duration::from_millis(1)).boxed(),
        "sse" => {
            let pause = Duration::from_millis(number(2)) / u32::try_from(number(1)).unwrap_or(1).max(1);
            let body = Paced::new(Bytes::from_static(EVENT), number(1), pause).boxed();
            return Ok(Response::builder().header(CONTENT_TYPE, "text/event-stream").body(body).unwrap());
        }
        "status" => {
            let status = u16::try_from(number(1)).unwrap_or(500);
            return Ok(Response::builder().status(status).body(Full::default().boxed()).unwrap());
        }
        // Cut off in the middle, there is nobody to answer.
        "echo" => {
            Full::new(request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default()).boxed()
        }
        _ => Full::new(zeros(number(1))).boxed(),
    };
    Ok(Response::new(body))
}

fn zeros(bytes: u64) -> Bytes {
    static ZEROS: [u8; 65_536] = [0; 65_536];
    Bytes::from_static(&ZEROS[..usize::try_from(bytes).unwrap_or(ZEROS.len()).min(ZEROS.len())])
}
