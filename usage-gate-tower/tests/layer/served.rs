//! What is served, refused and settled, with bodies that end, fail, wait or are never looked at.

use std::time::Duration;

use crate::stage::{Part, Scripted, Stage, limit_quota, limit_rate};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt, Empty};
use usage_gate_core::management::LimitDraft;
use usage_gate_core::model::WhenExceeded;
use usage_gate_core::routes::{BillOn, OnHangUp, Route};
use usage_gate_core::store::Outcome;

fn get(key: &str) -> Request<Empty<Bytes>> {
    Request::get("/v1/search").header("x-api-key", key).body(Empty::new()).unwrap()
}

#[tokio::test]
async fn without_a_key_the_inner_service_is_not_called() {
    let stage = Stage::new(vec![limit_quota("month", 10)]).await;
    let request = Request::get("/").body(Empty::<Bytes>::new()).unwrap();
    let (status, body) = stage.call(request, Scripted::of([Part::Data("hello")])).await;
    assert_eq!((status, body["code"].as_str()), (StatusCode::UNAUTHORIZED, Some("missing_key")));
    assert_eq!(stage.calls(), 0);
}

#[tokio::test]
async fn past_a_limit_that_counts_on_nothing_is_left() {
    let allowed = LimitDraft { when_exceeded: Some(WhenExceeded::Allow), ..limit_quota("month", 3) };
    let stage = Stage::new(vec![allowed]).await;
    for left in [2u64, 1, 0, 0, 0] {
        let response = stage.response(get(&stage.key), Scripted::of([Part::Data("hello")])).await;
        assert_eq!(response.status(), 200);
        let standing = response.headers()["ratelimit"].to_str().unwrap();
        let told = standing.strip_prefix("\"month\";r=").and_then(|rest| rest.split(';').next()).unwrap();
        // A lower bound: before the first lease nobody knows more.
        assert!(told.parse::<u64>().unwrap() <= left, "{standing} with {left} left");
    }
}

#[tokio::test]
async fn a_served_request_is_billed_with_its_bytes() {
    let stage = Stage::new(vec![limit_quota("month", 10)]).await;
    let response = stage.response(get(&stage.key), Scripted::of([Part::Data("hello "), Part::Data("world")])).await;
    assert_eq!(response.status(), 200);
    assert!(response.headers()["ratelimit"].to_str().unwrap().starts_with("\"month\";r=9;t="));
    assert!(response.headers()["ratelimit-policy"].to_str().unwrap().starts_with("\"month\";q=10;w="));
    assert!(response.headers()["x-request-id"].to_str().unwrap().starts_with("req_"));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello world");
    assert_eq!(stage.usage("requests").await, [("billed".to_owned(), 1, 1)]);
    assert_eq!(stage.usage("bytes_out").await, [("billed".to_owned(), 11, 1)]);
}

#[tokio::test]
async fn trailers_and_size_hints_pass() {
    let stage = Stage::new(vec![]).await;
    let body = Scripted::of([Part::Data("x"), Part::Trailers]).sized(1);
    let response = stage.response(get(&stage.key), body).await;
    assert_eq!(response.body().size_hint().exact(), Some(1));
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(stage.usage("requests").await, [("billed".to_owned(), 1, 1)]);
}

#[tokio::test]
async fn b2_the_record_is_there_before_the_last_frame() {
    let stage = Stage::new(vec![]).await;
    let mut body = stage.response(get(&stage.key), Scripted::of([Part::Data("a"), Part::Data("b")])).await.into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(stage.gate.numbers().unshipped, 0);
    body.frame().await.unwrap().unwrap();
    assert_eq!(stage.gate.numbers().unshipped, 1);
    assert!(body.is_end_stream());
}

#[tokio::test]
async fn an_empty_body_is_settled_though_nobody_polls_it() {
    let stage = Stage::new(vec![]).await;
    let response = stage.response(get(&stage.key), Scripted::of([])).await;
    assert!(response.body().is_end_stream());
    assert_eq!(stage.usage("requests").await, [("billed".to_owned(), 1, 1)]);
}

#[tokio::test]
async fn the_last_byte_that_the_head_promises_settles() {
    let drain = Route::any("/v1/search").on_hang_up(OnHangUp::Drain);
    for routes in [vec![], vec![drain]] {
        let stage = Stage::with_routes(vec![], routes).await;
        let parts = || Scripted::of([Part::Data("1234"), Part::Data("567"), Part::Trailers]).unaware();
        for scripted in [parts().header("content-length", "7"), parts().sized(7)] {
            let mut body = stage.response(get(&stage.key), scripted).await.into_body();
            body.frame().await.unwrap().unwrap();
            assert_eq!(stage.gate.numbers().unshipped, 0);
            body.frame().await.unwrap().unwrap();
            assert_eq!(stage.gate.numbers().unshipped, 1, "nobody asks for more");
            assert!(body.frame().await.unwrap().unwrap().is_trailers());
            drop(body);
            stage.gate.ship().await.unwrap();
        }
        assert_eq!(stage.usage("bytes_out").await, [("billed".to_owned(), 14, 2)]);
    }
}

