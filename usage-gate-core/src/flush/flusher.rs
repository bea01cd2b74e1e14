//! Which part of which stream is shipped next, and what is to be done when the answer is lost. A pure state machine: no I/O, no clock.
//!
//! The caller gives it events with its clock's value and does what it says; every effect but [`Effect::Acknowledge`] is answered by one event.
//! Streams of dead processes are drained first, the oldest before the others, then the living one is shipped as it grows. For each stream:
//!
//! 1. Read the watermark. Nothing that is remembered takes its place: a predecessor's last commit may have moved it, a restore put it back.
//! 2. Look for the next contiguous range after it. The living stream's ends before the first place that is not published; places of a
//!    dead one that never were are passed over. It begins at the next place also if the journal no longer has that one: what a database
//!    lost that was put back too far is passed over, and the caller says so.
//! 3. Send it. What comes back is the watermark after it: go on from there at 2, also if that is not where the range ended.
//! 4. After a failure the outcome is unknown: wait, longer each time, and go back to 1.
//!
//! Invariants: a range begins at the place after the watermark that was read last (B3, B8). Nothing is acknowledged that the sink has not said
//! to have (B6).

use std::collections::VecDeque;
use std::time::Duration;

use crate::invariant::invariant;
use crate::model::StreamId;

/// The first pause after a failure; each one after it is twice as long.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Places of a stream from `first` to `last`; empty if `last` is one below `first`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Time has passed, or there may be more to ship.
    Woken,
    /// Somebody waits for all usage to be in: a pause is cut short, once.
    Asked,
    /// The next contiguous range, in answer to [`Effect::Look`].
    Offered(Range),
    /// There is none: of a dead stream there never will be.
    Nothing,
    /// The sink's watermark, in answer to [`Effect::Send`] or [`Effect::ReadWatermark`].
    Watermark(u64),
    /// The call of the sink failed: its outcome is unknown.
    Failed,
    /// A later process life has taken over.
    Superseded,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Ask the sink for the stream's watermark.
    ReadWatermark(StreamId),
    /// Look for the next contiguous range of the stream after this place.
    Look { stream: StreamId, after: u64 },
    /// Give this range of the stream to the sink.
    Send { stream: StreamId, range: Range },
    /// The sink has all of the stream up to here.
    Acknowledge { stream: StreamId, through: u64 },
    /// The sink has all of this dead stream.
    Drained(StreamId),
    /// Wake me at this value of the clock.
    Wait(Duration),
    /// All that there was is shipped: wake me when there may be more.
    Rest,
    /// Ship nothing more.
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is known of the stream.
    Unknown,
    /// The watermark was asked for.
    Reading,
    /// The caller looks for the range after the watermark.
    Looking {
        after: u64,
    },
    /// A range is with the sink.
    Sent {
        range: Range,
    },
    /// The sink failed, or took less than it was given.
    Paused {
        until: Duration,
    },
    /// Everything after the watermark is shipped.
    Resting {
        after: u64,
    },
    Stopped,
}

/// Ships all streams of a node, one range at a time.
#[derive(Debug)]
pub(crate) struct Flusher {
    /// Dead streams that are not drained, the oldest first; the living one is the last.
    streams: VecDeque<StreamId>,
    living: StreamId,
    state: State,
    pause: Duration,
}

impl Flusher {
    /// `dead` in any order: ids sort by creation.
    pub(crate) fn new(dead: impl IntoIterator<Item = StreamId>, living: StreamId) -> Self {
        let mut streams: Vec<StreamId> = dead.into_iter().filter(|stream| *stream != living).collect();
        streams.sort_unstable();
        streams.dedup();
        Self { streams: streams.into(), living, state: State::Unknown, pause: SHORTEST_PAUSE }
    }

    /// The stream that is being shipped.
    pub(crate) fn stream(&self) -> StreamId {
        self.streams.front().copied().unwrap_or(self.living)
    }

