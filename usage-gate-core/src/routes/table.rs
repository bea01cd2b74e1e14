//! The table of routes: rules compiled once, matched by method and path.

use std::sync::Arc;

use http::Method;

use super::{Auth, BillOn, BillRetries, Cors, OnHangUp, Route, TokenFormat};
use crate::model::{MeterIndex, Meters, ParseScopeError, Scope};

/// Why a set of routes cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// The path is malformed, or takes the place of another.
    #[error("route `{route}`: path `{path}`: {reason}")]
    Path {
        /// The route's name.
        route: String,
        /// Its path.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Two routes have one name.
    #[error("route `{0}`: the name is taken by another route")]
    Name(String),
    /// Two routes are for one path and method.
    #[error("route `{0}`: another route is for the same path and method")]
    Ambiguous(String),
    /// A scope is malformed.
    #[error("route `{route}`: scope `{scope}`: {source}")]
    Scope {
        /// The route's name.
        route: String,
        /// The text.
        scope: String,
        /// Why.
        source: ParseScopeError,
    },
    /// A cost names a meter that is not declared.
    #[error("route `{route}`: meter `{meter}` is not declared")]
    Meter {
        /// The route's name.
        route: String,
        /// The name.
        meter: String,
    },
}

/// A rule ready for use.
#[derive(Debug)]
pub struct CompiledRoute {
    /// Its name.
    pub name: Arc<str>,
    /// Its path, as written: the template for metrics.
    pub path: Arc<str>,
    /// Who may call it.
    pub auth: Auth,
    /// What happens to preflights.
    pub cors: Cors,
    /// Scopes that the key must hold, all of them.
    pub scopes: Box<[Scope]>,
    /// Units known at admission, by meter, `requests` first.
    pub cost: Box<[(MeterIndex, u64)]>,
    /// Statuses that are billed.
    pub bill_on: BillOn,
    /// Bytes that a request body may have.
    pub max_body: Option<u64>,
    /// In whose words its bodies speak of tokens, if they are metered.
    pub tokens: Option<TokenFormat>,
    /// What happens when the client leaves early.
    pub on_hang_up: OnHangUp,
    /// How often repeated requests are billed.
    pub bill_retries: BillRetries,
    /// Where a proxy sends it.
    pub upstream: Option<String>,
    methods: Box<[Method]>,
}

impl CompiledRoute {
    /// Units of a meter that a call is known to take at admission; `None` if only the actual use tells.
    #[must_use]
    pub fn known_cost(&self, meter: MeterIndex) -> Option<u64> {
        self.cost.iter().find(|(at, _)| *at == meter).map(|(_, units)| *units)
    }

    fn takes(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method)
    }
}

/// The place of a route in [`Routes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteIndex(u16);

impl RouteIndex {
    /// The position.
    #[must_use]
    pub const fn position(self) -> usize {
        self.0 as usize
    }
}

/// What a method and path lead to.
#[derive(Debug)]
pub enum Matched<'a> {
    /// A route.
    Route(RouteIndex, &'a CompiledRoute),
    /// The path is known, the method is not; with the methods that are, for `Allow`.
    OtherMethods(String),
    /// No route has this path.
    Unknown,
    /// The path is spelt so that others may read it differently.
    Ambiguous,
}

/// All routes of a gate.
#[derive(Debug)]
pub struct Routes {
    all: Box<[CompiledRoute]>,
    /// Routes by path; those of one path in the order in which they are tried.
    paths: matchit::Router<Vec<RouteIndex>>,
    strict: bool,
    /// What the paths of token routes begin with, up to their first `{`.
    token_paths: Box<[Box<str>]>,
}

