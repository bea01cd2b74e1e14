//! The frame of a page: brand, navigation, who is signed in, language and theme.

use std::borrow::Cow;

use http::request::Parts;
use usage_gate_core::model::{RequestId, Role, Timestamp};

use super::assets;
use super::locale::{Dates, Language, Words};
use crate::portal_state::PortalState;
use crate::session::{SignedIn, cookie};

/// Light or dark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Theme {
    Auto,
    Light,
    Dark,
}

impl Theme {
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Self::Auto),
            "light" => Some(Self::Light),
            "dark" => Some(Self::Dark),
            _ => None,
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }

    pub(crate) fn is(self, name: &str) -> bool {
        self.as_str() == name
    }

    /// The theme, unless the system decides.
    pub(crate) fn forced(self) -> Option<&'static str> {
        (self != Self::Auto).then(|| self.as_str())
    }
}

/// What the browser sent that shapes a page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taste {
    pub(crate) language: Language,
    pub(crate) theme: Theme,
    /// The request's id, to be told where something is in the way.
    pub(crate) request: Option<RequestId>,
}

impl Taste {
    pub(crate) fn of(parts: &Parts) -> Self {
        Self {
            language: Language::of(cookie::value(&parts.headers, cookie::LANGUAGE), &parts.headers),
            theme: cookie::value(&parts.headers, cookie::THEME).and_then(Theme::named).unwrap_or(Theme::Auto),
            request: parts.extensions.get::<RequestId>().copied(),
        }
    }
}

/// Everything that `frame.html` shows.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) language: Language,
    pub(crate) w: &'static Words,
    pub(crate) theme: Theme,
    pub(crate) prefix: String,
    pub(crate) brand: String,
    pub(crate) has_logo: bool,
    pub(crate) has_stylesheet: bool,
    /// Which page of the navigation it is.
    pub(crate) page: &'static str,
    pub(crate) who: Option<Who>,
    /// The line at the foot.
    pub(crate) note: String,
    /// Where to come back to after a change of language or theme.
    pub(crate) here: String,
    version: Cow<'static, str>,
}

/// Who is signed in.
#[derive(Debug)]
pub(crate) struct Who {
    pub(crate) name: String,
    pub(crate) tenant: String,
    pub(crate) role: &'static str,
    /// Address and text of the way back to the site that sent them.
    pub(crate) back: Option<(String, String)>,
    /// A session of the host's is ended by the host.
    pub(crate) may_sign_out: bool,
}

impl Frame {
    pub(crate) fn new(state: &PortalState, taste: Taste, page: &'static str, here: &str) -> Self {
        let portal = state.options();
        Self {
            language: taste.language,
            w: taste.language.words(),
            theme: taste.theme,
            prefix: portal.prefix.clone(),
            brand: portal.name.clone(),
            has_logo: portal.logo.is_some(),
            has_stylesheet: portal.stylesheet.is_some(),
            page,
            who: None,
            note: String::new(),
            here: here.to_owned(),
            version: assets::version(portal),
        }
    }

    /// The same for somebody who is signed in.
    pub(crate) fn of(
        state: &PortalState,
        taste: Taste,
        page: &'static str,
        here: &str,
        signed_in: &SignedIn,
        dates: &Dates,
    ) -> Self {
        let mut frame = Self::new(state, taste, page, here);
        let back = signed_in.return_url.as_deref().map(|url| (url.to_owned(), taste.language.back_to(host_of(url))));
        frame.note = taste.language.all_times_in(dates.zone());
        frame.who = Some(Who {
            name: signed_in.user.name.clone(),
            tenant: signed_in.tenant.name.clone(),
            role: match signed_in.user.role {
                Role::Owner => frame.w.owner,
                Role::Admin => frame.w.admin,
                Role::Member => frame.w.member,
                Role::Viewer => frame.w.viewer,
            },
            back,
            may_sign_out: !signed_in.by_host,
        });
        frame
    }

    /// The address of an asset, which changes with its content.
    pub(crate) fn asset(&self, name: &str) -> String {
        format!("{}/assets/{name}?v={}", self.prefix, self.version)
    }

    /// Where the user came from.
    pub(crate) fn way_back(&self) -> Option<&str> {
        self.who.as_ref()?.back.as_ref().map(|(url, _)| url.as_str())
    }

    pub(crate) fn is_english(&self) -> bool {
        self.language == Language::English
    }
}

/// `app.example.com` of `https://app.example.com/account`.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or(rest)
}

/// Dates of a tenant, in the language of the page.
pub(crate) fn dates(signed_in: &SignedIn, language: Language, now: Timestamp) -> Dates {
    Dates::new(language, signed_in.tenant.calendar.zone_at(now).clone(), now)
}
