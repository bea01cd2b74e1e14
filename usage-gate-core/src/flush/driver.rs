//! The task that ships: does what the [flusher](super::flusher) says, with the journal at one end and the sink at the other. It decides nothing.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::flusher::{Effect, Event, Flusher, Range};
use crate::clock::Clock;
use crate::journal::{Recorder, Refusals, Refused, Samples, Stream, Unrecorded, of_record};
use crate::metrics::Metrics;
use crate::model::{StreamId, Timestamp};
use crate::store::{Batch, StoreError, StoreErrorKind, UsageSink};

/// Items in one batch, at most: a bound on the sink's transaction.
const MOST_ITEMS: usize = 32_768;
/// Between two looks when all is shipped.
const TICK: Duration = Duration::from_secs(1);

/// Ships the streams of this node.
#[derive(Debug)]
pub(crate) struct Shipper {
    pub(crate) sink: Arc<dyn UsageSink>,
    pub(crate) clock: Clock,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) samples: Arc<Samples>,
    pub(crate) unrecorded: Arc<Unrecorded>,
    pub(crate) metrics: Arc<Metrics>,
    /// Whether the sink failed last.
    pub(crate) away: AtomicBool,
    /// One flush at a time.
    pub(crate) turn: tokio::sync::Mutex<Turn>,
}

/// How far everything is.
#[derive(Debug)]
pub(crate) struct Turn {
    flusher: Flusher,
    /// Streams of earlier lives that are not drained.
    dead: Vec<Stream>,
    /// What is offered to the sink.
    offer: Option<Batch>,
    /// What was given to it, until it says that it has it.
    sent: Option<Sent>,
    /// Up to when the living stream is known to be shipped.
    through: Timestamp,
}

/// A batch that has left.
#[derive(Debug, Clone, Copy)]
struct Sent {
    stream: StreamId,
    last: u64,
    records: usize,
}

/// When to look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// After a tick, or when there is much.
    Rest,
    /// Not before so long.
    Pause(Duration),
    Never,
}

impl Turn {
    /// Before anything is shipped: `dead` are the streams that earlier lives left.
    pub(crate) fn new(dead: Vec<Stream>, living: StreamId) -> Self {
        let flusher = Flusher::new(dead.iter().map(|stream| stream.id), living);
        Self { flusher, dead, offer: None, sent: None, through: Timestamp::default() }
    }
}

impl Shipper {
    /// Runs until the future is dropped.
    pub(crate) async fn run(&self) {
        let mut next = Next::Rest;
        loop {
            match next {
                Next::Never => return,
                Next::Pause(pause) => tokio::time::sleep(pause).await,
                Next::Rest => tokio::select! {
                    () = tokio::time::sleep(TICK) => {}
                    () = self.recorder.many() => {}
                },
            }
            next = match self.ship(Event::Woken).await {
                Ok(next) => next,
                Err((error, next)) => {
                    let retry_in = if let Next::Pause(pause) = next { pause } else { TICK };
                    tracing::warn!(error = &error as &dyn Error, ?retry_in, "usage is kept and will be shipped again");
                    next
                }
            };
        }
    }

