//! One rule, as the host states it.

use http::Method;

use super::{BillOn, BillRetries, OnHangUp, TokenFormat};

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Auth {
    /// Callers with a key.
    #[default]
    Key,
    /// Everybody: forwarded unmetered.
    Public,
}

/// What happens to CORS preflights (`OPTIONS` with `access-control-request-method`), which carry no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cors {
    /// They need a key as any request does.
    #[default]
    Refuse,
    /// They are forwarded unmetered.
    Forward,
}

/// A rule as the host states it.
///
/// ```
/// # use usage_gate_core::routes::Route;
/// let route = Route::get("/v1/items/{id}").named("item").scope("items:read").cost(3);
/// ```
#[derive(Debug, Clone)]
pub struct Route {
    pub(crate) name: Option<String>,
    pub(crate) methods: Vec<Method>,
    pub(crate) path: String,
    pub(crate) auth: Auth,
    pub(crate) cors: Cors,
    pub(crate) scopes: Vec<String>,
    pub(crate) cost: Vec<(String, u64)>,
    pub(crate) bill_on: BillOn,
    pub(crate) max_body: Option<u64>,
    pub(crate) tokens: Option<TokenFormat>,
    pub(crate) on_hang_up: OnHangUp,
    pub(crate) bill_retries: BillRetries,
    pub(crate) upstream: Option<String>,
}

impl Route {
    /// A rule for every method on this path.
    #[must_use]
    pub fn any(path: impl Into<String>) -> Self {
        Self {
            name: None,
            methods: Vec::new(),
            path: path.into(),
            auth: Auth::Key,
            cors: Cors::Refuse,
            scopes: Vec::new(),
            cost: Vec::new(),
            bill_on: BillOn::default(),
            max_body: None,
            tokens: None,
            on_hang_up: OnHangUp::Cancel,
            bill_retries: BillRetries::Each,
            upstream: None,
        }
    }

    /// A rule for `GET` and `HEAD`.
    #[must_use]
    pub fn get(path: impl Into<String>) -> Self {
        Self::any(path).methods([Method::GET, Method::HEAD])
    }

    /// A rule for `POST`.
    #[must_use]
    pub fn post(path: impl Into<String>) -> Self {
        Self::any(path).methods([Method::POST])
    }

    /// For these methods only; none means all.
    #[must_use]
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods = methods.into_iter().collect();
        self
    }

    /// Its name, which limits, usage and metrics use; default: the path.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// A scope that the key must hold; call it again for more, all of which are needed.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scopes.push(scope.into());
        self
    }

    /// Units of `requests` that a call takes; default 1.
    #[must_use]
    pub fn cost(self, units: u64) -> Self {
        self.cost_of("requests", units)
    }

    /// Units of a meter that a call takes, unless the handler or upstream says otherwise.
    #[must_use]
    pub fn cost_of(mut self, meter: impl Into<String>, units: u64) -> Self {
        self.cost.push((meter.into(), units));
        self
    }

    /// Who may call it.
    #[must_use]
    pub const fn auth(mut self, auth: Auth) -> Self {
        self.auth = auth;
        self
    }

    /// What happens to preflights.
    #[must_use]
    pub const fn cors(mut self, cors: Cors) -> Self {
        self.cors = cors;
        self
    }

    /// Statuses that are billed; default 101 and 2xx.
    #[must_use]
    pub fn bill_on(mut self, bill_on: BillOn) -> Self {
        self.bill_on = bill_on;
        self
    }

    /// Bytes that a request body may have; default unbounded.
    #[must_use]
    pub const fn max_body(mut self, bytes: Option<u64>) -> Self {
        self.max_body = bytes;
        self
    }

    /// Meters tokens as these bodies report them; default not at all.
    ///
    /// ```
    /// # use usage_gate_core::routes::{OnHangUp, Route, TokenFormat};
    /// let route = Route::post("/v1/chat/completions").named("chat").tokens(TokenFormat::OpenAi).on_hang_up(OnHangUp::Drain);
    /// ```
    #[must_use]
    pub const fn tokens(mut self, format: TokenFormat) -> Self {
        self.tokens = Some(format);
        self
    }

    /// What happens when the client leaves early; default [`OnHangUp::Cancel`].
    #[must_use]
    pub const fn on_hang_up(mut self, on_hang_up: OnHangUp) -> Self {
        self.on_hang_up = on_hang_up;
        self
    }

    /// How often repeated requests are billed; default [`BillRetries::Each`].
    #[must_use]
    pub const fn bill_retries(mut self, bill_retries: BillRetries) -> Self {
        self.bill_retries = bill_retries;
        self
    }

    /// Where a proxy sends it; the gate only keeps it.
    #[must_use]
    pub fn upstream(mut self, url: impl Into<String>) -> Self {
        self.upstream = Some(url.into());
        self
    }
}
