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
    pub(crate) fn take(&self) -> Option<Seat> {
        self.free.pop().map(Seat)
    }

    /// What is noted in a seat.
    pub(crate) fn at(&self, seat: &Seat) -> Notes<'_> {
        let start = HEADER_WORDS + seat.0 as usize * SEAT_WORDS;
        let words = self.words.get(start..).and_then(<[Word]>::first_chunk);
        Notes(words.expect("the list of free seats has none beyond the table's end"))
    }

    /// Gives back a seat whose request is not forwarded.
    pub(crate) fn leave(&self, seat: Seat) {
        self.free.push(seat.0);
    }

    /// Frees a seat, after its record is published.
    pub(crate) fn free(&self, seat: Seat) {
        // Release: the record before it.
        self.at(&seat).0[STATE].store(FREE, Ordering::Release);
        self.free.count(seat.0);
        self.free.push(seat.0);
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

/// The seat of one request: its holder has it alone.
///
/// It is given back to its table. One that is dropped stays taken, and if its request was forwarded, the next life of the process writes its record.
#[derive(Debug)]
#[must_use = "a seat that is not given back stays taken"]
pub(crate) struct Seat(u32);

/// What a crash has to know of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Notes<'a>(&'a [Word; SEAT_WORDS]);

impl Notes<'_> {
    /// Notes all that is known at the door. B1, B7: before anything of the request goes to the upstream.
    pub(crate) fn forward(self, contents: &SeatContents<'_>) {
        let state = contents.store(self.0);
        // Release: who sees the seat as forwarded sees its contents. A seat that a crash finds otherwise was never forwarded.
        self.0[STATE].store(state, Ordering::Release);
    }

    /// Notes the status of the response and whether the route bills it. B2: before the head is released.
    pub(crate) fn head(self, status: u16, bills: bool) {
        self.0[HEAD].store(u64::from(status) | bills_bit(bills), Ordering::Release);
    }

    /// Notes the bytes of both bodies up to now; before they are released.
    pub(crate) fn progress(self, bytes_in: u64, bytes_out: u64) {
        // Relaxed: a store by the thread that goes on to release the bytes, and each number is right by itself.
        self.0[BYTES_IN].store(bytes_in, Ordering::Relaxed);
        self.0[BYTES_OUT].store(bytes_out, Ordering::Relaxed);
    }

    /// Notes the tokens counted up to now.
    pub(crate) fn tokens(self, input: u64, output: u64) {
        self.0[TOKENS_IN].store(input, Ordering::Relaxed);
        self.0[TOKENS_OUT].store(output, Ordering::Relaxed);
    }

    /// Notes that the request has taken more of a quota. What finds no place (a fifth lease) is forfeited in a crash.
    pub(crate) fn raise(self, more: &QuotaUse) {
        for quota in self.0[QUOTAS..].chunks_exact(QUOTA_WORDS) {
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
    pub(crate) fn settle_at(self, sequence: u64) {
        self.0[SEQUENCE].store(sequence, Ordering::Release);
    }
}
