//! A client of the admin API, for the commands that manage.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::config::HttpUrl;

/// For a whole answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A page of 200 items has less.
const MAX_ANSWER: usize = 16 << 20;
/// Pages that a list is followed for: ten thousand items.
const MAX_PAGES: usize = 50;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// The admin listener
    #[arg(long, env = "USAGE_GATE_ADMIN_URL", default_value = "http://127.0.0.1:8081", value_name = "URL")]
    admin_url: HttpUrl,
    /// A file with the admin token; by default `admin-token` in the data directory
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The data directory of the server, where its token is
    #[arg(long, default_value = "./usage-gate-data", value_name = "DIRECTORY")]
    data_dir: PathBuf,
    /// Print JSON, for machines
    #[arg(long)]
    pub(super) json: bool,
}

/// Speaks to one admin listener.
#[derive(Debug, Clone)]
pub(super) struct AdminClient {
    base: HttpUrl,
    authorization: HeaderValue,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl AdminClient {
    pub(super) fn from_options(options: &Options) -> anyhow::Result<Self> {
        let file = options.token_file.clone().unwrap_or_else(|| options.data_dir.join("admin-token"));
        Self::new(options.admin_url.clone(), &file)
    }

    pub(super) fn new(base: HttpUrl, token_file: &Path) -> anyhow::Result<Self> {
        let remedy = || format!("cannot read the admin token in {}: name it with --token-file", token_file.display());
        let token = std::fs::read_to_string(token_file).with_context(remedy)?;
        let mut authorization = HeaderValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_| anyhow!("the admin token is malformed"))?;
        authorization.set_sensitive(true);
        if !base.is_plain() {
            bail!("{base}: https to the admin listener is not built yet in this version");
        }
        Ok(Self { base, authorization, client: Client::builder(TokioExecutor::new()).build_http() })
    }

    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.send(Method::GET, path, None).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.send(Method::POST, path, Some(body)).await
    }

    /// All items of a list, page by page.
    pub(super) async fn list(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        for _ in 0..MAX_PAGES {
            let mut page = self.get(&format!("{path}?page_size=200{cursor}")).await?;
            if let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) {
                items.extend(more);
            }
            match page.get("next_cursor").and_then(Value::as_str) {
                Some(next) => cursor = format!("&cursor={}", escape(next)),
                None => break,
            }
        }
        Ok(items)
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let path: PathAndQuery = path.parse().with_context(|| format!("`{path}`"))?;
        let request = Request::builder()
            .method(method)
            .uri(self.base.at(Some(&path))?)
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body.map_or_else(String::new, Value::to_string)))?;
        let answer = async {
            let response = self.client.request(request).await.map_err(|fault| self.explain(fault))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|fault| anyhow!("the admin API's answer broke off: {fault}"))?.to_bytes();
            anyhow::Ok((status, body))
        };
        let (status, body) = tokio::time::timeout(TIMEOUT, answer)
            .await
            .map_err(|_| anyhow!("no answer from {} within {} s", self.base, TIMEOUT.as_secs()))??;
        let document: Option<Value> = serde_json::from_slice(&body).ok();
        match document {
            Some(document) if status.is_success() => Ok(document),
            Some(problem) => Err(anyhow!(describe(&problem)).context(format!("{} answered {status}", self.base))),
            None => bail!("{} answered {status} without JSON: is this an admin listener?", self.base),
        }
    }

    fn explain(&self, fault: hyper_util::client::legacy::Error) -> anyhow::Error {
        let base = &self.base;
        if fault.is_connect() {
            return anyhow!(
                "nothing answers at {base}: is `usage-gate serve` running there? (--admin-url names another place)"
            );
        }
        anyhow::Error::new(fault).context(format!("no answer from {base}"))
    }
}

/// A problem document in a line.
fn describe(problem: &Value) -> String {
    let text = |value: &Value, name| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut line = format!("{}: {}", text(problem, "code"), text(problem, "detail"));
    for fault in problem.get("errors").and_then(Value::as_array).into_iter().flatten() {
        line.push_str(&format!("; {} {}", text(fault, "pointer").trim_start_matches('/'), text(fault, "detail")));
    }
    line
}

/// A text as one segment of a path or one value of a query.
pub(super) fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_as_a_line() {
        let problem = serde_json::json!({"code":"invalid_request","detail":"the document is invalid",
            "errors":[{"pointer":"/name","detail":"must not be empty"}]});
        assert_eq!(describe(&problem), "invalid_request: the document is invalid; name must not be empty");
    }

    #[test]
    fn what_would_change_the_path_is_escaped() {
        assert_eq!(escape("a/b?c=ü"), "a%2Fb%3Fc%3D%C3%BC");
    }
}
