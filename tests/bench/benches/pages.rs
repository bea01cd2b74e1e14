//! Pages of a tenant with a million hour rows, as a browser gets them: from the request to the last byte, without the network. Printed at the
//! end: each page in milliseconds and bytes.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and ends if it cannot go on")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use criterion::Criterion;
use http::Request;
use http::header::{ACCEPT, ACCEPT_ENCODING, COOKIE, SET_COOKIE};
use http_body_util::BodyExt;
use tokio::runtime::Runtime;
use tower::ServiceExt;
use usage_gate_axum::{Portal, portal};
use usage_gate_core::management::{self, TenantDraft, UserDraft};
use usage_gate_core::model::{Per, Role, Tenant, TenantId};

const PAGES: [&str; 6] =
    ["/month", "/month?by=route", "/month?by=outcome", "/month?period=last", "/month/live", "/keys"];

async fn get(router: &Router, path: &str, cookie: &str) -> usize {
    let request = Request::get(format!("/usage-gate{path}")).header(COOKIE, cookie).header(ACCEPT, "text/html");
    let request = request.header(ACCEPT_ENCODING, "gzip").body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    assert!(response.status().is_success(), "{path}: {}", response.status());
    response.into_body().collect().await.unwrap().to_bytes().len()
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures")]
fn timed(runtime: &Runtime, router: &Router, path: &str, cookie: &str) -> (Duration, usize) {
    let began = Instant::now();
    let length = black_box(runtime.block_on(get(router, path, cookie)));
    (began.elapsed(), length)
}

async fn enter(stage: &usage_gate_bench::Stage, router: &Router) -> (String, String) {
    let mut draft = TenantDraft::new("Acme", "bench");
    draft.time_zone = Some("Asia/Tokyo".to_owned());
    let tenant = management::create_tenant(&stage.gate, draft).await.unwrap();
    // As if it had been there for as long as it has usage.
    let since = stage.gate.clock().wall().plus_micros(-60 * 86_400 * 1_000_000);
    let tenant = Tenant { id: TenantId::generate(), created_at: since, ..tenant };
    stage.gate.accounts().unwrap().create_tenant(&tenant).await.unwrap();
    let ann = UserDraft { external_id: None, email: "ann@acme.test".into(), name: None, role: Some(Role::Owner) };
    let ann = management::create_user(&stage.gate, tenant.id, ann).await.unwrap();
    usage_gate_bench::million_rows(&stage.store, tenant.id, stage.gate.clock().wall()).await.unwrap();
    let link = management::create_portal_link(&stage.gate, ann.id, None).await.unwrap();
    let request = Request::get(format!("/usage-gate/enter/{}", link.token.as_str())).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let cookie = response.headers()[SET_COOKIE].to_str().unwrap();
    let previous = tenant.calendar.period(Per::Month, stage.gate.clock().wall());
    let previous = tenant.calendar.zone.local(previous.start.plus_micros(-1));
    (cookie.split(';').next().unwrap().to_owned(), format!("{:04}-{:02}", previous.year, previous.month))
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let stage = runtime.block_on(usage_gate_bench::stage()).unwrap();
    let router = portal(&stage.gate, &Portal::new().public_url("http://127.0.0.1").unwrap());
    let (cookie, last) = runtime.block_on(enter(&stage, &router));
    let pages = PAGES.map(|path| path.replace("last", &last));

    let mut criterion = Criterion::default().measurement_time(Duration::from_secs(3)).configure_from_args();
    for path in &pages {
        criterion.bench_function(path, |b| b.iter(|| timed(&runtime, &router, path, &cookie)));
    }
    println!();
    for path in &pages {
        let mut rounds: Vec<_> = (0..51).map(|_| timed(&runtime, &router, path, &cookie)).collect();
        rounds.sort();
        // The fastest is what the page takes, the median what else the machine does comes on top of.
        let millis = |round: usize| rounds[round].0.as_secs_f64() * 1e3;
        println!("{path}: {:.2} ms at best, {:.2} ms in the middle, {} bytes", millis(0), millis(25), rounds[0].1);
    }
    criterion.final_summary();
}
