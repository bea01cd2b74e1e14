//! The decision, in the order of a request's path.
//!
//! 1. `credential`: take the key from its header, check its form; no I/O.
//! 2. `guard`: is this source shut out?
//! 3. `caller`: cache by key id, compare the whole secret; the store only on a miss.
//! 4. `authorize`: key and tenant usable, address allowed, route known, scopes held.
//! 5. `admit`: a seat, then concurrency, quota, rate: all local leases or none.
//! 6. (forwarding and 7. metering are the web layer's)
//! 8. `settle`: actual cost replaces the reserved one; the record is published.
//!
//! Steps 1 to 5 run synchronously as long as everything needed is in memory. What is not makes a [`Waiting`], which the web
//! layer awaits; the common path allocates no future.

mod admit;
mod authorize;
mod caller;
mod credential;
mod extend;
mod guard;
mod held;
mod limit_state;
mod refusal;
mod retry;
mod settle;
pub(crate) mod snapshots;
mod standing;
mod view;
mod wait;

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, Method};
use zeroize::Zeroizing;

pub use admit::Admitted;
pub use caller::{Caller, IdentityHeaders};
pub(crate) use caller::{CallerCache, FillError};
pub(crate) use credential::Credentials;
pub(crate) use guard::Guard;
#[cfg(test)]
pub(crate) use held::Held;
pub use limit_state::LimitState;
pub use refusal::{Code, Refusal};
pub use retry::RetryHasher;
pub use settle::{End, Settlement};
pub use standing::Standing;
pub use view::LimitView;

use crate::clock::Monotonic;
use crate::gate::GateCore;
use crate::model::{MeterIndex, RequestId, Timestamp};
use crate::routes::{Auth, Cors, Matched, RouteIndex};
use crate::secret::PresentedKey;
use crate::store::RefusalSample;

/// What the decision sees of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path as it will be forwarded, without query.
    pub path: &'a str,
    /// All header fields.
    pub headers: &'a HeaderMap,
    /// The client's address, if known; behind proxies the right-most untrusted hop.
    pub client: Option<IpAddr>,
    /// The length that the body announces, if it does.
    pub content_length: Option<u64>,
    /// Upper bounds of meters whose use only the end tells, as far as the door knows them: quotas of these meters hold that much, where
    /// they hold one unit otherwise. Rates do not, because they give nothing back.
    pub bounds: &'a [(MeterIndex, u64)],
}

/// What came of a request.
#[derive(Debug)]
pub enum Admission {
    /// It may be forwarded, and is to be settled.
    Admitted(Box<Admitted>),
    /// Its route is public: to be forwarded unmetered.
    Public(RouteIndex, RequestId),
    /// It is refused, and has spent nothing.
    Refused(Box<Refused>),
    /// A store must be asked first.
    Waiting(Box<Waiting>),
}

/// A refusal with what is known of the request.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// Who, once that is certain: then `RateLimit` headers go with the answer.
    pub caller: Option<Arc<Caller>>,
    /// Which route, if one matched.
    pub route: Option<RouteIndex>,
    /// The request's id.
    pub request: RequestId,
    /// How the caller's limits on the route stand.
    pub standings: Vec<Standing>,
}

/// What is kept of the head of a request.
#[derive(Debug)]
struct Head {
    request: RequestId,
    now: Monotonic,
    at: Timestamp,
    client: Option<IpAddr>,
    /// The route that method and path lead to, if one does.
    matched: Option<RouteIndex>,
    /// The same, unless the route refuses the request as it is.
    route: Result<RouteIndex, Refusal>,
    bounds: Box<[(MeterIndex, u64)]>,
}

/// What steps 1 to 4 know of a request without a store.
enum Recognised {
    /// Its route is public.
    Public(RouteIndex),
    /// The holder of the key.
    Caller(Arc<Caller>),
    /// The key is authentic, its holder not cached.
    Unread(Zeroizing<Vec<u8>>),
}

