//! The lease table: every lease of this node, in files that outlive the process.
//!
//! Requests spend on a word of it, so that the decrement itself survives a `kill -9`, and the next life of the process goes on with what is left. The
//! table has an id, under which the node registers at the authority. A table that cannot be trusted (after a reboot it may be older than what
//! was spent; files are missing) is begun anew under another id, and what the authority has open for the old one counts as spent (A6).
//!
//! Entries lie in files of 1,024, behind a block of their own that says whose they are. Entries for leases are taken by the lease driver, off the
//! request path. A request takes one only for a debt, and makes no file for it: the driver keeps some free. They come back when the last request that
//! holds units of them has ended.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use super::left::Left;
use super::slot::{Granted, Owing, Place, SLOT_WORDS, TableEntry};
use crate::kernel::KernelBoot;
use crate::mapped::{Area, Word, Words};
use crate::model::StreamId;
use crate::store::{CounterId, LeaseId, TableId};

/// Entries of a file.
const ENTRIES: usize = if cfg!(test) { 16 } else { 1_024 };
/// Entries that are kept free for debts: more than counters come to be between two rounds of the driver.
const KEPT_FREE: usize = ENTRIES / 2;
/// Files, at most: a million leases.
const MOST_FILES: usize = 1_024;
const FILE_WORDS: usize = (ENTRIES + 1) * SLOT_WORDS;

/// `uglease` and the version of the layout.
const MAGIC: u64 = u64::from_be_bytes(*b"uglease\x01");
const TABLE: usize = 1;
const KERNEL: usize = 3;
const NODE: usize = 5;
/// How many files there are; in the first one.
const FILES: usize = 6;

/// Why the lease table cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// It was written by a node of another name.
    #[error(
        "lease table belongs to another node, not to `{0}`: set the node's name as it was, or remove the leases-*.tab files"
    )]
    OtherNode(String),
    /// The system refuses.
    #[error("lease table cannot be opened")]
    Io(#[from] io::Error),
}

/// The leases of a node.
#[derive(Debug)]
pub(crate) struct LeaseTable {
    area: Area,
    id: TableId,
    kernel: KernelBoot,
    node: u64,
    /// Lower half of this life's stream.
    life: u64,
    files: Mutex<Files>,
    /// Held while a file is made.
    growing: Mutex<()>,
    /// Whether it was said that there is no room for leases, and none for debts.
    full_told: AtomicBool,
    debts_told: AtomicBool,
}

#[derive(Debug, Default)]
struct Files {
    all: Vec<Words>,
    /// Free entries, the last one first.
    free: Vec<usize>,
}

/// An entry that an earlier life left.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) slot: Slot,
    pub(crate) entry: TableEntry,
}

