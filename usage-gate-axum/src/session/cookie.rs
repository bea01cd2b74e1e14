//! Our cookies: the session's, and two that remember how pages are shown.
//!
//! Over TLS the session's is named `__Host-…`, which browsers take only from this very host, so that no sibling domain can plant one. Such a
//! name needs `Path=/`; without TLS the cookie is confined to the prefix.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use crate::portal_state::PortalState;

const SECURE_SESSION: &str = "__Host-ug_session";
const SESSION: &str = "ug_session";
/// The language of pages.
pub(crate) const LANGUAGE: &str = "ug_language";
/// Light, dark, or as the system.
pub(crate) const THEME: &str = "ug_theme";
/// How long a choice is remembered: a year, in seconds.
const YEAR: u32 = 365 * 86_400;

/// The session's token. Two different ones are none: which is the user's cannot be told.
pub(crate) fn session(state: &PortalState, headers: &HeaderMap) -> Option<String> {
    let name = session_name(state);
    let mut values = values(headers, name);
    let first = values.next()?;
    values.all(|other| other == first).then(|| first.to_owned())
}

/// The value of another cookie, the first if there are several.
pub(crate) fn value<'a>(headers: &'a HeaderMap, name: &'a str) -> Option<&'a str> {
    values(headers, name).next()
}

/// Keeps a session's token in the browser until it is closed; the server ends it earlier.
pub(crate) fn begin(state: &PortalState, token: &str) -> Option<HeaderValue> {
    set(&format!("{}={token}; {}", session_name(state), session_attributes(state)))
}

/// Makes the browser forget the session's token.
pub(crate) fn forget(state: &PortalState) -> Option<HeaderValue> {
    set(&format!("{}=; {}; Max-Age=0", session_name(state), session_attributes(state)))
}

/// Remembers a choice, one of our own words. Nothing hangs on it, so that scripts may read it.
pub(crate) fn remember(state: &PortalState, name: &str, word: &str) -> Option<HeaderValue> {
    let secure = if state.secure() { "; Secure" } else { "" };
    let path = &state.options().prefix;
    set(&format!("{name}={word}; Path={path}; Max-Age={YEAR}; SameSite=Lax{secure}"))
}

fn session_name(state: &PortalState) -> &'static str {
    if state.secure() { SECURE_SESSION } else { SESSION }
}

fn session_attributes(state: &PortalState) -> String {
    if state.secure() {
        "Path=/; Secure; HttpOnly; SameSite=Lax".to_owned()
    } else {
        format!("Path={}; HttpOnly; SameSite=Lax", state.options().prefix)
    }
}

/// `None` for what cannot stand in a header, which nothing that is put together here is.
fn set(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

/// All values of a cookie, in order. HTTP/2 may split the header (RFC 9113, 8.2.3).
fn values<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(move |(known, _)| *known == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (COOKIE, line.parse().unwrap())).collect()
    }

    #[test]
    fn cookies_are_found_in_every_line_and_by_their_whole_name() {
        let headers = headers(&["a=1; ug_theme=dark", "xug_language=ja;ug_language=en; ug_language=ja"]);
        assert_eq!(value(&headers, THEME), Some("dark"));
        assert_eq!(value(&headers, LANGUAGE), Some("en"));
        assert_eq!(value(&headers, "b"), None);
    }
}
