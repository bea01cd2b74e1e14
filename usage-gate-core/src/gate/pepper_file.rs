//! The pepper's file: read, or made on the first use.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use zeroize::Zeroizing;

use super::BuildError;
use crate::secret::Pepper;

/// Bytes that a pepper has at least.
const LEAST: usize = 32;

impl Pepper {
    /// Reads a pepper's file as a gate does when it is built; `None` if there is none, and the gate would make it.
    ///
    /// # Errors
    /// [`BuildError::PepperFile`] if it cannot be read or is too short.
    ///
    /// ```
    /// # use usage_gate_core::secret::Pepper;
    /// assert!(Pepper::read("no-such-folder/pepper")?.is_none());
    /// # Ok::<(), usage_gate_core::BuildError>(())
    /// ```
    pub fn read(path: impl AsRef<Path>) -> Result<Option<Self>, BuildError> {
        let path = path.as_ref();
        let text = match std::fs::read(path).map(Zeroizing::new) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(fault(path, "cannot be read: name a file that this user may read", Some(error)));
            }
        };
        let text = text.trim_ascii();
        if text.len() < LEAST {
            return Err(fault(path, "has fewer than 32 characters: restore it from its backup", None));
        }
        Ok(Some(Self::new(text)))
    }
}

pub(super) fn read_or_make(path: &Path) -> Result<Pepper, BuildError> {
    if let Some(pepper) = Pepper::read(path)? {
        return Ok(pepper);
    }
    let text = Zeroizing::new(hex(&*Pepper::generate_bytes()?));
    let mut file = create_private(path).map_err(|source| fault(path, "cannot be made", Some(source)))?;
    // On disk before the first key depends on it.
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|source| fault(path, "cannot be written", Some(source)))?;
    Ok(Pepper::new(text.as_bytes()))
}

fn fault(path: &Path, reason: &'static str, source: Option<std::io::Error>) -> BuildError {
    BuildError::PepperFile { path: path.to_owned(), reason, source }
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
