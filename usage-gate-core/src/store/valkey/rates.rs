//! Calls of the scripts: one for each counter, all in one round trip.

use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{Cmd, Pipeline, Value, cmd};
use tokio::sync::watch;

use super::ValkeyStore;
use super::scripts::{BUCKET, NODES, SLOTS, Script};
use crate::store::{
    CounterId, LONGEST_RATE_LEASE, RateAnswer, RateCall, RateGrant, RateReport, RateRequest, RateState, RateStore,
    SLOT_LEASE_TIME, SlotGrant, SlotRequest, StoreError,
};

const WHAT: &str = "lease units of rates";

/// Round trips for one call at most: scripts that the server does not have yet, and an incarnation that this process does not know yet, take one more each.
const MOST_TRIES: usize = 4;

/// Beside the time in which a bucket can be told from one that was never used: clocks of server and disk are not compared so finely.
const MARGIN_MICROS: u64 = 1_000_000;

/// Nodes that were heard of within this time are active.
const ACTIVE_MICROS: u64 = 60_000_000;

#[async_trait::async_trait]
impl RateStore for ValkeyStore {
    fn backend(&self) -> &'static str {
        "valkey"
    }

    async fn ring(&self) -> Result<(), StoreError> {
        self.ring_for_all().await
    }

    fn rung(&self) -> Option<watch::Receiver<()>> {
        Some(self.listen())
    }

    async fn lease_rates(&self, call: &RateCall) -> Result<RateAnswer, StoreError> {
        if !self.inner.inspected.load(Ordering::Acquire) {
            // It was away when the gate started.
            self.inspect().await?;
        }
        self.settle();
        for _ in 0..MOST_TRIES {
            let answers = self.inner.connection.run(WHAT, &self.pipeline(call)).await?;
            match self.read(call, answers)? {
                Read::Answer(answer) => return Ok(answer),
                Read::NoScript => self.load_scripts().await?,
                Read::Unknown(incarnation) => self.inner.incarnations.learn(&incarnation).await,
            }
        }
        Err(StoreError::unavailable(WHAT, "it has restarted again and again"))
    }
}

/// What came back of a call.
enum Read {
    Answer(RateAnswer),
    /// The server has forgotten the scripts.
    NoScript,
    /// The server is an incarnation that this process has not heard of.
    Unknown(String),
}

/// What came back of one script in place of numbers.
enum Other {
    /// It holds for the whole call.
    Whole(Read),
    /// The script failed on what is under its key, and did nothing.
    Broken(String),
}

/// Whether an error says something about one key, as where somebody else has written it, and nothing about the server.
fn is_of_one_key(code: &str) -> bool {
    matches!(code, "WRONGTYPE" | "ERR")
}

impl ValkeyStore {
    /// Asks the ledger again about incarnations, if it could not be asked: beside the call, which does not wait for it.
    fn settle(&self) {
        if self.inner.incarnations.is_unsettled() {
            let inner = std::sync::Arc::clone(&self.inner);
            tokio::spawn(async move { inner.incarnations.settle().await });
        }
    }

    fn pipeline(&self, call: &RateCall) -> Pipeline {
        let known = self.inner.incarnations.known();
        let mut pipeline = Pipeline::with_capacity(call.rates.len() + call.slots.len() + 1);
        pipeline.ignore_errors();
        for request in &call.rates {
            pipeline.add_command(self.rate(request, &known));
        }
        for request in &call.slots {
            pipeline.add_command(self.slot(&call.node, request, &known));
        }
        let mut nodes = self.script(&NODES, &format!("{}:nodes", self.inner.namespace));
        nodes.arg(self.now()).arg(&call.node).arg(ACTIVE_MICROS);
        pipeline.add_command(nodes);
        pipeline
    }

    fn rate(&self, request: &RateRequest, known: &[(String, u64)]) -> Cmd {
        let terms = &request.terms;
        let (unit, refill) = terms.parts();
        let longest = micros(LONGEST_RATE_LEASE);
        let idle = longest.saturating_add(micros(terms.refill_time())).saturating_add(1);
        let counts = [&request.spent, &request.returned].map(|reports| reports.len() as u64);
        let mut words = Vec::with_capacity(96 + 24 * (request.spent.len() + request.returned.len()));
        for number in [
            u64::try_from(self.now()).unwrap_or(0),
            micros(terms.lease_time()),
            longest,
            idle,
            unit,
            refill,
            terms.burst,
            request.want,
            counts[0],
            counts[1],
        ] {
            words.extend_from_slice(&number.to_le_bytes());
        }
        words.extend_from_slice(&request.lease.as_u128().to_be_bytes());
        for RateReport { lease, spent } in request.spent.iter().chain(&request.returned) {
            words.extend_from_slice(&lease.as_u128().to_be_bytes());
            words.extend_from_slice(&spent.to_le_bytes());
        }
        let mut command = self.script(&BUCKET, &self.key("rate", &request.counter));
        // A new bucket waits for as long as the longest lease before it refills.
        command.arg(words).arg(self.time_to_live(idle.saturating_add(longest)));
        for (incarnation, age) in known {
            command.arg(incarnation).arg(*age);
        }
        command
    }

