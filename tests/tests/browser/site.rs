//! A server of a few pages, under the strict policy that the gateway's pages have, or under none.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'";

/// A path, and what is in the `<body>` there.
type Pages = &'static [(&'static str, &'static str)];

/// A running server; ends when dropped.
#[derive(Debug)]
pub(crate) struct Site {
    /// `http://address`.
    pub(crate) url: String,
    task: JoinHandle<()>,
}

impl Site {
    pub(crate) async fn start(pages: Pages) -> Self {
        Self::serve(pages, POLICY).await
    }

    /// Pages that may do whatever a browser lets them do.
    pub(crate) async fn start_without_policy(pages: Pages) -> Self {
        Self::serve(pages, "").await
    }

    async fn serve(pages: Pages, policy: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let service = hyper::service::service_fn(async move |request| {
                    Ok::<_, Infallible>(answer(pages, policy, &request))
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move {
                    let _ = connection.await;
                });
            }
        });
        Self { url, task }
    }

    pub(crate) fn page(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `{language}` in a page is the request's `Accept-Language`, `{cookie}` its cookies. `/later.js` is the one script there is.
fn answer(pages: Pages, policy: &'static str, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    const LATER: &str = "document.querySelector('#go')?.addEventListener('click', () => setTimeout(() => {
        const done = document.createElement('output'); done.textContent = 'done'; document.querySelector('main').append(done) }, 150))";

    let path = request.uri().path();
    if path == "/later.js" {
        let script = Response::builder().header("content-type", "text/javascript");
        return script.body(Full::from(LATER)).unwrap();
    }
    let body = pages.iter().find(|(known, _)| *known == path).map(|(_, body)| *body);
    let field = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let body =
        body.map(|body| body.replace("{language}", field("accept-language")).replace("{cookie}", field("cookie")));
    let status = if body.is_some() { 200 } else { 404 };
    let html = format!(
        "<!doctype html><html lang=en><title>A page</title><meta name=viewport content='width=device-width'><body>{}",
        body.unwrap_or_default()
    );
    let page = Response::builder().status(status).header("content-type", "text/html; charset=utf-8");
    let page =
        page.header("content-security-policy", policy).header("set-cookie", "visited=yes; HttpOnly; SameSite=Strict");
    page.body(Full::from(html)).unwrap()
}
