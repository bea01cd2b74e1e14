//! One process a folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A folder that is ours until this is dropped. The system gives it back however the process ends.
///
/// ```
/// # use std::time::Duration; use usage_gate_core::{FolderLock, LockError};
/// # let folder = std::env::temp_dir().join(format!("usage-gate-doc-{}", std::process::id())); std::fs::create_dir_all(&folder)?;
/// let lock = FolderLock::take(&folder, Duration::ZERO)?;
/// assert!(matches!(FolderLock::take(&folder, Duration::ZERO), Err(LockError::Held { .. })));
/// # drop(lock); std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// Why a folder is not ours.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process has it.
    #[error("{folder} is in use by another usage-gate (process {holder}): stop it, or choose another folder")]
    Held {
        /// Which folder.
        folder: PathBuf,
        /// What the holder wrote of itself.
        holder: String,
    },
    /// The system refuses.
    #[error("{folder} cannot be locked")]
    Io {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

impl FolderLock {
    /// Takes a folder that is there. Waits for who has it, blocking the thread, since a process that was told to end may take a while.
    ///
    /// # Errors
    /// [`LockError`]: it is still another's after `patience`, or the system refuses.
    pub fn take(folder: &Path, patience: Duration) -> Result<Self, LockError> {
        let fault = |source| LockError::Io { folder: folder.to_owned(), source };
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(folder.join("lock"))
            .map_err(fault)?;
        let mut left = patience;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(source)) => return Err(fault(source)),
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    let _ = file.rewind().and_then(|()| file.read_to_string(&mut holder));
                    let holder = holder.trim().to_owned();
                    if left.is_zero() {
                        return Err(LockError::Held { folder: folder.to_owned(), holder });
                    }
                    if !told {
                        told = true;
                        tracing::info!(folder = %folder.display(), pid = holder, "waiting for the process that has the folder");
                    }
                    let pause = PAUSE.min(left);
                    std::thread::sleep(pause);
                    left -= pause;
                }
            }
        }
        // Who waits is told; that it could not be written harms nobody.
        let _ = file.rewind().and_then(|()| file.set_len(0)).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_one_holder_s_and_the_next_is_told_whose() {
        let folder = std::env::temp_dir().join(format!("usage-gate-lock-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder).unwrap();
        let lock = FolderLock::take(&folder, Duration::ZERO).unwrap();
        let refused = FolderLock::take(&folder, Duration::ZERO).unwrap_err().to_string();
        assert!(
            refused.contains(&format!("in use by another usage-gate (process {})", std::process::id())),
            "{refused}"
        );
        drop(lock);
        FolderLock::take(&folder, Duration::ZERO).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
    }
}
