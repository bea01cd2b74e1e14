//! What the seats of a dead life say of requests that it left unsettled.
//!
//! The same steps as in life, into the stream of the life that has died: the seat gets the place of its record, the record is published, the seat is
//! freed. So recovery may be killed anywhere, and the next one goes on.
//!
//! | the seat | its record |
//! | --- | --- |
//! | was never forwarded | none: what it took of leases is forfeited |
//! | has a place that holds its record | none: it is only freed |
//! | of a test key | `test` |
//! | has no head | `indeterminate`: the route's fixed cost |
//! | has a head that the route does not bill | `unbilled` |
//! | has a head that the route bills | `aborted`: what was released up to the crash |
//!
//! Of units the seat knows fixed costs, bytes and tokens. `duration_ms` is 0, because nobody knows when the process died. What a header or the
//! handler stated is not known either: the fixed cost stands in its place, or nothing.
//!
//! Units of quotas are cited as they were held: nobody settled them, and leases count them so.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::layout::{
    AT, BYTES_IN, BYTES_OUT, FREE, HEADER_WORDS, KEY, REQUEST, Read, SEAT_WORDS, SEQUENCE, STATE, TENANT, TOKENS_IN,
    TOKENS_OUT, USER, header,
};
use super::table::SEATS_FILE;
use crate::kernel::KernelBoot;
use crate::mapped::{Area, Word, Words};
use crate::model::{Environment, KeyId, MeterIndex, Meters, RequestId, StreamId, TenantId, Timestamp, UserId};
use crate::store::{Measured, Outcome, QuotaUse, UnitTotals, UsageRecord};

/// The seats of a life that has died.
#[derive(Debug)]
pub(crate) struct DeadSeats {
    words: Words,
    stream: StreamId,
    seats: usize,
}

/// Finds a place in the dead stream, tells it to the second argument, then publishes the record there.
pub(crate) type Publish<'a> = dyn FnMut(UsageRecord, &dyn Fn(u64)) -> io::Result<()> + 'a;

/// What recovery asks of the dead life's journal and of the present configuration.
pub(crate) struct DeadLife<'a> {
    /// Whether a place of the dead stream holds a valid record of this request. The request is asked for too, because a place that was given out and
    /// never filled must not be taken for another seat's record.
    pub(crate) contains: &'a dyn Fn(u64, RequestId) -> io::Result<bool>,
    /// The name of a route by its position.
    pub(crate) route: &'a dyn Fn(u16) -> Arc<str>,
    pub(crate) meters: &'a Meters,
    pub(crate) publish: &'a mut Publish<'a>,
}

impl std::fmt::Debug for DeadLife<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLife").finish_non_exhaustive()
    }
}

impl DeadSeats {
    /// Opens what the last life left; `None` if there is nothing, or nothing that can be trusted.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn open(area: &Area, kernel: KernelBoot) -> io::Result<Option<Self>> {
        let words = match area.open(SEATS_FILE) {
            Ok(words) => words,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // After a power loss a seat may be older than its record, which would be written a second time.
        let header = header::read(&words).filter(|header| header.kernel == kernel);
        Ok(header.map(|header| Self { words, stream: header.stream, seats: header.seats }))
    }

    /// The stream that the records belong into.
    pub(crate) const fn stream(&self) -> StreamId {
        self.stream
    }

    /// Publishes what is missing and frees every seat. Gives the number of records.
    ///
    /// # Errors
    /// What the journal says; then it is to be called again.
    pub(crate) fn recover(&self, life: &mut DeadLife<'_>) -> io::Result<usize> {
        let mut published = 0;
        for words in self.words[HEADER_WORDS..].chunks_exact(SEAT_WORDS).take(self.seats) {
            let Some(words) = words.first_chunk() else { continue };
            let seat = Read(words);
            if !seat.is_forwarded() {
                continue;
            }
            let (sequence, request) = (seat.word(SEQUENCE), RequestId::from_u128(seat.wide(REQUEST)));
            if sequence == 0 || !(life.contains)(sequence, request)? {
                let record = record(&seat, life);
                (life.publish)(record, &|place| place_at(words, place))?;
                published += 1;
            }
            // Release: after the record.
            words[STATE].store(FREE, Ordering::Release);
        }
        Ok(published)
    }
}

/// What the seats of a life say now that is held of quotas, for those who only look.
///
/// # Errors
/// What the system says.
pub(crate) fn held(area: &Area) -> io::Result<Vec<QuotaUse>> {
    let words = match area.copy(SEATS_FILE) {
        Ok(words) => words,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let seats = words.get(HEADER_WORDS..).unwrap_or_default().chunks_exact(SEAT_WORDS);
    let forwarded = seats.filter_map(|words| words.first_chunk().map(Read)).filter(Read::is_forwarded);
    Ok(forwarded.flat_map(|seat| seat.quotas().collect::<Vec<_>>()).collect())
}

fn place_at(words: &[Word; SEAT_WORDS], sequence: u64) {
    words[SEQUENCE].store(sequence, Ordering::Release);
}

fn record(seat: &Read<'_>, life: &DeadLife<'_>) -> UsageRecord {
    let tokens = [("input_tokens", seat.word(TOKENS_IN)), ("output_tokens", seat.word(TOKENS_OUT))];
    let mut units = UnitTotals::default();
    let costs: Vec<(usize, u64)> = seat.costs().collect();
    for (meter, name) in life.meters.iter() {
        let fixed = costs.iter().find(|(position, _)| *position == meter.position());
        let counted = tokens.iter().find(|(of, counted)| *of == name && *counted > 0);
        // As in settlement, what was counted takes the place of a fixed cost.
        if let Some(known) = counted.map(|(_, units)| *units).or_else(|| fixed.map(|(_, units)| *units)) {
            units.set(meter, known);
        }
    }
    units.set(MeterIndex::BYTES_IN, seat.word(BYTES_IN));
    units.set(MeterIndex::BYTES_OUT, seat.word(BYTES_OUT));
    let outcome = match seat.status() {
        _ if seat.environment() == Environment::Test => Outcome::Test,
        0 => Outcome::Indeterminate,
        _ if seat.is_billed() => Outcome::Aborted,
        _ => Outcome::Unbilled,
    };
    let user = seat.wide(USER);
    UsageRecord {
        sequence: 0,
        request: RequestId::from_u128(seat.wide(REQUEST)),
        at: Timestamp::from_micros(seat.word(AT).cast_signed()),
        tenant: TenantId::from_u128(seat.wide(TENANT)),
        user: (user != 0).then(|| UserId::from_u128(user)),
        key: KeyId::from_u128(seat.wide(KEY)),
        environment: seat.environment(),
        route: (life.route)(seat.route()),
        status: seat.status(),
        outcome,
        units,
        measured: if tokens.iter().any(|(_, counted)| *counted > 0) { Measured::Counted } else { Measured::Exact },
        bucket: seat.bucket(),
        quotas: seat.quotas().collect(),
        retry: None,
    }
}
