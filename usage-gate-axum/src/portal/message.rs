//! Pages that say what happened, and answers of every page: their headers, and what is shown when something is in the way.

use askama::Template;
use axum::response::{IntoResponse, Response};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, StatusCode};
use usage_gate_core::management::{Invalid, ManagementError};
use usage_gate_core::store::StoreError;

use super::frame::{Frame, Taste};
use super::locale::Language;
use crate::portal_state::PortalState;
use crate::session::NotSignedIn;

/// What is in the way of a page.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Nobody is signed in, or not any more.
    SignedOut,
    NotFound,
    Forbidden(String),
    Suspended,
    Invalid(Invalid),
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
            ManagementError::Forbidden(why) => Self::Forbidden(why.to_owned()),
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

/// The page of what is in the way.
pub(crate) fn show(state: &PortalState, taste: Taste, trouble: &Trouble) -> Response {
    let frame = Frame::new(state, taste, "", &state.path("/month"));
    let (w, month) = (frame.w, format!("{}/month", frame.prefix));
    let keys = format!("{}/keys", frame.prefix);
    let (status, mut message) = match trouble {
        Trouble::SignedOut => {
            (StatusCode::UNAUTHORIZED, Message::new(frame, w.ended_title, w.ended_text).advice(w.ended_advice))
        }
        Trouble::NotFound => {
            (StatusCode::NOT_FOUND, Message::new(frame, w.not_found_title, w.not_found_text).link(month, w.to_month))
        }
        Trouble::Forbidden(why) => {
            let message = Message::new(frame, w.forbidden_title, w.forbidden_text).link(month, w.to_month);
            // The rule's own words are English.
            let english = taste.language == Language::English;
            (StatusCode::FORBIDDEN, if english { message.advice(why) } else { message })
        }
        Trouble::Suspended => {
            (StatusCode::FORBIDDEN, Message::new(frame, w.suspended_title, w.suspended_text).link(keys, w.to_keys))
        }
        Trouble::Invalid(invalid) => {
            let mut message = Message::new(frame, w.invalid_title, "").link(keys, w.to_keys);
            message.faults = invalid.faults.iter().map(|fault| fault.detail.clone()).collect();
            (StatusCode::BAD_REQUEST, message)
        }
        Trouble::Away => {
            (StatusCode::SERVICE_UNAVAILABLE, Message::new(frame, w.away_title, w.away_text).link(month, w.try_again))
        }
    };
    message.request_id = taste.request.map(|id| id.to_string());
    html(status, &message, None)
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
