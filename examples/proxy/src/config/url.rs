//! Where something is: `http://host:port/prefix`.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};

/// The address of an upstream or of an admin listener, with a path prefix of its own, if any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpUrl {
    scheme: Scheme,
    authority: Authority,
    /// Without the closing slash; empty for none.
    prefix: String,
}

impl HttpUrl {
    pub(crate) const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Whether it can be spoken to: there is no TLS towards upstreams yet.
    pub(crate) fn is_plain(&self) -> bool {
        self.scheme == Scheme::HTTP
    }

    /// This place, at a path and query below it.
    pub(crate) fn at(&self, path: Option<&PathAndQuery>) -> Result<Uri, http::Error> {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(match path {
            // The common case shares the request's bytes.
            Some(path) if self.prefix.is_empty() => path.clone(),
            Some(path) => format!("{}{path}", self.prefix).parse()?,
            None => format!("{}/", self.prefix).parse()?,
        });
        Ok(Uri::from_parts(parts)?)
    }
}

/// Text that is not such a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotHttpUrl(&'static str);

impl fmt::Display for NotHttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for NotHttpUrl {}

impl FromStr for HttpUrl {
    type Err = NotHttpUrl;

    fn from_str(text: &str) -> Result<Self, NotHttpUrl> {
        const WANTED: NotHttpUrl = NotHttpUrl("not a URL such as http://127.0.0.1:9000");
        let uri: Uri = text.parse().map_err(|_| WANTED)?;
        let parts = uri.into_parts();
        let scheme = parts.scheme.filter(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme)).ok_or(WANTED)?;
        let authority = parts.authority.filter(|authority| !authority.host().is_empty()).ok_or(WANTED)?;
        if authority.as_str().contains('@') {
            return Err(NotHttpUrl("a name or password does not belong into this URL"));
        }
        let path = parts.path_and_query;
        if path.as_ref().is_some_and(|path| path.query().is_some()) {
            return Err(NotHttpUrl("a query does not belong into this URL"));
        }
        let prefix = path.map_or_else(String::new, |path| path.path().trim_end_matches('/').to_owned());
        Ok(Self { scheme, authority, prefix })
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(base: &str, path: &str, expected: &str) {
        let path: PathAndQuery = path.parse().unwrap();
        assert_eq!(base.parse::<HttpUrl>().unwrap().at(Some(&path)).unwrap().to_string(), expected);
    }

    #[test]
    fn a_prefix_is_kept_and_the_path_is_not_touched() {
        check("http://127.0.0.1:9000", "/a//b%2F?q=1", "http://127.0.0.1:9000/a//b%2F?q=1");
        check("http://up.test/base/", "/a?q", "http://up.test/base/a?q");
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in ["", "127.0.0.1:9000", "ftp://a", "http://", "/a", "http://u:p@a", "http://a/?q=1"] {
            assert!(text.parse::<HttpUrl>().is_err(), "{text}");
        }
    }
}
