//! Commands that WebDriver does not have: the browser's debugger and its log.

use fantoccini::error::CmdError;
use fantoccini::wd::WebDriverCompatibleCommand;
use http::Method;
use serde_json::{Value, json};
use url::{ParseError, Url};

use super::{Browser, PATIENCE};

/// A `POST` to a path of the session.
#[derive(Debug)]
struct Post {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Post {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}

impl Browser {
    pub(super) async fn post(&self, path: &'static str, body: Value) -> Result<Value, CmdError> {
        // A promise that never settles would hold the driver for ever: it has no bound of its own for the debugger.
        let answer = tokio::time::timeout(PATIENCE, self.client.issue_cmd(Post { path, body })).await;
        answer.unwrap_or(Err(CmdError::WaitTimeout))
    }

    /// A command of the Chrome DevTools Protocol to the page.
    pub(super) async fn try_debugger(&self, command: &str, parameters: Value) -> Result<Value, CmdError> {
        self.post("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    /// A command that can only fail if it is wrong.
    pub(super) async fn debugger(&self, command: &str, parameters: Value) -> Value {
        match self.try_debugger(command, parameters).await {
            Ok(value) => value,
            Err(error) => panic!("{command}: {error}"),
        }
    }

    /// `Runtime.evaluate`: the value, or what was thrown as text.
    pub(super) async fn try_evaluate(&self, mut parameters: Value) -> Result<Value, String> {
        parameters["awaitPromise"] = true.into();
        parameters["returnByValue"] = true.into();
        let mut answer = self.try_debugger("Runtime.evaluate", parameters).await.map_err(|error| error.to_string())?;
        match answer.get("exceptionDetails") {
            None => Ok(answer["result"]["value"].take()),
            Some(thrown) => {
                let text = thrown["exception"]["description"].as_str().or_else(|| thrown["text"].as_str());
                Err(text.unwrap_or_default().to_owned())
            }
        }
    }
}