    /// What is to be done after an event, in this order. An event that answers nothing changes nothing.
    pub(crate) fn step(&mut self, event: Event, now: Duration) -> Vec<Effect> {
        match (self.state, event) {
            (State::Stopped, _) => Vec::new(),
            (_, Event::Superseded) => {
                self.state = State::Stopped;
                vec![Effect::Stop]
            }
            (State::Unknown, Event::Woken | Event::Asked) | (State::Paused { .. }, Event::Asked) => self.read(),
            (State::Paused { until }, Event::Woken) if until <= now => self.read(),
            (State::Paused { until }, Event::Woken) => vec![Effect::Wait(until)],
            (State::Resting { after }, Event::Woken | Event::Asked) => self.look(after),
            (State::Reading, Event::Watermark(watermark)) => self.go_on(watermark),
            (State::Sent { range }, Event::Watermark(watermark)) if range.last <= watermark => {
                self.pause = SHORTEST_PAUSE;
                self.go_on(watermark)
            }
            // It was not taken in, or the database was put back since: the watermark tells from where to go on. Not at once, since a sink that
            // never takes anything must not be pressed.
            (State::Sent { .. }, Event::Watermark(_))
            | (State::Sent { .. } | State::Reading | State::Looking { .. }, Event::Failed) => self.wait(now),
            (State::Looking { after }, Event::Offered(range)) => self.send(after, range, now),
            (State::Looking { after }, Event::Nothing) => self.end(after),
            _ => Vec::new(),
        }
    }

    fn read(&mut self) -> Vec<Effect> {
        self.state = State::Reading;
        vec![Effect::ReadWatermark(self.stream())]
    }

    fn look(&mut self, after: u64) -> Vec<Effect> {
        self.state = State::Looking { after };
        vec![Effect::Look { stream: self.stream(), after }]
    }

    fn go_on(&mut self, watermark: u64) -> Vec<Effect> {
        let mut effects = vec![Effect::Acknowledge { stream: self.stream(), through: watermark }];
        effects.extend(self.look(watermark));
        effects
    }

    fn send(&mut self, after: u64, range: Range, now: Duration) -> Vec<Effect> {
        let contiguous = after.checked_add(1) == Some(range.first) && after <= range.last;
        if !invariant!(B8, contiguous) {
            return self.wait(now);
        }
        self.state = State::Sent { range };
        vec![Effect::Send { stream: self.stream(), range }]
    }

    fn end(&mut self, after: u64) -> Vec<Effect> {
        match self.streams.pop_front() {
            Some(drained) => {
                let mut effects = vec![Effect::Drained(drained)];
                effects.extend(self.read());
                effects
            }
            None => {
                self.state = State::Resting { after };
                vec![Effect::Rest]
            }
        }
    }

