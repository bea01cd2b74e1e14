//! The request log: what became of single requests, for seven days.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::Measured;
use crate::model::{Environment, KeyId, RequestId, TenantId, Timestamp, UserId};

/// How long requests stay in the log.
const KEPT_MICROS: i64 = 7 * 86_400 * 1_000_000;

/// Requests from before this instant are forgotten.
pub(crate) const fn kept_since(through: Timestamp) -> Timestamp {
    through.plus_micros(-KEPT_MICROS)
}

/// One refusal of those that are summed, for the request log.
#[derive(Debug, Clone)]
pub struct RefusalSample {
    /// When.
    pub at: Timestamp,
    /// Which request.
    pub request: RequestId,
    /// Whose.
    pub tenant: TenantId,
    /// By which key.
    pub key: KeyId,
    /// The key's user, if it has one.
    pub user: Option<UserId>,
    /// Live or test.
    pub environment: Environment,
    /// Which route, by name; empty if none matched.
    pub route: Arc<str>,
    /// The refusal's code, such as `rate_limited`.
    pub code: Arc<str>,
    /// The status it was answered with.
    pub status: u16,
    /// The limits that refused, as a JSON array of limit states; `[]` where it was none.
    pub violated: String,
}

/// A question about single requests. Every member that is set leaves out what does not match.
#[derive(Debug, Clone, Default)]
pub struct RequestQuery {
    /// Only this tenant's.
    pub tenant: Option<TenantId>,
    /// Only by this key.
    pub key: Option<KeyId>,
    /// Only by keys of this user.
    pub user: Option<UserId>,
    /// Only on this route.
    pub route: Option<String>,
    /// Only with this status.
    pub status: Option<u16>,
    /// Only with this outcome: a word of [`Outcome`](super::Outcome), or `refused:<code>`.
    pub outcome: Option<String>,
    /// Only of this environment.
    pub environment: Option<Environment>,
    /// Only this one, by its text.
    pub request: Option<String>,
    /// Only those admitted at this instant or later.
    pub from: Option<Timestamp>,
    /// Only those admitted before this instant.
    pub to: Option<Timestamp>,
    /// Only those that come after this place in the list.
    pub after: Option<RequestPlace>,
    /// At most this many.
    pub size: usize,
}

/// One request of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestItem {
    /// Which.
    pub request: RequestId,
    /// When it was admitted, or refused.
    pub at: Timestamp,
    /// Whose.
    pub tenant: TenantId,
    /// By which key.
    pub key: Option<KeyId>,
    /// The key's user, if it has one.
    pub user: Option<UserId>,
    /// On which route; empty if none matched.
    pub route: String,
    /// Live or test.
    pub environment: Environment,
    /// The status of the answer; 0 if no head was ever released.
    pub status: u16,
    /// A word of [`Outcome`](super::Outcome), or `refused:<code>`.
    pub outcome: String,
    /// How the units were found out; `None` for a refusal, which took none.
    pub measured: Option<Measured>,
    /// Units by meter; meters without any are left out.
    pub units: Vec<(String, u64)>,
    /// Of a refusal, the limits that refused, as a JSON array of limit states.
    pub violated: Option<String>,
}

impl RequestItem {
    /// Where it stands in the list.
    #[must_use]
    pub const fn place(&self) -> RequestPlace {
        RequestPlace { at: self.at, request: self.request }
    }
}

/// A part of the log, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestPage {
    /// The requests.
    pub items: Vec<RequestItem>,
    /// Where the list goes on; `None` at its end. A question that finds little in a lot gets a part with few items, or none, and goes on.
    pub next: Option<RequestPlace>,
}

/// A place in the list of requests, which later ones do not move.
///
/// ```
/// # use usage_gate_core::store::RequestPlace;
/// let place: RequestPlace = "1796050800000000-0000000000000000000000000000002a".parse()?;
/// assert_eq!(place.to_string().parse(), Ok(place));
/// assert!("17".parse::<RequestPlace>().is_err());
/// # Ok::<(), usage_gate_core::store::ParseRequestPlaceError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestPlace {
    /// The request's instant.
    pub at: Timestamp,
    /// Tells requests of one instant apart.
    pub request: RequestId,
}

/// Text that is no place in the list of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a place in a list of requests")]
pub struct ParseRequestPlaceError;

impl fmt::Display for RequestPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:032x}", self.at.as_micros(), self.request.as_u128())
    }
}

impl FromStr for RequestPlace {
    type Err = ParseRequestPlaceError;

    fn from_str(text: &str) -> Result<Self, ParseRequestPlaceError> {
        let (at, request) = text.rsplit_once('-').ok_or(ParseRequestPlaceError)?;
        let at = at.parse().map_err(|_| ParseRequestPlaceError)?;
        let whole = request.len() == 32 && request.bytes().all(|digit| digit.is_ascii_hexdigit());
        let request = u128::from_str_radix(request, 16).ok().filter(|_| whole).ok_or(ParseRequestPlaceError)?;
        Ok(Self { at: Timestamp::from_micros(at), request: RequestId::from_u128(request) })
    }
}
