//! What an operator should know of a server before a gate relies on it.

use super::PostgresStore;
use super::prepare::Preparation;
use crate::clock::Clock;
use crate::model::Timestamp;
use crate::store::StoreError;

/// The oldest server that is known to work.
pub const OLDEST_POSTGRES: u32 = 140_000;

/// What a PostgreSQL server is, and how it is set.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PostgresReport {
    /// Such as `15.18 (Debian 15.18-0+deb12u1)`.
    pub version: String,
    /// The same as a number, such as 150018.
    pub version_number: u32,
    /// The role that is signed in.
    pub role: String,
    /// Whether it may make tables in its schema, as a migration does.
    pub may_create: bool,
    /// Whether it is a replica, which takes no writes.
    pub is_replica: bool,
    /// The setting `synchronous_commit`: with `off` a crash of the server may forget what it has granted.
    pub synchronous_commit: String,
    /// Whether a standby has each commit before it is answered: then a failover forgets nothing.
    pub has_synchronous_standby: bool,
    /// Microseconds by which its clock is ahead of this machine's; negative if it is behind.
    pub ahead_micros: i64,
    /// By how much that may be wrong: half the time that the question took.
    pub uncertain_micros: u64,
}

impl PostgresStore {
    /// Asks a server what it is, before anything is made there.
    ///
    /// # Errors
    /// As [`PostgresOptions::open`](super::PostgresOptions::open), but for the schema.
    pub async fn look_at(url: &str) -> Result<PostgresReport, StoreError> {
        Self::options(url).connections(1).connect(Preparation::none())?.inspect().await
    }

    /// Asks the server what it is.
    ///
    /// # Errors
    /// As [`PostgresOptions::open`](super::PostgresOptions::open).
    pub async fn inspect(&self) -> Result<PostgresReport, StoreError> {
        const SQL: &str = "SELECT current_setting('server_version'), current_setting('server_version_num')::int8, current_user::text,
            has_schema_privilege(current_schema(), 'CREATE'), pg_is_in_recovery(), current_setting('synchronous_commit'),
            current_setting('synchronous_standby_names') <> '', floor(extract(epoch FROM clock_timestamp()) * 1000000)::int8";
        self.run("look at the server", async |client| {
            let clock = Clock::system();
            let asked = clock.wall();
            let row = client.query_typed_one(SQL, &[]).await?;
            let took = asked.micros_until(clock.wall());
            let there = Timestamp::from_micros(row.try_get(7)?);
            let middle = asked.plus_micros(i64::try_from(took / 2).unwrap_or(i64::MAX));
            let number: i64 = row.try_get(1)?;
            Ok(PostgresReport {
                version: row.try_get(0)?,
                version_number: u32::try_from(number).unwrap_or(0),
                role: row.try_get(2)?,
                may_create: row.try_get(3)?,
                is_replica: row.try_get(4)?,
                synchronous_commit: row.try_get(5)?,
                has_synchronous_standby: row.try_get(6)?,
                ahead_micros: there.as_micros().saturating_sub(middle.as_micros()),
                uncertain_micros: took / 2,
            })
        })
        .await
    }
}
