//! OpenAI's words: chat, completions, responses and embeddings.
//!
//! Cached input and reasoning are inside the numbers. A chat stream reports in one more chunk before `[DONE]`, with no choices, if
//! `stream_options.include_usage` asks for it; some servers report in every chunk. The Responses API reports in its last event, under `response`.

use bytes::Bytes;
use serde_json::{Value, json};

use super::tally::Tally;

/// What an event is to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The chunk that has the usage and nothing else.
    UsageOnly,
    Other,
}

/// Takes an event of a stream in.
pub(super) fn event(data: &[u8], tally: &mut Tally) -> Kind {
    let Ok(Value::Object(event)) = serde_json::from_slice(data) else { return Kind::Other };
    let choices = event.get("choices").and_then(Value::as_array);
    for choice in choices.into_iter().flatten() {
        choice_deltas(choice, tally);
    }
    if event.get("type").and_then(Value::as_str).is_some_and(|kind| kind.ends_with(".delta"))
        && let Some(delta) = event.get("delta").and_then(Value::as_str)
    {
        tally.delta(delta);
    }
    let of_response = event.get("response").and_then(|response| response.get("usage"));
    let reported = event.get("usage").filter(|usage| usage.is_object());
    for usage in [reported, of_response].into_iter().flatten() {
        report(usage, tally);
    }
    if reported.is_some() && choices.is_some_and(Vec::is_empty) { Kind::UsageOnly } else { Kind::Other }
}

fn choice_deltas(choice: &Value, tally: &mut Tally) {
    let text = |value: Option<&Value>, tally: &mut Tally| {
        if let Some(text) = value.and_then(Value::as_str) {
            tally.delta(text);
        }
    };
    text(choice.get("text"), tally);
    let Some(delta) = choice.get("delta") else { return };
    for name in ["content", "reasoning_content", "reasoning", "refusal"] {
        text(delta.get(name), tally);
    }
    let calls = delta.get("tool_calls").and_then(Value::as_array);
    for function in calls.into_iter().flatten().map(|call| call.get("function")).chain([delta.get("function_call")]) {
        for name in ["name", "arguments"] {
            text(function.and_then(|function| function.get(name)), tally);
        }
    }
}

/// Takes a `usage` object in.
pub(super) fn report(usage: &Value, tally: &mut Tally) {
    let number = |names: [&str; 2]| names.iter().find_map(|name| usage.get(*name)).and_then(Value::as_u64);
    let input = number(["prompt_tokens", "input_tokens"]);
    let output = number(["completion_tokens", "output_tokens"]);
    if input.is_some() || output.is_some() {
        // Embeddings make no tokens, and say nothing of them.
        tally.report([input, None, None], output.or(Some(0)));
    }
}

/// Ends a stream whose quota is used up.
pub(super) fn end(message: &str) -> Bytes {
    let error = json!({"error": {"message": message, "type": "quota_exceeded", "code": "quota_exceeded"}});
    format!("data: {error}\n\ndata: [DONE]\n\n").into()
}
