//! JSON documents of requests: strict, bounded, every fault with its place.

use axum::extract::{FromRequest, Request};
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};
use usage_gate_core::admission::Code;
use usage_gate_core::management::{Invalid, Patch};

use crate::answer::Problem;

/// Bytes that a document may have.
pub(crate) const MOST_BYTES: usize = 256 * 1024;

/// A document of type `T`.
#[derive(Debug)]
pub(crate) struct Document<T>(pub(crate) T);

impl<S, T> FromRequest<S> for Document<T>
where
    S: Sync,
    T: DeserializeOwned,
{
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        check_type(&request)?;
        parse(&read(request).await?).map(Self)
    }
}

/// A document that may be left out altogether.
#[derive(Debug)]
pub(crate) struct OptionalDocument<T>(pub(crate) T);

impl<S, T> FromRequest<S> for OptionalDocument<T>
where
    S: Sync,
    T: DeserializeOwned + Default,
{
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let typed = check_type(&request);
        let bytes = read(request).await?;
        if bytes.trim_ascii().is_empty() {
            return Ok(Self(T::default()));
        }
        typed?;
        parse(&bytes).map(Self)
    }
}

/// `application/json`, or no type at all; a form's type is a mistake that is better named than parsed.
fn check_type(request: &Request) -> Result<(), Problem> {
    let Some(value) = request.headers().get(CONTENT_TYPE) else { return Ok(()) };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json")
        || essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
    {
        // The second is what `curl -d` says of any body.
        return Ok(());
    }
    Err(Problem::new(Code::InvalidRequest, "the body must be JSON: send content-type: application/json"))
}

pub(crate) async fn read(request: Request) -> Result<bytes::Bytes, Problem> {
    match Limited::new(request.into_body(), MOST_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Problem::new(Code::PayloadTooLarge, format!("the body has more than {MOST_BYTES} bytes")))
        }
        Err(_) => Err(Problem::new(Code::InvalidRequest, "the body broke off")),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // A list would be read as the members of the document in their order, which is nobody's contract.
    if bytes.trim_ascii().first() == Some(&b'[') {
        return Err(Problem::invalid("", "must be a JSON object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| fault(error.path(), error.inner()))?;
    reader.end().map_err(|error| syntax(&error))?;
    Ok(value)
}

fn fault(path: &Path, error: &serde_json::Error) -> Problem {
    if !error.is_data() {
        return syntax(error);
    }
    // Behind the last ` at line` is what serde_json adds; the place is said by the pointer.
    let text = error.to_string();
    let detail = text.rsplit_once(" at line ").map_or(text.as_str(), |(detail, _)| detail);
    // Type names of the language say nothing to a client.
    let detail = &detail
        .replace("expected u64", "expected a whole number")
        .replace("expected a Timestamp", "expected an instant");
    let mut pointer = pointer(path);
    for (begin, end) in [("unknown field `", '`'), ("missing field `", '`')] {
        let named = detail.strip_prefix(begin).and_then(|rest| rest.split_once(end));
        if let Some((member, _)) = named
            && !pointer.ends_with(&format!("/{member}"))
        {
            pointer = format!("{pointer}/{}", escape(member));
        }
    }
    Invalid::at(pointer, detail).into()
}

fn syntax(error: &serde_json::Error) -> Problem {
    let detail = format!("the body is not JSON: line {}, column {}: {}", error.line(), error.column(), {
        let text = error.to_string();
        text.rsplit_once(" at line ").map_or(text.clone(), |(what, _)| what.to_owned())
    });
    Problem::new(Code::InvalidRequest, detail)
}

/// RFC 6901.
fn pointer(path: &Path) -> String {
    path.iter().fold(String::new(), |pointer, segment| match segment {
        Segment::Seq { index } => format!("{pointer}/{index}"),
        Segment::Map { key } => format!("{pointer}/{}", escape(key)),
        Segment::Enum { .. } | Segment::Unknown => pointer,
    })
}

fn escape(member: &str) -> String {
    member.replace('~', "~0").replace('/', "~1")
}

/// Reads a member of a change: there, even as null, or not.
pub(crate) fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// A member of a change for the rules.
pub(crate) fn patch<T>(member: Option<T>) -> Patch<T> {
    member.map_or(Patch::Keep, Patch::Set)
}
