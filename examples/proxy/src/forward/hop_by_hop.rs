//! Header fields that are for one connection only (RFC 9110, 7.6.1).
//!
//! The fields that `Connection` names go first: whatever is added for the next hop afterwards cannot be removed by a client
//! that names it there (CVE-2025-48865).

use http::header::{
    CONNECTION, EXPECT, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE, VIA,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// Makes a client's head fit for the upstream: `TE: trailers` is the one thing that is said again.
pub(super) fn strip_request(headers: &mut HeaderMap) {
    let trailers =
        headers.get_all(TE).iter().any(|value| list(value).any(|word| word.eq_ignore_ascii_case("trailers")));
    strip(headers);
    // hyper has answered 100 Continue by the time the body is read; asked twice, the upstream would wait in vain.
    headers.remove(EXPECT);
    headers.remove(PROXY_AUTHORIZATION);
    if trailers {
        headers.insert(TE, TRAILERS);
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    headers.append(VIA, HeaderValue::from_static("1.1 usage-gate"));
}

/// Makes an upstream's head fit for the client.
pub(super) fn strip_response(headers: &mut HeaderMap) {
    strip(headers);
    headers.remove(PROXY_AUTHENTICATE);
}

fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(list)
            .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    // An upgrade is not passed on yet, so neither side may believe in one.
    for name in [PROXY_CONNECTION, KEEP_ALIVE, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
}

/// The words of a comma-separated list; nothing of a value that is not ASCII.
fn list(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[track_caller]
    fn check(lines: &[(&str, &str)], expected: &[(&str, &str)]) {
        let mut stripped = headers(lines);
        strip_request(&mut stripped);
        stripped.remove(VIA);
        assert_eq!(stripped, headers(expected));
    }

    #[test]
    fn fields_that_connection_names_go_whatever_they_are() {
        let lines = [
            ("connection", "close, X-Forwarded-For"),
            ("connection", "x-b"),
            ("x-forwarded-for", "1.2.3.4"),
            ("X-B", "1"),
            ("x-c", "2"),
        ];
        check(&lines, &[("x-c", "2")]);
    }

    #[test]
    fn fields_of_one_connection_go() {
        let names = ["keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "proxy-authorization", "expect"];
        let lines: Vec<_> = names.iter().map(|name| (*name, "x")).collect();
        check(&lines, &[]);
    }

    #[test]
    fn te_says_trailers_or_nothing() {
        check(&[("te", "gzip")], &[]);
        check(&[("te", "gzip;q=1, Trailers"), ("connection", "te")], &[("te", "trailers"), ("connection", "te")]);
    }

    #[test]
    fn via_is_appended() {
        let mut with = headers(&[("via", "1.0 fred")]);
        strip_request(&mut with);
        assert_eq!(with.get_all(VIA).iter().count(), 2);
    }
}
