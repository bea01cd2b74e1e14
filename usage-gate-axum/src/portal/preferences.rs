//! `POST preferences`: language and theme, kept in cookies.

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use http::header::SET_COOKIE;

use super::frame::Theme;
use crate::portal_state::PortalState;
use crate::session::cookie;

/// Remembers what was chosen and leads back to the page it was chosen on.
pub(crate) async fn choose(State(state): State<PortalState>, body: Bytes) -> Response {
    // One of each, however often a form says it.
    let (mut here, mut chosen_language, mut chosen_theme) = (state.path("/month"), None, None);
    for (name, value) in form_urlencoded::parse(&body) {
        match (&*name, &*value) {
            ("here", place) if is_ours(&state.options().prefix, place) => here = place.to_owned(),
            ("language", language @ ("en" | "ja")) => {
                chosen_language = cookie::remember(&state, cookie::LANGUAGE, language);
            }
            ("theme", theme) if Theme::named(theme).is_some() => {
                chosen_theme = cookie::remember(&state, cookie::THEME, theme);
            }
            _ => {}
        }
    }
    let mut response = Redirect::to(&here).into_response();
    response.headers_mut().extend(chosen_language.into_iter().chain(chosen_theme).map(|cookie| (SET_COOKIE, cookie)));
    response
}

/// A page of ours: whatever a form says, nobody is led anywhere else.
fn is_ours(prefix: &str, place: &str) -> bool {
    place.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/') && !rest.starts_with("//"))
        && place.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
        && !place.split(['?', '#']).next().unwrap_or_default().split('/').any(|segment| segment == "..")
}

#[cfg(test)]
mod tests {
    use super::is_ours;

    #[test]
    fn nobody_is_led_away() {
        assert!(is_ours("/usage-gate", "/usage-gate/month?period=2026-11&by=route"));
        for place in [
            "https://evil.test/",
            "//evil.test",
            "/usage-gate",
            "/usage-gate-evil/",
            "/usage-gate/../x",
            "/usage-gate/a\r\nb",
            "/usage-gate/\\x",
        ] {
            assert!(!is_ours("/usage-gate", place), "{place}");
        }
    }
}