impl Routes {
    /// Compiles routes; none at all means one route `default` for every path.
    ///
    /// # Errors
    /// [`RouteError`] names the route that cannot be used.
    pub fn compile(routes: Vec<Route>, meters: &Meters) -> Result<Self, RouteError> {
        let routes = if routes.is_empty() { vec![Route::any("/{*rest}").named("default")] } else { routes };
        let mut by_path: Vec<(String, Vec<RouteIndex>)> = Vec::new();
        let mut all: Vec<CompiledRoute> = Vec::with_capacity(routes.len());
        for (at, route) in (0u16..).zip(routes) {
            let path = route.path.clone();
            let compiled = compile(route, meters)?;
            if all.iter().any(|other| other.name == compiled.name) {
                return Err(RouteError::Name(compiled.name.to_string()));
            }
            let here = match by_path.iter_mut().find(|(known, _)| *known == path) {
                Some((_, here)) => here,
                None => {
                    by_path.push((path, Vec::new()));
                    &mut by_path.last_mut().ok_or_else(|| RouteError::Ambiguous(compiled.name.to_string()))?.1
                }
            };
            let clash = here.iter().filter_map(|index| all.get(index.position())).any(|other| {
                other.methods.is_empty() == compiled.methods.is_empty()
                    && (compiled.methods.is_empty() || compiled.methods.iter().any(|method| other.takes(method)))
            });
            if clash {
                return Err(RouteError::Ambiguous(compiled.name.to_string()));
            }
            here.push(RouteIndex(at));
            all.push(compiled);
        }
        let strict = !matches!(&*all, [only] if &*only.path == "/{*rest}");
        let mut paths = matchit::Router::new();
        for (path, mut indexes) in by_path {
            // Routes with methods are tried before the one that takes every method.
            indexes.sort_by_key(|index| all.get(index.position()).is_some_and(|route| route.methods.is_empty()));
            let fault = |reason: matchit::InsertError| RouteError::Path {
                route: indexes
                    .first()
                    .and_then(|i| all.get(i.position()))
                    .map_or_else(String::new, |r| r.name.to_string()),
                path: path.clone(),
                reason: reason.to_string(),
            };
            paths.insert(path.clone(), indexes.clone()).map_err(fault)?;
            if let Some((before, _)) = path.split_once("{*") {
                // `{*rest}` may be nothing. A route of its own for the shorter path keeps it.
                let _ = paths.insert(before.to_owned(), indexes.clone());
            }
        }
        let token_paths = all.iter().filter(|route| route.tokens.is_some() && route.auth == Auth::Key);
        let token_paths = token_paths.map(|route| route.path.split('{').next().unwrap_or_default().into()).collect();
        Ok(Self { all: all.into(), paths, strict, token_paths })
    }

    /// The format of the route's tokens, if a request by this method and path (without query) is metered in them.
    ///
    /// Only `POST` is: a `GET` may show the usage of an earlier request once more. Where no token route begins like the path, nothing is looked up.
    #[must_use]
    pub fn token_format(&self, method: &Method, path: &str) -> Option<TokenFormat> {
        if !self.token_paths.iter().any(|begin| path.starts_with(&**begin)) || *method != Method::POST {
            return None;
        }
        match self.find(method, path) {
            Matched::Route(_, route) if route.auth == Auth::Key => route.tokens,
            _ => None,
        }
    }

    /// The route of a method and path (without query).
    #[must_use]
    pub fn find(&self, method: &Method, path: &str) -> Matched<'_> {
        if self.strict && !is_plain(path) {
            return Matched::Ambiguous;
        }
        if !self.strict {
            // One rule for everything, `*` of `OPTIONS *` included.
            return match self.all.first() {
                Some(only) if only.takes(method) => Matched::Route(RouteIndex(0), only),
                Some(only) => Matched::OtherMethods(allow(&[only])),
                None => Matched::Unknown,
            };
        }
        let Ok(found) = self.paths.at(path) else {
            return Matched::Unknown;
        };
        for index in found.value {
            if let Some(route) = self.all.get(index.position()).filter(|route| route.takes(method)) {
                return Matched::Route(*index, route);
            }
        }
        let here: Vec<&CompiledRoute> = found.value.iter().filter_map(|index| self.all.get(index.position())).collect();
        if *method == Method::OPTIONS {
            // A preflight asks about another method of the same path.
            let forwards =
                |index: &&RouteIndex| self.all.get(index.position()).is_some_and(|r| r.cors == Cors::Forward);
            if let Some(index) = found.value.iter().find(forwards)
                && let Some(route) = self.all.get(index.position())
            {
                return Matched::Route(*index, route);
            }
        }
        Matched::OtherMethods(allow(&here))
    }

    /// The route at an index that this table gave.
    #[must_use]
    pub fn route(&self, index: RouteIndex) -> Option<&CompiledRoute> {
        self.all.get(index.position())
    }

    /// All routes, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = &CompiledRoute> {
        self.all.iter()
    }
}

fn allow(routes: &[&CompiledRoute]) -> String {
    let mut methods: Vec<&str> = routes.iter().flat_map(|route| route.methods.iter()).map(Method::as_str).collect();
    methods.sort_unstable();
    methods.dedup();
    methods.join(", ")
}

fn compile(route: Route, meters: &Meters) -> Result<CompiledRoute, RouteError> {
    let name = route.name.unwrap_or_else(|| route.path.clone());
    if !route.path.starts_with('/') {
        let reason = "must start with /".to_owned();
        return Err(RouteError::Path { route: name, path: route.path, reason });
    }
    let scopes = route
        .scopes
        .into_iter()
        .map(|text| text.parse().map_err(|source| RouteError::Scope { route: name.clone(), scope: text, source }));
    let scopes = scopes.collect::<Result<Box<[Scope]>, _>>()?;
    let mut cost: Vec<(MeterIndex, u64)> = Vec::with_capacity(route.cost.len() + 1);
    for (meter, units) in route.cost {
        let index = meters.index(&meter).ok_or_else(|| RouteError::Meter { route: name.clone(), meter })?;
        cost.retain(|(known, _)| *known != index);
        cost.push((index, units));
    }
    if !cost.iter().any(|(meter, _)| *meter == MeterIndex::REQUESTS) {
        cost.push((MeterIndex::REQUESTS, 1));
    }
    // What every route has, first: a seat has room for a few.
    cost.sort_by_key(|(meter, _)| *meter != MeterIndex::REQUESTS);
    Ok(CompiledRoute {
        name: name.into(),
        path: route.path.into(),
        auth: route.auth,
        cors: route.cors,
        scopes,
        cost: cost.into(),
        bill_on: route.bill_on,
        max_body: route.max_body,
        tokens: route.tokens,
        on_hang_up: route.on_hang_up,
        bill_retries: route.bill_retries,
        upstream: route.upstream,
        methods: route.methods.into(),
    })
}

