//! A small disk in memory that can be full, and a file that fills it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Folder;

/// Set where a test runs in a namespace of its own.
const INSIDE: &str = "USAGE_GATE_OWN_NAMESPACE";

/// A tmpfs, gone when dropped.
#[derive(Debug)]
pub struct Tmpfs(Folder);

impl Tmpfs {
    /// Runs a test with a disk of so many MiB.
    ///
    /// Root mounts it. Anybody else runs this one test again, by its name, where `unshare` makes them root of namespaces of their own: test,
    /// gateway and actors are all inside then, because SQLite does not open a file by a path that leads from one to another.
    ///
    /// # Panics
    /// Where neither way is open: a full disk is not tested then, and this says why.
    pub fn with(mebibytes: u32, test: &str, body: impl AsyncFnOnce(Self)) {
        let fault = match Self::mount(mebibytes) {
            Ok(disk) => {
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
                return runtime.block_on(body(disk));
            }
            Err(fault) => fault,
        };
        let inside = std::env::var_os(INSIDE).is_some();
        assert!(!inside, "no small disk: mount, as root of an own namespace: {fault}: run this test as root");
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount"]).arg(std::env::current_exe().unwrap());
        let status = command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1").status();
        assert!(status.is_ok_and(|status| status.success()), "{test} in an own namespace, because mount said: {fault}");
    }

    fn mount(mebibytes: u32) -> Result<Self, String> {
        let folder = Folder::new();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "usage-gate-test"]).arg(folder.path());
        let output = command.output().map_err(|fault| fault.to_string())?;
        if output.status.success() {
            return Ok(Self(folder));
        }
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    /// Where its files are.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room there is.
    ///
    /// # Panics
    /// If the disk is gone.
    #[must_use]
    pub fn fill(&self) -> Filler {
        let path = self.path().join("filler");
        let mut filler = Filler { file: File::create(&path).unwrap(), path };
        filler.top_up();
        filler
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a gateway that is killed when it is dropped may not have closed its files yet.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

/// A file that takes up room. Dropped, it gives the room back.
#[derive(Debug)]
pub struct Filler {
    file: File,
    path: PathBuf,
}

impl Filler {
    /// Takes what room there is now.
    pub fn top_up(&mut self) {
        let piece = [1_u8; 65_536];
        // From large pieces down to the last page, until not a byte more goes in.
        for size in [65_536, 4_096, 64, 1] {
            while self.file.write(&piece[..size]).is_ok_and(|written| written > 0) {}
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_disk_is_full_and_has_room_again() {
        Tmpfs::with(4, "crash::tmpfs::tests::a_small_disk_is_full_and_has_room_again", async |disk| {
            let file = disk.path().join("file");
            let filler = disk.fill();
            assert!(std::fs::write(&file, [0; 8_192]).is_err(), "it is full");
            drop(filler);
            std::fs::write(&file, [0; 8_192]).unwrap();
            let path = disk.path().to_owned();
            drop(disk);
            assert!(!path.exists(), "{} is left behind", path.display());
        });
    }
}
