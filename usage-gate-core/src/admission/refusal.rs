//! Why a request is refused: the table of codes, and what goes with them.

use std::borrow::Cow;

use super::LimitState;

/// Every code of a refusal, with its status and title in one table.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $status:literal, $title:literal;)*) => {
        /// A machine-readable reason; clients branch on [`as_str`](Self::as_str).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// The word in documents.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// The HTTP status.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The title for people.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The request or document cannot be understood.
    InvalidRequest = "invalid_request", 400, "Invalid request";
    /// Two different keys in one request.
    AmbiguousCredentials = "ambiguous_credentials", 400, "Ambiguous credentials";
    /// No key.
    MissingKey = "missing_key", 401, "Missing API key";
    /// Not a key of ours.
    InvalidKey = "invalid_key", 401, "Invalid API key";
    /// The key's end has passed.
    ExpiredKey = "expired_key", 401, "Expired API key";
    /// The key was revoked.
    RevokedKey = "revoked_key", 401, "Revoked API key";
    /// No admin or portal token.
    MissingToken = "missing_token", 401, "Missing token";
    /// Not a token of ours.
    InvalidToken = "invalid_token", 401, "Invalid token";
    /// The key lacks a scope of the route.
    InsufficientScope = "insufficient_scope", 403, "Insufficient scope";
    /// The key may not be used from this address.
    AddressNotAllowed = "address_not_allowed", 403, "Address not allowed";
    /// The tenant is suspended.
    TenantSuspended = "tenant_suspended", 403, "Account suspended";
    /// The source is shut out for a while.
    AbuseBlocked = "abuse_blocked", 403, "Blocked";
    /// The token's role does not permit it.
    Forbidden = "forbidden", 403, "Forbidden";
    /// No route has this path.
    RouteNotFound = "route_not_found", 404, "Route not found";
    /// There is no such thing here.
    NotFound = "not_found", 404, "Not found";
    /// The path is known, the method is not.
    MethodNotAllowed = "method_not_allowed", 405, "Method not allowed";
    /// Something unique exists already.
    Conflict = "conflict", 409, "Conflict";
    /// The same call is still running.
    IdempotencyInProgress = "idempotency_in_progress", 409, "Still in progress";
    /// Another body under the same idempotency key.
    IdempotencyConflict = "idempotency_conflict", 422, "Idempotency conflict";
    /// The body is larger than allowed.
    PayloadTooLarge = "payload_too_large", 413, "Payload too large";
    /// The head is larger than allowed.
    HeadersTooLarge = "headers_too_large", 431, "Headers too large";
    /// A rate is used up for now.
    RateLimited = "rate_limited", 429, "Rate limit exceeded";
    /// A quota is used up for its period.
    QuotaExceeded = "quota_exceeded", 429, "Quota exceeded";
    /// Too many requests are open.
    ConcurrencyLimited = "concurrency_limited", 429, "Too many requests at once";
    /// The upstream cannot be reached.
    UpstreamUnavailable = "upstream_unavailable", 502, "Upstream unavailable";
    /// A store that a promise needs is away.
    StoreUnavailable = "store_unavailable", 503, "Temporarily unavailable";
    /// Usage cannot be recorded.
    JournalUnavailable = "journal_unavailable", 503, "Temporarily unavailable";
    /// Too much at once.
    Overloaded = "overloaded", 503, "Overloaded";
    /// This node is going away.
    Draining = "draining", 503, "Shutting down";
    /// The upstream did not answer in time.
    UpstreamTimeout = "upstream_timeout", 504, "Upstream timeout";
}

impl Code {
    /// The problem type (RFC 9457): IANA's for limits, else ours.
    #[must_use]
    pub fn problem_type(self) -> Cow<'static, str> {
        match self {
            Self::RateLimited | Self::QuotaExceeded | Self::ConcurrencyLimited => {
                "https://iana.org/assignments/http-problem-types#quota-exceeded".into()
            }
            code => format!("urn:usage-gate:problem:{}", code.as_str()).into(),
        }
    }
}

/// A refusal: an answer, not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: Code,
    /// For people: what was wrong and what would be right. Never a secret.
    pub detail: Cow<'static, str>,
    /// The limits that refused.
    pub violated: Vec<LimitState>,
    /// Whole seconds after which it makes sense to try again.
    pub retry_after: Option<u64>,
    /// For 405: the methods that are allowed.
    pub allow: Option<String>,
}

impl Refusal {
    /// A refusal with nothing but a code and a detail.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), violated: Vec::new(), retry_after: None, allow: None }
    }

    /// The same, to be tried again after so many seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}
