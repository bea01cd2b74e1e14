//! `<prefix>/v1/session`: who is signed in, how pages are shown to them, and the way out.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, SET_COOKIE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::plan;
use crate::answer::{Problem, ok};
use crate::document::Document;
use crate::portal_state::PortalState;
use crate::session::{self, SignedIn, cookie};
use crate::show;
use usage_gate_core::management;

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

#[derive(Debug, Deserialize)]
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

    fn chosen(headers: &HeaderMap) -> Option<&'static str> {
        [Self::En, Self::Ja]
            .map(Self::as_str)
            .into_iter()
            .find(|word| cookie::value(headers, cookie::LANGUAGE) == Some(word))
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

    fn chosen(headers: &HeaderMap) -> Option<&'static str> {
        let words = [Self::Auto, Self::Light, Self::Dark].map(Self::as_str);
        words.into_iter().find(|word| cookie::value(headers, cookie::THEME) == Some(word))
    }
}

pub(super) async fn read(
    State(state): State<PortalState>,
    signed_in: SignedIn,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let language = Language::chosen(&headers);
    Ok(ok(&document(&state, &signed_in, language, Theme::chosen(&headers)).await?))
}

/// Remembers a choice in this browser. What is left out stays as it is.
pub(super) async fn choose(
    State(state): State<PortalState>,
    signed_in: SignedIn,
    headers: HeaderMap,
    Document(choice): Document<Choice>,
) -> Result<Response, Problem> {
    let (language, theme) = (choice.language.map(Language::as_str), choice.theme.map(Theme::as_str));
    let shown = (language.or_else(|| Language::chosen(&headers)), theme.or_else(|| Theme::chosen(&headers)));
    let mut response = ok(&document(&state, &signed_in, shown.0, shown.1).await?);
    for (name, word) in [(cookie::LANGUAGE, language), (cookie::THEME, theme)] {
        let cookie = word.and_then(|word| cookie::remember(&state, name, word));
        if let Some(cookie) = cookie {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
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

async fn document(
    state: &PortalState,
    signed_in: &SignedIn,
    language: Option<&str>,
    theme: Option<&str>,
) -> Result<Value, Problem> {
    let (gate, options) = (state.gate(), state.options());
    let logo = options.logo.as_ref().map(|_| state.path("/assets/logo"));
    Ok(json!({
        "user": show::user(&signed_in.user),
        "role": signed_in.user.role,
        "tenant": show::own_tenant(&signed_in.tenant, gate.clock().wall()),
        "grantable_scopes": management::grantable_scopes(gate, &plan(gate, signed_in).await?),
        "brand": {"name": options.name, "logo": logo},
        "return_url": signed_in.return_url,
        "language": language.unwrap_or(Language::En.as_str()),
        "theme": theme.unwrap_or(Theme::Auto.as_str()),
    }))
}