/// A request that waits for a store. Dropping it gives up the request, which has spent nothing.
#[derive(Debug)]
pub struct Waiting {
    gate: Arc<GateCore>,
    head: Head,
    what: WaitingFor,
}

#[derive(Debug)]
enum WaitingFor {
    /// The holder of a key that is not cached.
    Caller(Zeroizing<Vec<u8>>),
    /// Units of a quota.
    Units(Arc<Caller>, RouteIndex),
}

impl GateCore {
    /// Steps 1 to 5, as far as they need no store.
    pub(crate) fn admit(self: &Arc<Self>, request: &RequestHead<'_>) -> Admission {
        let head = self.head(request);
        match self.recognise(&head, request) {
            Ok(Recognised::Public(route)) => Admission::Public(route, head.request),
            Ok(Recognised::Caller(caller)) => {
                self.metrics.looked_up(crate::metrics::Lookup::Hit);
                self.admit_caller(head, caller)
            }
            Ok(Recognised::Unread(text)) => {
                let what = WaitingFor::Caller(text);
                Admission::Waiting(Box::new(Waiting { gate: Arc::clone(self), head, what }))
            }
            Err(refusal) => Admission::Refused(self.refuse(head, None, refusal)),
        }
    }

    /// Steps 1 to 4, as far as they need no store: the refusal that is certain already.
    pub(crate) fn check_caller(&self, request: &RequestHead<'_>) -> Option<Box<Refused>> {
        let head = self.head(request);
        match self.recognise(&head, request) {
            Ok(Recognised::Caller(caller)) => {
                let refusal = self.permitted_route(&head, &caller).err()?;
                // Counted where the request ends; one that goes on is looked up once more.
                self.metrics.looked_up(crate::metrics::Lookup::Hit);
                Some(self.refuse(head, Some(caller), refusal))
            }
            Ok(Recognised::Public(_) | Recognised::Unread(_)) => None,
            Err(refusal) => Some(self.refuse(head, None, refusal)),
        }
    }

    fn head(&self, request: &RequestHead<'_>) -> Head {
        let now = self.clock.monotonic();
        let (matched, route) = self.match_route(request);
        let (id, at, client) = (RequestId::generate(), self.wall_at(now), request.client);
        Head { request: id, now, at, client, matched, route, bounds: request.bounds.into() }
    }

    /// Steps 1 to 3.
    fn recognise(&self, head: &Head, request: &RequestHead<'_>) -> Result<Recognised, Refusal> {
        if let Ok(route) = head.route
            && self.is_public(route, request)
        {
            return match self.check_denied(head.client).or_else(|| self.draining_refusal()) {
                None => Ok(Recognised::Public(route)),
                Some(refusal) => Err(refusal),
            };
        }
        let taken = self.credentials.take(request.headers);
        // Before anything is said of the key: who is shut out learns nothing about it.
        if let Some(refusal) = self.check_source(head.client, head.now) {
            return Err(refusal);
        }
        let presented = taken?;
        match self.callers.cached(&presented, &self.pepper) {
            caller::Cached::Known(caller) => Ok(Recognised::Caller(caller)),
            caller::Cached::Wrong => Err(invalid_key()),
            // A made-up key ends here: no store call, no row, no cache entry.
            caller::Cached::Missing if self.pepper_rule.is_broken() => Err(store_away()),
            caller::Cached::Missing if !self.pepper.authenticates(&presented) => Err(invalid_key()),
            caller::Cached::Missing => Ok(Recognised::Unread(Zeroizing::new(presented.text().to_vec()))),
        }
    }

