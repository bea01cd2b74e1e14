//! The pepper's file: read, or made on the first use.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use zeroize::Zeroizing;

use super::BuildError;
use crate::secret::Pepper;

/// Bytes that a pepper has at least.
const LEAST: usize = 32;

pub(super) fn read_or_make(path: &Path) -> Result<Pepper, BuildError> {
    let fault = |reason, source| BuildError::PepperFile { path: path.to_owned(), reason, source };
    match std::fs::read(path).map(Zeroizing::new) {
        Ok(text) => {
            let text = text.trim_ascii();
            if text.len() < LEAST {
                return Err(fault("has fewer than 32 characters: restore it from its backup", None));
            }
            Ok(Pepper::new(text))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let text = Zeroizing::new(hex(&*Pepper::generate_bytes()?));
            let mut file = create_private(path).map_err(|source| fault("cannot be made", Some(source)))?;
            // On disk before the first key depends on it.
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
                .map_err(|source| fault("cannot be written", Some(source)))?;
            Ok(Pepper::new(text.as_bytes()))
        }
        Err(error) => Err(fault("cannot be read", Some(error))),
    }
}

fn create_private(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
