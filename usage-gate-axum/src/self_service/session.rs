//! `<prefix>/v1/session`: who is signed in, how pages are shown to them, and the way out.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use usage_gate_core::management;

use crate::answer::{Problem, ok};
use crate::document::Document;
use crate::portal::Taste;
use crate::portal_state::PortalState;
use crate::session::{self, SignedIn, cookie};
use crate::show;

/// A language in which there are pages.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Language {
    En,
    Ja,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Theme {
    Auto,
    Light,
    Dark,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Choice {
    language: Option<Language>,
    theme: Option<Theme>,
}

impl Language {
    const fn as_str(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Ja => "ja",
        }
    }
}

impl Theme {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

pub(super) async fn read(
    State(state): State<PortalState>,
    signed_in: SignedIn,
    request: Parts,
) -> Result<Response, Problem> {
    Ok(ok(&document(&state, &signed_in, &request, Choice::default()).await?))
}

/// Remembers a choice in this browser. What is left out stays as it is.
pub(super) async fn choose(
    State(state): State<PortalState>,
    signed_in: SignedIn,
    request: Parts,
    Document(choice): Document<Choice>,
) -> Result<Response, Problem> {
    let mut response = ok(&document(&state, &signed_in, &request, choice).await?);
    let words =
        [(cookie::LANGUAGE, choice.language.map(Language::as_str)), (cookie::THEME, choice.theme.map(Theme::as_str))];
    let cookies = words.into_iter().filter_map(|(name, word)| cookie::remember(&state, name, word?));
    for cookie in cookies {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    Ok(response)
}

pub(super) async fn end(State(state): State<PortalState>, headers: HeaderMap) -> Result<Response, Problem> {
    session::end(&state, &headers).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().extend(cookie::forget(&state).map(|cookie| (SET_COOKIE, cookie)));
    Ok(response)
}

/// With the choice as it is from now on.
async fn document(
    state: &PortalState,
    signed_in: &SignedIn,
    request: &Parts,
    choice: Choice,
) -> Result<Value, Problem> {
    let (gate, options, taste) = (state.gate(), state.options(), Taste::of(request));
    let logo = options.logo.as_ref().map(|_| state.path("/assets/logo"));
    Ok(json!({
        "user": show::user(&signed_in.user),
        "role": signed_in.user.role,
        "tenant": show::own_tenant(&signed_in.tenant, gate.clock().wall()),
        "grantable_scopes": management::grantable_scopes(gate, &signed_in.plan(gate).await?),
        "brand": {"name": options.name, "logo": logo},
        "return_url": signed_in.return_url,
        "language": choice.language.map_or(taste.language.tag(), Language::as_str),
        "theme": choice.theme.map_or(taste.theme.as_str(), Theme::as_str),
    }))
}
