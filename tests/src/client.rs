//! An HTTP client that takes what it gets: no retries, no redirects.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

type Body = BoxBody<Bytes, std::io::Error>;

/// A client with a pool of its own.
#[derive(Debug, Clone)]
pub struct Client(Pool<HttpConnector, Body>);

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; null if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The member `code` of a problem.
    #[must_use]
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// A header field as text; empty if it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// A client with an empty pool.
    #[must_use]
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self(Pool::builder(TokioExecutor::new()).retry_canceled_requests(false).build(connector))
    }

    /// Sends a request with any body; the answer as it comes.
    ///
    /// # Panics
    /// If there is no answer within 120 seconds.
    pub async fn send<B>(&self, request: Request<B>) -> Response<Incoming>
    where
        B: http_body::Body<Data = Bytes> + Send + Sync + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let request = request.map(|body| body.map_err(std::io::Error::other).boxed());
        tokio::time::timeout(Duration::from_secs(120), self.0.request(request)).await.unwrap().unwrap()
    }

    /// Sends a request with a body of bytes; the whole answer.
    ///
    /// # Panics
    /// If the answer breaks off.
    pub async fn call(&self, request: Request<impl Into<Bytes>>) -> Answer {
        let (parts, body) = self.send(request.map(|body| Full::new(body.into()))).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// `GET` with a key in `x-api-key`; without a header for an empty key.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn get(&self, url: &str, key: &str) -> Answer {
        let mut request = Request::get(url);
        if !key.is_empty() {
            request = request.header("x-api-key", key);
        }
        self.call(request.body("").unwrap()).await
    }
}
