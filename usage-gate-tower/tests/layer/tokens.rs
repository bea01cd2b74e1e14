//! Token routes over plain tower services: what is counted, held, taken out of a stream, cut, and read on after a hang-up.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use crate::stage::{Part, Scripted, Stage, limit_quota, limit_rate};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tower::{Layer, ServiceExt};
use usage_gate_core::management::LimitDraft;
use usage_gate_core::routes::{OnHangUp, Route, TokenFormat};
use usage_gate_tower::{RequestBody, UsageGateLayer};

const CHAT: &str = "/v1/chat/completions";
const ASK: &str = r#"{"model":"m","messages":[{"role":"user","content":"hello"}],"stream":true}"#;
/// Four tokens in four deltas.
const DELTAS: [&str; 4] = [
    "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"One\"}}],\"usage\":null}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\" two\"}}],\"usage\":null}\n\n",
    ": ping\n\ndata: {\"choices\":[{\"delta\":{\"content\":\" 3\"}}],\"usage\":null}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\".\"},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n",
];
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":40}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

fn tokens(name: &str, meter: &str, units: u64) -> LimitDraft {
    LimitDraft { meter: Some(meter.into()), ..limit_quota(name, units) }
}

async fn stage(limits: Vec<LimitDraft>) -> Stage {
    Stage::with_routes(limits, vec![Route::any("/{*rest}").named("all").tokens(TokenFormat::OpenAi)]).await
}

fn ask(key: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::post(CHAT).header("x-api-key", key).header("content-length", body.len()).body(Full::from(body)).unwrap()
}

fn stream(parts: impl IntoIterator<Item = &'static str>) -> Scripted {
    Scripted::of(parts.into_iter().map(Part::Data)).header("content-type", "text/event-stream; charset=utf-8")
}

fn whole_stream() -> Scripted {
    stream(DELTAS.into_iter().chain([USAGE, DONE]))
}

async fn text(response: Response<usage_gate_tower::ResponseBody<Scripted>>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Outcome and units of input and output.
async fn counted(stage: &Stage) -> Vec<(String, u64, u64)> {
    let (input, output) = (stage.usage("input_tokens").await, stage.usage("output_tokens").await);
    let units = |outcome: &str| output.iter().find(|row| row.0 == outcome).map_or(0, |row| row.1);
    input.iter().map(|(outcome, input, _)| (outcome.clone(), *input, units(outcome))).collect()
}

/// What the inner service got: head fields and body.
async fn forwarded(stage: &Stage, request: Request<Full<Bytes>>) -> (HeaderMap, Bytes) {
    let got = Arc::new(Mutex::new(None));
    let into = Arc::clone(&got);
    let inner = tower::service_fn(move |request: Request<RequestBody<Full<Bytes>>>| {
        let into = Arc::clone(&into);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            *into.lock().unwrap() = Some((parts.headers, body));
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        }
    });
    UsageGateLayer::new(&stage.gate).layer(inner).oneshot(request).await.unwrap();
    let got = got.lock().unwrap().take();
    got.unwrap()
}

#[tokio::test]
async fn the_usage_chunk_is_asked_for_and_taken_out_again() {
    let stage = stage(vec![]).await;
    let (headers, body) = forwarded(&stage, ask(&stage.key, ASK)).await;
    assert_eq!(headers["accept-encoding"], "identity");
    assert_eq!(headers["content-length"], body.len().to_string());
    assert_eq!(body, format!("{{\"stream_options\":{{\"include_usage\":true}},{}", &ASK[1..]));
    assert_eq!(stage.usage("bytes_in").await[0].1, u64::try_from(ASK.len()).unwrap(), "the client's bytes");

    let response = stage.response(ask(&stage.key, ASK), whole_stream()).await;
    assert_eq!(text(response).await, [DELTAS.concat().as_str(), DONE].concat());
    assert_eq!(counted(&stage).await, [("billed".to_owned(), 11 + u64::try_from(ASK.len()).unwrap() / 4, 40)]);
}

