//! One outage: servers, gateways and callers of its own, and all that was seen before, meanwhile and afterwards.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use usage_gate_tests::Client;
use usage_gate_tests::cluster::{Cluster, Database, Fault, FaultProxy, Load, OwnValkey, Passed, Stores};

use super::callers::{Caller, POLICIES, Policy};

const NODES: usize = 3;
/// Long enough for nodes to know how much is used, and to hold some minutes of it.
const BEFORE: Duration = Duration::from_secs(4);
/// Rounds in which a key is tried that was made up: a source that guesses twenty times is shut out.
const GUESSES: u64 = 5;

/// Which stores a node loses.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reach {
    pub(super) postgres: bool,
    pub(super) valkey: bool,
}

/// What goes wrong, and for whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) fault: Fault,
    pub(super) away: [Reach; NODES],
    pub(super) has_valkey: bool,
    /// Whether the first node is killed in the middle, and starts again while the stores are away.
    pub(super) restarts: bool,
}

impl Case {
    pub(super) fn new(name: &'static str, fault: Fault) -> Self {
        Self { name, fault, away: [Reach::default(); NODES], has_valkey: true, restarts: false }
    }

    pub(super) fn away(mut self, away: [Reach; NODES]) -> Self {
        self.away = away;
        self
    }

    /// PostgreSQL keeps the rates too.
    pub(super) fn without_valkey(mut self) -> Self {
        self.has_valkey = false;
        self
    }

    /// The first node is killed in the middle, and starts again.
    pub(super) fn with_a_restart(mut self) -> Self {
        self.restarts = true;
        self
    }

    /// Whether it is only slow.
    pub(super) fn answers(&self) -> bool {
        matches!(self.fault, Fault::Delay(_))
    }

    /// Nodes that cannot reach the authority of quotas.
    pub(super) fn without_quotas(&self) -> usize {
        self.away.iter().filter(|away| away.postgres && !self.answers()).count()
    }

    /// Nodes that cannot reach the authority of rates.
    pub(super) fn without_rates(&self) -> usize {
        let lost = |away: &&Reach| if self.has_valkey { away.valkey } else { away.postgres };
        self.away.iter().filter(|away| lost(away) && !self.answers()).count()
    }

    fn degraded(&self, node: usize) -> Value {
        let Reach { postgres, valkey } = self.away[node];
        let named = [("postgres", postgres), ("valkey", valkey)];
        let named: Vec<&str> =
            named.iter().filter(|(_, away)| *away && !self.answers()).map(|(name, _)| *name).collect();
        if named.is_empty() { json!({"status": "ready"}) } else { json!({"status": "degraded", "degraded": named}) }
    }
}

/// All that was seen.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) case: Case,
    pub(super) outage: Duration,
    /// Units of the quotas that an outage outlasts.
    pub(super) units: usize,
    /// From the end of the fault until everything was as before.
    pub(super) healing: Duration,
    pub(super) callers: Vec<Answers>,
    pub(super) probes: Vec<Probe>,
    /// What `/readyz` of a node should not have said.
    pub(super) misread: Vec<String>,
}

/// What one caller got. Instants are those of its shots.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) policy: Policy,
    pub(super) passed: Passed,
    pub(super) down: Duration,
    /// From when on the first node was not there, until it was again.
    pub(super) restarted: Option<(Duration, Duration)>,
    pub(super) up: Duration,
    pub(super) healed: Duration,
    /// Requests of it that reached the upstream, and those that are billed, by id.
    pub(super) upstream: Vec<String>,
    pub(super) billed: Vec<String>,
}

/// A request with a key that no node has seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe {
    pub(super) made_up: bool,
    /// Whether its node could not reach PostgreSQL from before it was sent until after it was answered.
    pub(super) away: bool,
    pub(super) status: u16,
    pub(super) took: Duration,
}

/// How long outages are.
fn outage() -> Duration {
    let asked = std::env::var_os("USAGE_GATE_OUTAGE_SECONDS");
    Duration::from_secs(asked.map_or(6, |seconds| seconds.into_string().unwrap().parse().unwrap()))
}

