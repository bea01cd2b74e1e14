//! Responses as upstreams send them, split at every byte, and what is counted of them.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use usage_gate_core::routes::TokenFormat::{self, Anthropic, OpenAi};
use usage_gate_core::store::Measured::{self, Counted, Estimated, Exact};

use super::reader::Passed;
use super::{Asked, TokenReader};

const DELTA: &str = r#"data: {"choices":[{"index":0,"delta":{"content":"word"}}]}"#;
const USAGE: &str = r#"data: {"choices":[],"usage":{"prompt_tokens":21,"completion_tokens":13,"total_tokens":34,"prompt_tokens_details":{"cached_tokens":16},"completion_tokens_details":{"reasoning_tokens":3}}}"#;
const DONE: &str = "data: [DONE]";

fn asked(hide_usage: bool) -> Asked {
    Asked { input: 7, most_output: None, hide_usage }
}

fn reader(format: TokenFormat, kind: &'static str, hide_usage: bool) -> TokenReader {
    let mut reader = TokenReader::new(format, asked(hide_usage));
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static(kind));
    reader.head(200, &headers);
    reader
}

/// The count, and the bytes that passed.
fn read(mut reader: TokenReader, parts: &[&[u8]], most: u64) -> ((u64, u64, Measured), Vec<u8>) {
    let mut passed = Vec::new();
    for part in parts {
        let Passed { bytes, ended } = reader.read(Bytes::copy_from_slice(part), |made| made <= most);
        passed.extend_from_slice(&bytes);
        if ended {
            let (count, measured) = reader.count();
            return ((count.input, count.output, measured), passed);
        }
    }
    passed.extend_from_slice(&reader.finish());
    let (count, measured) = reader.count();
    ((count.input, count.output, measured), passed)
}

/// Reads `text` split at every byte, and byte by byte: the same count and the same bytes each time.
#[track_caller]
fn check_bytes(format: TokenFormat, hide: bool, text: &str, expected: (u64, u64, Measured), passes: &str) {
    let kind = if text.trim_start().starts_with('{') { "application/json" } else { "text/event-stream" };
    let bytes = text.as_bytes();
    for at in 0..=bytes.len() {
        let (count, passed) = read(reader(format, kind, hide), &[&bytes[..at], &bytes[at..]], u64::MAX);
        assert_eq!(count, expected, "split at {at}");
        assert_eq!(std::str::from_utf8(&passed).unwrap(), passes, "split at {at}");
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    let (count, passed) = read(reader(format, kind, hide), &single, u64::MAX);
    assert_eq!((count, passed.as_slice()), (expected, passes.as_bytes()));
}

#[track_caller]
fn check(format: TokenFormat, text: &str, expected: (u64, u64, Measured)) {
    check_bytes(format, false, text, expected, text);
}

fn stream(events: &[&str], end: &str) -> String {
    events.iter().map(|event| format!("{}{end}{end}", event.replace('\n', end))).collect()
}

#[test]
fn a_chat_reports_once_at_its_end() {
    for end in ["\n", "\r\n", "\r"] {
        let text = stream(&[": ping", DELTA, DELTA, USAGE, DONE], end);
        check(OpenAi, &text, (21, 13, Exact));
        check_bytes(OpenAi, true, &text, (21, 13, Exact), &stream(&[": ping", DELTA, DELTA, DONE], end));
    }
}

#[test]
fn a_usage_chunk_is_taken_out_also_where_the_stream_breaks_off_behind_it() {
    let text = format!("{}{USAGE}", stream(&[DELTA], "\n"));
    check_bytes(OpenAi, true, &text, (21, 13, Exact), &stream(&[DELTA], "\n"));
}

#[test]
fn a_chunk_without_choices_that_has_no_usage_stays() {
    let filter = r#"data: {"choices":[],"prompt_filter_results":[],"usage":null}"#;
    let text = stream(&[filter, DELTA, DONE], "\n");
    check_bytes(OpenAi, true, &text, (7, 1, Counted), &text);
}

#[test]
fn cumulative_chunks_are_not_summed() {
    let chunk = |made: u64| {
        format!(
            r#"data: {{"choices":[{{"delta":{{"content":"a"}}}}],"usage":{{"prompt_tokens":5,"completion_tokens":{made}}}}}"#
        )
    };
    check(OpenAi, &stream(&[&chunk(2), &chunk(4), &chunk(6), DONE], "\n"), (5, 6, Exact));
}

#[test]
fn without_a_report_deltas_are_counted() {
    let tool =
        r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"find","arguments":""}}]}}]}"#;
    let arguments = r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":"}}]}}]}"#;
    let role = r#"data: {"choices":[{"delta":{"role":"assistant","content":""}}]}"#;
    check(OpenAi, &stream(&[role, tool, arguments, DELTA, DONE], "\n"), (7, 4, Counted));
    let completion = r#"data: {"choices":[{"index":0,"text":"twelve bytes"}]}"#;
    check(OpenAi, &stream(&[completion, DONE], "\n"), (7, 3, Counted));
}

#[test]
fn data_of_several_lines_and_a_byte_order_mark_are_read() {
    let event = "\u{feff}data: {\"choices\":[],\ndata: \"usage\":{\"prompt_tokens\":3,\ndata:\"completion_tokens\":2}}";
    check(OpenAi, &stream(&[event, DONE], "\r\n"), (3, 2, Exact));
}

