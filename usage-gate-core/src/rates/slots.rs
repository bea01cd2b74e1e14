//! The authority of requests open at once as a pure state machine: who has how many places, and until when.
//!
//! There is no refill: a place is free when its node gives it back, or when the node has not been heard of for [`SLOT_LEASE_TIME`]. A call is worked off in this order:
//!
//! 1. A state that is absent, or of another incarnation, begins: without any node, and with no place to give until every node that lives has told what it keeps.
//! 2. Nodes that have not been heard of for too long are dropped, places and all.
//! 3. A call that is older than what was last heard of its node changes nothing, nor does the same call again, which gets the same answer.
//! 4. What the node keeps is noted, even beyond the limit: its requests are open, whoever counts them.
//! 5. Further places are given, as far as the limit leaves some.

use std::sync::Arc;

use super::bucket::{Incarnation, micros};
use crate::store::{SLOT_LEASE_TIME, SlotGrant, SlotRequest};

/// The places of one limit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Slots {
    /// Before this microsecond of the authority's clock no place is added.
    pub(crate) opens: u64,
    /// Of which memory it is; `None` where nothing is forgotten.
    pub(crate) incarnation: Option<u64>,
    pub(crate) holders: Vec<Holder>,
}

/// A node and its places.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Holder {
    pub(crate) node: Arc<str>,
    pub(crate) slots: u64,
    pub(crate) sequence: u64,
    /// From this microsecond on it is dead.
    pub(crate) ends: u64,
}

impl Slots {
    /// One request of `node`, at `now` in microseconds of the authority's clock.
    pub(crate) fn step(
        kept: Option<Self>,
        now: u64,
        incarnation: Option<Incarnation>,
        node: &str,
        request: &SlotRequest,
    ) -> (Self, SlotGrant) {
        let present = kept.filter(|slots| slots.incarnation == incarnation.map(|known| known.id));
        let mut slots = present.unwrap_or_else(|| Self::begin(now, incarnation));
        slots.holders.retain(|holder| holder.ends > now);
        let own = slots.holders.iter().position(|holder| *holder.node == *node);
        let elsewhere = slots.held_elsewhere(node);
        if let Some(own) = own
            && slots.holders[own].sequence >= request.sequence
        {
            let Holder { slots: known, sequence, .. } = slots.holders[own];
            let told = if sequence == request.sequence { known } else { known.min(request.keep) };
            return (slots, SlotGrant { slots: told, elsewhere });
        }
        let free = if now < slots.opens { 0 } else { request.limit.saturating_sub(elsewhere) };
        let held = request.keep.saturating_add(request.more.min(free.saturating_sub(request.keep)));
        let ends = now.saturating_add(micros(SLOT_LEASE_TIME));
        let holder = Holder { node: node.into(), slots: held, sequence: request.sequence, ends };
        match own {
            Some(own) => slots.holders[own] = holder,
            None => slots.holders.push(holder),
        }
        (slots, SlotGrant { slots: held, elsewhere })
    }

    fn begin(now: u64, incarnation: Option<Incarnation>) -> Self {
        let waits = |known: Incarnation| now.saturating_sub(known.age).saturating_add(micros(SLOT_LEASE_TIME));
        // R3: what is not known is owned by nobody, and may be held all the same.
        let opens = incarnation.map_or(0, waits);
        Self { opens, incarnation: incarnation.map(|known| known.id), holders: Vec::new() }
    }

    /// Places of all other nodes.
    fn held_elsewhere(&self, node: &str) -> u64 {
        let others = self.holders.iter().filter(|holder| *holder.node != *node);
        others.fold(0, |sum, holder| sum.saturating_add(holder.slots))
    }

