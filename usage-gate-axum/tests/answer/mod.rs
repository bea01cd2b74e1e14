//! An answer of an API as the tests of both read it.

use axum::body::Body;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};

/// An answer, read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    pub(crate) json: Value,
}

impl Answer {
    /// Reads a response to its end.
    pub(crate) async fn read(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        let json = serde_json::from_str(&text).unwrap_or_default();
        Self { status: parts.status, headers: parts.headers, text, json }
    }

    /// Asserts the status and gives the document.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self.json
    }

    /// Asserts that it is a problem with this status and code, and gives the pointers of its errors.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Vec<String> {
        assert_eq!((self.status.as_u16(), &self.json["code"]), (status, &json!(code)), "{}", self.text);
        assert_eq!(self.headers[CONTENT_TYPE], "application/problem+json");
        assert_eq!(self.json["status"], status);
        assert_eq!(self.json["instance"], self.headers["x-request-id"].to_str().unwrap());
        let errors = self.json["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect()
    }
}
