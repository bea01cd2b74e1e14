//! A client of the admin API, for the commands that manage.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, StatusCode};
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
    /// Where the token was read, to be named if it is the wrong one.
    token_file: PathBuf,
    /// Members of documents whose options are not called as they are.
    named: &'static [(&'static str, &'static str)],
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
        let client = Client::builder(TokioExecutor::new()).build_http();
        Ok(Self { base, authorization, token_file: token_file.to_owned(), named: &[], client })
    }

    /// Says which options members came from, where the option is not the member's name with two dashes before it.
    pub(super) fn naming(self, named: &'static [(&'static str, &'static str)]) -> Self {
        Self { named, ..self }
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

    async fn send(&self, method: Method, path: &str, document: Option<&Value>) -> anyhow::Result<Value> {
        let path: PathAndQuery = path.parse().with_context(|| format!("`{path}`"))?;
        let request = Request::builder()
            .method(method)
            .uri(self.base.at(Some(&path))?)
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(document.map_or_else(String::new, Value::to_string)))?;
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
        match serde_json::from_slice::<Value>(&body) {
            Ok(answer) if status.is_success() => Ok(answer),
            Ok(problem) => Err(self.refused(status, &problem, document)),
            Err(_) => bail!("{} answered {status} without JSON: is this an admin listener?", self.base),
        }
    }

    /// A problem document as its reader can act on it: by option where a member came from one.
    fn refused(&self, status: StatusCode, problem: &Value, sent: Option<&Value>) -> anyhow::Error {
        let faults = faults(problem, sent, self.named);
        if !faults.is_empty() {
            return anyhow!(faults.join("\n"));
        }
        let mut line = format!("{} answered {status}: {}", self.base, text(problem, "detail"));
        if status == StatusCode::UNAUTHORIZED {
            let file = self.token_file.display();
            line.push_str(&format!(": the token is from {file}; --token-file names another file"));
        }
        anyhow!(line)
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

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The faults that a problem document has found in what was sent, a line each. Its `detail` says the same again.
fn faults(problem: &Value, sent: Option<&Value>, named: &[(&str, &str)]) -> Vec<String> {
    let errors = problem.get("errors").and_then(Value::as_array).into_iter().flatten();
    let lines = errors.map(|fault| {
        let (pointer, detail) = (text(fault, "pointer").trim_start_matches('/'), text(fault, "detail"));
        let member = pointer.split('/').next().unwrap_or_default();
        if sent.is_none_or(|sent| sent.get(member).is_none()) {
            return [pointer, detail].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
        }
        match named.iter().find(|(known, _)| *known == member) {
            Some((_, option)) => format!("{option}: {detail}"),
            None => format!("--{}: {detail}", member.replace('_', "-")),
        }
    });
    lines.collect()
}

/// A text as one segment of a path or one value of a query.
pub(super) fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(pointer: &str, expected: &str) {
        let problem = json!({"code": "invalid_request", "detail": "all of it, again",
            "errors": [{"pointer": pointer, "detail": "must be good"}]});
        let sent = json!({"return_url": "x", "scopes": ["a"]});
        assert_eq!(faults(&problem, Some(&sent), &[("scopes", "--scope")]), [expected]);
    }

    #[test]
    fn a_fault_is_said_once_by_the_option_it_came_from() {
        check("/return_url", "--return-url: must be good");
        check("/scopes/0", "--scope: must be good");
        check("/plan", "plan: must be good");
        check("", "must be good");
        assert!(faults(&json!({"code": "not_found", "detail": "there is no such thing"}), None, &[]).is_empty());
    }

    #[test]
    fn what_would_change_the_path_is_escaped() {
        assert_eq!(escape("a/b?c=ü"), "a%2Fb%3Fc%3D%C3%BC");
    }
}
