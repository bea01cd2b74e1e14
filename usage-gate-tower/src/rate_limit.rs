//! `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers), and the older `x-ratelimit-*`.

use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;
use usage_gate_core::admission::{Admitted, Refused};

static POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
static LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// An item per limit: `"burst";r=50;t=30`.
struct Items {
    /// On the stack: the value is copied once, into an allocation of its size.
    text: SmallVec<[u8; 128]>,
    number: itoa::Buffer,
    /// The limit with the least left, for the older headers.
    tightest: Option<Tightest>,
}

#[derive(Clone, Copy)]
struct Tightest {
    ceiling: u64,
    remaining: u64,
    reset_seconds: u64,
}

impl Items {
    fn new() -> Self {
        Self { text: SmallVec::new(), number: itoa::Buffer::new(), tightest: None }
    }

    fn add(&mut self, name: &str, ceiling: u64, remaining: u64, reset_seconds: Option<u64>) {
        if !self.text.is_empty() {
            self.text.extend_from_slice(b", ");
        }
        self.text.push(b'"');
        // Limit names are of letters, digits, `_`, `-` and `.`: nothing to escape.
        self.text.extend_from_slice(name.as_bytes());
        self.text.extend_from_slice(b"\";r=");
        // Structured-field integers have at most 15 digits.
        self.text.extend_from_slice(self.number.format(remaining.min(999_999_999_999_999)).as_bytes());
        if let Some(seconds) = reset_seconds {
            self.text.extend_from_slice(b";t=");
            self.text.extend_from_slice(self.number.format(seconds.min(999_999_999_999_999)).as_bytes());
        }
        if self.tightest.is_none_or(|least| remaining < least.remaining) {
            self.tightest = Some(Tightest { ceiling, remaining, reset_seconds: reset_seconds.unwrap_or(0) });
        }
    }

    fn insert(self, headers: &mut HeaderMap, policy: Option<&HeaderValue>, legacy: bool) {
        let Some(policy) = policy else { return };
        headers.insert(POLICY.clone(), policy.clone());
        if let Ok(value) = HeaderValue::from_bytes(&self.text) {
            headers.insert(LIMIT.clone(), value);
        }
        if let (true, Some(tightest)) = (legacy, self.tightest) {
            headers.insert(HeaderName::from_static("x-ratelimit-limit"), tightest.ceiling.into());
            headers.insert(HeaderName::from_static("x-ratelimit-remaining"), tightest.remaining.into());
            headers.insert(HeaderName::from_static("x-ratelimit-reset"), tightest.reset_seconds.into());
        }
    }
}

pub(crate) fn on_served(headers: &mut HeaderMap, admitted: &Admitted, legacy: bool) {
    let mut items = Items::new();
    admitted.each_standing(|standing| {
        items.add(standing.name, standing.ceiling, standing.remaining, standing.reset_seconds)
    });
    items.insert(headers, admitted.policy(), legacy);
}

pub(crate) fn on_refused(headers: &mut HeaderMap, refused: &Refused, legacy: bool) {
    let (Some(caller), Some(route)) = (&refused.caller, refused.route) else { return };
    let mut items = Items::new();
    for standing in &refused.standings {
        items.add(&standing.name, standing.ceiling, standing.remaining, standing.reset_seconds);
    }
    items.insert(headers, caller.policy(route), legacy);
}
