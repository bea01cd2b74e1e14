//! Which address a request comes from.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};
use usage_gate_core::model::AddressRange;

/// The client's address, put into a request's extensions by whoever knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// The right-most hop that is not a trusted proxy.
///
/// Headers are believed only from a trusted peer, and read from the right: everything left of the first untrusted hop can be made up by the
/// client. `header` names one that the proxies set alone; without it `Forwarded` (RFC 7239) is read, then `X-Forwarded-For`.
///
/// ```
/// # use usage_gate_tower::source::client_address;
/// let mut headers = http::HeaderMap::new();
/// headers.insert("x-forwarded-for", "6.6.6.6, 192.0.2.7, 10.0.0.9".parse()?);
/// let trusted = ["10.0.0.0/8".parse()?];
/// let client = client_address("10.0.0.1".parse()?, &headers, &trusted, None);
/// assert_eq!(client.to_string(), "192.0.2.7");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn client_address(
    peer: IpAddr,
    headers: &HeaderMap,
    trusted: &[AddressRange],
    header: Option<&HeaderName>,
) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|range| range.contains(address));
    let mut client = peer.to_canonical();
    if !is_trusted(client) {
        return client;
    }
    for hop in hops(headers, header).into_iter().rev() {
        // A hop that cannot be read hides whoever is behind it: the last one known is the client.
        let Some(address) = hop else { return client };
        client = address;
        if !is_trusted(client) {
            return client;
        }
    }
    client
}

/// Hops from left to right; `None` where one is no address (`unknown`, an obfuscated name).
fn hops(headers: &HeaderMap, header: Option<&HeaderName>) -> Vec<Option<IpAddr>> {
    let list = |name: &HeaderName| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).map(str::to_owned).collect::<Vec<_>>()
    };
    let forwarded = HeaderName::from_static("forwarded");
    match header {
        Some(name) => list(name).iter().map(|hop| address(hop)).collect(),
        None if headers.contains_key(&forwarded) => list(&forwarded).iter().map(|hop| forwarded_for(hop)).collect(),
        None => list(&HeaderName::from_static("x-forwarded-for")).iter().map(|hop| address(hop)).collect(),
    }
}

fn forwarded_for(element: &str) -> Option<IpAddr> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| address(value))?
    })
}

/// An address with or without port, brackets and quotes.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once(']')?.0.parse::<IpAddr>().ok().map(|address| address.to_canonical());
    }
    let plain = text.parse::<IpAddr>().ok();
    let with_port = || text.rsplit_once(':').and_then(|(host, _)| host.parse::<IpAddr>().ok());
    plain.or_else(with_port).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(peer: &str, fields: &[(&'static str, &str)], expected: &str) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let client = client_address(peer.parse().unwrap(), &headers, &trusted, None);
        assert_eq!(client.to_string(), expected, "{peer} {fields:?}");
    }

    #[test]
    fn an_untrusted_peer_is_not_believed() {
        check("192.0.2.1", &[("x-forwarded-for", "6.6.6.6")], "192.0.2.1");
    }

    #[test]
    fn the_right_most_untrusted_hop_is_the_client() {
        check("10.0.0.1", &[("x-forwarded-for", "6.6.6.6, 192.0.2.7")], "192.0.2.7");
        check("10.0.0.1", &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.7, 10.2.2.2")], "192.0.2.7");
        check("::ffff:10.0.0.1", &[("x-forwarded-for", "192.0.2.7:4711")], "192.0.2.7");
    }

    #[test]
    fn forwarded_is_read_before_the_older_header() {
        let fields =
            [("forwarded", r#"for=6.6.6.6, For="[2001:db8::7]:4711";proto=https"#), ("x-forwarded-for", "9.9.9.9")];
        check("10.0.0.1", &fields, "2001:db8::7");
    }

    #[test]
    fn a_hop_that_cannot_be_read_ends_the_search() {
        check("10.0.0.1", &[("x-forwarded-for", "192.0.2.7, unknown, 10.0.0.2")], "10.0.0.2");
        check("10.0.0.1", &[], "10.0.0.1");
    }
}
