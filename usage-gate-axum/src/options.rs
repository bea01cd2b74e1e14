//! What a host says about its portal: where it is reached, how it looks, and who is signed in to the host itself.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Uri};

use crate::session::Identity;

/// What a portal is to be like; see [`portal`](crate::portal).
///
/// ```
/// # use usage_gate_axum::{Portal, PortalError};
/// let portal = Portal::new()
///     .public_url("https://api.example.com")?
///     .name("Northwind API")
///     .example("/v1/search?q=hello")?;
/// # Ok::<(), PortalError>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct Portal {
    pub(crate) public_url: Option<PublicUrl>,
    pub(crate) prefix: String,
    pub(crate) name: String,
    pub(crate) logo: Option<Logo>,
    pub(crate) stylesheet: Option<String>,
    pub(crate) example: String,
    pub(crate) identity: Option<Arc<dyn Identity>>,
}

/// A picture of the operator's.
#[derive(Debug, Clone)]
pub(crate) struct Logo {
    pub(crate) bytes: Bytes,
    pub(crate) media_type: HeaderValue,
}

/// A value that a portal cannot be made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PortalError {
    /// Not where browsers reach the service.
    #[error("public URL `{0}`: must be scheme and host such as https://api.example.com, without a path")]
    PublicUrl(String),
    /// Not a place for pages.
    #[error(
        "portal prefix `{0}`: must be a path such as /usage-gate, of letters, digits and `-_.`, without a slash at its end"
    )]
    Prefix(String),
    /// Not a picture that browsers show.
    #[error("logo of type `{0}`: must be image/svg+xml, image/png, image/jpeg, image/webp or image/gif")]
    LogoType(String),
    /// Not a path of the API.
    #[error("example `{0}`: must be a path of the API such as /v1/search?q=hello")]
    Example(String),
}

impl Portal {
    /// A portal under `/usage-gate` without a name, picture or address of its own.
    #[must_use]
    pub fn new() -> Self {
        Self {
            public_url: None,
            prefix: "/usage-gate".to_owned(),
            name: "API".to_owned(),
            logo: None,
            stylesheet: None,
            example: "/".to_owned(),
            identity: None,
        }
    }

    /// Where browsers reach the service, such as `https://api.example.com`: scheme and host, without a path. Links begin with it, its scheme
    /// says whether cookies are sent over TLS only, and it is the origin from which changes are taken.
    ///
    /// Without it no links are made, and the host signs its users in by [`identity`](Self::identity).
    ///
    /// # Errors
    /// [`PortalError::PublicUrl`].
    pub fn public_url(mut self, url: impl AsRef<str>) -> Result<Self, PortalError> {
        self.public_url = Some(PublicUrl::parse(url.as_ref())?);
        Ok(self)
    }

    /// The path under which all of it is; default `/usage-gate`.
    ///
    /// # Errors
    /// [`PortalError::Prefix`].
    pub fn prefix(mut self, prefix: impl Into<String>) -> Result<Self, PortalError> {
        let prefix = prefix.into();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/-_.".contains(&b);
        let plain = prefix.split('/').skip(1).all(|segment| !["", ".", ".."].contains(&segment));
        if !prefix.starts_with('/') || !prefix.bytes().all(allowed) || !plain {
            return Err(PortalError::Prefix(prefix));
        }
        self.prefix = prefix;
        Ok(self)
    }

    /// What the API is called on pages, such as `Northwind API`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// A picture beside the name.
    ///
    /// # Errors
    /// [`PortalError::LogoType`] if it is not a type of picture that browsers show.
    pub fn logo(mut self, bytes: impl Into<Bytes>, media_type: &str) -> Result<Self, PortalError> {
        const TYPES: [&str; 5] = ["image/svg+xml", "image/png", "image/jpeg", "image/webp", "image/gif"];
        let Some(known) = TYPES.into_iter().find(|known| known.eq_ignore_ascii_case(media_type)) else {
            return Err(PortalError::LogoType(media_type.to_owned()));
        };
        self.logo = Some(Logo { bytes: bytes.into(), media_type: HeaderValue::from_static(known) });
        Ok(self)
    }

    /// CSS that is applied after the portal's own.
    #[must_use]
    pub fn stylesheet(mut self, text: impl Into<String>) -> Self {
        self.stylesheet = Some(text.into());
        self
    }

    /// A path of the API for the command line that pages show beside a new key.
    ///
    /// # Errors
    /// [`PortalError::Example`] unless it begins with a slash and can stand in a command line.
    pub fn example(mut self, path: impl Into<String>) -> Result<Self, PortalError> {
        let path = path.into();
        // A quote would end the argument in which the line shows it.
        let plain = path.bytes().all(|b| b.is_ascii_graphic() && !b"'\"\\`$".contains(&b));
        if !path.starts_with('/') || !plain || path.len() > 1_024 {
            return Err(PortalError::Example(path));
        }
        self.example = path;
        Ok(self)
    }

    /// Signs in whoever is signed in to the host, without a link.
    #[must_use]
    pub fn identity(mut self, identity: impl Identity) -> Self {
        self.identity = Some(Arc::new(identity));
        self
    }
}

impl Default for Portal {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Portal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Portal")
            .field("public_url", &self.public_url)
            .field("prefix", &self.prefix)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Scheme and host as a browser writes them into `Origin`: lower case, a usual port left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicUrl {
    origin: String,
    secure: bool,
}

impl PublicUrl {
    fn parse(text: &str) -> Result<Self, PortalError> {
        let wrong = || PortalError::PublicUrl(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let (scheme, usual_port) = match uri.scheme_str() {
            Some("https") => ("https", 443),
            Some("http") => ("http", 80),
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none() && !text.contains('#');
        if authority.host().is_empty() || authority.as_str().contains('@') || !authority.as_str().is_ascii() || !bare {
            return Err(wrong());
        }
        let host = authority.host().to_ascii_lowercase();
        let origin = match authority.port_u16() {
            Some(port) if port != usual_port => format!("{scheme}://{host}:{port}"),
            _ => format!("{scheme}://{host}"),
        };
        Ok(Self { origin, secure: scheme == "https" })
    }

    /// `https://api.example.com`.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether browsers reach it by TLS.
    pub(crate) const fn secure(&self) -> bool {
        self.secure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expected: Option<&str>) {
        let parsed = PublicUrl::parse(url).ok();
        assert_eq!(parsed.as_ref().map(PublicUrl::origin), expected, "{url}");
    }

    #[test]
    fn a_public_url_is_written_as_browsers_write_origins() {
        check("https://API.example.com", Some("https://api.example.com"));
        check("https://api.example.com:443/", Some("https://api.example.com"));
        check("http://127.0.0.1:8080", Some("http://127.0.0.1:8080"));
        check("http://[::1]:80", Some("http://[::1]"));
        let bad =
            ["", "api.example.com", "ftp://a", "https://a/b", "https://a?q", "https://a/#x", "https://u@a", "https://"];
        for text in bad {
            check(text, None);
        }
    }

    #[test]
    fn what_pages_could_not_use_is_refused() {
        for prefix in ["", "usage", "/", "/a/", "/a//b", "/../a", "/{a}"] {
            assert!(Portal::new().prefix(prefix).is_err(), "{prefix}");
        }
        for example in ["", "v1", "/a b", "/a'; rm -rf ~", "/$(id)", "/ü"] {
            assert!(Portal::new().example(example).is_err(), "{example}");
        }
        assert!(Portal::new().logo("x", "text/html").is_err());
        assert!(Portal::new().logo("x", "image/SVG+xml").is_ok());
    }
}
