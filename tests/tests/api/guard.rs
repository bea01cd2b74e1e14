//! Guessers: what they cost, whom they harm, and how they are shut out and let in again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use serde_json::json;
use tokio::time::Instant;
use usage_gate_core::model::Environment;
use usage_gate_core::secret::Pepper;
use usage_gate_tests::{Answer, Client, Gateway, Setup, Upstream};

/// The tests' own address plays the balancer, so that each request may come from where it likes.
const BEHIND_A_PROXY: &str = "[server]\ntrusted_proxies = [\"127.0.0.1/32\"]\n";

struct Stage {
    upstream: Upstream,
    gateway: Gateway,
    client: Client,
    tenant: String,
    key: String,
}

impl Stage {
    async fn new(config: &str) -> Self {
        let upstream = Upstream::start().await;
        let setup = Setup { config: config.to_owned(), upstream: Some(upstream.url.clone()) };
        let gateway = Gateway::start(setup).await;
        let (tenant, key) = gateway.admin().tenant_with_key("p", json!([]), "UTC", &[]).await;
        Self { upstream, gateway, client: Client::new(), tenant, key }
    }

    /// A request with this `X-Forwarded-For`.
    async fn from(&self, hops: &str, key: &str) -> Answer {
        let request = Request::get(format!("{}/x", self.gateway.url)).header("x-forwarded-for", hops);
        self.client.call(request.header("x-api-key", key).body("").unwrap()).await
    }

    async fn check(&self, hops: &str, key: &str, expected: &str) {
        let answer = self.from(hops, key).await;
        let found = if answer.status == 200 { "served".to_owned() } else { answer.code() };
        assert_eq!(found, expected, "from {hops}");
    }

    async fn guess(&self, hops: impl Fn(u32) -> String) {
        for number in 0..20 {
            self.check(&hops(number), &made_up(), "invalid_key").await;
        }
    }

    /// Every line of a metric.
    async fn metric(&self, name: &str) -> BTreeMap<String, u64> {
        let answer = self.client.get(&format!("{}/metrics", self.gateway.admin_url), "").await;
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.split_once(' '));
        lines.map(|(labels, value)| (labels.to_owned(), value.parse().unwrap())).collect()
    }

    /// How many rows each table has.
    fn rows(&self) -> BTreeMap<String, i64> {
        let path = self.gateway.data_dir().join("usage-gate.db");
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let database = rusqlite::Connection::open_with_flags(path, flags).unwrap();
        let mut tables = database.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
        let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let count = |table: &String| database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0));
        tables.into_iter().map(|table| (table.clone(), count(&table).unwrap())).collect()
    }
}

/// A key that has the form, the prefix and the checksum, and that this service never issued.
fn made_up() -> String {
    Pepper::new(&[66; 32]).issue("ug", Environment::Live).unwrap().text.to_string()
}