#[tokio::test]
async fn a_client_that_asked_for_the_usage_gets_it_byte_for_byte() {
    let stage = stage(vec![]).await;
    let asked = r#"{"messages":[],"stream":true,"stream_options":{"include_usage":true}}"#;
    assert_eq!(forwarded(&stage, ask(&stage.key, asked)).await.1, asked);
    let response = stage.response(ask(&stage.key, asked), whole_stream()).await;
    assert_eq!(text(response).await, [DELTAS.concat().as_str(), USAGE, DONE].concat());
}

#[tokio::test]
async fn documents_are_read_as_they_pass() {
    let stage = stage(vec![]).await;
    let body = Scripted::of([
        Part::Data(r#"{"choices":[{"message":{"content":"\"usage\":"}}],"usa"#),
        Part::Data(r#"ge":{"prompt_tokens":9,"completion_tokens":3}}"#),
    ]);
    let response = stage.response(ask(&stage.key, "{}"), body.header("content-type", "application/json")).await;
    response.into_body().collect().await.unwrap();
    assert_eq!(counted(&stage).await, [("billed".to_owned(), 9, 3)]);
}

#[tokio::test]
async fn what_is_compressed_all_the_same_passes_and_is_estimated() {
    let stage = stage(vec![]).await;
    let body = Scripted::of([Part::Data("12345678")]).header("content-encoding", "gzip");
    let response = stage.response(ask(&stage.key, "{\"a\":\"12345678\"}"), body).await;
    assert_eq!(text(response).await, "12345678");
    assert_eq!(counted(&stage).await, [("billed".to_owned(), 4, 2)]);
}

#[tokio::test]
async fn an_upstream_that_refuses_has_made_nothing() {
    let stage = stage(vec![tokens("in", "input_tokens", 100)]).await;
    let body = Scripted::of([Part::Data("{\"error\":{}}")]).header("content-type", "application/json").status(400);
    stage.response(ask(&stage.key, ASK), body).await.into_body().collect().await.unwrap();
    assert_eq!(counted(&stage).await, []);
    assert_eq!(stage.used("in").await, 0);
}

#[tokio::test]
async fn the_upstreams_statement_wins_over_the_count() {
    let stage = stage(vec![tokens("out", "output_tokens", 2)]).await;
    let body = whole_stream().header("x-usage-gate-cost", "output_tokens=1");
    let response = stage.response(ask(&stage.key, ASK), body).await;
    response.into_body().collect().await.unwrap();
    assert_eq!(stage.usage("output_tokens").await, [("billed".to_owned(), 1, 1)]);
}

const MOST_80: &str = r#"{"messages":[],"stream":true,"max_tokens":80}"#;

#[tokio::test]
async fn the_bound_that_the_client_names_is_held() {
    let stage = stage(vec![tokens("out", "output_tokens", 100)]).await;
    let first = stage.response(ask(&stage.key, MOST_80), whole_stream()).await;
    assert_eq!(first.status(), 200);
    let (status, refused) = stage.call(ask(&stage.key, MOST_80), whole_stream()).await;
    assert_eq!((status, refused["code"].as_str()), (StatusCode::TOO_MANY_REQUESTS, Some("quota_exceeded")));
    assert_eq!(stage.usage("output_tokens").await, []);
}

#[tokio::test]
async fn what_was_held_and_not_made_is_given_back() {
    let stage = stage(vec![tokens("out", "output_tokens", 130)]).await;
    // 40 are made of the 80 that each holds.
    for status in [200, 200, 429] {
        assert_eq!(stage.call(ask(&stage.key, MOST_80), whole_stream()).await.0, status);
    }
    assert_eq!(stage.used("out").await, 80);
}

#[tokio::test]
async fn a_rate_holds_no_bound_since_it_gives_nothing_back() {
    let rate = LimitDraft { meter: Some("output_tokens".into()), ..limit_rate("out", 100, 100) };
    let stage = stage(vec![rate]).await;
    let large = r#"{"messages":[],"stream":true,"max_tokens":4000}"#;
    for status in [200, 200, 200, 429] {
        // 40 each: the third goes into debt.
        assert_eq!(stage.call(ask(&stage.key, large), whole_stream()).await.0, status);
    }
}

#[tokio::test]
async fn a_stream_that_passes_its_quota_ends_with_an_error() {
    let stage = stage(vec![tokens("out", "output_tokens", 3)]).await;
    let response = stage.response(ask(&stage.key, ASK), whole_stream()).await;
    let text = text(response).await;
    let (passed, end) = text.split_at(DELTAS[..3].concat().len());
    assert_eq!(passed, DELTAS[..3].concat());
    let error: Value = serde_json::from_str(end.lines().next().unwrap().strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(
        (&error["error"]["type"], &error["error"]["code"]),
        (&"quota_exceeded".into(), &"quota_exceeded".into())
    );
    assert!(end.ends_with("\n\ndata: [DONE]\n\n"), "{end}");
    assert_eq!(stage.usage("output_tokens").await, [("billed".to_owned(), 3, 1)]);
    assert_eq!(stage.used("out").await, 3);
    assert_eq!(stage.call(ask(&stage.key, ASK), whole_stream()).await.1["code"], "quota_exceeded");
}

#[tokio::test]
async fn a_long_stream_holds_more_as_it_goes() {
    let stage = stage(vec![tokens("out", "output_tokens", 1_000)]).await;
    let deltas = std::iter::repeat_n(DELTAS[1], 600).chain([DONE]);
    let mut body = stage.response(ask(&stage.key, ASK), stream(deltas)).await.into_body();
    for _ in 0..500 {
        body.frame().await.unwrap().unwrap();
        // The authority is asked beside the stream: it gets its turn.
        tokio::task::yield_now().await;
    }
    stage.gate.ship().await.unwrap();
    let used = stage.used("out").await;
    assert!((500..=1_000).contains(&used), "{used} held for 500 made");
    drop(body);
    assert_eq!(stage.usage("output_tokens").await, [("aborted".to_owned(), 500, 1)]);
}

#[tokio::test]
async fn strangers_do_not_make_the_gate_read() {
    let stage = stage(vec![]).await;
    let body = Scripted::of([Part::Error]);
    let request = Request::post(CHAT).header("x-api-key", "ug_live_nobody").body(body).unwrap();
    let response = stage.call(request, Scripted::of([])).await;
    assert_eq!((response.0, response.1["code"].as_str()), (StatusCode::UNAUTHORIZED, Some("invalid_key")));
    assert_eq!(stage.calls(), 0);
}

#[tokio::test]
async fn a_body_beyond_the_bound_passes_unread() {
    let stage = stage(vec![]).await;
    let large = Bytes::from(format!("{{\"messages\":[],\"stream\":true,\"pad\":\"{}\"}}", "x".repeat(3 << 20)));
    let request = Request::post(CHAT).header("x-api-key", &stage.key).body(Full::from(large.clone())).unwrap();
    assert_eq!(forwarded(&stage, request).await.1, large);
    assert_eq!(stage.usage("bytes_in").await[0].1, u64::try_from(large.len()).unwrap());
}

#[tokio::test]
async fn a_body_over_the_routes_bound_is_refused_before_it_is_admitted() {
    let route = Route::any("/{*rest}").named("all").tokens(TokenFormat::OpenAi).max_body(Some(4));
    let stage = Stage::with_routes(vec![], vec![route]).await;
    let response = stage.call(crate::stage::post(&stage.key, "12345", false), Scripted::of([])).await;
    assert_eq!((response.0.as_u16(), response.1["code"].as_str()), (413, Some("payload_too_large")));
    assert_eq!(stage.calls(), 0);
    assert_eq!(stage.echo(crate::stage::post(&stage.key, "1234", false)).await.unwrap(), "1234");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_an_error_to_who_reads_it() {
    let stage = stage(vec![]).await;
    let body = Scripted::of([Part::Data("{\"a\":"), Part::Error]);
    let request = Request::post(CHAT).header("x-api-key", &stage.key).body(body).unwrap();
    assert_eq!(stage.echo(request).await.unwrap_err(), "the request body broke off");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stands_still_is_not_waited_for() {
    let stage = stage(vec![]).await;
    let body = Scripted::of([Part::Data("{\"a\":"), Part::Silence]);
    let request = Request::post(CHAT).header("x-api-key", &stage.key).body(body).unwrap();
    assert_eq!(stage.echo(request).await.unwrap_err(), "the request body broke off");
}

#[tokio::test]
async fn a_get_on_a_token_route_counts_no_tokens() {
    let stage = stage(vec![]).await;
    let request =
        Request::get("/v1/responses/r1").header("x-api-key", &stage.key).body(Full::<Bytes>::default()).unwrap();
    let body = Scripted::of([Part::Data("{\"usage\":{\"input_tokens\":5,\"output_tokens\":6}}")]);
    stage.call(request, body.header("content-type", "application/json")).await;
    assert_eq!(counted(&stage).await, []);
    assert_eq!(stage.usage("requests").await, [("billed".to_owned(), 1, 1)]);
}

/// Hangs up after the first of five frames.
async fn hang_up(on_hang_up: OnHangUp, parts: Vec<Part>) -> Stage {
    let route = Route::any("/{*rest}").named("all").tokens(TokenFormat::OpenAi).on_hang_up(on_hang_up);
    let stage = Stage::with_routes(vec![], vec![route]).await;
    let body = Scripted::of(parts).header("content-type", "text/event-stream");
    let mut body = stage.response(ask(&stage.key, ASK), body).await.into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    // What goes on in the background never waits here: one turn of this thread's tasks ends it.
    while stage.gate.numbers().unshipped == 0 {
        tokio::task::yield_now().await;
    }
    stage
}

fn parts() -> Vec<Part> {
    DELTAS.into_iter().chain([USAGE, DONE]).map(Part::Data).collect()
}

#[tokio::test]
async fn a_hang_up_cancels_and_bills_what_was_handed_over() {
    let stage = hang_up(OnHangUp::Cancel, parts()).await;
    assert_eq!(stage.usage("output_tokens").await, [("aborted".to_owned(), 1, 1)]);
}

#[tokio::test]
async fn a_hang_up_on_a_draining_route_is_billed_with_the_truth() {
    let stage = hang_up(OnHangUp::Drain, parts()).await;
    assert_eq!(counted(&stage).await, [("aborted".to_owned(), 11, 40)]);
    let handed_over = u64::try_from(DELTAS[0].len()).unwrap();
    assert_eq!(stage.usage("bytes_out").await, [("aborted".to_owned(), handed_over, 1)]);
}

/// Leaves while a service that begins its answer later has not begun it.
async fn leave_early(on_hang_up: OnHangUp) -> Stage {
    let route = Route::any("/{*rest}").named("all").tokens(TokenFormat::OpenAi).on_hang_up(on_hang_up);
    let stage = Stage::with_routes(vec![], vec![route]).await;
    let begin = Arc::new(tokio::sync::Semaphore::new(0));
    let permitted = Arc::clone(&begin);
    let inner = tower::service_fn(move |_: Request<RequestBody<Full<Bytes>>>| {
        let permitted = Arc::clone(&permitted);
        async move {
            permitted.acquire().await.unwrap().forget();
            Ok::<_, Infallible>(whole_stream().response())
        }
    });
    let call = UsageGateLayer::new(&stage.gate).layer(inner).oneshot(ask(&stage.key, ASK));
    assert!(tokio::time::timeout(std::time::Duration::from_millis(20), call).await.is_err());
    begin.add_permits(1);
    while stage.gate.numbers().unshipped == 0 {
        tokio::task::yield_now().await;
    }
    stage
}

#[tokio::test]
async fn a_client_that_leaves_before_the_head_cancels() {
    let stage = leave_early(OnHangUp::Cancel).await;
    assert_eq!(stage.usage("requests").await, [("indeterminate".to_owned(), 1, 1)]);
}

#[tokio::test]
async fn a_draining_route_awaits_the_head_though_the_client_has_left() {
    let stage = leave_early(OnHangUp::Drain).await;
    assert_eq!(counted(&stage).await, [("aborted".to_owned(), 11, 40)]);
}

#[tokio::test]
async fn what_is_drained_has_a_bound() {
    static LARGE: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| format!(": {}\n\n", "x".repeat(1 << 20)));
    let padding = std::iter::repeat_n(Part::Data(&LARGE), 20);
    let stage =
        hang_up(OnHangUp::Drain, [Part::Data(DELTAS[0])].into_iter().chain(padding).chain(parts()).collect()).await;
    assert_eq!(stage.usage("output_tokens").await, [("aborted".to_owned(), 1, 1)], "cancelled before it ended");
}
