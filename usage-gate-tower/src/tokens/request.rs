//! What a request to a model asks for: how much may be made, and in which form.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use usage_gate_core::model::MeterIndex;
use usage_gate_core::routes::TokenFormat;

use super::member::MemberScan;
use super::tally::BYTES_A_TOKEN;

/// Bytes of a request's body that are read before it is admitted.
pub(crate) const MOST_READ_AHEAD: usize = 1 << 20;

/// What is known of a request before it is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Tokens of the input, by the size of the body.
    pub(crate) input: u64,
    /// The most that may be made, if the client says.
    pub(crate) most_output: Option<u64>,
    /// The usage chunk was asked for by us alone.
    pub(crate) hide_usage: bool,
}

/// The members that matter. A document with one of them twice is not read: nobody knows which the upstream takes.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Members {
    stream: Value,
    stream_options: Value,
    messages: Option<IgnoredAny>,
    max_tokens: Value,
    max_completion_tokens: Value,
    max_output_tokens: Value,
    n: Value,
}

impl Asked {
    /// Of a body of this size that was not read.
    pub(crate) fn unread(bytes: u64) -> Self {
        Self { input: (bytes / BYTES_A_TOKEN).max(1), most_output: None, hide_usage: false }
    }

    /// Of a whole body; with the body to forward in its place, if that is another.
    pub(crate) fn read(format: TokenFormat, body: &[u8]) -> (Self, Option<Bytes>) {
        let mut asked = Self::unread(u64::try_from(body.len()).unwrap_or(u64::MAX));
        let Ok(members) = serde_json::from_slice::<Members>(body) else { return (asked, None) };
        let choices = members.n.as_u64().unwrap_or(1).max(1);
        let bounds = [&members.max_tokens, &members.max_completion_tokens, &members.max_output_tokens];
        let most = bounds.iter().filter_map(|bound| bound.as_u64()).max();
        asked.most_output = most.map(|most| most.saturating_mul(choices).max(1));
        let streams = members.stream == Value::Bool(true) && members.messages.is_some();
        if format != TokenFormat::OpenAi || !streams {
            return (asked, None);
        }
        let with_usage = ask_for_usage(body, &members.stream_options);
        asked.hide_usage = with_usage.is_some();
        (asked, with_usage)
    }

    /// Upper bounds for the decision.
    pub(crate) fn bounds(&self) -> [(MeterIndex, u64); 2] {
        [(MeterIndex::INPUT_TOKENS, self.input), (MeterIndex::OUTPUT_TOKENS, self.most_output.unwrap_or(1))]
    }
}

/// The body with `stream_options.include_usage`; everything else byte for byte. `None` if it is there, or cannot be.
fn ask_for_usage(body: &[u8], options: &Value) -> Option<Bytes> {
    let mut options = match options {
        Value::Null => Map::new(),
        Value::Object(options) => options.clone(),
        _ => return None,
    };
    if options.get("include_usage") == Some(&Value::Bool(true)) {
        return None;
    }
    options.insert("include_usage".into(), Value::Bool(true));
    let options = Value::Object(options).to_string();
    let mut scan = MemberScan::new("stream_options");
    scan.read(body);
    let (before, middle, after) = match scan.found() {
        Some((_, place)) => (body.get(..place.start)?, options, body.get(place.end..)?),
        None => {
            let open = body.iter().position(|byte| *byte == b'{')? + 1;
            (body.get(..open)?, format!("\"stream_options\":{options},"), body.get(open..)?)
        }
    };
    Some([before, middle.as_bytes(), after].concat().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, forwarded: Option<&str>) {
        let (asked, rewritten) = Asked::read(TokenFormat::OpenAi, body.as_bytes());
        assert_eq!(rewritten.as_deref(), forwarded.map(str::as_bytes), "{body}");
        assert_eq!(asked.hide_usage, forwarded.is_some());
        if let Some(rewritten) = rewritten {
            let value: Value = serde_json::from_slice(&rewritten).unwrap();
            assert_eq!(value["stream_options"]["include_usage"], true);
        }
    }

    #[test]
    fn the_usage_chunk_is_asked_for_and_nothing_else_changes() {
        check(
            "{ \"stream\" : true,\n \"messages\":[ ], \"seed\": 1e3 }",
            Some(
                "{\"stream_options\":{\"include_usage\":true}, \"stream\" : true,\n \"messages\":[ ], \"seed\": 1e3 }",
            ),
        );
        check(
            r#"{"stream_options":{"a":1,"include_usage":false},"stream":true,"messages":[]}"#,
            Some(r#"{"stream_options":{"a":1,"include_usage":true},"stream":true,"messages":[]}"#),
        );
        check(
            r#"{"stream":true,"messages":[],"stream_options":null}"#,
            Some(r#"{"stream":true,"messages":[],"stream_options":{"include_usage":true}}"#),
        );
    }

    #[test]
    fn it_is_not_asked_for_where_it_is_there_or_has_no_place() {
        check(r#"{"stream":true,"messages":[],"stream_options":{"include_usage":true}}"#, None);
        check(r#"{"stream":false,"messages":[]}"#, None);
        check(r#"{"stream":true,"input":"a"}"#, None);
        check(r#"{"stream":true,"messages":[],"stream_options":3}"#, None);
        check(r#"{"stream":true,"stream":true,"messages":[]}"#, None);
        check("not json", None);
        assert_eq!(Asked::read(TokenFormat::Anthropic, br#"{"stream":true,"messages":[]}"#).1, None);
    }

    #[test]
    fn the_most_that_may_be_made_is_what_the_client_says() {
        let most = |body: &str| Asked::read(TokenFormat::OpenAi, body.as_bytes()).0.most_output;
        assert_eq!(most(r#"{"max_tokens":100}"#), Some(100));
        assert_eq!(most(r#"{"max_completion_tokens":100,"n":3}"#), Some(300));
        assert_eq!(most(r#"{"max_output_tokens":7}"#), Some(7));
        assert_eq!(most(r#"{"max_tokens":"many"}"#), None);
        assert_eq!(most("{}"), None);
    }

    #[test]
    fn the_input_is_estimated_by_its_size() {
        assert_eq!(Asked::unread(0).input, 1);
        assert_eq!(Asked::unread(400).input, 100);
    }
}
