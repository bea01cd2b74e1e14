//! The schema: numbered steps, each in a transaction of its own, under a lock that other nodes wait for.

use deadpool_postgres::Client;
use tokio_postgres::types::Type;

use super::fault::Fault;
use crate::store::StoreError;
use crate::store::migrate::{Applied, Migration, next};

const MIGRATIONS: [Migration; 5] = [
    Migration { version: 1, name: "first", sql: include_str!("migrations/0001_first.sql") },
    Migration { version: 2, name: "quotas", sql: include_str!("migrations/0002_quotas.sql") },
    Migration { version: 3, name: "usage", sql: include_str!("migrations/0003_usage.sql") },
    Migration { version: 4, name: "tokens", sql: include_str!("migrations/0004_tokens.sql") },
    Migration { version: 5, name: "rates", sql: include_str!("migrations/0005_rates.sql") },
];

/// Any number that nobody else takes: `usagegat` in ASCII.
const LOCK: i64 = 0x7573_6167_6567_6174;

pub(super) async fn migrate(client: &mut Client, may_change: bool) -> Result<(), Fault> {
    // One more round than there are migrations finds nothing left to do.
    for _ in 0..=MIGRATIONS.len() {
        let step = client.transaction().await?;
        // Migrations may take longer than a call.
        step.batch_execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0").await?;
        // The lock is taken before reading: of nodes that start at once one migrates, the others find it done.
        step.query_typed("SELECT pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)]).await?;
        step.batch_execute(
            "CREATE TABLE IF NOT EXISTS schema_migration (version int4 PRIMARY KEY, name text NOT NULL, checksum text NOT NULL)",
        )
        .await?;
        let applied = step.query_typed("SELECT version, checksum FROM schema_migration ORDER BY version", &[]).await?;
        let applied = applied.iter().map(|row| {
            let version: i32 = row.try_get(0)?;
            Ok(Applied { version: version.unsigned_abs(), checksum: row.try_get(1)? })
        });
        let applied = applied.collect::<Result<Vec<Applied>, tokio_postgres::Error>>()?;
        let Some(migration) = next(&MIGRATIONS, &applied)? else { break };
        if !may_change {
            return Err(StoreError::unusable(
                "open the database",
                "its schema is of an earlier version: `usage-gate migrate --config …` brings it up to date, or `serve`, if store.migrate is true",
            )
            .into());
        }
        step.batch_execute(migration.sql).await?;
        step.query_typed(
            "INSERT INTO schema_migration (version, name, checksum) VALUES ($1, $2, $3)",
            &[
                (&i32::try_from(migration.version).unwrap_or(i32::MAX), Type::INT4),
                (&migration.name, Type::TEXT),
                (&migration.checksum(), Type::TEXT),
            ],
        )
        .await?;
        step.commit().await?;
    }
    Ok(())
}