    fn match_route(&self, request: &RequestHead<'_>) -> (Option<RouteIndex>, Result<RouteIndex, Refusal>) {
        let refusal = match self.routes.find(request.method, request.path) {
            Matched::Route(index, route) => match (route.max_body, request.content_length) {
                (Some(most), Some(length)) if length > most => {
                    let detail = format!("the body has {length} bytes, this route takes at most {most}");
                    return (Some(index), Err(Refusal::new(Code::PayloadTooLarge, detail)));
                }
                _ => return (Some(index), Ok(index)),
            },
            Matched::OtherMethods(allow) => {
                let mut refusal = Refusal::new(Code::MethodNotAllowed, format!("this path takes {allow}"));
                refusal.allow = Some(allow);
                refusal
            }
            Matched::Unknown => Refusal::new(Code::RouteNotFound, "no route has this path"),
            Matched::Ambiguous => Refusal::new(
                Code::InvalidRequest,
                "the path has a spelling that servers read differently: remove //, /../, %2f, %2e, %5c and control characters",
            ),
        };
        (None, Err(refusal))
    }

    fn is_public(&self, route: RouteIndex, request: &RequestHead<'_>) -> bool {
        self.routes.route(route).is_some_and(|route| {
            route.auth == Auth::Public
                || (route.cors == Cors::Forward
                    && *request.method == Method::OPTIONS
                    && request.headers.contains_key(http::header::ACCESS_CONTROL_REQUEST_METHOD))
        })
    }

    /// Step 4: the route that the caller may use now.
    fn permitted_route(&self, head: &Head, caller: &Caller) -> Result<RouteIndex, Refusal> {
        authorize::usable(caller, head.client, head.at)?;
        let route = head.route.clone()?;
        let rule =
            self.routes.route(route).ok_or_else(|| Refusal::new(Code::RouteNotFound, "no route has this path"))?;
        authorize::permitted(caller, &rule.scopes)?;
        match self.draining_refusal() {
            None => Ok(route),
            Some(refusal) => Err(refusal),
        }
    }

    /// Steps 4 and 5 for a known caller.
    fn admit_caller(self: &Arc<Self>, head: Head, caller: Arc<Caller>) -> Admission {
        let route = match self.permitted_route(&head, &caller) {
            Ok(route) => route,
            Err(refusal) => return Admission::Refused(self.refuse(head, Some(caller), refusal)),
        };
        match self.try_admit(&head, caller, route) {
            admit::Attempt::Admitted(admitted) => Admission::Admitted(admitted),
            admit::Attempt::Stopped(stop, caller) => match *stop {
                admit::Stop::Refused(refusal) => Admission::Refused(self.refuse(head, Some(caller), refusal)),
                admit::Stop::Away => Admission::Refused(self.refuse(head, Some(caller), store_away())),
                admit::Stop::Short(..) => {
                    let what = WaitingFor::Units(caller, route);
                    Admission::Waiting(Box::new(Waiting { gate: Arc::clone(self), head, what }))
                }
            },
        }
    }

    fn refuse(&self, head: Head, caller: Option<Arc<Caller>>, refusal: Refusal) -> Box<Refused> {
        let route = head.matched;
        self.metrics.refused(route, refusal.code);
        if refusal.code == Code::InvalidKey {
            self.note_bad_credential(head.client, head.now);
        }
        let standings = match (&caller, route) {
            (Some(caller), Some(route)) => self.standings(caller, route, head.client),
            _ => Vec::new(),
        };
        if let Some(caller) = &caller {
            let limit = refusal.violated.first().map(|state| Arc::from(state.limit.name.as_str()));
            self.refusals.count(caller, route, refusal.code, limit, head.at);
            self.samples.keep(|| RefusalSample {
                at: head.at,
                request: head.request,
                tenant: caller.tenant,
                key: caller.key,
                user: caller.user,
                environment: caller.environment,
                route: route
                    .and_then(|route| self.routes.route(route))
                    .map_or_else(|| "".into(), |r| Arc::clone(&r.name)),
                code: refusal.code.as_str().into(),
                status: refusal.code.status(),
                violated: serde_json::to_string(&refusal.violated).unwrap_or_else(|_| "[]".to_owned()),
            });
        }
        Box::new(Refused { refusal, caller, route, request: head.request, standings })
    }
}