/// Whether every server reads this path the same way.
fn is_plain(path: &str) -> bool {
    let bytes = path.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let rest = &bytes[at..];
        let suspect = match byte {
            b'/' => {
                let segment = rest[1..].split(|b| *b == b'/').next().unwrap_or_default();
                (segment.is_empty() && rest.len() > 1) || segment == b"." || segment == b".."
            }
            b'%' => rest
                .get(1..3)
                .is_some_and(|code| [b"2f", b"2e", b"5c", b"00"].iter().any(|bad| code.eq_ignore_ascii_case(*bad))),
            b'\\' | 0..=0x20 | 0x7f => true,
            _ => false,
        };
        if suspect {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes {
        let meters = Meters::new(["rows"]).unwrap();
        let routes = vec![
            Route::get("/v1/items/{id}").named("item").cost_of("rows", 2),
            Route::any("/v1/{*rest}").named("rest"),
            Route::get("/v1/items/special").named("special").cost(3),
            Route::post("/v1/items/{id}").named("change"),
            Route::get("/open").named("open").auth(Auth::Public).cors(Cors::Forward),
        ];
        Routes::compile(routes, &meters).unwrap()
    }

    #[track_caller]
    fn check(method: Method, path: &str, expected: &str) {
        let routes = routes();
        let found = match routes.find(&method, path) {
            Matched::Route(_, route) => route.name.to_string(),
            Matched::OtherMethods(allow) => format!("allow {allow}"),
            Matched::Unknown => "unknown".into(),
            Matched::Ambiguous => "ambiguous".into(),
        };
        assert_eq!(found, expected, "{method} {path}");
    }

    #[test]
    fn the_most_specific_path_wins() {
        check(Method::GET, "/v1/items/special", "special");
        check(Method::GET, "/v1/items/7", "item");
        check(Method::POST, "/v1/items/7", "change");
        check(Method::GET, "/v1/items/7/parts", "rest");
        check(Method::GET, "/v1/", "rest");
        check(Method::GET, "/v2", "unknown");
    }

    #[test]
    fn a_known_path_with_another_method_tells_which_are_allowed() {
        check(Method::DELETE, "/v1/items/7", "allow GET, HEAD, POST");
        check(Method::OPTIONS, "/open", "open");
    }

    #[test]
    fn a_path_that_others_may_read_differently_is_refused() {
        for path in ["/v1//items", "/v1/../open", "/v1/%2e%2e/open", "/v1/items%2F7", "/v1/.", "/v1\\items", "/v1/%00"]
        {
            check(Method::GET, path, "ambiguous");
        }
        check(Method::GET, "/v1/items/a%20b..c", "item");
    }

    #[test]
    fn with_one_rule_for_everything_any_spelling_passes() {
        let routes = Routes::compile(Vec::new(), &Meters::default()).unwrap();
        assert!(matches!(routes.find(&Method::GET, "/a//b%2f"), Matched::Route(_, route) if &*route.name == "default"));
    }

    #[test]
    fn only_posts_to_token_routes_have_a_token_format() {
        let chat = Route::any("/v1/chat/{*rest}").named("chat").tokens(TokenFormat::OpenAi);
        let open = Route::any("/v1/open").named("open").auth(Auth::Public).tokens(TokenFormat::OpenAi);
        let routes =
            Routes::compile(vec![chat, open, Route::any("/{*rest}").named("rest")], &Meters::default()).unwrap();
        assert_eq!(routes.token_format(&Method::POST, "/v1/chat/completions"), Some(TokenFormat::OpenAi));
        assert_eq!(routes.token_format(&Method::GET, "/v1/chat/completions"), None);
        assert_eq!(routes.token_format(&Method::POST, "/v1/open"), None, "a public route is not metered");
        assert_eq!(routes.token_format(&Method::POST, "/v1/chats"), None);
    }

    #[test]
    fn routes_that_cannot_be_told_apart_are_an_error() {
        let twice = vec![Route::get("/a").named("x"), Route::get("/a").named("y")];
        assert_eq!(Routes::compile(twice, &Meters::default()).err(), Some(RouteError::Ambiguous("y".into())));
        let unknown = vec![Route::get("/a").named("x").cost_of("rows", 1)];
        assert!(matches!(Routes::compile(unknown, &Meters::default()), Err(RouteError::Meter { .. })));
    }
}
