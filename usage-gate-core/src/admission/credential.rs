//! Step 1: take the key from its header. No I/O.

use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderMap, HeaderValue};

use super::{Code, Refusal};
use crate::secret::PresentedKey;

/// Where keys are looked for, and how they begin.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) headers: Box<[HeaderName]>,
    pub(crate) prefix: Box<str>,
}

impl Credentials {
    /// The one key of a request.
    ///
    /// `Authorization` is looked at only where it carries a bearer token with our prefix: anything else there belongs to the upstream.
    pub(crate) fn take<'a>(&self, headers: &'a HeaderMap) -> Result<PresentedKey<'a>, Refusal> {
        let mut found: Option<&'a [u8]> = None;
        for name in &*self.headers {
            // The common case is one field; a second is compared and not ignored.
            let Some(first) = headers.get(name) else { continue };
            let more = headers.get_all(name).iter().skip(1);
            for value in std::iter::once(first).chain(more) {
                let Some(text) = self.key_in(name, value) else { continue };
                match found {
                    Some(other) if other != text => {
                        let detail = "two different keys in one request: send one";
                        return Err(Refusal::new(Code::AmbiguousCredentials, detail));
                    }
                    _ => found = Some(text),
                }
            }
        }
        let Some(text) = found else {
            let names: Vec<&str> = self.headers.iter().map(HeaderName::as_str).collect();
            let detail = format!("send your API key in {} (as `Bearer` in authorization)", names.join(" or "));
            return Err(Refusal::new(Code::MissingKey, detail));
        };
        PresentedKey::parse(&self.prefix, text).ok_or_else(super::invalid_key)
    }

    fn key_in<'a>(&self, name: &HeaderName, value: &'a HeaderValue) -> Option<&'a [u8]> {
        let text = value.as_bytes().trim_ascii();
        if name != AUTHORIZATION {
            return Some(text);
        }
        let (scheme, token) = text.split_at_checked(7)?;
        let token = token.trim_ascii();
        let ours = token.strip_prefix(self.prefix.as_bytes()).is_some_and(|rest| rest.starts_with(b"_"));
        (scheme.eq_ignore_ascii_case(b"bearer ") && ours).then_some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Environment;
    use crate::secret::Pepper;

    fn credentials() -> Credentials {
        Credentials { headers: [HeaderName::from_static("x-api-key"), AUTHORIZATION].into(), prefix: "ug".into() }
    }

    #[track_caller]
    fn check(fields: &[(&'static str, &str)], expected: Result<(), Code>) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let taken = credentials().take(&headers).map(|_| ()).map_err(|refusal| refusal.code);
        assert_eq!(taken, expected, "{fields:?}");
    }

    #[test]
    fn one_key_is_taken_from_either_header() {
        let pepper = Pepper::new(&[1; 32]);
        let key = pepper.issue("ug", Environment::Live).unwrap().text.to_string();
        let other = pepper.issue("ug", Environment::Live).unwrap().text.to_string();
        let bearer = format!("Bearer {key}");
        check(&[("x-api-key", &key)], Ok(()));
        check(&[("authorization", &bearer)], Ok(()));
        check(&[("authorization", &format!("bearer  {key}"))], Ok(()));
        check(&[("x-api-key", &key), ("authorization", &bearer)], Ok(()));
        check(&[("x-api-key", &key), ("authorization", "Bearer upstream-token")], Ok(()));
        check(&[("x-api-key", &other), ("authorization", &bearer)], Err(Code::AmbiguousCredentials));
        check(&[("x-api-key", &other), ("x-api-key", &key)], Err(Code::AmbiguousCredentials));
    }

    #[test]
    fn what_is_no_key_is_told_apart_from_none() {
        check(&[], Err(Code::MissingKey));
        check(&[("authorization", "Bearer upstream-token")], Err(Code::MissingKey));
        check(&[("authorization", "Basic dXNlcjpwYXNz")], Err(Code::MissingKey));
        check(&[("x-api-key", "")], Err(Code::InvalidKey));
        check(&[("x-api-key", "ug_live_short")], Err(Code::InvalidKey));
        check(&[("authorization", "Bearer ug_live_short")], Err(Code::InvalidKey));
    }
}
