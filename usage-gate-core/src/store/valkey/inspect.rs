//! Whether a server can be trusted with rates, and what an operator should know of it.

use std::sync::atomic::Ordering;

use redis::{Value, cmd};

use super::ValkeyStore;
use super::connect::WHAT;
use crate::clock::Clock;
use crate::model::Timestamp;
use crate::store::StoreError;

/// The oldest server that is known to work: what Valkey forked from.
const OLDEST: u32 = 7;

/// What a Valkey or Redis server is, and how it is set.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ValkeyReport {
    /// Such as `Valkey 8.0.1` or `Redis 7.0.15`.
    pub version: String,
    /// The setting `maxmemory-policy`; `None` where it may not be asked, as with some who host it.
    pub maxmemory_policy: Option<String>,
    /// Microseconds by which its clock is ahead of this machine's; negative if it is behind.
    pub ahead_micros: i64,
    /// By how much that may be wrong: half the time that the question took.
    pub uncertain_micros: u64,
}

impl ValkeyStore {
    /// Asks the server what it is.
    ///
    /// # Errors
    /// [`Unusable`](crate::store::StoreErrorKind::Unusable) if it cannot keep rates: it is too old or of a cluster, may delete counters, or hides its incarnation from
    /// scripts;
    /// [`Unavailable`](crate::store::StoreErrorKind::Unavailable) if it is away.
    pub async fn inspect(&self) -> Result<ValkeyReport, StoreError> {
        let mut asked = redis::pipe();
        asked.ignore_errors();
        asked.add_command(cmd("INFO").arg("server").to_owned());
        asked.add_command(cmd("CONFIG").arg("GET").arg("maxmemory-policy").to_owned());
        asked.add_command(cmd("EVAL").arg("return redis.call('INFO', 'replication')").arg(0).to_owned());
        asked.add_command(cmd("TIME").to_owned());
        let clock = Clock::system();
        let begun = clock.wall();
        let answers = self.inner.connection.run(WHAT, &asked).await?;
        let took = begun.micros_until(clock.wall());
        let [server, policy, script, time] = <[Value; 4]>::try_from(answers)
            .map_err(|_| StoreError::unavailable(WHAT, "an answer of another length than asked for"))?;
        let server = text(&server).unwrap_or_default();
        if let Some(version) = first_number(line(&server, "redis_version"))
            && version < OLDEST
        {
            let found = format!("it is version {version}, and must be Valkey, or Redis {OLDEST} or newer");
            return Err(StoreError::unusable(WHAT, found));
        }
        // As Redis and as Valkey call it.
        if ["redis_mode", "server_mode"].iter().any(|mode| line(&server, mode) == Some("cluster")) {
            let found = "it is one of the servers of a cluster, and this speaks to a single one: name a server that stands alone, or do without Valkey, and PostgreSQL \
                         keeps the rates";
            return Err(StoreError::unusable(WHAT, found));
        }
        let policy = pair(&policy).map(|(_, policy)| policy);
        if let Some(policy) = &policy
            && policy != "noeviction"
        {
            let found = format!("its maxmemory-policy is {policy}, which may delete counters: set it to noeviction");
            return Err(StoreError::unusable(WHAT, found));
        }
        let script = text(&script).unwrap_or_default();
        let Some(incarnation) = line(&script, "master_replid") else {
            let found =
                "scripts may not ask INFO there: allow it, or do without Valkey, and PostgreSQL keeps the rates";
            return Err(StoreError::unusable(WHAT, found));
        };
        self.inner.inspected.store(true, Ordering::Release);
        // From now on it grows old, so that what is used for the first time a little later is full.
        self.inner.incarnations.learn(incarnation).await;
        let there = pair(&time).and_then(|(seconds, micros)| {
            let seconds: i64 = seconds.parse().ok()?;
            Some(Timestamp::from_seconds(seconds).plus_micros(micros.parse().ok()?))
        });
        let middle = begun.plus_micros(i64::try_from(took / 2).unwrap_or(i64::MAX));
        let version = match line(&server, "valkey_version") {
            Some(version) => format!("Valkey {version}"),
            None => format!("Redis {}", line(&server, "redis_version").unwrap_or("of an unknown version")),
        };
        Ok(ValkeyReport {
            version,
            maxmemory_policy: policy,
            ahead_micros: there.unwrap_or(middle).as_micros().saturating_sub(middle.as_micros()),
            uncertain_micros: took / 2,
        })
    }
}

fn text(value: &Value) -> Option<String> {
    redis::from_redis_value_ref(value).ok()
}

fn pair(value: &Value) -> Option<(String, String)> {
    redis::from_redis_value_ref(value).ok()
}

fn line<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn first_number(version: Option<&str>) -> Option<u32> {
    version?.split('.').next()?.parse().ok()
}
