//! `[portal]`: the pages for the operator's customers, and the files they are dressed with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use usage_gate_axum::{Portal, PortalError};

use super::load::{Faults, Loaded};

/// A picture and a stylesheet are held in memory: bytes of each at most.
const MOST_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PortalConfig {
    name: Option<String>,
    logo_file: Option<PathBuf>,
    stylesheet_file: Option<PathBuf>,
    example: Option<String>,
}

impl Loaded {
    /// Reads the files and checks the values. `public` is where the public listener is, for a service without a `server.public_url`.
    pub(crate) fn portal(&self, public: SocketAddr) -> Result<Portal, Faults> {
        let (config, server) = (&self.config.portal, &self.config.server);
        let mut faults = Vec::new();
        let mut portal = Portal::new();
        let url = server.public_url.as_ref().map_or_else(|| format!("http://{}", reached(public)), ToString::to_string);
        let mut take = |key: &str, changed: Result<Portal, String>, portal: &mut Portal| match changed {
            Ok(changed) => *portal = changed,
            Err(fault) => faults.push(self.about(key, &fault)),
        };
        let said = |error: PortalError| error.to_string();
        take("server.public_url", portal.clone().public_url(url).map_err(said), &mut portal);
        let prefix = server.reserved_prefix.as_str();
        take("server.reserved_prefix", portal.clone().prefix(prefix).map_err(said), &mut portal);
        if let Some(name) = &config.name {
            let changed = match name.trim() {
                "" => Err("must not be empty: pages and their titles begin with it".to_owned()),
                _ => Ok(portal.clone().name(name)),
            };
            take("portal.name", changed, &mut portal);
        }
        if let Some(example) = &config.example {
            take("portal.example", portal.clone().example(example).map_err(said), &mut portal);
        }
        if let Some(path) = &config.logo_file {
            let changed = media_type(path)
                .and_then(|media_type| Ok((bytes(path)?, media_type)))
                .and_then(|(bytes, media_type)| portal.clone().logo(bytes, media_type).map_err(said));
            take("portal.logo_file", changed, &mut portal);
        }
        if let Some(path) = &config.stylesheet_file {
            let text = bytes(path).and_then(|bytes| {
                String::from_utf8(bytes).map_err(|_| format!("{}: is not UTF-8 text", path.display()))
            });
            take("portal.stylesheet_file", text.map(|text| portal.clone().stylesheet(text)), &mut portal);
        }
        if faults.is_empty() { Ok(portal) } else { Err(Faults(faults)) }
    }
}

/// An address that a browser can open: a listener on every address is reached on this machine's own.
fn reached(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let name = path.display();
    let size = std::fs::metadata(path).map_err(|fault| format!("{name}: cannot be read: {fault}"))?.len();
    if size > MOST_BYTES {
        return Err(format!("{name}: has {size} bytes: at most {MOST_BYTES} are served"));
    }
    std::fs::read(path).map_err(|fault| format!("{name}: cannot be read: {fault}"))
}

fn media_type(path: &Path) -> Result<&'static str, String> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_ascii_lowercase();
    match extension.as_str() {
        "svg" => Ok("image/svg+xml"),
        "png" => Ok("image/png"),
        "jpg" | "jpeg" => Ok("image/jpeg"),
        "webp" => Ok("image/webp"),
        "gif" => Ok("image/gif"),
        _ => Err(format!("{}: name a picture that ends with .svg, .png, .jpg, .webp or .gif", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_reached_on_loopback() {
        for (listener, expected) in
            [("0.0.0.0:8080", "127.0.0.1:8080"), ("[::]:8080", "[::1]:8080"), ("192.0.2.7:80", "192.0.2.7:80")]
        {
            assert_eq!(reached(listener.parse().unwrap()).to_string(), expected);
        }
    }

    #[test]
    fn an_empty_name_is_refused_by_its_key() {
        let loaded = super::super::load_text("a.toml", "[portal]\nname = \" \"\n", &[]).unwrap();
        let fault = loaded.portal(([127, 0, 0, 1], 80).into()).unwrap_err().to_string();
        assert!(fault.starts_with("a.toml:2:1: portal.name: must not be empty"), "{fault}");
    }

    #[test]
    fn a_file_that_is_not_there_and_one_that_is_no_picture_are_named() {
        let missing = Path::new("no-such-folder/logo.svg");
        assert!(bytes(missing).unwrap_err().starts_with("no-such-folder/logo.svg: cannot be read"));
        assert_eq!(media_type(missing), Ok("image/svg+xml"));
        assert!(media_type(Path::new("logo.html")).is_err());
    }
}