    /// Whether it is as good as absent.
    pub(crate) fn is_forgotten(&self, now: u64) -> bool {
        now >= self.opens && self.holders.iter().all(|holder| holder.ends <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rates::samples;

    const SECOND: u64 = 1_000_000;
    const NOW: u64 = 1_000 * SECOND;

    /// A state that is asked again and again, with a limit of 10.
    #[derive(Default)]
    struct Asked {
        kept: Option<Slots>,
        incarnation: Option<Incarnation>,
        sequence: u64,
    }

    impl Asked {
        fn call(&mut self, now: u64, node: &str, sequence: u64, (keep, more): (u64, u64)) -> (u64, u64) {
            let request = samples::slots(sequence, 10, keep, more);
            let (slots, grant) = Slots::step(self.kept.take(), now, self.incarnation, node, &request);
            self.kept = Some(slots);
            (grant.slots, grant.elsewhere)
        }

        fn ask(&mut self, now: u64, node: &str, keep: u64, more: u64) -> (u64, u64) {
            self.sequence += 1;
            self.call(now, node, self.sequence, (keep, more))
        }
    }

    #[test]
    fn places_of_all_nodes_are_never_more_than_the_limit() {
        let mut asked = Asked::default();
        assert_eq!(asked.ask(NOW, "a", 0, 7), (7, 0));
        assert_eq!(asked.ask(NOW, "b", 0, 7), (3, 7));
        assert_eq!(asked.ask(NOW, "a", 2, 0), (2, 3));
        assert_eq!(asked.ask(NOW, "b", 3, 7), (8, 2));
    }

    #[test]
    fn a_repeated_call_gives_the_same() {
        let mut asked = Asked::default();
        assert_eq!([asked.call(NOW, "a", 1, (0, 4)), asked.call(NOW, "a", 1, (0, 4))], [(4, 0), (4, 0)]);
        assert_eq!(asked.ask(NOW, "b", 0, 10), (6, 4));
    }

    #[test]
    fn a_late_call_takes_no_places_away() {
        let mut asked = Asked::default();
        asked.call(NOW, "a", 1, (0, 2));
        asked.call(NOW, "a", 3, (2, 6));
        assert_eq!(asked.call(NOW, "a", 2, (1, 0)), (1, 0));
        assert_eq!(asked.call(NOW, "b", 1, (0, 10)), (2, 8));
    }

    #[test]
    fn places_of_a_dead_node_come_back_when_it_was_not_heard_of_for_long() {
        let mut asked = Asked::default();
        asked.ask(NOW, "a", 0, 10);
        asked.ask(NOW + 2 * SECOND, "a", 10, 0);
        assert_eq!(asked.ask(NOW + 8 * SECOND - 1, "b", 0, 1), (0, 10));
        assert_eq!(asked.ask(NOW + 8 * SECOND, "b", 0, 1), (1, 0));
    }

    #[test]
    fn a_lowered_limit_takes_nothing_and_adds_nothing() {
        let mut asked = Asked::default();
        asked.ask(NOW, "a", 0, 10);
        let request = samples::slots(9, 4, 8, 1);
        let (slots, grant) = Slots::step(asked.kept.take(), NOW, None, "a", &request);
        assert_eq!((grant.slots, slots.held_elsewhere("b")), (8, 8));
    }

    #[test]
    fn r3_a_new_incarnation_notes_what_is_kept_and_adds_nothing_at_first() {
        let mut asked = Asked { incarnation: samples::incarnation(1, SECOND), ..Asked::default() };
        assert_eq!(asked.ask(NOW, "a", 7, 2), (7, 0));
        assert_eq!(asked.ask(NOW + 5 * SECOND - 1, "b", 0, 2), (0, 7));
        assert_eq!(asked.ask(NOW + 5 * SECOND, "b", 0, 5), (3, 7));
        asked.incarnation = samples::incarnation(2, 0);
        assert_eq!(asked.ask(NOW + 5 * SECOND, "b", 3, 5), (3, 0));
    }

    #[test]
    fn it_is_forgotten_when_nobody_holds_anything() {
        let mut asked = Asked::default();
        asked.ask(NOW, "a", 0, 1);
        let slots = asked.kept.unwrap();
        assert!(!slots.is_forgotten(NOW + 6 * SECOND - 1) && slots.is_forgotten(NOW + 6 * SECOND));
    }
}