#[tokio::test]
async fn answers_without_a_body_are_settled_with_their_head() {
    let stage = Stage::new(vec![]).await;
    let head = Request::head("/v1/search").header("x-api-key", &stage.key).body(Empty::<Bytes>::new()).unwrap();
    drop(stage.response(head, Scripted::of([Part::Data("12345")]).sized(5)).await);
    drop(stage.response(get(&stage.key), Scripted::of([]).unaware().status(204)).await);
    drop(stage.response(get(&stage.key), Scripted::of([]).unaware().header("content-length", "0")).await);
    assert_eq!(stage.usage("requests").await, [("billed".to_owned(), 3, 3)]);
}

#[tokio::test]
async fn durable_answers_come_with_their_record() {
    let folder = std::env::temp_dir().join(format!("usage-gate-layer-{}", std::process::id()));
    let stage = Stage::on_disk(&folder).await;
    for (at, scripted) in [
        Scripted::of([]).status(204),
        Scripted::of([]),
        Scripted::of([Part::Data("ab"), Part::Data("c")]),
        Scripted::of([Part::Data("abc"), Part::Trailers]).sized(3).unaware(),
    ]
    .into_iter()
    .enumerate()
    {
        let response = stage.response(get(&stage.key), scripted.clone()).await;
        let told = response.body().is_end_stream();
        assert_eq!(stage.gate.numbers().unshipped, u64::from(at < 2));
        assert_eq!(told, at < 2);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), if told { "" } else { "abc" });
        assert_eq!(stage.gate.numbers().unshipped, 1);
        stage.gate.ship().await.unwrap();
    }
    assert_eq!(stage.usage("requests").await, [("billed".to_owned(), 4, 4)]);
    stage.gate.drain().await.unwrap();
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_body_dropped_half_way_is_aborted_with_what_was_handed_over() {
    let stage = Stage::new(vec![]).await;
    let mut body =
        stage.response(get(&stage.key), Scripted::of([Part::Data("12345"), Part::Data("6789")])).await.into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(stage.usage("bytes_out").await, [("aborted".to_owned(), 5, 1)]);
}

#[tokio::test]
async fn a_body_never_polled_is_aborted_with_nothing() {
    let stage = Stage::new(vec![limit_quota("month", 10)]).await;
    drop(stage.response(get(&stage.key), Scripted::of([Part::Data("12345")])).await);
    assert_eq!(stage.usage("requests").await, [("aborted".to_owned(), 1, 1)]);
    assert_eq!(stage.usage("bytes_out").await, []);
}

#[tokio::test]
async fn an_error_in_the_body_passes_and_what_came_before_is_billed() {
    let stage = Stage::new(vec![]).await;
    let body = stage.response(get(&stage.key), Scripted::of([Part::Data("123"), Part::Error])).await.into_body();
    assert!(body.collect().await.is_err());
    assert_eq!(stage.usage("bytes_out").await, [("billed".to_owned(), 3, 1)]);
}

#[tokio::test]
async fn an_error_of_the_inner_service_is_its_own_and_counts_as_indeterminate() {
    let stage = Stage::new(vec![limit_quota("month", 10)]).await;
    assert_eq!(stage.failing(get(&stage.key)).await, "the service broke");
    assert_eq!(stage.usage("requests").await, [("indeterminate".to_owned(), 1, 1)]);
    assert_eq!(stage.used("month").await, 1, "nobody knows what it cost: its unit stays spent");
}

#[tokio::test]
async fn a_client_that_leaves_before_the_head_is_indeterminate() {
    let stage = Stage::new(vec![]).await;
    let waiting = stage.stuck(get(&stage.key));
    assert!(tokio::time::timeout(Duration::from_millis(20), waiting).await.is_err());
    assert_eq!(stage.usage("requests").await, [("indeterminate".to_owned(), 1, 1)]);
    assert_eq!(stage.gate.numbers().seats, 0, "the seat is free once the record is shipped");
}

#[tokio::test]
async fn a_status_that_is_not_billed_gives_its_units_back() {
    let stage = Stage::new(vec![limit_quota("month", 10)]).await;
    let response = stage.response(get(&stage.key), Scripted::of([Part::Data("no")]).status(500)).await;
    response.into_body().collect().await.unwrap();
    assert_eq!(stage.usage("requests").await, [(Outcome::Unbilled.as_str().to_owned(), 1, 1)]);
    assert_eq!(stage.used("month").await, 0);
}