    /// Ships all that was recorded before the call.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        self.ship(Event::Asked).await.map(|_| ()).map_err(|(error, _)| error)
    }

    async fn ship(&self, event: Event) -> Result<Next, (StoreError, Next)> {
        let mut turn = self.turn.lock().await;
        self.write_sums();
        let turn = &mut *turn;
        // Who dropped this future in the middle of a call has left its outcome unknown. It changes nothing otherwise.
        let mut effects = VecDeque::from(turn.flusher.step(Event::Failed, self.now()));
        effects.extend(turn.flusher.step(event, self.now()));
        let (mut next, mut failure, mut ticked) = (Next::Rest, None, false);
        while let Some(effect) = effects.pop_front() {
            let event = match effect {
                Effect::ReadWatermark(stream) => match self.sink.watermark(stream).await {
                    Ok(watermark) => Event::Watermark(watermark),
                    Err(error) => self.failed(error, &mut failure),
                },
                Effect::Look { stream, after } => match self.look(turn, stream, after, &mut ticked) {
                    Ok(event) => event,
                    Err(error) => self.failed(error, &mut failure),
                },
                Effect::Send { .. } => match self.send(turn).await {
                    Ok(watermark) => Event::Watermark(watermark),
                    Err(error) => self.failed(error, &mut failure),
                },
                Effect::Acknowledge { stream, through } => {
                    self.acknowledge(turn, stream, through);
                    continue;
                }
                Effect::Drained(stream) => {
                    turn.dead.retain(|dead| dead.id != stream);
                    continue;
                }
                Effect::Wait(until) => {
                    next = Next::Pause(until.saturating_sub(self.now()));
                    continue;
                }
                Effect::Rest => {
                    // The sink was asked for every stream there is: what it lost has been given to it again.
                    self.recorder.journal.allow_expiry();
                    next = Next::Rest;
                    continue;
                }
                Effect::Stop => {
                    next = Next::Never;
                    continue;
                }
            };
            effects.extend(turn.flusher.step(event, self.now()));
        }
        match failure {
            None if event == Event::Asked && matches!(next, Next::Pause(_)) => {
                Err((StoreError::unavailable("ship usage", "it did not take in what it was given"), next))
            }
            None => Ok(next),
            Some(error) => Err((error, next)),
        }
    }

    fn failed(&self, error: StoreError, failure: &mut Option<StoreError>) -> Event {
        self.away.store(true, Ordering::Relaxed);
        let superseded = error.kind() == StoreErrorKind::Superseded;
        *failure = Some(error);
        if superseded { Event::Superseded } else { Event::Failed }
    }

    /// Reads what comes after a place.
    fn look(&self, turn: &mut Turn, stream: StreamId, after: u64, ticked: &mut bool) -> Result<Event, StoreError> {
        let from = after.saturating_add(1);
        let batch = if stream == self.recorder.journal.stream() {
            self.look_living(turn, from, ticked)
        } else {
            let dead = turn.dead.iter().find(|dead| dead.id == stream);
            let chunk = dead.map(|dead| dead.read(from, MOST_ITEMS)).transpose();
            let chunk =
                chunk.map_err(|error| StoreError::unavailable("read the journal of an earlier process", error))?;
            chunk.flatten().map(|chunk| chunk.into_batch(self.clock.wall()))
        };
        turn.offer = batch.map(|batch| over_gap(batch, from));
        Ok(match &turn.offer {
            Some(batch) => Event::Offered(Range { first: batch.first, last: batch.last }),
            None => Event::Nothing,
        })
    }

    fn look_living(&self, turn: &mut Turn, from: u64, ticked: &mut bool) -> Option<Batch> {
        let journal = &self.recorder.journal;
        // Both before the read: what was settled before this instant lies before this place.
        let (now, next) = (self.clock.wall(), journal.next());
        let chunk = journal.read(from, MOST_ITEMS);
        let end = chunk.as_ref().map_or(from, |chunk| chunk.last.saturating_add(1));
        if end >= next {
            turn.through = now;
        }
        let mut batch = match chunk {
            Some(chunk) => chunk.into_batch(turn.through),
            // So that an idle stream does not hold back what is complete. Once a turn.
            None if !*ticked && end >= next => {
                empty(journal.stream(), from, turn.through, journal.schema().meters.clone())
            }
            None => return None,
        };
        *ticked = true;
        batch.samples = self.samples.take();
        Some(batch)
    }

    async fn send(&self, turn: &mut Turn) -> Result<u64, StoreError> {
        let Some(batch) = turn.offer.take() else { return Ok(0) };
        turn.sent = Some(Sent { stream: batch.stream, last: batch.last, records: batch.records.len() });
        let began = self.clock.monotonic();
        let outcome = self.sink.accept(batch).await;
        self.metrics.flushed(outcome.is_ok(), self.clock.monotonic().nanos_since(began));
        outcome
    }

    /// B6: only what the sink has said to have may be removed.
    fn acknowledge(&self, turn: &mut Turn, stream: StreamId, through: u64) {
        self.away.store(false, Ordering::Relaxed);
        let living = stream == self.recorder.journal.stream();
        if let Some(Sent { records, .. }) =
            turn.sent.take().filter(|sent| sent.stream == stream && sent.last <= through)
        {
            self.metrics.recorded(records);
            if living {
                self.recorder.shipped(records);
            }
        }
        if living {
            self.recorder.journal.ack(through, self.clock.wall());
        } else if let Some(dead) = turn.dead.iter_mut().find(|dead| dead.id == stream) {
            dead.ack(through, self.clock.wall());
            // Their files may go, and must not be held open until the stream is drained.
            dead.segments.retain(|segment| segment.end() > through.saturating_add(1));
        }
    }

    /// Puts what was summed in memory into the journal, as far as there is room beyond what requests in flight need.
    fn write_sums(&self) {
        let journal = &self.recorder.journal;
        let mut sums = self.refusals.take().into_iter();
        for sum in sums.by_ref() {
            let item = Refused {
                tenant: sum.caller.tenant,
                user: sum.caller.user,
                key: sum.caller.key,
                environment: sum.caller.environment,
                route: sum.route.and_then(|route| u16::try_from(route.position()).ok()),
                code: sum.code.as_str(),
                limit: sum.limit.as_deref(),
                requests: sum.requests,
                bucket: sum.caller.bucket(sum.at),
            };
            if journal.try_append(&item.encode()).is_none() {
                self.refusals.put_back(std::iter::once(sum).chain(sums).collect());
                break;
            }
        }
        let now = self.clock.wall();
        let mut left = self.unrecorded.take().into_iter();
        for sum in left.by_ref() {
            let record = sum.forfeit.record(&journal.schema().meters, now);
            if journal.try_append(&of_record(&record, journal.schema()).encode()).is_none() {
                std::iter::once(sum).chain(left).for_each(|sum| self.unrecorded.put_back(sum));
                break;
            }
        }
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.clock.monotonic().0)
    }
}

