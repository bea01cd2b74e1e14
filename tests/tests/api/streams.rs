//! Bodies pass as streams, in constant memory, and are metered for what was handed over.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use serde_json::json;
use usage_gate_tests::{Client, Gateway, Setup, Upstream};

const GIB: u64 = 1 << 30;
/// Anonymous memory that a gateway may have with such bodies in flight.
const MOST_KIB: u64 = 64 * 1024;

/// Zeros in chunks, with or without an announced length.
struct Zeros {
    left: u64,
    announced: bool,
}

impl Body for Zeros {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        static CHUNK: [u8; 65_536] = [0; 65_536];
        let size = self.left.min(65_536);
        self.left -= size;
        let frame = (size > 0).then(|| Ok(Frame::data(Bytes::from_static(&CHUNK[..usize::try_from(size).unwrap()]))));
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        if self.announced { SizeHint::with_exact(self.left) } else { SizeHint::default() }
    }
}

async fn stage() -> (Upstream, Gateway, String, String) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(Setup { config: String::new(), upstream: Some(upstream.url.clone()) }).await;
    let (tenant, key) = gateway.admin().tenant_with_key("p", json!([]), "UTC", &[]).await;
    (upstream, gateway, tenant, key)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_up_and_a_gibibyte_down_in_constant_memory() {
    let (_upstream, gateway, tenant, key) = stage().await;
    let client = Client::new();
    for announced in [true, false] {
        let body = Zeros { left: GIB, announced };
        let request = Request::post(format!("{}/count", gateway.url)).header("x-api-key", &key).body(body).unwrap();
        let answer = client.send(request).await.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(answer, GIB.to_string());
        assert!(gateway.memory_kib("RssAnon") < MOST_KIB, "{} KiB", gateway.memory_kib("RssAnon"));
    }
    let request = Request::get(format!("{}/bytes/{GIB}", gateway.url)).header("x-api-key", &key);
    let mut body = client.send(request.body(Empty::<Bytes>::new()).unwrap()).await.into_body();
    let mut received = 0;
    let mut most = 0;
    while let Some(frame) = body.frame().await {
        let before = received / (64 << 20);
        received += u64::try_from(frame.unwrap().into_data().unwrap().len()).unwrap();
        if received / (64 << 20) != before {
            most = most.max(gateway.memory_kib("RssAnon"));
        }
    }
    assert_eq!(received, GIB);
    assert!(most < MOST_KIB, "{most} KiB");
    assert_eq!(gateway.admin().usage(&tenant, "bytes_in").await, [("billed".to_owned(), 2 * GIB, 2)]);
    let out = gateway.admin().usage(&tenant, "bytes_out").await;
    assert_eq!((out[0].0.as_str(), out[0].1), ("billed", GIB + 20));
}

#[tokio::test]
async fn a_client_that_hangs_up_is_metered_for_what_it_was_handed() {
    let (_upstream, gateway, tenant, key) = stage().await;
    // A connection of its own, which ends with the client.
    let client = Client::new();
    let request = Request::get(format!("{}/bytes/{GIB}", gateway.url)).header("x-api-key", &key);
    let mut body = client.send(request.body(Empty::<Bytes>::new()).unwrap()).await.into_body();
    let mut received = 0;
    while received < 5_000_000 {
        received += u64::try_from(body.frame().await.unwrap().unwrap().into_data().unwrap().len()).unwrap();
    }
    drop(body);
    drop(client);
    let (outcome, bytes) = loop {
        let usage = gateway.admin().usage(&tenant, "bytes_out").await;
        if let Some((outcome, bytes, _)) = usage.first() {
            break (outcome.clone(), *bytes);
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(outcome, "aborted");
    // What lies between is in the socket buffers of two connections.
    assert!((received..received + 16_000_000).contains(&bytes), "{bytes} metered, {received} received");
}

#[tokio::test]
async fn a_body_passes_untouched() {
    let (_upstream, gateway, _, key) = stage().await;
    let sent: Vec<u8> = (0..200_000u32).flat_map(u32::to_be_bytes).collect();
    let request = Request::put(format!("{}/echo", gateway.url)).header("x-api-key", &key).body(sent.clone()).unwrap();
    let answer = Client::new().call(request).await;
    assert_eq!((answer.status.as_u16(), answer.body == sent), (200, true));
}
