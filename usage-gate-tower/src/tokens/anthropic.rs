//! Anthropic's words: messages.
//!
//! Input that was written to a cache or read from one is outside `input_tokens`. A stream reports the input in `message_start`; the output in
//! `message_delta` is cumulative.

use bytes::Bytes;
use serde_json::{Value, json};

use super::tally::Tally;

/// Takes an event of a stream in.
pub(super) fn event(data: &[u8], tally: &mut Tally) {
    let Ok(Value::Object(event)) = serde_json::from_slice(data) else { return };
    match event.get("type").and_then(Value::as_str) {
        Some("message_start") => {
            if let Some(usage) = event.get("message").and_then(|message| message.get("usage")) {
                report(usage, tally);
            }
        }
        Some("message_delta") => {
            if let Some(usage) = event.get("usage") {
                report(usage, tally);
            }
        }
        Some("content_block_delta") => {
            let delta = event.get("delta");
            for name in ["text", "partial_json", "thinking"] {
                if let Some(text) = delta.and_then(|delta| delta.get(name)).and_then(Value::as_str) {
                    tally.delta(text);
                }
            }
        }
        _ => {}
    }
}

/// Takes a `usage` object in.
pub(super) fn report(usage: &Value, tally: &mut Tally) {
    let number = |name: &str| usage.get(name).and_then(Value::as_u64);
    let input = ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"].map(number);
    let output = number("output_tokens");
    if output.is_some() || input.iter().any(Option::is_some) {
        tally.report(input, output);
    }
}

/// Ends a stream whose quota is used up.
pub(super) fn end(message: &str) -> Bytes {
    let error = json!({"type": "error", "error": {"type": "rate_limit_error", "message": message}});
    format!("event: error\ndata: {error}\n\n").into()
}