/// A batch that begins where the sink ends: what is no longer here is missing there for good, and must not hold back what is.
fn over_gap(mut batch: Batch, from: u64) -> Batch {
    let places = batch.first.saturating_sub(from);
    if places > 0 {
        tracing::error!(
            stream = %batch.stream,
            places,
            "the sink has lost usage that the journal no longer has: it is missing from now on"
        );
        batch.first = from;
    }
    batch
}

/// A batch that moves only the instant.
fn empty(stream: StreamId, first: u64, through: Timestamp, meters: crate::model::Meters) -> Batch {
    Batch::numbered(stream, first, through, meters, Vec::new(), Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Files, Journal, JournalOptions, Schema};
    use crate::kernel::KernelBoot;
    use crate::mapped::Area;
    use crate::model::{Environment, KeyId, Meters, TenantId};
    use crate::routes::Routes;
    use crate::seat::SeatTable;
    use crate::store::memory::MemoryStore;

    const STREAM: StreamId = StreamId::from_u128(7);

    fn append(journal: &Journal, items: usize) {
        let refused = Refused {
            tenant: TenantId::from_u128(1),
            user: None,
            key: KeyId::from_u128(2),
            environment: Environment::Live,
            route: None,
            code: "rate_limited",
            limit: None,
            requests: 1,
            bucket: Timestamp::default(),
        };
        for _ in 0..items {
            journal.try_append(&refused.encode()).unwrap();
            journal.maintain(Timestamp::default());
        }
    }

    #[tokio::test]
    async fn a_sink_that_lost_what_the_journal_no_longer_has_gets_the_rest() {
        let (area, clock) = (Area::memory(), Clock::system());
        let options =
            JournalOptions { segment_bytes: 4_096, retention: Duration::ZERO, seats: 1, ..JournalOptions::default() };
        let schema = Schema::new("a1", Meters::default(), []);
        let files = Files::open(area.clone()).unwrap();
        let journal = Arc::new(Journal::open(files, options, STREAM, &schema, Timestamp::default()).unwrap());
        append(&journal, 200);
        journal.ack(journal.next() - 1, Timestamp::default());
        journal.allow_expiry();
        append(&journal, 1);
        assert!(journal.read(1, 9).unwrap().first > 1, "the first segments are gone");

        let sink = Arc::new(MemoryStore::new(clock.clone()));
        let seats = SeatTable::start(&area, 1, STREAM, KernelBoot::current()).unwrap();
        let routes = Routes::compile(Vec::new(), &Meters::default()).unwrap();
        let shipper = Shipper {
            sink: Arc::clone(&sink) as Arc<dyn UsageSink>,
            clock,
            recorder: Arc::new(Recorder::new(Arc::clone(&journal), seats)),
            refusals: Arc::default(),
            samples: Arc::default(),
            unrecorded: Arc::default(),
            metrics: Arc::new(Metrics::new(&routes)),
            away: AtomicBool::new(false),
            turn: tokio::sync::Mutex::new(Turn::new(Vec::new(), STREAM)),
        };
        shipper.flush().await.unwrap();
        assert_eq!(sink.watermark(STREAM).await.unwrap(), journal.next() - 1);
    }
}
