//! `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers), and the older `x-ratelimit-*`.

use http::{HeaderMap, HeaderName, HeaderValue};
use usage_gate_core::admission::{Admitted, Refused};

static POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
static LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Bytes of a `RateLimit` field; a plan with more limits on one route than fit shows the first of them.
const TEXT: usize = 1024;

/// Text that is put together on the stack.
struct Text {
    bytes: [u8; TEXT],
    length: usize,
}

impl Text {
    fn put(&mut self, part: &[u8]) {
        let end = self.length + part.len();
        if let Some(place) = self.bytes.get_mut(self.length..end) {
            place.copy_from_slice(part);
            self.length = end;
        }
    }

    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// An item per limit: `"burst";r=50;t=30`.
struct Items {
    /// On the stack, where it stays: the value is copied once, into an allocation of its size.
    text: Text,
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
        Self { text: Text { bytes: [0; TEXT], length: 0 }, number: itoa::Buffer::new(), tightest: None }
    }

    fn add(&mut self, name: &str, ceiling: u64, remaining: u64, reset_seconds: Option<u64>) {
        // An item is in it whole or not at all: name, two numbers of 15 digits, and what is around them.
        if self.text.length + name.len() + 48 > TEXT {
            return;
        }
        if self.text.length > 0 {
            self.text.put(b", ");
        }
        self.text.put(b"\"");
        // Limit names are of letters, digits, `_`, `-` and `.`: nothing to escape.
        self.text.put(name.as_bytes());
        self.text.put(b"\";r=");
        // Structured-field integers have at most 15 digits.
        self.text.put(self.number.format(remaining.min(999_999_999_999_999)).as_bytes());
        if let Some(seconds) = reset_seconds {
            self.text.put(b";t=");
            self.text.put(self.number.format(seconds.min(999_999_999_999_999)).as_bytes());
        }
        if self.tightest.is_none_or(|least| remaining < least.remaining) {
            self.tightest = Some(Tightest { ceiling, remaining, reset_seconds: reset_seconds.unwrap_or(0) });
        }
    }

    fn insert(&self, headers: &mut HeaderMap, policy: Option<&HeaderValue>, legacy: bool) {
        let Some(policy) = policy else { return };
        headers.insert(POLICY.clone(), policy.clone());
        if let Ok(value) = HeaderValue::from_bytes(self.text.as_slice()) {
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
