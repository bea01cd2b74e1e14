//! Between steps 5 and 8: a request that turns out to need more holds more, while it is served.

use std::sync::Arc;

use super::admit::{Admitted, TakenWhat, with_counter};
use crate::clock::Monotonic;
use crate::gate::GateCore;
use crate::lease::{Counter, CounterState, LeaseEntry, QuotaCounter};
use crate::model::{MeterIndex, WhenExceeded};
use crate::store::QuotaUse;

impl Admitted {
    /// Holds `total` units of every quota of this meter, if it holds fewer; without waiting.
    ///
    /// `false` if a quota that blocks cannot give them: then it holds what it held. Where only the leases here are too small and the authority may
    /// have more, that is asked for and the answer is `true`: the next call, or the settlement, takes it.
    #[must_use]
    pub fn extend(&mut self, meter: MeterIndex, total: u64) -> bool {
        let now = self.gate.clock.monotonic();
        let mut enough = true;
        for one in &mut self.taken {
            let Some(compiled) = self.caller.plan.limits.get(one.at) else { continue };
            let TakenWhat::Quota(source, held) = &mut one.what else { continue };
            if compiled.meter != meter || *held >= total {
                continue;
            }
            let Some((period, deadline)) =
                source.entry().filter(|_| source.is_leased()).map(|entry| (entry.period, entry.deadline))
            else {
                continue;
            };
            let blocks = compiled.limit.when_exceeded == WhenExceeded::Block;
            let gate = &self.gate;
            let seat = self.seat.as_ref().map(|seat| gate.recorder.seats.at(seat));
            let mut take = |counter: &Arc<Counter>| {
                let CounterState::Quota(quota) = &counter.state else { return true };
                // In the seat, so that a crash forgets none of it.
                let note = |entry: &LeaseEntry, units| {
                    let period = period.start.floor_seconds();
                    let more = QuotaUse { lease: entry.tag(), counter: counter.tag, period, units };
                    seat.iter().for_each(|seat| seat.raise(&more));
                };
                if let Some(now_held) = source.take_more(quota, *held, total, now, note) {
                    *held = now_held;
                    if quota.runs_low() {
                        gate.queue.ask_for(counter);
                    }
                    return true;
                }
                let there_is_more = may_have(quota, deadline, total - *held, now);
                if there_is_more {
                    ask(gate, counter, quota, total);
                }
                there_is_more || !blocks
            };
            enough &= match &one.counter {
                Some(counter) => take(counter),
                None => with_counter(&self.gate, &self.caller, one.at, None, take).unwrap_or(true),
            };
        }
        enough
    }
}

/// Whether the authority may have `units` beyond what is held; from what it said last.
fn may_have(quota: &QuotaCounter, deadline: Monotonic, units: u64, now: Monotonic) -> bool {
    if quota.is_exhausted(units, now) {
        return false;
    }
    let Some(window) = quota.window() else { return true };
    // After the turn of a period the old one's state says nothing of the new one.
    now >= deadline || quota.held(now).saturating_add(window.cap.saturating_sub(window.granted)) >= units
}

/// Asks for a lease that has `total` in one piece, and more: when it is there, the request will need more than now.
fn ask(gate: &GateCore, counter: &Arc<Counter>, quota: &QuotaCounter, total: u64) {
    quota.wish(total.saturating_mul(2));
    gate.queue.ask_for(counter);
}
