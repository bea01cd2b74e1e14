//! Guessers shut out, through the gate: what counts as a bad try, whose it is, and when a source is released.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what a test cannot go on without fails it")]

use std::time::Duration;

use http::{HeaderMap, Method};
use usage_gate_core::admission::{Admission, Code, Refusal, RequestHead};
use usage_gate_core::clock::ManualClock;
use usage_gate_core::management::{self, KeyDraft, PlanDraft, TenantDraft};
use usage_gate_core::model::{Environment, KeyId, TenantId};
use usage_gate_core::routes::{Auth, Route};
use usage_gate_core::secret::Pepper;
use usage_gate_core::store::memory::MemoryStore;
use usage_gate_core::{BuildError, UsageGate, UsageGateBuilder};

const GUESSER: &str = "192.0.2.66";
const OTHER: &str = "192.0.2.7";

struct Stage {
    gate: UsageGate,
    clock: ManualClock,
    tenant: TenantId,
    key: String,
    key_id: KeyId,
}

fn pepper() -> Pepper {
    Pepper::new(&[7; 32])
}

/// A key of the right form that this gate never issued.
fn made_up() -> String {
    Pepper::new(&[8; 32]).issue("ug", Environment::Live).unwrap().text.to_string()
}

impl Stage {
    async fn new(with: impl FnOnce(UsageGateBuilder) -> UsageGateBuilder) -> Self {
        let clock = ManualClock::at("2026-11-10T23:00:00Z".parse().unwrap());
        let builder = UsageGate::builder().store(MemoryStore::new(clock.clock())).clock(clock.clock()).pepper(pepper());
        let builder = builder.route(Route::any("/x")).route(Route::any("/health").auth(Auth::Public));
        let gate = with(builder).build().await.unwrap();
        management::create_plan(&gate, PlanDraft::new("plan", Vec::new())).await.unwrap();
        let tenant = management::create_tenant(&gate, TenantDraft::new("Acme", "plan")).await.unwrap().id;
        let issued = management::create_key(&gate, tenant, KeyDraft::new("key")).await.unwrap();
        Self { gate, clock, tenant, key: issued.text.to_string(), key_id: issued.key.id }
    }

    async fn request(&self, path: &str, client: &str, keys: &[&str]) -> Result<(), Refusal> {
        let mut headers = HeaderMap::new();
        for key in keys {
            headers.append("x-api-key", key.parse().unwrap());
        }
        let client = client.parse().ok();
        let head =
            RequestHead { method: &Method::GET, path, headers: &headers, client, content_length: None, bounds: &[] };
        let admission = match self.gate.admit(&head) {
            Admission::Waiting(waiting) => waiting.finish().await,
            decided => decided,
        };
        match admission {
            Admission::Admitted(_) | Admission::Public(..) => Ok(()),
            Admission::Refused(refused) => Err(refused.refusal),
            Admission::Waiting(_) => panic!("it waits once"),
        }
    }

    async fn code(&self, client: &str, key: &str) -> Option<Code> {
        self.request("/x", client, &[key]).await.err().map(|refusal| refusal.code)
    }

    /// So many bad tries, each answered as a bad key.
    async fn guess(&self, client: &str, times: u32) {
        for _ in 0..times {
            assert_eq!(self.code(client, &made_up()).await, Some(Code::InvalidKey));
        }
    }
}

#[tokio::test]
async fn the_twentieth_bad_try_shuts_the_source_out_for_a_minute() {
    let stage = Stage::new(|builder| builder).await;
    stage.guess(GUESSER, 20).await;
    let refusal = stage.request("/x", GUESSER, &[&stage.key]).await.unwrap_err();
    assert_eq!((refusal.code, refusal.retry_after), (Code::AbuseBlocked, Some(60)), "a good key too");
    assert_eq!(stage.code(OTHER, &stage.key).await, None, "a neighbour is served");

    stage.clock.advance_millis(59_001);
    for _ in 0..100 {
        let refusal = stage.request("/x", GUESSER, &[&made_up()]).await.unwrap_err();
        assert_eq!((refusal.code, refusal.retry_after), (Code::AbuseBlocked, Some(1)), "rounded up, not prolonged");
    }
    stage.clock.advance_millis(998);
    assert_eq!(stage.code(GUESSER, &stage.key).await, Some(Code::AbuseBlocked));
    stage.clock.advance_millis(1);
    assert_eq!(stage.code(GUESSER, &stage.key).await, None, "released on time");

    stage.guess(GUESSER, 20).await;
    let refusal = stage.request("/x", GUESSER, &[]).await.unwrap_err();
    assert_eq!((refusal.code, refusal.retry_after), (Code::AbuseBlocked, Some(120)), "twice as long the next time");
}

#[tokio::test]
async fn nineteen_bad_tries_a_minute_shut_nobody_out() {
    let stage = Stage::new(|builder| builder).await;
    for _ in 0..5 {
        stage.guess(GUESSER, 19).await;
        assert_eq!(stage.code(GUESSER, &stage.key).await, None);
        stage.clock.advance_millis(70_000);
    }
}

