//! How far the work has come: a bar on a terminal, a line every few seconds elsewhere. On standard error, since standard output is the answer.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};
use usage_gate_core::clock::{Clock, Monotonic};

/// Between two lines.
const PAUSE_NANOS: u64 = 3_000_000_000;

/// Shows how far it is.
#[derive(Debug)]
pub(crate) struct Progress {
    what: &'static str,
    done: u64,
    all: u64,
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines { clock: Clock, next: Monotonic },
}

impl Progress {
    /// Of work that is called `what`, by what standard error is.
    pub(crate) fn new(what: &'static str) -> Self {
        let shown = if std::io::stderr().is_terminal() {
            Shown::Bar(ProgressBar::no_length())
        } else {
            let clock = Clock::system();
            let next = clock.monotonic().plus_nanos(PAUSE_NANOS);
            Shown::Lines { clock, next }
        };
        Self { what, done: 0, all: 0, shown }
    }

    /// Says how many steps there are.
    pub(crate) fn begin(&mut self, steps: u64) {
        self.all = steps;
        if let Shown::Bar(bar) = &self.shown {
            // A template of our own that cannot be read leaves the usual one.
            if let Ok(style) = ProgressStyle::with_template("{msg} {bar:40} {percent:>3} %") {
                bar.set_style(style);
            }
            bar.set_message(self.what);
            bar.set_length(steps);
        }
    }

    /// One step more is done.
    pub(crate) fn step(&mut self) {
        self.advance(1);
    }

    /// So many steps more are done.
    pub(crate) fn advance(&mut self, steps: u64) {
        self.done = self.done.saturating_add(steps);
        match &mut self.shown {
            Shown::Bar(bar) => bar.inc(steps),
            Shown::Lines { clock, next } => {
                let now = clock.monotonic();
                if now >= *next {
                    *next = now.plus_nanos(PAUSE_NANOS);
                    let percent = (self.done.saturating_mul(100)).checked_div(self.all).unwrap_or(100);
                    // Nobody reads it if this fails.
                    let _ = writeln!(std::io::stderr().lock(), "{}: {percent} %", self.what);
                }
            }
        }
    }

    /// All is done: the bar goes, since the answer says it.
    pub(crate) fn end(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}