    fn wait(&mut self, now: Duration) -> Vec<Effect> {
        let until = now.saturating_add(self.pause);
        self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
        self.state = State::Paused { until };
        vec![Effect::Wait(until)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVING: StreamId = StreamId::from_u128(9);
    const NOW: Duration = Duration::from_secs(100);

    fn after(seconds: u64) -> Duration {
        NOW + Duration::from_secs(seconds)
    }

    /// Plays events, each with the effects that it is to have.
    #[track_caller]
    fn check(flusher: &mut Flusher, steps: &[(Event, &[Effect])]) {
        for (at, (event, effects)) in steps.iter().enumerate() {
            assert_eq!(flusher.step(*event, NOW), *effects, "step {at}: {event:?}");
        }
    }

    const fn range(first: u64, last: u64) -> Range {
        Range { first, last }
    }

    const fn look(after: u64) -> Effect {
        Effect::Look { stream: LIVING, after }
    }

    const fn acknowledge(through: u64) -> Effect {
        Effect::Acknowledge { stream: LIVING, through }
    }

    const fn send(first: u64, last: u64) -> Effect {
        Effect::Send { stream: LIVING, range: range(first, last) }
    }

    #[test]
    fn ranges_follow_the_watermark_until_there_is_nothing() {
        check(
            &mut Flusher::new([], LIVING),
            &[
                (Event::Woken, &[Effect::ReadWatermark(LIVING)]),
                (Event::Watermark(4), &[acknowledge(4), look(4)]),
                (Event::Offered(range(5, 9)), &[send(5, 9)]),
                (Event::Watermark(9), &[acknowledge(9), look(9)]),
                (Event::Nothing, &[Effect::Rest]),
                (Event::Woken, &[look(9)]),
                // Nothing but `through` moves.
                (Event::Offered(range(10, 9)), &[send(10, 9)]),
                (Event::Watermark(9), &[acknowledge(9), look(9)]),
            ],
        );
    }

    #[test]
    fn b4_after_an_unknown_outcome_the_watermark_alone_is_trusted() {
        for known in [0, 9, 12] {
            let mut flusher = Flusher::new([], LIVING);
            check(
                &mut flusher,
                &[
                    (Event::Woken, &[Effect::ReadWatermark(LIVING)]),
                    (Event::Watermark(0), &[acknowledge(0), look(0)]),
                    (Event::Offered(range(1, 9)), &[send(1, 9)]),
                    (Event::Failed, &[Effect::Wait(after(1))]),
                    (Event::Woken, &[Effect::Wait(after(1))]),
                ],
            );
            assert_eq!(flusher.step(Event::Woken, after(1)), [Effect::ReadWatermark(LIVING)]);
            check(&mut flusher, &[(Event::Watermark(known), &[acknowledge(known), look(known)])]);
        }
    }

    #[test]
    fn what_cannot_be_read_now_is_read_later() {
        let mut flusher = Flusher::new([], LIVING);
        check(
            &mut flusher,
            &[
                (Event::Woken, &[Effect::ReadWatermark(LIVING)]),
                (Event::Watermark(4), &[acknowledge(4), look(4)]),
                (Event::Failed, &[Effect::Wait(after(1))]),
            ],
        );
        assert_eq!(flusher.step(Event::Woken, after(1)), [Effect::ReadWatermark(LIVING)]);
        check(&mut flusher, &[(Event::Watermark(4), &[acknowledge(4), look(4)])]);
    }

    #[test]
    fn pauses_grow_to_ten_seconds_and_begin_anew_after_a_success() {
        let mut flusher = Flusher::new([], LIVING);
        let mut now = NOW;
        for seconds in [1, 2, 4, 8, 10, 10] {
            assert_eq!(flusher.step(Event::Woken, now), [Effect::ReadWatermark(LIVING)]);
            flusher.step(Event::Watermark(0), now);
            flusher.step(Event::Offered(range(1, 1)), now);
            let until = now + Duration::from_secs(seconds);
            // A store that can be read but not written is away all the same.
            assert_eq!(flusher.step(Event::Failed, now), [Effect::Wait(until)]);
            assert!(matches!(flusher.state, State::Paused { .. }));
            now = until;
        }
        assert_eq!(flusher.step(Event::Asked, NOW), [Effect::ReadWatermark(LIVING)], "who waits is served at once");
        flusher.step(Event::Watermark(0), now);
        flusher.step(Event::Offered(range(1, 1)), now);
        flusher.step(Event::Watermark(1), now);
        flusher.step(Event::Offered(range(2, 2)), now);
        assert_eq!(flusher.step(Event::Failed, now), [Effect::Wait(now + Duration::from_secs(1))]);
    }

    #[test]
    fn a_database_that_was_put_back_is_healed_from_its_watermark() {
        check(
            &mut Flusher::new([], LIVING),
            &[
                (Event::Woken, &[Effect::ReadWatermark(LIVING)]),
                (Event::Watermark(50), &[acknowledge(50), look(50)]),
                (Event::Offered(range(51, 60)), &[send(51, 60)]),
                (Event::Watermark(20), &[Effect::Wait(after(1))]),
                (Event::Asked, &[Effect::ReadWatermark(LIVING)]),
                (Event::Watermark(20), &[acknowledge(20), look(20)]),
                (Event::Offered(range(21, 60)), &[send(21, 60)]),
            ],
        );
    }

    #[test]
    fn dead_streams_are_drained_first_the_oldest_before_the_others() {
        let (old, older) = (StreamId::from_u128(2), StreamId::from_u128(1));
        let mut flusher = Flusher::new([old, LIVING, older, old], LIVING);
        check(
            &mut flusher,
            &[
                (Event::Woken, &[Effect::ReadWatermark(older)]),
                (
                    Event::Watermark(3),
                    &[Effect::Acknowledge { stream: older, through: 3 }, Effect::Look { stream: older, after: 3 }],
                ),
                (Event::Nothing, &[Effect::Drained(older), Effect::ReadWatermark(old)]),
                (Event::Failed, &[Effect::Wait(after(1))]),
                (Event::Asked, &[Effect::ReadWatermark(old)]),
                (
                    Event::Watermark(0),
                    &[Effect::Acknowledge { stream: old, through: 0 }, Effect::Look { stream: old, after: 0 }],
                ),
                (Event::Nothing, &[Effect::Drained(old), Effect::ReadWatermark(LIVING)]),
                (Event::Watermark(0), &[acknowledge(0), look(0)]),
                (Event::Nothing, &[Effect::Rest]),
            ],
        );
    }

    #[test]
    fn a_later_life_ends_it_and_stray_answers_change_nothing() {
        check(
            &mut Flusher::new([], LIVING),
            &[
                (Event::Failed, &[]),
                (Event::Watermark(7), &[]),
                (Event::Offered(range(1, 2)), &[]),
                (Event::Woken, &[Effect::ReadWatermark(LIVING)]),
                (Event::Woken, &[]),
                (Event::Superseded, &[Effect::Stop]),
                (Event::Asked, &[]),
            ],
        );
    }
}
