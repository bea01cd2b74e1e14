//! Pages that say what happened, and answers of every page: their headers, and what is shown when something is in the way.

use askama::Template;
use axum::response::{IntoResponse, Response};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode};
use usage_gate_core::management::{Invalid, ManagementError};
use usage_gate_core::store::StoreError;

use super::frame::{self, Frame, Taste};
use crate::portal_state::PortalState;
use crate::session::{NotSignedIn, SignedIn};

/// What is in the way of a page.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Nobody is signed in, or not any more.
    SignedOut,
    NotFound,
    Forbidden,
    Suspended,
    Invalid(Invalid),
    /// The address is shut out, for so many seconds if that ends by itself.
    Blocked(Option<u64>),
    /// A store does not answer.
    Away,
}

impl Trouble {
    pub(crate) fn is_worth_a_log(&self) -> bool {
        matches!(self, Self::Away)
    }
}

impl From<NotSignedIn> for Trouble {
    fn from(reason: NotSignedIn) -> Self {
        match reason {
            NotSignedIn::Missing | NotSignedIn::Ended => Self::SignedOut,
            NotSignedIn::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        tracing::warn!(error = &error as &dyn std::error::Error, "a store did not answer a page");
        Self::Away
    }
}

impl From<ManagementError> for Trouble {
    fn from(error: ManagementError) -> Self {
        match error {
            ManagementError::Invalid(invalid) => Self::Invalid(invalid),
            ManagementError::NotFound(_) => Self::NotFound,
            ManagementError::Forbidden(_) => Self::Forbidden,
            ManagementError::Suspended => Self::Suspended,
            ManagementError::Store(error) => error.into(),
            other => {
                tracing::error!(error = &other as &dyn std::error::Error, "a page cannot be made");
                Self::Away
            }
        }
    }
}

#[derive(Template)]
#[template(path = "message.html")]
pub(crate) struct Message {
    f: Frame,
    title: String,
    head: &'static str,
    text: String,
    advice: String,
    faults: Vec<String>,
    link: Option<(String, String)>,
    request_id: Option<String>,
}

impl Message {
    pub(crate) fn new(f: Frame, head: &'static str, text: &str) -> Self {
        let title = f.language.title(head, &f.brand);
        Self {
            f,
            title,
            head,
            text: text.to_owned(),
            advice: String::new(),
            faults: Vec::new(),
            link: None,
            request_id: None,
        }
    }

    pub(crate) fn advice(mut self, advice: &str) -> Self {
        advice.clone_into(&mut self.advice);
        self
    }

    pub(crate) fn link(mut self, href: String, text: &str) -> Self {
        self.link = Some((href, text.to_owned()));
        self
    }
}

/// The page of what is in the way, with the navigation of whoever is signed in.
pub(crate) async fn show(state: &PortalState, parts: &Parts, trouble: &Trouble) -> Response {
    let taste = Taste::of(parts);
    let here = state.path("/month");
    // Where a store is away nobody is asked about, so that the page is there at once.
    let signed_in = match trouble {
        Trouble::SignedOut | Trouble::Away | Trouble::Blocked(_) => None,
        _ => SignedIn::find(state, parts).await.ok(),
    };
    let frame = match &signed_in {
        Some(signed_in) => {
            let now = state.gate().clock().wall();
            let dates = frame::dates(signed_in, taste.language, now);
            Frame::of(state, taste, "", &here, signed_in, &dates)
        }
        None => Frame::new(state, taste, "", &here),
    };
    let (w, language) = (frame.w, frame.language);
    let (month, keys) = (here, state.path("/keys"));
    let (status, mut message) = match trouble {
        Trouble::SignedOut => {
            (StatusCode::UNAUTHORIZED, Message::new(frame, w.ended_title, w.ended_text).advice(w.ended_advice))
        }
        Trouble::NotFound => {
            (StatusCode::NOT_FOUND, Message::new(frame, w.not_found_title, w.not_found_text).link(month, w.to_month))
        }
        Trouble::Forbidden => {
            (StatusCode::FORBIDDEN, Message::new(frame, w.forbidden_title, w.forbidden_text).link(month, w.to_month))
        }
        Trouble::Suspended => {
            (StatusCode::FORBIDDEN, Message::new(frame, w.suspended_title, w.suspended_text).link(keys, w.to_keys))
        }
        Trouble::Blocked(seconds) => {
            let message = Message::new(frame, w.blocked_title, w.blocked_text);
            let advice = seconds.map_or_else(String::new, |seconds| language.released_in(seconds));
            (StatusCode::FORBIDDEN, message.advice(&advice))
        }
        Trouble::Invalid(invalid) => {
            let mut message = Message::new(frame, w.invalid_title, "").link(keys, w.to_keys);
            message.faults = invalid.faults.iter().map(|fault| language.fault(&fault.detail)).collect();
            (StatusCode::BAD_REQUEST, message)
        }
        Trouble::Away => {
            (StatusCode::SERVICE_UNAVAILABLE, Message::new(frame, w.away_title, w.away_text).link(month, w.try_again))
        }
    };
    message.request_id = taste.request.map(|id| id.to_string());
    let mut response = html(status, &message, message.f.way_back());
    if let Trouble::Blocked(Some(seconds)) = trouble {
        response.headers_mut().insert(RETRY_AFTER, (*seconds).into());
    }
    response
}

/// A page with the headers that every page has. From it a form may lead to where its user came from.
pub(crate) fn html(status: StatusCode, page: &impl Template, way_back: Option<&str>) -> Response {
    let Ok(text) = page.render() else {
        tracing::error!("a page could not be rendered");
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let mut response = fragment(text);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, policy(way_back));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
    response
}

/// Nothing but our own files, and nothing inline. Browsers hold forms to `form-action` through redirects: signing out leads away.
fn policy(way_back: Option<&str>) -> HeaderValue {
    let origin = way_back
        .and_then(|url| url.parse::<http::Uri>().ok())
        .and_then(|url| Some(format!(" {}://{}", url.scheme_str()?, url.authority()?)));
    let text = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'{}; \
         base-uri 'none'; frame-ancestors 'none'",
        origin.unwrap_or_default()
    );
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
}

/// A part of a page.
pub(crate) fn fragment(html: String) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        // It is about one account, and a key may be in it.
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (VARY, HeaderValue::from_static("accept-language, cookie")),
    ];
    (headers, html).into_response()
}
