//! Time of the processor that this process and the stores have used, from `/proc`: the servers run on this machine.

use std::collections::HashMap;
use std::error::Error;
use std::ops::Sub;

use redis::Client;
use tokio_postgres::NoTls;

/// The kernel counts in these, whatever its clock.
const TICKS_A_SECOND: f64 = 100.0;

/// The processes that are looked at.
#[derive(Debug)]
pub struct Processes {
    postmaster: u32,
    valkey: u32,
}

/// Seconds of the processor.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    /// By this process.
    pub here: f64,
    /// By PostgreSQL, all of its processes.
    pub postgres: f64,
    /// By Valkey.
    pub valkey: f64,
}

impl Used {
    /// By all of them.
    #[must_use]
    pub fn sum(self) -> f64 {
        self.here + self.postgres + self.valkey
    }
}

impl Sub for Used {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            here: self.here - before.here,
            postgres: self.postgres - before.postgres,
            valkey: self.valkey - before.valkey,
        }
    }
}

/// What the kernel says of a process: its parent, ticks of its own, and ticks of children that have ended.
struct Stat {
    parent: u32,
    own: f64,
    ended: f64,
}

impl Stat {
    fn of(process: &str) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // Behind the name, which may hold anything.
        let fields: Vec<&str> = stat.rsplit(") ").next()?.split(' ').collect();
        let ticks = |at: usize| fields.get(at)?.parse::<u32>().ok().map(f64::from);
        let parent = fields.get(1)?.parse().ok()?;
        Some(Self { parent, own: ticks(11)? + ticks(12)?, ended: ticks(13)? + ticks(14)? })
    }
}

impl Processes {
    /// Finds the processes of two servers by asking them.
    ///
    /// # Errors
    /// If one does not answer, or is on another machine.
    pub async fn of(postgres: &str, valkey: &str) -> Result<Self, Box<dyn Error>> {
        let (client, connection) = tokio_postgres::connect(postgres, NoTls).await?;
        let driving = tokio::task::spawn(connection);
        let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
        let postmaster = Stat::of(&backend.to_string()).ok_or("PostgreSQL is not on this machine")?.parent;
        drop(client);
        driving.await??;
        let mut connection = Client::open(valkey)?.get_multiplexed_async_connection().await?;
        let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
        let found =
            info.lines().find_map(|line| line.strip_prefix("process_id:")).ok_or("Valkey does not say its id")?;
        let valkey = found.trim().parse()?;
        Stat::of(found.trim()).ok_or("Valkey is not on this machine")?;
        Ok(Self { postmaster, valkey })
    }

    /// What they have used so far.
    #[must_use]
    pub fn used(&self) -> Used {
        let ids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let all: HashMap<u32, Stat> = ids.filter_map(|id| Some((id, Stat::of(&id.to_string())?))).collect();
        let own = |id: u32| all.get(&id).map_or(0.0, |stat| stat.own);
        let postgres = all.iter().map(|(id, stat)| match stat {
            stat if *id == self.postmaster => stat.own + stat.ended,
            stat if stat.parent == self.postmaster => stat.own,
            _ => 0.0,
        });
        Used {
            here: own(std::process::id()) / TICKS_A_SECOND,
            postgres: postgres.sum::<f64>() / TICKS_A_SECOND,
            valkey: own(self.valkey) / TICKS_A_SECOND,
        }
    }
}
