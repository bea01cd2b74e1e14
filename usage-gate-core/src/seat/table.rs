//! The seats of one process life, in a file that outlives it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::free_list::FreeList;
use super::layout::{
    BYTES_IN, BYTES_OUT, FREE, HEAD, HEADER_WORDS, QUOTA_WORDS, QUOTAS, SEAT_WORDS, SEQUENCE, STATE, SeatContents,
    TOKENS_IN, TOKENS_OUT, bills_bit, header, pack_units, unpack_units,
};
use crate::kernel::KernelBoot;
use crate::mapped::{Area, Word, Words};
use crate::model::StreamId;
use crate::store::QuotaUse;

/// The file's name.
pub(crate) const SEATS_FILE: &str = "seats.tab";
/// The most seats that a table has: 256 MiB of them.
pub(crate) const MOST_SEATS: usize = 1 << 20;

/// Seats that a process life hands out.
pub(crate) struct SeatTable {
    words: Words,
    free: FreeList,
    capacity: usize,
}

impl SeatTable {
    /// Takes the file over for a new life, or makes it. What an earlier life left in it is gone: [`recover`](super::DeadSeats::recover) comes first.
    ///
    /// # Errors
    /// What the system says, no space above all.
    pub(crate) fn start(area: &Area, seats: usize, stream: StreamId, kernel: KernelBoot) -> io::Result<Arc<Self>> {
        let capacity = seats.min(MOST_SEATS);
        let length = HEADER_WORDS.saturating_add(capacity.saturating_mul(SEAT_WORDS));
        let words = match area.open(SEATS_FILE) {
            Ok(words) if words.len() == length => words,
            Ok(_) => area.create(SEATS_FILE, length)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => area.create(SEATS_FILE, length)?,
            Err(error) => return Err(error),
        };
        // Without a valid header the seats mean nothing, so that a life that is killed in here leaves none of an earlier one behind.
        header::clear(&words);
        for seat in words.iter().skip(HEADER_WORDS).step_by(SEAT_WORDS) {
            if seat.load(Ordering::Relaxed) != FREE {
                seat.store(FREE, Ordering::Relaxed);
            }
        }
        header::write(&words, capacity, stream, kernel);
        let free = FreeList::new(u32::try_from(capacity).unwrap_or(0));
        Ok(Arc::new(Self { words, free, capacity }))
    }

    /// Takes a seat; `None` if all are taken.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Seat> {
        let index = self.free.pop()?;
        Some(Seat { table: Arc::clone(self), index, keep: false })
    }

    /// Seats that are taken, those among them that wait for their record to be written.
    pub(crate) fn taken(&self) -> usize {
        self.capacity.saturating_sub(self.free.free())
    }

    /// How often a seat was freed after its record was published: how many records there are of requests.
    pub(crate) fn settled(&self) -> u64 {
        self.free.counted()
    }

    /// Seats there are.
    pub(crate) const fn capacity(&self) -> usize {
        self.capacity
    }
}

impl fmt::Debug for SeatTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeatTable").field("taken", &self.taken()).field("of", &self.capacity).finish_non_exhaustive()
    }
}

/// The seat of one request.
///
/// Dropped before the request is forwarded, it is free again. From then on only [`free`](Self::free) frees it, once its record is published: a
/// seat whose record could not be written stays taken, and the next life of the process writes it.
#[derive(Debug)]
#[must_use]
pub(crate) struct Seat {
    table: Arc<SeatTable>,
    index: u32,
    /// Whether dropping leaves it taken.
    keep: bool,
}

impl Seat {
    fn words(&self) -> &[Word; SEAT_WORDS] {
        let start = HEADER_WORDS + self.index as usize * SEAT_WORDS;
        let words = self.table.words.get(start..).and_then(<[Word]>::first_chunk);
        words.expect("the list of free seats has none beyond the table's end")
    }

    /// Notes what a crash has to know. B1, B7: before anything of the request goes to the upstream.
    pub(crate) fn forward(&mut self, contents: &SeatContents<'_>) {
        let words = self.words();
        let state = contents.store(words);
        // Release: who sees the seat as forwarded sees its contents. A seat that a crash finds otherwise was never forwarded.
        words[STATE].store(state, Ordering::Release);
        self.keep = true;
    }

    /// Notes the status of the response and whether the route bills it. B2: before the head is released.
    pub(crate) fn head(&self, status: u16, bills: bool) {
        self.words()[HEAD].store(u64::from(status) | bills_bit(bills), Ordering::Release);
    }

    /// Notes the bytes of both bodies up to now; before they are released.
    pub(crate) fn progress(&self, bytes_in: u64, bytes_out: u64) {
        let words = self.words();
        // Relaxed: a store by the thread that goes on to release the bytes, and each number is right by itself.
        words[BYTES_IN].store(bytes_in, Ordering::Relaxed);
        words[BYTES_OUT].store(bytes_out, Ordering::Relaxed);
    }

    /// Notes the tokens counted up to now.
    pub(crate) fn tokens(&self, input: u64, output: u64) {
        let words = self.words();
        words[TOKENS_IN].store(input, Ordering::Relaxed);
        words[TOKENS_OUT].store(output, Ordering::Relaxed);
    }

    /// Notes that the request has taken more of a quota. What finds no place (a fifth lease) is forfeited in a crash.
    pub(crate) fn raise(&self, more: &QuotaUse) {
        for quota in self.words()[QUOTAS..].chunks_exact(QUOTA_WORDS) {
            let [lease, tag, amount] = quota else { continue };
            let known = tag.load(Ordering::Relaxed);
            if known == 0 {
                lease.store(more.lease, Ordering::Relaxed);
                amount.store(pack_units(more.period, more.units), Ordering::Relaxed);
                // Release: who sees the tag sees the rest.
                tag.store(more.counter.0, Ordering::Release);
                return;
            }
            if known == more.counter.0 && lease.load(Ordering::Relaxed) == more.lease {
                let (_, units) = unpack_units(amount.load(Ordering::Relaxed));
                amount.store(pack_units(more.period, units.saturating_add(more.units)), Ordering::Relaxed);
                return;
            }
        }
    }

    /// Notes the place of its record in the journal. Before the record is published.
    pub(crate) fn settle_at(&self, sequence: u64) {
        self.words()[SEQUENCE].store(sequence, Ordering::Release);
    }

    /// Frees the seat. After its record is published.
    pub(crate) fn free(mut self) {
        // Release: the record before it.
        self.words()[STATE].store(FREE, Ordering::Release);
        self.table.free.count(self.index);
        self.keep = false;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.keep {
            self.table.free.push(self.index);
        }
    }
}