impl LeaseTable {
    /// Opens the table for a new life, or begins one. Gives the entries that are not free.
    ///
    /// # Errors
    /// [`TableError`].
    pub(crate) fn open(
        area: &Area,
        node: &str,
        life: StreamId,
        kernel: KernelBoot,
    ) -> Result<(Arc<Self>, Vec<Found>), TableError> {
        let hash = Sha256::digest(node.as_bytes()).iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte));
        let (id, files, entries) = match read(area, kernel)? {
            Some(known) if known.node != hash => return Err(TableError::OtherNode(node.to_owned())),
            Some(known) => (known.id, known.files, known.entries),
            None => {
                let id = TableId::generate();
                (id, vec![begin(area, id, kernel, hash)?], Vec::new())
            }
        };
        let held: std::collections::HashSet<usize> = entries.iter().map(|(index, ..)| *index).collect();
        let free = (0..files.len().saturating_mul(ENTRIES)).rev().filter(|index| !held.contains(index)).collect();
        let table = Arc::new(Self {
            area: area.clone(),
            id,
            kernel,
            node: hash,
            life: life.tag(),
            files: Mutex::new(Files { all: files, free }),
            growing: Mutex::default(),
            full_told: AtomicBool::new(false),
            debts_told: AtomicBool::new(false),
        });
        let found = entries.into_iter().map(|(index, place, entry)| Found { slot: table.slot(index, place), entry });
        let found = found.collect();
        Ok((table, found))
    }

    /// What the node registers under.
    pub(crate) const fn id(&self) -> TableId {
        self.id
    }

    /// Takes an entry for a lease that is about to be asked for; `None` if there is no room, which is logged.
    pub(crate) fn ask(self: &Arc<Self>, lease: LeaseId, counter: &CounterId) -> Option<Slot> {
        self.keep_free(1);
        let slot = self.free_slot();
        if slot.is_none() {
            metrics::counter!("usage_gate_lease_table_full_total").increment(1);
        }
        let named = named(slot?, |place| place.ask(lease, counter));
        if named.is_none() {
            tracing::error!(%counter, "the names of a limit and its meter have at most 64 bytes: it cannot be leased");
        }
        named
    }

    /// Takes an entry for a debt, if one is free; without a system call.
    pub(crate) fn owe(self: &Arc<Self>, lease: LeaseId, counter: &CounterId, owing: &Owing) -> Option<Slot> {
        let slot = self.free_slot().and_then(|slot| named(slot, |place| place.owe(lease, counter, owing, self.life)));
        if is_news(&self.debts_told, slot.is_none()) {
            tracing::error!(%counter, "there is no room to note what is spent without a lease");
        }
        slot
    }

    /// Makes room for so many leases, and for debts, ahead of them.
    pub(crate) fn make_room(&self, leases: usize) {
        self.keep_free(leases.saturating_add(KEPT_FREE));
    }

    fn free_slot(self: &Arc<Self>) -> Option<Slot> {
        let mut files = self.files();
        let index = files.free.pop()?;
        let place = Place::new(files.all.get(index / ENTRIES)?, first_word(index))?;
        drop(files);
        Some(self.slot(index, place))
    }

    /// Adds a file if fewer entries than this are free. What goes wrong is logged once until it goes well.
    fn keep_free(&self, entries: usize) {
        let one_at_a_time = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.files().free.len() >= entries {
            return;
        }
        let grown = self.grow();
        drop(one_at_a_time);
        let news = is_news(&self.full_told, grown.is_err());
        if let Err(error) = grown
            && news
        {
            tracing::error!(error = &error as &dyn std::error::Error, "there is no room for more leases");
        }
    }

    /// Adds a file. Who takes entries of others does not wait for it.
    fn grow(&self) -> io::Result<()> {
        let number = self.files().all.len();
        if number >= MOST_FILES {
            return Err(io::Error::other("the lease table has its largest size"));
        }
        let words = self.area.create(&file_name(number), FILE_WORDS)?;
        write_header(&words, self.id, self.kernel, self.node);
        let mut files = self.files();
        // Counted once it is there: a file that is missing later is noticed, one too many is not looked at.
        if let Some(count) = files.all.first().and_then(|first| first.get(FILES)) {
            count.store(u64::try_from(number + 1).unwrap_or(0), Ordering::Release);
        }
        files.all.push(words);
        files.free.extend((number * ENTRIES..(number + 1) * ENTRIES).rev());
        Ok(())
    }

    fn slot(self: &Arc<Self>, index: usize, place: Place) -> Slot {
        Slot { table: Arc::clone(self), place, index, released: AtomicBool::new(false) }
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        // Every critical section leaves the lists whole.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entry of one lease. Dropped, it stays in the table, for the next life; once [released](Self::release) it is free again.
#[derive(Debug)]
#[must_use]
pub(crate) struct Slot {
    table: Arc<LeaseTable>,
    place: Place,
    index: usize,
    released: AtomicBool,
}

impl Slot {
    /// What is left of the lease.
    pub(super) fn left(&self) -> Left<'_> {
        self.place.left()
    }

    /// Notes what was granted, before anything is spent of it.
    pub(crate) fn open(&self, granted: &Granted) {
        self.place.open(granted, self.table.life);
    }

    /// Begins the spending of this life. `used` is what was spent before it.
    pub(crate) fn take_over(&self, used: u64) {
        self.place.rebase(used, self.table.life);
    }

    /// The authority has closed the lease, or has none: the entry is free when this is dropped.
    ///
    /// Not before: a request in flight may hold units of it, and what a crash leaves of those is forfeited by this entry.
    pub(crate) fn release(&self) {
        // Release pairs with the load in `drop` of another thread.
        self.released.store(true, Ordering::Release);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.released.load(Ordering::Acquire) {
            self.place.free();
            self.table.files().free.push(self.index);
        }
    }
}

/// Whether there is no room since now: to be said once until there is.
fn is_news(told: &AtomicBool, full: bool) -> bool {
    told.swap(full, Ordering::Relaxed) != full && full
}

