//! The data directory: one process's own, closed to everybody else.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use std::time::Duration;
use usage_gate_core::{FolderLock, LockError};

/// The directory, locked for as long as this lives: the system gives the lock back however the process ends.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: FolderLock,
}

impl DataDir {
    /// Makes it if need be, and takes it. Waits for a process that has it and may be about to end.
    pub(crate) fn open(path: &Path, patience: Duration) -> anyhow::Result<Self> {
        let shown = path.display();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("data directory {shown}"))?;
        let lock = FolderLock::take(path, patience).map_err(|fault| match fault {
            LockError::Held { .. } => anyhow!("data directory {fault}: server.data_dir, or --data-dir"),
            fault => anyhow!(fault).context(format!("data directory {shown}")),
        })?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// This node's name: made once, then always the same.
    pub(crate) fn node_id(&self) -> anyhow::Result<String> {
        let path = self.path.join("node-id");
        let name = read_or_make(&path, || Ok(format!("node-{}", random_hex::<8>()?)))?;
        if name.is_empty() {
            bail!("{} is empty: write this node's name into it, or set server.node", path.display());
        }
        Ok(name)
    }
}

/// Makes the admin token of our own file, unless it is there.
pub(crate) fn make_token(path: &Path) -> anyhow::Result<()> {
    read_or_make(path, || Ok(format!("uga_{}", random_hex::<32>()?)))?;
    Ok(())
}

/// A file's one line. Made complete under another name first: a crash leaves no half of it.
fn read_or_make(path: &Path, make: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<String> {
    let shown = || path.display().to_string();
    let mut text = String::new();
    match File::open(path) {
        Ok(mut file) => {
            file.read_to_string(&mut text).with_context(shown)?;
            return Ok(text.trim().to_owned());
        }
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => {}
        Err(fault) => return Err(fault).with_context(shown),
    }
    let text = make()?;
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(|| temporary.display().to_string())?;
    writeln!(file, "{text}").and_then(|()| file.sync_all()).with_context(shown)?;
    std::fs::rename(&temporary, path).with_context(shown)?;
    Ok(text)
}

/// Random bytes as text.
pub(crate) fn random_hex<const N: usize>() -> anyhow::Result<String> {
    let mut bytes = [0_u8; N];
    getrandom::fill(&mut bytes).context("the system's random source")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_directory_is_one_process_s_and_its_secrets_are_closed() {
        let path = std::env::temp_dir().join(format!("usage-gate-test-{}", random_hex::<8>().unwrap()));
        let dir = DataDir::open(&path, Duration::ZERO).unwrap();
        let fault = DataDir::open(&path, Duration::ZERO).unwrap_err().to_string();
        assert!(fault.contains("in use by another usage-gate"), "{fault}");

        let file = path.join("admin-token");
        make_token(&file).unwrap();
        let first = std::fs::read_to_string(&file).unwrap();
        make_token(&file).unwrap();
        assert_eq!(first, std::fs::read_to_string(&file).unwrap());
        assert_eq!(dir.node_id().unwrap(), dir.node_id().unwrap());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&file)), (0o700, 0o600));

        drop(dir);
        DataDir::open(&path, Duration::ZERO).unwrap();
        std::fs::remove_dir_all(&path).unwrap();
    }
}
