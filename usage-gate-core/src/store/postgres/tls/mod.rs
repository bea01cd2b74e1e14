//! Whether connections are encrypted, and which servers are trusted: what `sslmode` and `sslrootcert` in the address say, with the meanings that they have for libpq.
//!
//! | `sslmode` | encrypted | the server's certificate |
//! | --- | --- | --- |
//! | `disable` | no | |
//! | `prefer`, the default | if the server can | is not checked |
//! | `require` | yes | is not checked; with `sslrootcert` as by `verify-ca` |
//! | `verify-ca` | yes | is of an authority that is trusted |
//! | `verify-full` | yes | is of an authority that is trusted, and has the host's name |
//!
//! Authorities are those of the file `sslrootcert`, in PEM, else those of the system.

use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

use super::connect::WHAT;
use crate::store::StoreError;

#[cfg(feature = "postgres-tls")]
mod verify;

/// How connections are made.
#[derive(Clone)]
pub(super) enum Tls {
    Plain,
    #[cfg(feature = "postgres-tls")]
    Rustls(tokio_postgres_rustls::MakeRustlsConnect),
}

/// What of the server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Nothing,
    Authority,
    AuthorityAndName,
}

/// What an address says about encryption, beyond what the driver reads itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    mode: Option<(SslMode, Check)>,
    roots: Option<String>,
}

/// Takes what is read here out of an address. One that is no URL is left to the driver, which knows `disable`, `prefer` and `require`.
pub(super) fn read(url: &str) -> Result<(String, Asked), StoreError> {
    let mut asked = Asked::default();
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Ok((url.to_owned(), asked));
    }
    // A question mark before the @ is one of the password.
    let after_login = url.find('@').map_or(0, |at| at + 1);
    let Some(at) = url[after_login..].find('?').map(|at| after_login + at) else {
        return Ok((url.to_owned(), asked));
    };
    let mut kept = Vec::new();
    for parameter in url[at + 1..].split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("sslmode", mode)) => asked.mode = Some(mode_of(mode)?),
            Some(("sslrootcert", path)) => asked.roots = Some(decoded(path)?),
            _ => kept.push(parameter),
        }
    }
    let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    Ok((format!("{}{query}", &url[..at]), asked))
}

fn mode_of(word: &str) -> Result<(SslMode, Check), StoreError> {
    match word {
        "disable" => Ok((SslMode::Disable, Check::Nothing)),
        "prefer" => Ok((SslMode::Prefer, Check::Nothing)),
        "require" => Ok((SslMode::Require, Check::Nothing)),
        "verify-ca" => Ok((SslMode::Require, Check::Authority)),
        "verify-full" => Ok((SslMode::Require, Check::AuthorityAndName)),
        _ => Err(StoreError::unusable(
            WHAT,
            "sslmode in the address must be disable, prefer, require, verify-ca or verify-full",
        )),
    }
}

/// Undoes percent-encoding.
fn decoded(text: &str) -> Result<String, StoreError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
            let (high, low) = (digit(), digit());
            bytes.push(
                high.zip(low).and_then(|(high, low)| u8::try_from(high * 16 + low).ok()).ok_or_else(not_encoded)?,
            );
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| not_encoded())
}

fn not_encoded() -> StoreError {
    StoreError::unusable(WHAT, "sslrootcert in the address must be the path of a file, percent-encoded")
}

/// How to connect as asked.
pub(super) fn connector(config: &mut Config, asked: Asked) -> Result<Tls, StoreError> {
    let (mode, check) = asked.mode.unwrap_or_else(|| (config.get_ssl_mode(), Check::Nothing));
    config.ssl_mode(mode);
    // As by libpq: who names the authorities wants them looked at.
    let check = if check == Check::Nothing && asked.roots.is_some() { Check::Authority } else { check };
    if mode == SslMode::Disable { Ok(Tls::Plain) } else { encrypted(mode, check, asked.roots) }
}

#[cfg(not(feature = "postgres-tls"))]
fn encrypted(mode: SslMode, _: Check, _: Option<String>) -> Result<Tls, StoreError> {
    if mode == SslMode::Prefer {
        return Ok(Tls::Plain);
    }
    Err(StoreError::unusable(
        WHAT,
        "the address demands TLS, which this program was built without: build it with the feature `postgres-tls`, or set sslmode=disable",
    ))
}

#[cfg(feature = "postgres-tls")]
fn encrypted(mode: SslMode, check: Check, roots: Option<String>) -> Result<Tls, StoreError> {
    let check = if mode == SslMode::Prefer { Check::Nothing } else { check };
    let roots = roots.as_deref();
    let config = match check {
        Check::Nothing => verify::nothing(),
        Check::Authority => verify::authority(roots),
        Check::AuthorityAndName => verify::authority_and_name(roots),
    };
    let mut config = config.map_err(|error| StoreError::unusable(WHAT, error))?;
    // Servers from version 17 on ask for it where TLS is spoken from the first byte; others do not mind.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(Tls::Rustls(tokio_postgres_rustls::MakeRustlsConnect::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_what_is_encrypted_and_checked() {
        #[track_caller]
        fn check(url: &str, rest: &str, mode: Option<(SslMode, Check)>, roots: Option<&str>) {
            assert_eq!(read(url).unwrap(), (rest.to_owned(), Asked { mode, roots: roots.map(ToOwned::to_owned) }));
        }
        check("postgres://a@b/c", "postgres://a@b/c", None, None);
        check("postgres://a@b/c?sslmode=disable", "postgres://a@b/c", Some((SslMode::Disable, Check::Nothing)), None);
        check(
            "postgresql://a:p?x@b/c?connect_timeout=3&sslmode=verify-full&sslrootcert=/etc/my%20ca.pem",
            "postgresql://a:p?x@b/c?connect_timeout=3",
            Some((SslMode::Require, Check::AuthorityAndName)),
            Some("/etc/my ca.pem"),
        );
        check("host=b sslmode=require", "host=b sslmode=require", None, None);
    }

    #[test]
    fn what_cannot_be_read_is_refused_without_the_address() {
        for url in ["postgres://a:secret@b/c?sslmode=allow", "postgres://a:secret@b/c?sslrootcert=%zz"] {
            let error = read(url).unwrap_err();
            assert!(!format!("{error:?}").contains("secret"));
        }
    }

    #[cfg(not(feature = "postgres-tls"))]
    #[test]
    fn without_the_feature_tls_that_is_demanded_is_an_error_that_names_it() {
        for mode in ["require", "verify-ca", "verify-full"] {
            let (url, asked) = read(&format!("postgres://a@b/c?sslmode={mode}")).unwrap();
            let error = connector(&mut url.parse().unwrap(), asked).err().unwrap();
            assert!(std::error::Error::source(&error).unwrap().to_string().contains("postgres-tls"));
        }
        let (url, asked) = read("postgres://a@b/c").unwrap();
        assert!(connector(&mut url.parse().unwrap(), asked).is_ok(), "preferred is not demanded");
    }
}