/// The entry with what is written to it; `None`, and free again, if a name is too long.
fn named(slot: Slot, write: impl FnOnce(&Place) -> bool) -> Option<Slot> {
    let named = write(&slot.place);
    if !named {
        slot.release();
    }
    named.then_some(slot)
}

fn file_name(number: usize) -> String {
    format!("leases-{number:04}.tab")
}

/// The first word of an entry in its file, behind the header.
const fn first_word(index: usize) -> usize {
    (index % ENTRIES + 1) * SLOT_WORDS
}

/// A table that can be trusted.
struct Known {
    id: TableId,
    node: u64,
    files: Vec<Words>,
    entries: Vec<(usize, Place, TableEntry)>,
}

/// Reads the table; `None` if there is none, or one that cannot be trusted.
fn read(area: &Area, kernel: KernelBoot) -> io::Result<Option<Known>> {
    let Some(first) = open_file(area, 0)? else { return Ok(None) };
    let Some(header) = Header::of(&first).filter(|header| header.kernel == kernel) else { return Ok(None) };
    let mut known = Known { id: header.id, node: header.node, files: vec![first], entries: Vec::new() };
    for number in 1..header.files {
        match open_file(area, number)? {
            Some(words) if Header::of(&words).is_some_and(|next| (next.id, next.kernel) == (header.id, kernel)) => {
                known.files.push(words);
            }
            _ => return Ok(None),
        }
    }
    for (number, words) in known.files.iter().enumerate() {
        for index in number * ENTRIES..(number + 1) * ENTRIES {
            let Some(place) = Place::new(words, first_word(index)) else { return Ok(None) };
            match place.read() {
                Ok(None) => {}
                Ok(Some(entry)) => known.entries.push((index, place, entry)),
                Err(super::slot::Senseless) => return Ok(None),
            }
        }
    }
    Ok(Some(known))
}