impl Head {
    /// The bound of a meter, if the door knows one.
    fn bound(&self, meter: MeterIndex) -> Option<u64> {
        self.bounds.iter().find(|(at, _)| *at == meter).map(|(_, units)| *units)
    }
}

impl Waiting {
    /// Asks the store and goes on; never gives [`Admission::Waiting`] again.
    pub async fn finish(self) -> Admission {
        let Self { gate, head, what } = self;
        let (caller, route) = match what {
            WaitingFor::Units(caller, route) => (caller, route),
            WaitingFor::Caller(text) => {
                let caller = match gate.fill_caller(&text).await {
                    Ok(caller) => caller,
                    Err(refusal) => return Admission::Refused(gate.refuse(head, None, refusal)),
                };
                match gate.admit_caller(head, caller) {
                    Admission::Waiting(waiting) => match *waiting {
                        Self { head, what: WaitingFor::Units(caller, route), .. } => {
                            return gate.wait_for_units(head, caller, route).await;
                        }
                        // `admit_caller` has the caller: it waits for units only.
                        Self { head, .. } => return Admission::Refused(gate.refuse(head, None, store_away())),
                    },
                    decided => return decided,
                }
            }
        };
        gate.wait_for_units(head, caller, route).await
    }
}

impl GateCore {
    /// Resolves the holder of an authentic key and compares the secret.
    pub(crate) async fn fill_caller(self: &Arc<Self>, text: &[u8]) -> Result<Arc<Caller>, Refusal> {
        use crate::metrics::Lookup;
        let Some(presented) = PresentedKey::parse(&self.credentials.prefix, text) else {
            return Err(invalid_key());
        };
        match self.callers.fill(self, &presented).await {
            Ok(caller) => {
                self.metrics.looked_up(Lookup::Filled);
                if caller.holds(&presented, &self.pepper) { Ok(caller) } else { Err(invalid_key()) }
            }
            Err(FillError::Unknown) => {
                self.metrics.looked_up(Lookup::Unknown);
                Err(invalid_key())
            }
            Err(FillError::Away) => {
                self.metrics.looked_up(Lookup::Failed);
                Err(store_away())
            }
        }
    }

    /// Steps 1 to 4 without a route: who presents this key.
    pub(crate) async fn authenticate(
        self: &Arc<Self>,
        headers: &HeaderMap,
        client: Option<IpAddr>,
    ) -> Result<Arc<Caller>, Refusal> {
        let taken = self.credentials.take(headers);
        let now = self.clock.monotonic();
        if let Some(refusal) = self.check_source(client, now) {
            return Err(refusal);
        }
        let caller = match taken {
            Ok(presented) => self.resolve(&presented).await,
            Err(refusal) => Err(refusal),
        };
        let caller = caller.inspect_err(|refusal| {
            if refusal.code == Code::InvalidKey {
                self.note_bad_credential(client, now);
            }
        })?;
        authorize::usable(&caller, client, self.clock.wall())?;
        Ok(caller)
    }

    /// Step 3, with the store if it must be asked.
    async fn resolve(self: &Arc<Self>, presented: &PresentedKey<'_>) -> Result<Arc<Caller>, Refusal> {
        match self.callers.cached(presented, &self.pepper) {
            caller::Cached::Known(caller) => Ok(caller),
            caller::Cached::Wrong => Err(invalid_key()),
            caller::Cached::Missing if self.pepper_rule.is_broken() => Err(store_away()),
            caller::Cached::Missing if !self.pepper.authenticates(presented) => Err(invalid_key()),
            caller::Cached::Missing => self.fill_caller(presented.text()).await,
        }
    }
}

fn invalid_key() -> Refusal {
    Refusal::new(Code::InvalidKey, "this is not an API key of this service")
}

pub(crate) fn store_away() -> Refusal {
    Refusal::new(Code::StoreUnavailable, "a store that is needed to decide is away; nothing was spent").retry_after(1)
}