pub(super) async fn run(case: Case) -> Seen {
    let database = Database::new().await;
    let valkey = if case.has_valkey { Some(OwnValkey::start().await) } else { None };
    let (mut proxies, mut stores) = (Vec::new(), Vec::new());
    for away in case.away {
        let mut node = Stores { postgres: database.url(), valkey: valkey.as_ref().map(OwnValkey::url) };
        if away.postgres {
            let proxy = FaultProxy::in_front_of(&node.postgres).await;
            node.postgres = proxy.url();
            proxies.push(proxy);
        }
        if let Some(valkey) = node.valkey.as_mut().filter(|_| away.valkey) {
            let proxy = FaultProxy::in_front_of(valkey).await;
            *valkey = proxy.url();
            proxies.push(proxy);
        }
        stores.push(node);
    }
    let mut cluster = Cluster::start_each(&stores, "").await;
    let outage = outage();
    // Half of what is asked for during the outage is there when it begins, and nodes hold half of that at most.
    let units = 160 + 20 * usize::try_from(outage.as_secs()).unwrap();
    let mut callers = Vec::new();
    for policy in POLICIES {
        callers.push(Caller::new(&cluster, policy, units).await);
    }
    let (stranger, unseen) = cluster.key("stranger", json!([])).await;
    for node in 0..NODES {
        assert_eq!(ready(&cluster, node).await, json!({"status": "ready"}), "node {node}");
    }

    let urls = Arc::new(Mutex::new(cluster.urls()));
    let loads: Vec<Load> = callers.iter().map(|caller| caller.load(&urls)).collect();
    sleep(BEFORE).await;
    proxies.iter().for_each(|proxy| proxy.set(case.fault));
    let down: Vec<Duration> = loads.iter().map(Load::now).collect();
    let (began, mut probing, mut restarted) = (Instant::now(), JoinSet::new(), Vec::new());
    for round in 0..outage.as_secs() {
        if case.restarts && round == outage.as_secs() / 2 {
            restarted = restart(&mut cluster, &urls, &loads).await;
        }
        probe(&case, &cluster, &unseen, round, began + outage, &mut probing);
        sleep((began + Duration::from_secs(round + 1)).saturating_duration_since(Instant::now())).await;
    }
    let mut misread = Vec::new();
    for node in 0..NODES {
        let (said, expected) = (ready(&cluster, node).await, case.degraded(node));
        if said != expected {
            misread.push(format!("node {node} says {said} at the end of the outage, not {expected}"));
        }
    }
    proxies.iter().for_each(|proxy| proxy.set(Fault::Pass));
    let (up, ended): (Vec<Duration>, _) = (loads.iter().map(Load::now).collect(), Instant::now());
    let mut served_strangers = until_well(&cluster, &unseen).await;
    let healing = ended.elapsed();
    let healed: Vec<Duration> = loads.iter().map(Load::now).collect();

    // Until what is left of the small quotas is used up.
    let used_up = |load: &Load| load.so_far().with(200) >= units;
    let patience = Instant::now() + outage + Duration::from_secs(20);
    while Instant::now() < patience
        && !callers
            .iter()
            .zip(&loads)
            .all(|(caller, load)| caller.policy == Policy::Plenty || caller.policy.is_rate() || used_up(load))
    {
        sleep(Duration::from_millis(100)).await;
    }
    sleep(Duration::from_secs(1)).await;
    let mut answers = Vec::new();
    for (at, load) in loads.into_iter().enumerate() {
        let (passed, caller) = (load.stop().await, &callers[at]);
        let (down, up, healed) = (down[at], up[at], healed[at]);
        let (restarted, upstream, billed) = (restarted.get(at).copied(), Vec::new(), Vec::new());
        answers.push(Answers { policy: caller.policy, passed, down, restarted, up, healed, upstream, billed });
    }
    let probes = probing.join_all().await;
    served_strangers += probes.iter().filter(|probe| probe.status == 200).count();

    let mut reached = reached(&cluster);
    for (caller, answers) in callers.iter().zip(&mut answers) {
        answers.upstream = reached.remove(&caller.tenant).unwrap_or_default();
        answers.billed = billed(&cluster, &caller.tenant, answers.upstream.len()).await;
    }
    let strangers = reached.remove(&stranger).unwrap_or_default().len();
    assert_eq!(strangers, served_strangers, "requests with a key that was seen first during an outage");
    Seen { case, outage, units, healing, callers: answers, probes, misread }
}