#[test]
fn an_error_in_the_stream_and_what_is_not_json_pass() {
    let error = r#"data: {"error":{"message":"overloaded"}}"#;
    check(OpenAi, &stream(&[DELTA, error, "data: {", "event: x\nid: 3"], "\n"), (7, 1, Counted));
    check(OpenAi, &stream(&[error], "\n"), (7, 0, Counted));
}

#[test]
fn the_responses_api_reports_in_its_last_event() {
    let created = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"usage\":null}}";
    let delta = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"word\"}";
    let done = "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":31,\"output_tokens\":7}}}";
    check(OpenAi, &stream(&[created, delta, delta, done], "\n"), (31, 7, Exact));
    check(OpenAi, &stream(&[created, delta, delta], "\n"), (7, 2, Counted));
}

#[test]
fn documents_report_in_their_outermost_usage() {
    check(OpenAi, r#"{"choices":[{"usage":1}],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#, (9, 3, Exact));
    check(OpenAi, r#"{"output":[],"usage":{"input_tokens":31,"output_tokens":7}}"#, (31, 7, Exact));
    check(OpenAi, r#"{"data":[{"embedding":[0.5]}],"usage":{"prompt_tokens":5,"total_tokens":5}}"#, (5, 0, Exact));
    let message = r#"{"content":[],"usage":{"input_tokens":10,"cache_creation_input_tokens":3,"cache_read_input_tokens":4,"output_tokens":6}}"#;
    check(Anthropic, message, (17, 6, Exact));
    check(OpenAi, r#"{"choices":[],"a":12}"#, (7, 5, Estimated));
}

const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":10,\"cache_creation_input_tokens\":3,\"cache_read_input_tokens\":4,\"output_tokens\":1}}}";
const TEXT: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"word\"}}";
const TOOL: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{}\"}}";
const PING: &str = "event: ping\ndata: {\"type\":\"ping\"}";

fn message_delta(usage: &str) -> String {
    format!("event: message_delta\ndata: {{\"type\":\"message_delta\",\"delta\":{{}},\"usage\":{usage}}}")
}

#[test]
fn a_message_reports_its_output_cumulatively() {
    let (first, last) = (message_delta(r#"{"output_tokens":4}"#), message_delta(r#"{"output_tokens":15}"#));
    let events = [START, PING, TEXT, &first, TOOL, &last, "event: message_stop\ndata: {\"type\":\"message_stop\"}"];
    for end in ["\n", "\r\n"] {
        check(Anthropic, &stream(&events, end), (17, 15, Exact));
    }
    let all = message_delta(r#"{"input_tokens":11,"output_tokens":15}"#);
    check(Anthropic, &stream(&[START, TEXT, &all], "\n"), (18, 15, Exact));
}

#[test]
fn a_message_that_breaks_off_is_counted() {
    let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}";
    check(Anthropic, &stream(&[START, TEXT, TEXT, TOOL, error], "\n"), (17, 3, Counted));
}

#[test]
fn a_stream_over_its_quota_ends_between_events_with_the_formats_error() {
    for (format, events, counted) in
        [(OpenAi, [DELTA, PING, DELTA, DELTA], (7, 2, Counted)), (Anthropic, [TEXT, PING, TEXT, TEXT], (7, 2, Counted))]
    {
        let text = stream(&events, "\n");
        for at in 0..=text.len() {
            let parts = [&text.as_bytes()[..at], &text.as_bytes()[at..]];
            let (count, passed) = read(reader(format, "text/event-stream", false), &parts, 2);
            let passed = String::from_utf8(passed).unwrap();
            let end = passed.strip_prefix(&stream(&events[..3], "\n")).unwrap();
            let begins = if format == OpenAi {
                "data: {\"error\":{\"message\":"
            } else {
                "event: error\ndata: {\"type\":\"error\""
            };
            assert!(end.starts_with(begins) && end.ends_with("\n\n"), "{end}");
            assert_eq!(count, counted);
        }
    }
}

#[test]
fn a_report_alone_ends_no_stream() {
    let text = stream(&[DELTA, USAGE, DONE], "\n");
    let (count, passed) = read(reader(OpenAi, "text/event-stream", false), &[text.as_bytes()], 2);
    assert_eq!((count, passed), ((21, 13, Exact), text.into_bytes()));
}

#[test]
fn a_frame_of_whole_events_is_not_copied() {
    let text = Bytes::from(stream(&[DELTA, DELTA], "\n"));
    let passed = reader(OpenAi, "text/event-stream", true).read(text.clone(), |_| true);
    assert_eq!(passed.bytes.as_ptr(), text.as_ptr());
}

#[test]
fn before_the_head_only_the_input_is_known() {
    let (count, measured) = TokenReader::new(OpenAi, asked(false)).count();
    assert_eq!((count.input, count.output, measured), (7, 0, Estimated));
}

proptest! {
    #[test]
    fn any_split_gives_the_same_count_and_bytes(
        events in proptest::collection::vec(
            prop_oneof![Just(DELTA), Just(USAGE), Just(DONE), Just(": ping"), Just(TEXT), Just(PING), Just("data: {")],
            0..8,
        ),
        end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
        most in prop_oneof![Just(u64::MAX), 0u64..4],
        hide: bool,
        cuts in proptest::collection::vec(0usize..1_200, 0..10),
    ) {
        let text = stream(&events, end);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let parts: Vec<&[u8]> = cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
        let whole = read(reader(OpenAi, "text/event-stream", hide), &[text.as_bytes()], most);
        let split = read(reader(OpenAi, "text/event-stream", hide), &parts, most);
        prop_assert_eq!(&split, &whole);
        if !hide && most == u64::MAX {
            prop_assert_eq!(&split.1, text.as_bytes());
        }
    }
}
