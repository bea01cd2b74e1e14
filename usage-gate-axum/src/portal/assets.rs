//! Files that the pages need, embedded: the sheet, two scripts, an icon, and what the host brings.

use std::borrow::Cow;
use std::sync::LazyLock;

use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, StatusCode};
use sha2::{Digest, Sha256};

use crate::answer;
use crate::options::Portal;
use crate::portal_state::PortalState;

const STYLE: &[u8] = include_bytes!("../../assets/style.css");
const SCRIPT: &[u8] = include_bytes!("../../assets/portal.js");
/// htmx 2.0.10, Zero-Clause BSD.
const HTMX: &[u8] = include_bytes!("../../assets/htmx.min.js");
const ICON: &[u8] = include_bytes!("../../assets/icon.svg");

/// A year: an address with another version is another file.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

static OURS: LazyLock<String> = LazyLock::new(|| {
    let digest = [STYLE, SCRIPT, HTMX, ICON].into_iter().fold(Sha256::new(), |digest, file| digest.chain_update(file));
    short(&digest.finalize())
});

/// What the addresses of assets carry, so that a browser takes new ones at once and keeps old ones for ever.
pub(crate) fn version(portal: &Portal) -> Cow<'static, str> {
    match (&portal.logo, &portal.stylesheet) {
        (None, None) => Cow::Borrowed(OURS.as_str()),
        (logo, sheet) => {
            let logo = logo.as_ref().map_or(&[][..], |logo| &logo.bytes);
            let digest = Sha256::new()
                .chain_update(OURS.as_bytes())
                .chain_update(logo)
                .chain_update(sheet.as_deref().unwrap_or_default());
            Cow::Owned(short(&digest.finalize()))
        }
    }
}

fn short(digest: &[u8]) -> String {
    digest.iter().take(6).fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// `GET assets/{name}`.
pub(crate) async fn asset(
    State(state): State<PortalState>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let portal = state.options();
    let fixed = |text| HeaderValue::from_static(text);
    let (content, media_type) = match name.as_str() {
        "style.css" => (Bytes::from_static(STYLE), fixed("text/css; charset=utf-8")),
        "portal.js" => (Bytes::from_static(SCRIPT), fixed("text/javascript; charset=utf-8")),
        "htmx.js" => (Bytes::from_static(HTMX), fixed("text/javascript; charset=utf-8")),
        "icon.svg" => (Bytes::from_static(ICON), fixed("image/svg+xml")),
        "logo" => match &portal.logo {
            Some(logo) => (logo.bytes.clone(), logo.media_type.clone()),
            None => return answer::no_such_path().await.into_response(),
        },
        "host.css" => match &portal.stylesheet {
            Some(text) => (Bytes::copy_from_slice(text.as_bytes()), fixed("text/css; charset=utf-8")),
            None => return answer::no_such_path().await.into_response(),
        },
        _ => return answer::no_such_path().await.into_response(),
    };
    let is_ours = query.is_some_and(|query| query.strip_prefix("v=") == Some(&*version(portal)));
    let tag = format!("\"{}\"", version(portal));
    let known =
        headers.get_all(IF_NONE_MATCH).iter().any(|value| value.to_str().is_ok_and(|value| value.contains(&tag)));
    let Ok(tag) = HeaderValue::from_str(&tag) else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let head = [
        (CONTENT_TYPE, media_type),
        // While nodes are replaced an old one is asked for the new version: what it has is not kept under that name.
        (CACHE_CONTROL, fixed(if is_ours { FOR_EVER } else { "no-cache" })),
        (ETAG, tag),
        (X_CONTENT_TYPE_OPTIONS, fixed("nosniff")),
        // A logo that is opened by itself is a document: whatever script is in it does not run.
        (CONTENT_SECURITY_POLICY, fixed("default-src 'none'; style-src 'unsafe-inline'; sandbox")),
    ];
    if known {
        return (StatusCode::NOT_MODIFIED, head).into_response();
    }
    (head, content).into_response()
}