#[tokio::test]
async fn the_upstreams_word_replaces_the_cost_and_is_stripped() {
    let stage = Stage::new(vec![]).await;
    let body = Scripted::of([Part::Data("x")]).header("x-usage-gate-cost", "rows=40, unknown=3");
    let response = stage.response(get(&stage.key), body).await;
    assert!(!response.headers().contains_key("x-usage-gate-cost"));
    response.into_body().collect().await.unwrap();
    assert_eq!(stage.usage("rows").await, [("billed".to_owned(), 40, 1)]);
}

#[tokio::test]
async fn cost_that_is_known_late_counts_against_the_next_request() {
    let mut quota = limit_quota("rows", 50);
    quota.meter = Some("rows".into());
    let stage = Stage::new(vec![quota]).await;
    for _ in 0..2 {
        let body = Scripted::of([Part::Data("x")]).header("x-usage-gate-cost", "rows=40");
        let response = stage.response(get(&stage.key), body).await;
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
    }
    let (status, body) = stage.call(get(&stage.key), Scripted::of([])).await;
    assert_eq!((status.as_u16(), body["code"].as_str()), (429, Some("quota_exceeded")));
    let state = &body["violated"][0];
    assert_eq!(
        (state["used"].as_u64(), state["over"].as_u64(), state["remaining"].as_u64()),
        (Some(80), Some(30), Some(0))
    );
}

#[tokio::test]
async fn r5_a_refused_request_spends_nothing() {
    let stage = Stage::new(vec![limit_quota("month", 10), limit_rate("burst", 1, 2)]).await;
    for _ in 0..2 {
        assert_eq!(stage.call(get(&stage.key), Scripted::of([])).await.0, 200);
    }
    for _ in 0..20 {
        let (status, body) = stage.call(get(&stage.key), Scripted::of([])).await;
        assert_eq!((status.as_u16(), body["code"].as_str()), (429, Some("rate_limited")));
        assert_eq!(body["violated-policies"], serde_json::json!(["burst"]));
    }
    assert_eq!(stage.used("month").await, 2);
    assert_eq!(
        stage.usage("requests").await,
        [("billed".to_owned(), 2, 2), ("refused:rate_limited".to_owned(), 0, 20)]
    );
}

#[tokio::test]
async fn a_slot_is_held_until_the_body_ends() {
    let stage = Stage::new(vec![crate::stage::limit_open("open", 1)]).await;
    let first = stage.response(get(&stage.key), Scripted::of([Part::Data("x")])).await;
    let (status, body) = stage.call(get(&stage.key), Scripted::of([])).await;
    assert_eq!((status.as_u16(), body["code"].as_str()), (429, Some("concurrency_limited")));
    first.into_body().collect().await.unwrap();
    assert_eq!(stage.call(get(&stage.key), Scripted::of([])).await.0, 200);
}

#[tokio::test]
async fn a_body_over_the_routes_bound_is_refused_or_cut() {
    let route = Route::any("/{*rest}").named("all").max_body(Some(4)).bill_on(BillOn::default());
    let stage = Stage::with_routes(vec![limit_quota("month", 10)], vec![route]).await;
    let request = crate::stage::post(&stage.key, "12345", true);
    let (status, body) = stage.call(request, Scripted::of([])).await;
    assert_eq!((status.as_u16(), body["code"].as_str()), (413, Some("payload_too_large")));
    assert_eq!(stage.calls(), 0);
    assert_eq!(stage.echo(crate::stage::post(&stage.key, "1234", false)).await.unwrap(), "1234");
    let error = stage.echo(crate::stage::post(&stage.key, "12345", false)).await.unwrap_err();
    assert_eq!(error, "the request body has more than 4 bytes");
}

#[tokio::test]
async fn headers_are_structured_fields() {
    let stage = Stage::new(vec![limit_quota("month", 10), limit_rate("burst", 5, 7)]).await;
    let response = stage.response(get(&stage.key), Scripted::of([])).await;
    for name in ["ratelimit", "ratelimit-policy"] {
        let value = response.headers()[name].to_str().unwrap();
        let list: sfv::List = sfv::Parser::new(value).parse().unwrap();
        assert_eq!(list.len(), 2, "{name}: {value}");
    }
}

#[tokio::test]
async fn many_leases_follow_each_other_without_a_refusal() {
    let stage = Stage::new(vec![limit_quota("month", 1_000)]).await;
    for call in 0..1_000 {
        let (status, body) = stage.call(get(&stage.key), Scripted::of([])).await;
        assert_eq!(status, 200, "call {call}: {body}");
    }
    assert_eq!(stage.call(get(&stage.key), Scripted::of([])).await.1["code"], "quota_exceeded");
    assert_eq!(stage.used("month").await, 1_000);
}
