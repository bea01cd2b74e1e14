//! The connections to upstreams, and where each route goes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::config::{Config, HttpUrl};

/// Below the keep-alive of common servers (Node closes after 5 s, others later), so that few connections are found dead.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// Makes the pool. A request that was put on a connection which turned out dead is sent again by hyper only if
/// nothing of it was written.
pub(super) fn client<B>(config: &Config) -> Client<HttpConnector, B>
where
    B: http_body::Body<Data: Send> + Send + 'static + Unpin,
    B::Error: Into<super::BoxError>,
{
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(config.upstream.connect_timeout);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(Duration::from_secs(60)));
    Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(POOL_IDLE).build(connector)
}

/// Where requests go.
#[derive(Debug)]
pub(super) struct Targets {
    default: HttpUrl,
    by_route: HashMap<Arc<str>, HttpUrl>,
}

impl Targets {
    pub(super) fn new(default: HttpUrl, by_route: HashMap<Arc<str>, HttpUrl>) -> Self {
        Self { default, by_route }
    }

    pub(super) fn of(&self, route: &str) -> &HttpUrl {
        if self.by_route.is_empty() { &self.default } else { self.by_route.get(route).unwrap_or(&self.default) }
    }
}