/// The id of the table that an area has, whether it can be trusted or not; `None` if there is none.
#[cfg(all(feature = "sqlite", feature = "postgres"))]
pub(crate) fn table_id(area: &Area) -> io::Result<Option<TableId>> {
    match area.copy(&file_name(0)) {
        Ok(words) => Ok(Header::of(&words).map(|header| header.id)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the table of an area says, for tests.
#[cfg(test)]
pub(crate) fn table_entries(area: &Area, kernel: KernelBoot) -> Vec<TableEntry> {
    let known = read(area, kernel).unwrap();
    known.into_iter().flat_map(|known| known.entries).map(|(.., entry)| entry).collect()
}

/// A file of the table; `None` if it is not there or has another size.
fn open_file(area: &Area, number: usize) -> io::Result<Option<Words>> {
    match area.open(&file_name(number)) {
        Ok(words) => Ok((words.len() == FILE_WORDS).then_some(words)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Begins a table in place of what is there.
fn begin(area: &Area, id: TableId, kernel: KernelBoot, node: u64) -> io::Result<Words> {
    // A kill in here leaves the old first file, with its count of files that are not there, or one without a header: neither is trusted, unless it
    // was the only file and nothing has changed yet.
    for name in area.list()?.iter().rev().filter(|name| name.starts_with("leases-") && **name != file_name(0)) {
        area.remove(name)?;
    }
    let first = area.create(&file_name(0), FILE_WORDS)?;
    if let Some(count) = first.get(FILES) {
        count.store(1, Ordering::Relaxed);
    }
    write_header(&first, id, kernel, node);
    Ok(first)
}

fn write_header(words: &[Word], id: TableId, kernel: KernelBoot, node: u64) {
    let Some(header) = words.first_chunk::<SLOT_WORDS>() else { return };
    for (at, value) in [(TABLE, id.as_u128()), (KERNEL, kernel.as_u128())] {
        let [high, low] = [value >> 64, value & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or(0));
        header[at].store(high, Ordering::Relaxed);
        header[at + 1].store(low, Ordering::Relaxed);
    }
    header[NODE].store(node, Ordering::Relaxed);
    // Release: the magic makes the rest valid.
    header[0].store(MAGIC, Ordering::Release);
}

struct Header {
    id: TableId,
    kernel: KernelBoot,
    node: u64,
    files: usize,
}

impl Header {
    fn of(words: &[Word]) -> Option<Self> {
        let header = words.first_chunk::<SLOT_WORDS>()?;
        if header[0].load(Ordering::Acquire) != MAGIC {
            return None;
        }
        let word = |at: usize| header[at].load(Ordering::Relaxed);
        let wide = |at: usize| u128::from(word(at)) << 64 | u128::from(word(at + 1));
        Some(Self {
            id: TableId::from_u128(wide(TABLE)),
            kernel: KernelBoot::from_u128(wide(KERNEL)),
            node: word(NODE),
            files: usize::try_from(word(FILES)).ok().filter(|files| *files <= MOST_FILES)?,
        })
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Per, TenantId, Timestamp};
    use crate::store::Subject;

    const KERNEL_BOOT: KernelBoot = KernelBoot::from_u128(3);

    fn counter() -> CounterId {
        CounterId {
            tenant: TenantId::generate(),
            subject: Subject::Tenant,
            limit: "monthly".into(),
            meter: "requests".into(),
            per: Per::Month,
        }
    }

    fn open(area: &Area, node: &str, kernel: u128) -> Result<(Arc<LeaseTable>, Vec<Found>), TableError> {
        LeaseTable::open(area, node, StreamId::generate(), KernelBoot::from_u128(kernel))
    }

    #[test]
    fn a_table_grows_and_is_there_in_the_next_life() {
        let folder = std::env::temp_dir().join(format!("usage-gate-leases-{}", uuid::Uuid::now_v7()));
        let area = Area::folder(&folder).unwrap();
        let (table, found) = open(&area, "a", 3).unwrap();
        assert!(found.is_empty());
        let slots: Vec<Slot> = (0..ENTRIES + 5).map(|_| table.ask(LeaseId::generate(), &counter()).unwrap()).collect();
        assert_eq!(area.list().unwrap(), ["leases-0000.tab", "leases-0001.tab"]);
        for slot in slots.iter().skip(2) {
            slot.release();
        }
        drop(slots);
        let id = table.id();
        drop(table);

        let (table, found) = open(&area, "a", 3).unwrap();
        assert_eq!((table.id(), found.len()), (id, 2));
        let slots: Vec<Slot> =
            (0..2 * ENTRIES - 2).map(|_| table.ask(LeaseId::generate(), &counter()).unwrap()).collect();
        assert_eq!(area.list().unwrap().len(), 2, "what was released is taken again");
        drop((slots, found, table));

        // A file that is missing, and a reboot.
        area.remove("leases-0001.tab").unwrap();
        let (table, found) = open(&area, "a", 3).unwrap();
        assert!(table.id() != id && found.is_empty());
        let id = table.id();
        let (table, _) = open(&area, "a", 4).unwrap();
        assert_ne!(table.id(), id);
        assert!(matches!(open(&area, "b", 4), Err(TableError::OtherNode(_))));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_debt_takes_what_is_free_and_makes_no_file() {
        let area = Area::memory();
        let (table, _) = open(&area, "a", 3).unwrap();
        let owing = Owing {
            period: crate::period::Period { start: Timestamp::from_micros(0), end: Timestamp::from_micros(1) },
            cap: 1,
            cap_version: 1,
        };
        let owe = || table.owe(LeaseId::generate_debt(), &counter(), &owing);
        let debts: Vec<Slot> = std::iter::from_fn(owe).collect();
        assert_eq!((debts.len(), area.list().unwrap().len()), (ENTRIES, 1));
        table.make_room(0);
        assert_eq!(area.list().unwrap().len(), 2);
        assert!(owe().is_some());
        // One that was told is free for the next.
        debts.iter().for_each(Slot::release);
        drop(debts);
        assert_eq!(std::iter::from_fn(owe).count(), 2 * ENTRIES - 1);
    }

    #[test]
    fn an_entry_is_not_taken_again_while_a_request_holds_it() {
        let (table, _) = LeaseTable::open(&Area::memory(), "a", StreamId::generate(), KERNEL_BOOT).unwrap();
        let slot = table.ask(LeaseId::generate(), &counter()).unwrap();
        slot.release();
        let other = table.ask(LeaseId::generate(), &counter()).unwrap();
        assert_ne!(other.index, slot.index);
        let index = slot.index;
        drop(slot);
        assert_eq!(table.ask(LeaseId::generate(), &counter()).unwrap().index, index);
    }
}
