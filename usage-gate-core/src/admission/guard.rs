//! Step 2: is this source shut out? By the operator's list for good, or by the penalty box for a while, because it guesses keys.
//!
//! 1. An address on the deny list is refused, on public routes as well.
//! 2. A request that is refused with `invalid_key` is a bad try of its source: a text that is no key, a checksum or an id that was made up, an id that
//!    nobody has, a wrong secret. A key that was forgotten, has expired or was revoked is none: its sender guesses nothing.
//! 3. The twentieth bad try in a minute is answered as the others, and puts the source into the box. From then on everything that needs a key is
//!    refused unseen, good keys too: else who guesses could go on, and would know a good key by its answer.
//! 4. What comes meanwhile is not counted, and does not prolong the time: a refusal that looked at no key has helped nobody to guess one, and a
//!    client that just tries again would never come out.
//!
//! An address on the allow list is never counted nor put in; neither is a request whose address nobody told. What is kept is of fixed size, and costs
//! a request one atomic read as long as nobody is in.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use super::{Code, Refusal};
use crate::abuse::{AddressSet, BadTries, PenaltyBox, SourceHash, source_of};
use crate::clock::Monotonic;
use crate::gate::GateCore;
use crate::metrics::AbuseAction;
use crate::model::AddressRange;
use crate::secret::NoRandomness;

/// What the guard knows of sources.
#[derive(Debug)]
pub(crate) struct Guard {
    denied: AddressSet,
    allowed: AddressSet,
    /// Nothing if guessers are not shut out.
    guessers: Option<Guessers>,
}

#[derive(Debug)]
struct Guessers {
    tries: BadTries,
    shut_out: PenaltyBox,
}

impl Guard {
    pub(crate) fn new(
        denied: &[AddressRange],
        allowed: &[AddressRange],
        bad_credentials: u16,
        block: Duration,
    ) -> Result<Self, NoRandomness> {
        let guessers = match NonZeroU16::new(bad_credentials) {
            Some(most) => Some(Guessers {
                tries: BadTries::new(SourceHash::random()?, most),
                shut_out: PenaltyBox::new(SourceHash::random()?, block),
            }),
            None => None,
        };
        Ok(Self { denied: AddressSet::new(denied), allowed: AddressSet::new(allowed), guessers })
    }

    fn denies(&self, client: IpAddr) -> bool {
        self.denied.contains(client)
    }

    fn time_left(&self, client: IpAddr, now: Monotonic) -> Option<Duration> {
        let guessers = self.guessers.as_ref()?;
        // Nobody is in: the source does not matter.
        if guessers.shut_out.is_empty(now) {
            return None;
        }
        guessers.shut_out.time_left(source_of(client), now)
    }

    /// Counts a bad try: nothing if it does not count, else how long it shut the source out, if it did.
    fn bad_try(&self, client: IpAddr, now: Monotonic) -> Option<Option<Duration>> {
        let guessers = self.guessers.as_ref()?;
        // Requests that were under way when the source was shut out come here as well.
        if self.allowed.contains(client) || self.time_left(client, now).is_some() {
            return None;
        }
        let source = source_of(client);
        Some(guessers.tries.count(source, now).then(|| guessers.shut_out.put(source, now)))
    }
}

impl GateCore {
    /// Whether the operator's list shuts this address out.
    pub(crate) fn check_denied(&self, client: Option<IpAddr>) -> Option<Refusal> {
        if !self.guard.denies(client?) {
            return None;
        }
        self.metrics.abuse(AbuseAction::Denied);
        Some(Refusal::new(Code::AbuseBlocked, "requests from this address are not served"))
    }

    /// Whether anything shuts this address out.
    pub(crate) fn check_source(&self, client: Option<IpAddr>, now: Monotonic) -> Option<Refusal> {
        if let Some(refusal) = self.check_denied(client) {
            return Some(refusal);
        }
        let left = self.guard.time_left(client?, now)?;
        self.metrics.abuse(AbuseAction::Blocked);
        let seconds = whole_seconds(left);
        let detail = format!(
            "too many requests with bad credentials came from this address: it is served again in {seconds} seconds"
        );
        Some(Refusal::new(Code::AbuseBlocked, detail).retry_after(seconds))
    }

    /// Counts a bad try of this address.
    pub(crate) fn note_bad_credential(&self, client: Option<IpAddr>, now: Monotonic) {
        let Some(client) = client else { return };
        let Some(counted) = self.guard.bad_try(client, now) else { return };
        self.metrics.abuse(AbuseAction::Observed);
        if let Some(time) = counted {
            self.metrics.abuse(AbuseAction::Boxed);
            // A line takes as many bad requests as are let through: a flood of requests is no flood of lines.
            tracing::warn!(
                source = %source_of(client),
                seconds = whole_seconds(time),
                "too many bad credentials: the source is shut out; if it is a proxy of yours, name it as a trusted proxy"
            );
        }
    }
}

/// Rounded up: who comes back then is not early.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