#[tokio::test]
async fn a_guessing_address_is_shut_out_within_20_tries_and_released_on_time() {
    let stage = Stage::new("[abuse]\nblock = \"2s\"\n").await;
    let url = format!("{}/x", stage.gateway.url);
    let me = format!("{}/usage-gate/v1/me", stage.gateway.url);
    let mut last_try = Instant::now();
    for number in 0..20 {
        last_try = Instant::now();
        let url = if number % 2 == 0 { &url } else { &me };
        assert_eq!(stage.client.get(url, &made_up()).await.code(), "invalid_key");
    }
    let refused = stage.client.get(&url, &stage.key).await;
    let told = Instant::now();
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (403, "abuse_blocked"));
    assert_eq!(refused.json()["type"], json!("urn:usage-gate:problem:abuse_blocked"));
    let retry_after: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=2).contains(&retry_after), "{retry_after}");
    assert_eq!(stage.client.get(&me, &stage.key).await.code(), "abuse_blocked");
    assert_eq!(stage.upstream.count(), 0, "nothing reached the upstream");

    loop {
        let sent = Instant::now();
        if stage.client.get(&url, &stage.key).await.status == 200 {
            break;
        }
        assert!(sent < told + Duration::from_secs(retry_after), "who waits as told is served");
    }
    assert!(last_try.elapsed() >= Duration::from_secs(2), "and nobody before the time");
    let log = stage.gateway.log();
    assert_eq!(log.matches("the source is shut out").count(), 1, "{log}");
    assert!(log.contains("127.0.0.1") && !log.contains("ug_live_"), "{log}");
    let abuse = stage.metric("usage_gate_abuse_total").await;
    assert_eq!(abuse[r#"{signal="bad_credentials",action="observed"}"#], 20);
    assert_eq!(abuse[r#"{signal="bad_credentials",action="boxed"}"#], 1);
    assert!(abuse[r#"{signal="bad_credentials",action="blocked"}"#] >= 2);
}

#[tokio::test]
async fn behind_a_proxy_the_right_client_is_shut_out() {
    let stage = Stage::new(BEHIND_A_PROXY).await;
    let (victim, key) = ("203.0.113.7", stage.key.as_str());
    // The guesser writes what it likes before the proxy adds where the request came from.
    stage.guess(|number| format!("{victim}, 198.51.100.{number}, 192.0.2.66")).await;
    stage.check("192.0.2.66", key, "abuse_blocked").await;
    stage.check(&format!("{victim}, 192.0.2.66"), key, "abuse_blocked").await;
    stage.check("192.0.2.66, 127.0.0.1", key, "abuse_blocked").await;
    stage.check(victim, key, "served").await;
    stage.check("198.51.100.3", key, "served").await;
    stage.check("192.0.2.67", key, "served").await;
    // A client that the proxy does not name is nobody: the proxy is not shut out for it.
    for hops in ["unknown", "192.0.2.9, _hidden", ""] {
        stage.guess(|_| hops.to_owned()).await;
        stage.check(hops, key, "served").await;
    }
}

#[tokio::test]
async fn an_ipv6_64_is_one_source() {
    let stage = Stage::new(BEHIND_A_PROXY).await;
    let key = stage.key.as_str();
    stage.guess(|number| format!("2001:db8:1:2:{number:x}::1")).await;
    stage.check("2001:db8:1:2:ffff::2", key, "abuse_blocked").await;
    stage.check("2001:db8:1:3::1", key, "served").await;
    stage.guess(|number| if number % 2 == 0 { "::ffff:192.0.2.66".into() } else { "192.0.2.66".into() }).await;
    stage.check("192.0.2.66", key, "abuse_blocked").await;
}

#[tokio::test]
async fn lists_deny_and_allow_addresses() {
    let lists = "[abuse]\nallow = [\"192.0.2.64/26\"]\ndeny = [\"203.0.113.0/24\", \"2001:db8:bad::/48\"]\nbad_credentials = 3\n";
    let stage = Stage::new(&format!("{BEHIND_A_PROXY}{lists}")).await;
    let key = stage.key.as_str();
    for _ in 0..2 {
        stage.guess(|_| "192.0.2.66".to_owned()).await;
    }
    stage.check("192.0.2.66", key, "served").await;
    for _ in 0..3 {
        stage.check("192.0.2.7", &made_up(), "invalid_key").await;
    }
    stage.check("192.0.2.7", key, "abuse_blocked").await;
    for denied in ["203.0.113.7", "::ffff:203.0.113.7", "2001:db8:bad:1::1"] {
        let answer = stage.from(denied, key).await;
        assert_eq!((answer.code().as_str(), answer.header("retry-after")), ("abuse_blocked", ""));
    }
    assert_eq!(stage.metric("usage_gate_abuse_total").await[r#"{signal="deny_list",action="denied"}"#], 3);
}

/// Requests of a crowd, and as many of them first until everything that grows with the first requests has grown.
const TRIES: usize = 100_000;
const WARM_UP: usize = 10_000;
const SOURCES: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_made_up_keys_are_shut_out_and_cost_nothing() {
    // Nobody is released before the test is over, however slow the machine.
    let mut answers = flood("block = \"1h\"").await;
    let let_through = answers.remove("invalid_key").unwrap_or_default();
    // A source may have sent more before its twentieth was answered: 16 senders are at work.
    assert!((SOURCES * 20..SOURCES * 20 + 16).contains(&let_through), "{let_through}");
    assert_eq!(answers, BTreeMap::from([("abuse_blocked".to_owned(), TRIES - let_through)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_made_up_keys_cost_nothing_though_nobody_is_shut_out() {
    let answers = flood("bad_credentials = 0").await;
    assert_eq!(answers, BTreeMap::from([("invalid_key".to_owned(), TRIES)]));
}

/// A crowd of guessers, and a good client beside them: no store query, no row, no memory, and all good requests are served.
async fn flood(abuse: &str) -> BTreeMap<String, usize> {
    let stage = Arc::new(Stage::new(&format!("{BEHIND_A_PROXY}[abuse]\n{abuse}\n")).await);
    stage.check("203.0.113.7", &stage.key, "served").await;
    stage.gateway.admin().usage(&stage.tenant, "requests").await;
    let lookups = async || {
        let lines = stage.metric("usage_gate_key_lookups_total").await;
        lines.into_iter().filter(|(labels, _)| !labels.contains("hit")).map(|(_, count)| count).sum::<u64>()
    };
    let (lookups_before, rows_before) = (lookups().await, stage.rows());

    let over = Arc::new(AtomicBool::new(false));
    let good = tokio::spawn({
        let (stage, over) = (Arc::clone(&stage), Arc::clone(&over));
        async move {
            let mut served = 0;
            while !over.load(Ordering::Relaxed) {
                // A neighbour of the guessers, each time another.
                stage.check(&format!("192.0.{}.250", served % 4), &stage.key, "served").await;
                served += 1;
            }
            served
        }
    });
    let next = Arc::new(AtomicUsize::new(0));
    let mut answers = crowd(&stage, &next, WARM_UP).await;
    let memory = stage.gateway.memory_kib("RssAnon");
    for (code, count) in crowd(&stage, &next, TRIES).await {
        *answers.entry(code).or_default() += count;
    }
    let grown = stage.gateway.memory_kib("RssAnon").saturating_sub(memory);
    over.store(true, Ordering::Relaxed);
    let served: u64 = good.await.unwrap();

    assert!(served > 100, "only {served} good requests went through meanwhile");
    assert_eq!(stage.upstream.count(), usize::try_from(served).unwrap() + 1);
    assert!(grown < 4 * 1024, "{grown} KiB more");
    // The good key is looked up again when the feed tells of its own making.
    assert!(lookups().await <= lookups_before + 3, "{} more", lookups().await - lookups_before);
    let usage = stage.gateway.admin().usage(&stage.tenant, "requests").await;
    assert_eq!(usage, [("billed".to_owned(), served + 1, served + 1)], "good requests, and not one refused one");
    for (table, rows) in stage.rows() {
        let before = rows_before.get(&table).copied().unwrap_or_default();
        // The good client's usage takes a row or two more when an hour ends, and its request log one with each batch, about a second.
        let most = if table == "request_block" { 100 } else { 10 };
        assert!(rows < before + most, "{table}: {before} rows before, {rows} after");
    }
    answers
}

/// Sends made-up keys, well-formed and not, from 200 addresses in turn until so many were sent; counts the answers by code.
async fn crowd(stage: &Arc<Stage>, sent: &Arc<AtomicUsize>, tries: usize) -> BTreeMap<String, usize> {
    let answers = Arc::new(Mutex::new(BTreeMap::new()));
    let senders = (0..16).map(|_| {
        let (stage, sent, answers) = (Arc::clone(stage), Arc::clone(sent), Arc::clone(&answers));
        tokio::spawn(async move {
            let claim = |sent| (sent < tries).then_some(sent + 1);
            while let Ok(number) = sent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim) {
                let source = number % SOURCES;
                let key = match number / SOURCES % 4 {
                    0 => format!("ug_live_{number}"),
                    1 => format!("ug_live_{number:0>17}_0123456789abcdefghijABCDEFGHIJKLzzzzzz"),
                    _ => made_up(),
                };
                let code = stage.from(&format!("192.0.{}.{}", source / 50, source % 50), &key).await.code();
                *answers.lock().unwrap().entry(code).or_default() += 1;
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
    Arc::into_inner(answers).unwrap().into_inner().unwrap()
}
