//! What the upstream learns of the caller: never the key, always who holds it, and where the request came from.

use std::fmt::Write;
use std::net::IpAddr;

use http::header::{AUTHORIZATION, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue};
use usage_gate_core::admission::Caller;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// What a client may send to lie about where it is; all of it is dropped unless a trusted proxy sent it.
const CLAIMS: [HeaderName; 6] = [
    FORWARDED,
    X_FORWARDED_FOR,
    X_FORWARDED_HOST,
    X_FORWARDED_PROTO,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-real-ip"),
];
const OURS: &str = "x-usage-gate-";

/// The other end of the connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// Whether it is one of `server.trusted_proxies`.
    pub(crate) trusted: bool,
}

/// Where keys are looked for, and what they begin with.
#[derive(Debug)]
pub(super) struct KeyHeaders {
    names: Vec<HeaderName>,
    prefix: String,
}

impl KeyHeaders {
    pub(super) fn new(names: Vec<HeaderName>, prefix: &str) -> Self {
        Self { names, prefix: format!("{prefix}_") }
    }

    /// Takes the key out. `Authorization` stays if it is not ours: then it belongs to the upstream. Ours goes even where keys
    /// are looked for elsewhere: no upstream is to see one.
    pub(super) fn strip(&self, headers: &mut HeaderMap) {
        for name in self.names.iter().filter(|name| **name != AUTHORIZATION) {
            headers.remove(name);
        }
        if headers.get_all(AUTHORIZATION).iter().any(|value| self.is_ours(value)) {
            let kept: Vec<HeaderValue> =
                headers.get_all(AUTHORIZATION).iter().filter(|value| !self.is_ours(value)).cloned().collect();
            headers.remove(AUTHORIZATION);
            for value in kept {
                headers.append(AUTHORIZATION, value);
            }
        }
    }

    /// Whether a word of the value begins as our keys do, under whichever scheme.
    fn is_ours(&self, value: &HeaderValue) -> bool {
        let prefix = self.prefix.as_bytes();
        value.as_bytes().split(u8::is_ascii_whitespace).any(|word| word.starts_with(prefix))
    }
}

/// Drops every field that could be read as one of ours: many servers fold `_` to `-` (CVE-2025-64484).
pub(super) fn strip_claims(headers: &mut HeaderMap) {
    let folds = |name: &HeaderName| {
        let name = name.as_str().as_bytes();
        name.len() >= OURS.len()
            && name.iter().zip(OURS.bytes()).all(|(b, ours)| *b == ours || (*b == b'_' && ours == b'-'))
    };
    let claimed: Vec<HeaderName> = headers.keys().filter(|name| folds(name)).cloned().collect();
    for name in claimed {
        headers.remove(name);
    }
}

/// Says who calls.
pub(super) fn add_caller(headers: &mut HeaderMap, caller: &Caller) {
    let identity = &caller.identity;
    let names = [
        "x-usage-gate-tenant",
        "x-usage-gate-key",
        "x-usage-gate-plan",
        "x-usage-gate-scopes",
        "x-usage-gate-environment",
    ];
    let values = [&identity.tenant, &identity.key, &identity.plan, &identity.scopes, &identity.environment];
    for (name, value) in names.into_iter().zip(values) {
        headers.insert(HeaderName::from_static(name), value.clone());
    }
    if let Some(user) = &identity.user {
        headers.insert(HeaderName::from_static("x-usage-gate-user"), user.clone());
    }
}

/// Says where the request came from: after what a trusted proxy said, instead of what anybody else did.
///
/// The `Host` becomes the upstream's own, which the client sets from the URL; the original is kept beside it.
pub(super) fn add_source(headers: &mut HeaderMap, peer: Peer) {
    let host = headers.remove(HOST);
    if !peer.trusted {
        for name in CLAIMS {
            headers.remove(&name);
        }
    }
    let mut forwarded = match peer.address {
        IpAddr::V4(address) => format!("for={address};proto=http"),
        IpAddr::V6(address) => format!("for=\"[{address}]\";proto=http"),
    };
    let host_text = host.as_ref().and_then(|host| host.to_str().ok()).filter(|host| !host.contains(['"', '\\']));
    if let Some(host) = host_text {
        // Writing to a string does not fail.
        let _ = write!(forwarded, ";host=\"{host}\"");
    }
    if let Ok(value) = HeaderValue::try_from(forwarded) {
        headers.append(FORWARDED, value);
    }
    if let Ok(value) = HeaderValue::try_from(peer.address.to_string()) {
        headers.append(X_FORWARDED_FOR, value);
    }
    // The first proxy knows what the client asked for.
    if !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if let Some(host) = host.filter(|_| !headers.contains_key(X_FORWARDED_HOST)) {
        headers.insert(X_FORWARDED_HOST, host);
    }
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

    #[test]
    fn fields_that_read_as_ours_are_dropped_in_every_spelling() {
        let spellings =
            ["x-usage-gate-tenant", "X-Usage-Gate-User", "x_usage_gate_key", "x-usage_gate-anything", "x-usage-gate-"];
        let mut all = headers(&spellings.map(|name| (name, "forged")));
        all.insert("x-usage-gates", "kept".parse().unwrap());
        strip_claims(&mut all);
        assert_eq!(all, headers(&[("x-usage-gates", "kept")]));
    }

    #[test]
    fn the_key_is_taken_out_and_foreign_authorization_stays() {
        let keys = KeyHeaders::new(vec![HeaderName::from_static("x-api-key"), AUTHORIZATION], "ug");
        #[track_caller]
        fn check(keys: &KeyHeaders, lines: &[(&str, &str)], expected: &[(&str, &str)]) {
            let mut stripped = headers(lines);
            keys.strip(&mut stripped);
            assert_eq!(stripped, headers(expected));
        }
        check(&keys, &[("x-api-key", "ug_live_x")], &[]);
        check(&keys, &[("x-api-key", "other")], &[]);
        for ours in ["Bearer ug_live_x", "bearer  ug_test_x", "ug_live_x"] {
            check(&keys, &[("authorization", ours)], &[]);
        }
        check(
            &keys,
            &[("authorization", "Bearer eyJ"), ("authorization", "Bearer ug_live_x")],
            &[("authorization", "Bearer eyJ")],
        );
        check(&keys, &[("authorization", "Basic dTpw")], &[("authorization", "Basic dTpw")]);
    }

    #[test]
    fn an_untrusted_peer_cannot_say_where_it_is() {
        let mut all = headers(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("forwarded", "for=1.1.1.1"),
            ("x-real-ip", "1.1.1.1"),
            ("host", "api.test"),
        ]);
        add_source(&mut all, Peer { address: "192.0.2.7".parse().unwrap(), trusted: false });
        let expected = [
            ("forwarded", "for=192.0.2.7;proto=http;host=\"api.test\""),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "api.test"),
        ];
        assert_eq!(all, headers(&expected));
    }

    #[test]
    fn a_trusted_proxy_is_continued() {
        let mut all = headers(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-proto", "https"), ("host", "inner")]);
        add_source(&mut all, Peer { address: "2001:db8::1".parse().unwrap(), trusted: true });
        assert_eq!(all.get_all("x-forwarded-for").iter().collect::<Vec<_>>(), ["1.1.1.1", "2001:db8::1"]);
        assert_eq!(all["x-forwarded-proto"], "https");
        assert_eq!(all["forwarded"], "for=\"[2001:db8::1]\";proto=http;host=\"inner\"");
    }
}
