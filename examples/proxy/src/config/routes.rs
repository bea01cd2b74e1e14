//! Routes and meters: from the file's words to the gate's.

use std::collections::BTreeMap;

use http::Method;
use serde::Deserialize;
use usage_gate_core::model::Meters;
use usage_gate_core::routes::{Auth, BillOn, BillRetries, Cors, OnHangUp, Route, Routes, TokenFormat};

use super::load::{Faults, Loaded};
use super::url::HttpUrl;
use super::{Config, size, value};

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteConfig {
    name: Option<String>,
    #[serde(default)]
    methods: Vec<String>,
    path: String,
    #[serde(default)]
    auth: AuthWord,
    #[serde(default)]
    cors: CorsWord,
    #[serde(default)]
    scopes: Vec<String>,
    cost: Option<Cost>,
    bill_on: Option<Vec<StatusWord>>,
    #[serde(default, deserialize_with = "size::or_none")]
    max_body: Option<u64>,
    tokens: Option<TokensWord>,
    #[serde(default)]
    on_hang_up: HangUpWord,
    #[serde(default)]
    bill_retries: RetriesWord,
    #[serde(default, deserialize_with = "value::optional")]
    pub(crate) upstream: Option<HttpUrl>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AuthWord {
    #[default]
    Key,
    None,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum CorsWord {
    #[default]
    Refuse,
    Forward,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TokensWord {
    OpenAi,
    Anthropic,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum HangUpWord {
    #[default]
    Cancel,
    Drain,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RetriesWord {
    #[default]
    Each,
    Once,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "cost is a number of requests, or units by meter such as { rows = 1 }")]
enum Cost {
    Requests(u64),
    Meters(BTreeMap<String, u64>),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "bill_on has statuses such as 101 and classes such as \"2xx\"")]
enum StatusWord {
    Status(u16),
    Class(String),
}

impl RouteConfig {
    fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.path)
    }

    fn to_route(&self) -> Result<Route, String> {
        let label = self.label();
        let mut methods = Vec::with_capacity(self.methods.len());
        for word in &self.methods {
            let known = word.bytes().all(|b| b.is_ascii_uppercase()).then(|| word.parse::<Method>().ok()).flatten();
            methods.push(known.ok_or_else(|| format!("route `{label}`: `{word}` is not a method such as GET"))?);
        }
        let mut route = Route::any(&*self.path).methods(methods).max_body(self.max_body);
        if let Some(name) = &self.name {
            route = route.named(name);
        }
        route = route.auth(match self.auth {
            AuthWord::Key => Auth::Key,
            AuthWord::None => Auth::Public,
        });
        route = route.cors(match self.cors {
            CorsWord::Refuse => Cors::Refuse,
            CorsWord::Forward => Cors::Forward,
        });
        if let Some(tokens) = self.tokens {
            route = route.tokens(match tokens {
                TokensWord::OpenAi => TokenFormat::OpenAi,
                TokensWord::Anthropic => TokenFormat::Anthropic,
            });
        }
        route = route.on_hang_up(match self.on_hang_up {
            HangUpWord::Cancel => OnHangUp::Cancel,
            HangUpWord::Drain => OnHangUp::Drain,
        });
        route = route.bill_retries(match self.bill_retries {
            RetriesWord::Each => BillRetries::Each,
            RetriesWord::Once => BillRetries::Once,
        });
        for scope in &self.scopes {
            route = route.scope(scope);
        }
        match &self.cost {
            None => {}
            Some(Cost::Requests(units)) => route = route.cost(*units),
            Some(Cost::Meters(meters)) => {
                for (meter, units) in meters {
                    route = route.cost_of(meter, *units);
                }
            }
        }
        if let Some(words) = &self.bill_on {
            let words: Vec<String> = words
                .iter()
                .map(|word| match word {
                    StatusWord::Status(status) => status.to_string(),
                    StatusWord::Class(class) => class.clone(),
                })
                .collect();
            let bill_on = BillOn::parse(words.iter().map(String::as_str));
            let fault = || format!("route `{label}`: bill_on takes statuses (101) and classes (\"2xx\")");
            route = route.bill_on(bill_on.ok_or_else(fault)?);
        }
        if let Some(upstream) = &self.upstream {
            route = route.upstream(upstream.to_string());
        }
        Ok(route)
    }
}

impl Loaded {
    /// Checks what no single value shows, and gives the gate's words for meters and routes.
    pub(crate) fn meters_and_routes(&self) -> Result<(Meters, Vec<Route>), Faults> {
        let config = &self.config;
        let mut faults = Vec::new();
        let meters = Meters::new(config.meters.keys()).map_err(|fault| self.about("meters", &fault.to_string()))?;
        let mut routes = Vec::with_capacity(config.routes.len());
        for (at, route) in config.routes.iter().enumerate() {
            if route.upstream.as_ref().is_some_and(|url| !url.is_plain()) {
                let fault = format!("route `{}`: {HTTPS}", route.label());
                faults.push(self.about_route(at, &fault));
            }
            match route.to_route() {
                Ok(route) => routes.push(route),
                Err(fault) => faults.push(self.about_route(at, &fault)),
            }
        }
        if config.upstream.url.as_ref().is_some_and(|url| !url.is_plain()) {
            faults.push(self.about("upstream.url", HTTPS));
        }
        if let Some(fault) = config.journal.fault() {
            faults.push(self.about("journal.retention_bytes", &fault));
        }
        if config.keys.headers.is_empty() {
            faults.push(self.about("keys.headers", "name at least one header, such as x-api-key"));
        }
        if faults.is_empty() {
            self.find_route_fault(config, &meters, &routes, &mut faults);
        }
        if faults.is_empty() { Ok((meters, routes)) } else { Err(Faults(faults)) }
    }

    /// Compiles the routes one more at a time, so that the one which does not fit is the one that is named.
    fn find_route_fault(&self, config: &Config, meters: &Meters, routes: &[Route], faults: &mut Vec<String>) {
        let Err(_) = Routes::compile(routes.to_vec(), meters) else { return };
        for (at, _) in config.routes.iter().enumerate() {
            if let Err(fault) = Routes::compile(routes.iter().take(at + 1).cloned().collect(), meters) {
                faults.push(self.about_route(at, &fault.to_string()));
                return;
            }
        }
    }
}

const HTTPS: &str = "https to an upstream is not built yet in this version: use http";