    fn slot(&self, node: &str, request: &SlotRequest, known: &[(String, u64)]) -> Cmd {
        let lease_time = micros(SLOT_LEASE_TIME);
        let mut command = self.script(&SLOTS, &self.key("open", &request.counter));
        command.arg(self.now()).arg(lease_time).arg(self.time_to_live(lease_time.saturating_mul(2)));
        command.arg(node).arg(request.sequence).arg(request.limit).arg(request.keep).arg(request.more);
        incarnations(&mut command, known);
        command
    }

    fn script(&self, script: &Script, key: &str) -> Cmd {
        let mut command = cmd("EVALSHA");
        command.arg(script.hash()).arg(1).arg(key);
        command
    }

    /// The braces make all keys of one counter neighbours in a cluster.
    fn key(&self, kind: &str, counter: &CounterId) -> String {
        format!("{}:{kind}:{{{:016x}}}", self.inner.namespace, counter.tag().0)
    }

    /// 0 for the server's clock.
    fn now(&self) -> i64 {
        self.inner.clock.as_ref().map_or(0, |clock| clock.wall().as_micros())
    }

    /// In milliseconds. By a clock of one's own nothing ends: the server would go by its own.
    fn time_to_live(&self, micros: u64) -> u64 {
        if self.inner.clock.is_some() { 0 } else { micros.saturating_add(MARGIN_MICROS).div_ceil(1_000) }
    }

    fn read(&self, call: &RateCall, answers: Vec<Value>) -> Result<Read, StoreError> {
        let mut answer = RateAnswer::default();
        let mut answers = answers.into_iter();
        let mut next = || answers.next().unwrap_or(Value::Nil);
        let mut read = || -> Result<Result<Vec<u64>, Other>, StoreError> {
            let value = match next() {
                Value::ServerError(error) if error.code() == "NOSCRIPT" => {
                    return Ok(Err(Other::Whole(Read::NoScript)));
                }
                Value::ServerError(error) if is_of_one_key(error.code()) => {
                    return Ok(Err(Other::Broken(error.to_string())));
                }
                other => other,
            };
            let words: Vec<String> = value
                .extract_error()
                .and_then(|value| Ok(redis::from_redis_value(value)?))
                .map_err(|error| super::connect::fault(WHAT, error))?;
            match &*words {
                [unknown, incarnation] if unknown == "unknown" => {
                    Ok(Err(Other::Whole(Read::Unknown(incarnation.clone()))))
                }
                words => {
                    let numbers = words.iter().map(|word| word.parse()).collect::<Result<_, _>>();
                    numbers.map(Ok).map_err(|error| StoreError::unavailable(WHAT, error))
                }
            }
        };
        let short = || StoreError::unavailable(WHAT, "an answer of another length than asked for");
        for request in &call.rates {
            match read()? {
                Ok(numbers) => {
                    let &[units, level, outstanding, next_in] = &*numbers else { return Err(short()) };
                    let state = RateState { level, outstanding, next_in: Duration::from_micros(next_in) };
                    answer.rates.push(RateGrant { units, state });
                }
                Err(Other::Broken(why)) => {
                    let state = RateState { level: 0, outstanding: 0, next_in: Duration::ZERO };
                    answer.rates.push(RateGrant { units: 0, state });
                    answer.broken.push((request.counter.clone(), why));
                }
                Err(Other::Whole(read)) => return Ok(read),
            }
        }
        for request in &call.slots {
            match read()? {
                Ok(numbers) => {
                    let &[slots, elsewhere] = &*numbers else { return Err(short()) };
                    answer.slots.push(SlotGrant { slots, elsewhere });
                }
                Err(Other::Broken(why)) => {
                    answer.slots.push(SlotGrant { slots: 0, elsewhere: 0 });
                    answer.broken.push((request.counter.clone(), why));
                }
                Err(Other::Whole(read)) => return Ok(read),
            }
        }
        match read()? {
            Ok(numbers) => {
                let &[nodes] = &*numbers else { return Err(short()) };
                answer.active_nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
            }
            // No counter's: without it nobody knows how many share.
            Err(Other::Broken(why)) => return Err(StoreError::unavailable(WHAT, why)),
            Err(Other::Whole(read)) => return Ok(read),
        }
        // Where no script went well, and that is not for what is under the keys, it is the server that cannot run them.
        let all_fail = answer.broken.len() == call.rates.len() + call.slots.len();
        if let Some((_, why)) = answer.broken.iter().find(|(_, why)| all_fail && !why.starts_with("WRONGTYPE")) {
            return Err(StoreError::unavailable(WHAT, why.as_str()));
        }
        Ok(Read::Answer(answer))
    }

    async fn load_scripts(&self) -> Result<(), StoreError> {
        let mut pipeline = redis::pipe();
        for script in [&*BUCKET, &*SLOTS, &*NODES] {
            pipeline.add_command(cmd("SCRIPT").arg("LOAD").arg(script.text()).to_owned());
        }
        self.inner.connection.run("load scripts", &pipeline).await.map(|_| ())
    }
}

fn incarnations(command: &mut Cmd, known: &[(String, u64)]) {
    command.arg(known.len());
    for (incarnation, age) in known {
        command.arg(incarnation).arg(*age);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
