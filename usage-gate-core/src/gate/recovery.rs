//! The start of a process life, before anything is served: what earlier lives left is finished where they left it.
//!
//! 1. The folder is taken: its lock proves that whoever had it is dead.
//! 2. Each stream that was not sealed is: its end is found, seats get their records, and what leases count without a record is forfeited.
//! 3. This life's journal, seats and lease table begin.
//!
//! Where segments of a dead stream have already gone, nobody knows here which records leases had in them: nothing is forfeited then, and what leases count
//! beyond the records that are left is only counted and logged.
//!
//! Everything up to the seal goes into the dead stream, and can be done again if this process is killed in the middle.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{BuildError, JournalConfig};
use crate::journal::{DeadStream, Files, Journal, JournalOptions, LifeEnd, Schema, Stream, of_record};
use crate::kernel::KernelBoot;
use crate::lease::{Found, LeaseTable, reconcile};
use crate::mapped::{Area, FolderLock};
use crate::model::{StreamId, Timestamp};
use crate::seat::{DeadLife, DeadSeats, SeatTable};
use crate::store::UsageRecord;

/// For the folder: who had it may be ending.
const PATIENCE: Duration = Duration::from_secs(10);
/// The folder in the data directory.
const FOLDER: &str = "journal";

/// What is to be started.
pub(crate) struct Start {
    pub(crate) node: String,
    pub(crate) stream: StreamId,
    pub(crate) seats: usize,
    pub(crate) schema: Schema,
    pub(crate) now: Timestamp,
}

/// What a life stands on.
pub(crate) struct Ground {
    pub(crate) journal: Arc<Journal>,
    pub(crate) seats: Arc<SeatTable>,
    pub(crate) table: Arc<LeaseTable>,
    /// Leases that earlier lives left in it.
    pub(crate) found: Vec<Found>,
    /// Streams of earlier lives, all of them sealed.
    pub(crate) earlier: Vec<Stream>,
}

impl Start {
    /// Does all of it, in a folder of the data directory, or in memory if there is none. Blocks on the disk.
    pub(super) fn run(self, data_dir: Option<PathBuf>, config: &JournalConfig) -> Result<Ground, BuildError> {
        let kernel = KernelBoot::current();
        let Some(data_dir) = data_dir else { return self.run_in(&Area::memory(), config.options(true), kernel) };
        let folder = data_dir.join(FOLDER);
        let area = Area::folder(&folder).map_err(BuildError::journal("make its folder"))?;
        let lock = FolderLock::take(&folder, PATIENCE)?;
        let ground = self.run_in(&area, config.options(false), kernel)?;
        ground.journal.hold(lock);
        Ok(ground)
    }

    /// Steps 2 and 3, for whoever has the area to itself.
    pub(crate) fn run_in(self, area: &Area, options: JournalOptions, kernel: KernelBoot) -> Result<Ground, BuildError> {
        let mut files = Files::open(area.clone()).map_err(BuildError::journal("read its folder"))?;
        for name in files.damaged() {
            tracing::error!(
                file = name,
                "a file of the journal is damaged: what is in it is not counted; it is left as it is"
            );
        }
        let (table, found) = LeaseTable::open(area, &self.node, self.stream, kernel)?;
        let seats = DeadSeats::open(area, kernel).map_err(BuildError::journal("read the seats"))?;
        for id in files
            .streams()
            .iter()
            .filter(|stream| stream.sealed().is_none())
            .map(|stream| stream.id)
            .collect::<Vec<_>>()
        {
            let seats = seats.as_ref().filter(|seats| seats.stream() == id);
            let recovered = recover(&mut files, id, seats, &found, &options, self.now);
            let Recovered { records, forfeited } =
                recovered.map_err(BuildError::journal("finish what an earlier process left"))?;
            tracing::info!(stream = %id, records, forfeited_units = forfeited, "finished what an earlier process left");
        }
        drop(seats);
        let seats =
            SeatTable::start(area, self.seats, self.stream, kernel).map_err(BuildError::journal("make the seats"))?;
        let journal = Journal::open(files, options, self.stream, &self.schema, self.now);
        let journal = Arc::new(journal.map_err(BuildError::journal("begin"))?);
        let earlier = journal.earlier_streams();
        Ok(Ground { journal, seats, table, found, earlier })
    }
}

/// What recovery of one stream found.
struct Recovered {
    records: usize,
    forfeited: u64,
}

/// Finishes one stream.
fn recover(
    files: &mut Files,
    id: StreamId,
    seats: Option<&DeadSeats>,
    leases: &[Found],
    options: &JournalOptions,
    now: Timestamp,
) -> io::Result<Recovered> {
    // Seats of this kernel prove that it went on; without them nobody knows.
    let ended = if seats.is_some() { LifeEnd::Killed } else { LifeEnd::PowerLost };
    let Some(dead) = DeadStream::open(files, id, ended, options.segment_bytes)? else {
        return Ok(Recovered { records: 0, forfeited: 0 });
    };
    let schema = dead.schema()?;
    let dead = RefCell::new(dead);
    let append = |record: &UsageRecord, placed: &dyn Fn(u64)| {
        let item = of_record(record, &schema).encode();
        let mut dead = dead.borrow_mut();
        placed(dead.place(item.slots())?);
        // The seal makes it survive power loss, before anything is served; and after one seats are not trusted.
        dead.append(&item).map(|_| ())
    };
    let records = match seats {
        None => 0,
        Some(seats) => seats.recover(&mut DeadLife {
            contains: &|sequence, request| dead.borrow().contains(sequence, request),
            route: &|route| schema.route(route),
            meters: &schema.meters,
            publish: &mut |record, placed| append(&record, placed),
        })?,
    };
    let mut cited: HashMap<u64, i64> = HashMap::new();
    for record in dead.borrow().records() {
        for quota in record?.quotas {
            let sum = cited.entry(quota.lease).or_default();
            *sum = sum.saturating_add(quota.units);
        }
    }
    let mut forfeited = 0_u64;
    let cut = dead.borrow().is_cut();
    for forfeit in reconcile(leases, &cited, id) {
        if cut {
            metrics::counter!("usage_gate_drift_units").increment(forfeit.units.unsigned_abs());
            tracing::warn!(
                stream = %id,
                units = forfeit.units,
                "units of leases differ from records, some of which may have gone with older segments: they are not forfeited"
            );
            continue;
        }
        forfeited = forfeited.saturating_add(u64::try_from(forfeit.units).unwrap_or(0));
        append(&forfeit.record(&schema.meters, now), &|_| {})?;
    }
    dead.into_inner().seal()?;
    Ok(Recovered { records, forfeited })
}
