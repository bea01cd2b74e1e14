//! Tokens of one exchange so far, and how they are known.

use usage_gate_core::store::Measured;

/// About so many bytes of text are a token.
pub(super) const BYTES_A_TOKEN: u64 = 4;

/// Tokens of one exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TokenCount {
    pub(crate) input: u64,
    pub(crate) output: u64,
}

/// What the upstream reported, and what was counted of the deltas that passed.
///
/// Reports are cumulative wherever there are several: each takes the place of the one before, and is never added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    /// Reported input, in up to three parts that are outside of each other.
    input: [Option<u64>; 3],
    output: Option<u64>,
    deltas: u64,
    text: u64,
    /// Deltas have come since the last report: it is not the last word.
    delta_since: bool,
}

impl Tally {
    pub(super) const EMPTY: Self = Self { input: [None; 3], output: None, deltas: 0, text: 0, delta_since: false };

    /// Takes a report in; what it does not say stays as it was.
    pub(super) fn report(&mut self, input: [Option<u64>; 3], output: Option<u64>) {
        for (known, said) in self.input.iter_mut().zip(input) {
            *known = said.or(*known);
        }
        self.output = output.or(self.output);
        self.delta_since = false;
    }

    /// Counts a piece of what the model makes.
    pub(super) fn delta(&mut self, text: &str) {
        if !text.is_empty() {
            self.deltas = self.deltas.saturating_add(1);
            self.text = self.text.saturating_add(u64::try_from(text.len()).unwrap_or(u64::MAX));
            self.delta_since = true;
        }
    }

    /// Whether deltas have come since; a report alone is not more, only better known.
    pub(super) const fn made_more_than(&self, before: &Self) -> bool {
        self.deltas > before.deltas
    }

    /// Output so far: a delta is at least one token, and about four bytes are one.
    pub(super) fn output(&self) -> u64 {
        match self.output {
            Some(reported) if !self.delta_since => reported,
            reported => self.deltas.max(self.text.div_ceil(BYTES_A_TOKEN)).max(reported.unwrap_or(0)),
        }
    }

    /// The count, given what the input is estimated at.
    pub(super) fn count(&self, estimated_input: u64) -> (TokenCount, Measured) {
        let reported = self.input.iter().any(Option::is_some);
        let input = self.input.iter().flatten().fold(0u64, |sum, part| sum.saturating_add(*part));
        let input = if reported { input } else { estimated_input };
        let exact = reported && self.output.is_some() && !self.delta_since;
        let measured = if exact { Measured::Exact } else { Measured::Counted };
        (TokenCount { input, output: self.output() }, measured)
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(tally: &Tally) -> (u64, u64, Measured) {
        let (count, measured) = tally.count(7);
        (count.input, count.output, measured)
    }

    #[test]
    fn cumulative_reports_take_each_others_place() {
        let mut tally = Tally::EMPTY;
        for output in [1, 5, 9] {
            tally.delta("four");
            tally.report([Some(20), None, None], Some(output));
        }
        assert_eq!(count(&tally), (20, 9, Measured::Exact));
        tally.report([None, Some(3), None], None);
        assert_eq!(count(&tally), (23, 9, Measured::Exact));
    }

    #[test]
    fn deltas_after_the_last_report_are_counted() {
        let mut tally = Tally::EMPTY;
        tally.report([Some(20), None, None], Some(1));
        for _ in 0..3 {
            tally.delta("word");
        }
        assert_eq!(count(&tally), (20, 3, Measured::Counted));
        tally.delta(&"x".repeat(40));
        assert_eq!(tally.output(), 13);
    }

    #[test]
    fn without_a_report_the_input_is_an_estimate() {
        let mut tally = Tally::EMPTY;
        tally.delta("hello world");
        assert_eq!(count(&tally), (7, 3, Measured::Counted));
    }
}