#[tokio::test]
async fn whatever_was_made_up_of_a_key_is_a_bad_try() {
    let unknown = pepper().issue("ug", Environment::Live).unwrap().text.to_string();
    let stage = Stage::new(|builder| builder).await;
    assert_eq!(stage.code(OTHER, &stage.key).await, None, "cached from here on");
    // The id of a key that is there, and not the rest.
    let (head, last) = stage.key.split_at(stage.key.len() - 1);
    let wrong_rest = format!("{head}{}", if last == "0" { "1" } else { "0" });
    let bad = ["", "hello", "ug_live_short", &wrong_rest, &made_up(), &unknown];
    for (at, text) in bad.iter().enumerate() {
        let client = format!("198.51.100.{at}");
        for _ in 0..20 {
            assert_eq!(stage.code(&client, text).await, Some(Code::InvalidKey), "{text}");
        }
        assert_eq!(stage.code(&client, text).await, Some(Code::AbuseBlocked), "{text}");
    }
}

#[tokio::test]
async fn a_key_that_was_forgotten_revoked_or_doubled_is_no_guess() {
    let stage = Stage::new(|builder| builder).await;
    let other = management::create_key(&stage.gate, stage.tenant, KeyDraft::new("other")).await.unwrap();
    management::revoke_key(&stage.gate, stage.key_id, None).await.unwrap();
    for _ in 0..50 {
        assert_eq!(stage.request("/x", GUESSER, &[]).await.unwrap_err().code, Code::MissingKey);
        assert_eq!(stage.code(GUESSER, &stage.key).await, Some(Code::RevokedKey));
        let two = [made_up(), made_up()];
        let two = stage.request("/x", GUESSER, &[&two[0], &two[1]]).await.unwrap_err();
        assert_eq!(two.code, Code::AmbiguousCredentials, "no key was looked at");
    }
    assert_eq!(stage.code(GUESSER, &other.text).await, None);
}

#[tokio::test]
async fn a_source_is_an_ipv4_address_or_an_ipv6_64() {
    let stage = Stage::new(|builder| builder).await;
    stage.guess("192.0.2.66", 10).await;
    stage.guess("::ffff:192.0.2.66", 10).await;
    assert_eq!(stage.code("192.0.2.66", &stage.key).await, Some(Code::AbuseBlocked));
    assert_eq!(stage.code("192.0.2.67", &stage.key).await, None);
    for neighbour in 0..20 {
        stage.guess(&format!("2001:db8:1:2::{neighbour:x}"), 1).await;
    }
    assert_eq!(stage.code("2001:db8:1:2:ffff::1", &stage.key).await, Some(Code::AbuseBlocked));
    assert_eq!(stage.code("2001:db8:1:3::1", &stage.key).await, None);
}

#[tokio::test]
async fn who_is_allowed_or_not_known_is_never_shut_out() {
    let stage = Stage::new(|builder| builder.allow(["192.0.2.64/30".parse().unwrap()])).await;
    for client in [GUESSER, "::ffff:192.0.2.65", "nobody knows"] {
        stage.guess(client, 50).await;
        assert_eq!(stage.code(client, &stage.key).await, None, "{client}");
    }
    let off = Stage::new(|builder| builder.bad_credentials(0)).await;
    off.guess(GUESSER, 200).await;
}

#[tokio::test]
async fn who_is_denied_is_refused_everywhere_and_who_is_shut_out_where_a_key_is_asked_for() {
    let denied = ["198.51.100.0/24".parse().unwrap()];
    let stage = Stage::new(|builder| builder.deny(denied).allow(denied)).await;
    stage.guess(GUESSER, 20).await;
    for (path, client, expected) in [
        ("/x", "198.51.100.1", Some((Code::AbuseBlocked, None))),
        ("/health", "198.51.100.1", Some((Code::AbuseBlocked, None))),
        ("/x", GUESSER, Some((Code::AbuseBlocked, Some(60)))),
        ("/health", GUESSER, None),
        ("/x", OTHER, None),
    ] {
        let refusal = stage.request(path, client, &[&stage.key]).await.err();
        assert_eq!(refusal.map(|refusal| (refusal.code, refusal.retry_after)), expected, "{path} {client}");
    }
}

#[tokio::test]
async fn doors_beside_the_api_share_the_box() {
    let stage = Stage::new(|builder| builder.bad_credentials(4).block_for(Duration::from_millis(1_500))).await;
    let client = Some(GUESSER.parse().unwrap());
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", made_up().parse().unwrap());
    stage.guess(GUESSER, 2).await;
    stage.gate.note_bad_credential(client);
    assert_eq!(stage.gate.check_source(client), Ok(()));
    assert_eq!(stage.gate.authenticate(&headers, client).await.unwrap_err().code, Code::InvalidKey);

    let refusal = stage.gate.check_source(client).unwrap_err();
    assert_eq!((refusal.code, refusal.retry_after), (Code::AbuseBlocked, Some(2)), "a second and a half, rounded up");
    headers.insert("x-api-key", stage.key.parse().unwrap());
    assert_eq!(stage.gate.authenticate(&headers, client).await.unwrap_err(), refusal);
    stage.clock.advance_millis(1_500);
    assert_eq!(stage.gate.authenticate(&headers, client).await.unwrap().key, stage.key_id);
}

#[tokio::test]
async fn a_block_of_no_time_is_a_mistake() {
    let clock = ManualClock::at("2026-11-10T23:00:00Z".parse().unwrap());
    let builder = UsageGate::builder().store(MemoryStore::new(clock.clock())).pepper(pepper());
    assert!(matches!(builder.block_for(Duration::ZERO).build().await, Err(BuildError::BlockFor)));
}