/// Kills the first node and starts it again on its data, and says when for each load. Requests that are under way in a kill have a test of their own: here clients
/// let go of the node first, so that every request has an answer.
async fn restart(cluster: &mut Cluster, urls: &Mutex<Vec<String>>, loads: &[Load]) -> Vec<(Duration, Duration)> {
    let mut others = cluster.urls();
    others[0] = others[1].clone();
    *urls.lock().unwrap() = others;
    for load in loads {
        let changed = load.now();
        while !load.all_have_sent_after(changed) {
            sleep(Duration::from_millis(5)).await;
        }
    }
    let gone: Vec<Duration> = loads.iter().map(Load::now).collect();
    cluster.kill(0).await;
    cluster.start_again(0).await;
    let there: Vec<Duration> = loads.iter().map(Load::now).collect();
    *urls.lock().unwrap() = cluster.urls();
    gone.into_iter().zip(there).collect()
}

async fn ready(cluster: &Cluster, node: usize) -> Value {
    Client::new().get(&format!("{}/readyz", cluster.gateways[node].admin_url), "").await.json()
}

/// Asks every node with keys that it does not know, several times at once, as clients do that all have the same new key.
fn probe(case: &Case, cluster: &Cluster, unseen: &str, round: u64, end: Instant, probing: &mut JoinSet<Probe>) {
    let made_up = format!("{}A{}", &unseen[..8], &unseen[9..]);
    for (node, gateway) in cluster.gateways.iter().enumerate() {
        let away = case.away[node].postgres && !case.answers();
        let guesses = usize::from(round < GUESSES);
        let keys = std::iter::repeat_n((true, made_up.clone()), guesses)
            .chain(std::iter::repeat_n((false, unseen.to_owned()), 3));
        for (made_up, key) in keys {
            let url = format!("{}/status/200", gateway.url);
            probing.spawn(async move {
                let sent = Instant::now();
                let status = Client::new().get(&url, &key).await.status.as_u16();
                Probe { made_up, away: away && Instant::now() < end, status, took: sent.elapsed() }
            });
        }
    }
}

/// Until every node says that it is well, and knows a key that it could not look up before. How many requests that took that were served.
async fn until_well(cluster: &Cluster, unseen: &str) -> usize {
    let (client, began, mut served) = (Client::new(), Instant::now(), 0);
    for (node, gateway) in cluster.gateways.iter().enumerate() {
        loop {
            let known = client.get(&format!("{}/status/200", gateway.url), unseen).await.status == 200;
            served += usize::from(known);
            if known && ready(cluster, node).await == json!({"status": "ready"}) {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "node {node} does not heal: {}", gateway.log());
            sleep(Duration::from_millis(50)).await;
        }
    }
    served
}

/// Ids of the requests that reached the upstream, by tenant.
fn reached(cluster: &Cluster) -> BTreeMap<String, Vec<String>> {
    let mut reached: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for seen in cluster.upstream.seen() {
        let field = |name: &str| seen.headers.get(name).unwrap().to_str().unwrap().to_owned();
        reached.entry(field("x-usage-gate-tenant")).or_default().push(field("x-request-id"));
    }
    reached.values_mut().for_each(|ids| ids.sort_unstable());
    reached
}

/// Ids of the requests that are billed. So many are waited for, and no longer than other nodes take to ship.
async fn billed(cluster: &Cluster, tenant: &str, expected: usize) -> Vec<String> {
    let admin = cluster.admin(0);
    let began = Instant::now();
    loop {
        let usage = admin.usage(tenant, "requests").await;
        let units: u64 = usage.iter().filter(|(outcome, ..)| outcome == "billed").map(|(_, units, _)| units).sum();
        if units >= u64::try_from(expected).unwrap() || began.elapsed() > Duration::from_secs(15) {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = admin.read(&format!("/requests?tenant={tenant}&outcome=billed&page_size=200{cursor}")).await;
        ids.extend(
            page["items"].as_array().unwrap().iter().map(|item| item["request_id"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    ids.sort_unstable();
    ids
}
