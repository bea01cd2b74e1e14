//! A folder of mapped files, or what stands for one in memory.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::Words;

/// Where files of words are kept. Cheap to clone; clones are one place.
#[derive(Debug, Clone)]
pub(crate) enum Area {
    /// Files of a folder, closed to other users of the machine.
    Folder(PathBuf),
    /// By name, gone with the process.
    Memory(Arc<Mutex<BTreeMap<String, Words>>>),
}

/// The end of a name under which a file is made before it is complete.
const UNFINISHED: &str = ".new";
static ZEROS: [u8; 65_536] = [0; 65_536];

impl Area {
    /// A folder; made if it is not there.
    pub(crate) fn folder(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Ok(Self::Folder(path.to_owned()))
    }

    /// A folder that is there, to look at.
    pub(crate) fn existing(path: &Path) -> Self {
        Self::Folder(path.to_owned())
    }

    /// A place in memory.
    pub(crate) fn memory() -> Self {
        Self::Memory(Arc::default())
    }

    /// Makes a file of zeros and maps it. It is there whole or not at all, whatever happens; its blocks are allocated, so that no store into it can fail.
    ///
    /// # Errors
    /// No space, above all. Then nothing is left of it.
    pub(crate) fn create(&self, name: &str, words: usize) -> io::Result<Words> {
        #[cfg(test)]
        if !super::crash::step() {
            return Err(io::Error::other("dead"));
        }
        match self {
            Self::Memory(files) => {
                let new = Words::memory(words);
                files.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), new.clone());
                Ok(new)
            }
            Self::Folder(folder) => {
                let unfinished = folder.join(format!("{name}{UNFINISHED}"));
                let made = write_zeros(&unfinished, words * 8)
                    .and_then(|file| std::fs::rename(&unfinished, folder.join(name)).map(|()| file))
                    .and_then(|file| File::open(folder)?.sync_all().map(|()| file))
                    .and_then(|file| map(file, words));
                if made.is_err() {
                    // What is left of it takes the space that is missing.
                    let _ = std::fs::remove_file(&unfinished);
                }
                made
            }
        }
    }

    /// Puts a copy of words into a new file under the name of an old one, and maps it. It survives power loss; until it does, the old file is there.
    ///
    /// # Errors
    /// What the system says. Then the old file is as it was.
    pub(crate) fn replace(&self, name: &str, words: &Words) -> io::Result<Words> {
        #[cfg(test)]
        if !super::crash::step() {
            return Err(io::Error::other("dead"));
        }
        match self {
            Self::Memory(files) => {
                let new = Words::memory(words.len());
                for (new, old) in new.iter().zip(words.iter()) {
                    new.restore(old.load(Ordering::Acquire));
                }
                new.sync()?;
                files.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), new.clone());
                Ok(new)
            }
            Self::Folder(folder) => {
                let unfinished = folder.join(format!("{name}{UNFINISHED}"));
                let made = write_words(&unfinished, words)
                    .and_then(|file| std::fs::rename(&unfinished, folder.join(name)).map(|()| file))
                    .and_then(|file| File::open(folder)?.sync_all().map(|()| file))
                    .and_then(|file| map(file, words.len()));
                if made.is_err() {
                    // What is left of it takes the space that is missing.
                    let _ = std::fs::remove_file(&unfinished);
                }
                made
            }
        }
    }

    /// Maps a file that is there, all whole words of it.
    ///
    /// # Errors
    /// [`NotFound`](io::ErrorKind::NotFound), or what the system says.
    pub(crate) fn open(&self, name: &str) -> io::Result<Words> {
        match self {
            Self::Memory(files) => {
                let files = files.lock().unwrap_or_else(PoisonError::into_inner);
                files.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
            }
            Self::Folder(folder) => {
                let file = OpenOptions::new().read(true).write(true).open(folder.join(name))?;
                let words = usize::try_from(file.metadata()?.len() / 8).map_err(io::Error::other)?;
                if words == 0 { Ok(Words::memory(0)) } else { map(file, words) }
            }
        }
    }

    /// The words of a file as they are now, apart from it.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub(crate) fn copy(&self, name: &str) -> io::Result<Words> {
        match self {
            Self::Memory(_) => self.open(name),
            Self::Folder(folder) => {
                let bytes = std::fs::read(folder.join(name))?;
                let (words, _) = bytes.as_chunks();
                Ok(Words::of(words.iter().map(|word| u64::from_ne_bytes(*word))))
            }
        }
    }

    /// Names of all complete files, sorted.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn list(&self) -> io::Result<Vec<String>> {
        match self {
            Self::Memory(files) => Ok(files.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()),
            Self::Folder(folder) => {
                let mut names = Vec::new();
                for entry in std::fs::read_dir(folder)? {
                    let name = entry?.file_name();
                    if let Some(name) = name.to_str().filter(|name| !name.ends_with(UNFINISHED)) {
                        names.push(name.to_owned());
                    }
                }
                names.sort();
                Ok(names)
            }
        }
    }

    /// Bytes of a file on the disk.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn bytes(&self, name: &str) -> io::Result<u64> {
        match self {
            Self::Memory(_) => self.open(name).map(|words| u64::try_from(words.len() * 8).unwrap_or(u64::MAX)),
            Self::Folder(folder) => Ok(std::fs::metadata(folder.join(name))?.len()),
        }
    }

    /// Removes a file. Maps of it stay usable.
    ///
    /// # Errors
    /// What the system says; a file that is not there is no error.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        #[cfg(test)]
        if !super::crash::step() {
            return Err(io::Error::other("dead"));
        }
        match self {
            Self::Memory(files) => {
                files.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
                Ok(())
            }
            Self::Folder(folder) => match std::fs::remove_file(folder.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
    }

    /// Cuts a file to its first `keep` words, unless clones of `words` are left: a map of what is gone would end the process. The caller knows that it was
    /// opened once.
    ///
    /// # Errors
    /// What the system says; then the file is as it was.
    pub(crate) fn cut(&self, name: &str, words: Words, keep: usize) -> io::Result<()> {
        let last = words.is_last();
        drop(words);
        match self {
            Self::Folder(folder) if last => {
                let file = OpenOptions::new().write(true).open(folder.join(name))?;
                file.set_len(u64::try_from(keep * 8).map_err(io::Error::other)?)
            }
            _ => Ok(()),
        }
    }

    /// Removes what was being made when a process ended.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn sweep(&self) -> io::Result<()> {
        if let Self::Folder(folder) = self {
            for entry in std::fs::read_dir(folder)? {
                let path = entry?.path();
                if path.to_str().is_some_and(|path| path.ends_with(UNFINISHED)) {
                    std::fs::remove_file(path)?;
                }
            }
        }
        Ok(())
    }
}

/// Writes them in fact: what is only promised can still fail on file systems that copy on write.
fn write_zeros(path: &Path, bytes: usize) -> io::Result<File> {
    let mut file = OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(0o600).open(path)?;
    let mut left = bytes;
    while left > 0 {
        let some = left.min(ZEROS.len());
        file.write_all(ZEROS.get(..some).unwrap_or(&ZEROS))?;
        left -= some;
    }
    Ok(file)
}

fn write_words(path: &Path, words: &Words) -> io::Result<File> {
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(0o600).open(path)?;
    let mut writer = io::BufWriter::with_capacity(ZEROS.len(), &file);
    for word in words.iter() {
        writer.write_all(&word.load(Ordering::Acquire).to_ne_bytes())?;
    }
    writer.flush()?;
    drop(writer);
    file.sync_all()?;
    Ok(file)
}

#[cfg(not(loom))]
fn map(file: File, words: usize) -> io::Result<Words> {
    Words::map(file, words)
}

#[cfg(loom)]
fn map(_: File, words: usize) -> io::Result<Words> {
    Ok(Words::memory(words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Ordering::Relaxed;

    #[test]
    fn words_of_a_file_are_there_when_it_is_opened_again() {
        let folder = std::env::temp_dir().join(format!("usage-gate-area-{}", uuid::Uuid::now_v7()));
        let area = Area::folder(&folder).unwrap();
        let words = area.create("a", 1_024).unwrap();
        words[1_023].store(7, Relaxed);
        words.sync().unwrap();
        words.make_ready(0..2_000);
        let again = area.open("a").unwrap();
        assert_eq!((again.len(), again[0].load(Relaxed), again[1_023].load(Relaxed)), (1_024, 0, 7));
        // A map is one view of the file, not a copy.
        again[0].store(3, Relaxed);
        assert_eq!(words[0].load(Relaxed), 3);

        drop(again);
        let copy = area.replace("a", &words).unwrap();
        assert_eq!((copy[0].load(Relaxed), copy[1_023].load(Relaxed)), (3, 7));
        words[0].store(9, Relaxed);
        assert_eq!(area.open("a").unwrap()[0].load(Relaxed), 3, "the old file has gone its own way");
        drop(words);
        let words = copy;
        let kept = words.clone();
        area.cut("a", words, 8).unwrap();
        assert_eq!(area.bytes("a").unwrap(), 8_192, "somebody still has it mapped");
        area.cut("a", kept, 8).unwrap();
        assert_eq!((area.bytes("a").unwrap(), area.list().unwrap()), (64, vec!["a".to_owned()]));
        area.remove("a").unwrap();
        area.remove("a").unwrap();
        assert!(area.open("a").is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn without_space_nothing_is_left() {
        let folder = std::env::temp_dir().join(format!("usage-gate-area-{}", uuid::Uuid::now_v7()));
        let area = Area::folder(&folder).unwrap();
        // A folder in the way stands for whatever else the system refuses.
        std::fs::create_dir(folder.join("b")).unwrap();
        std::fs::create_dir(folder.join("b/c")).unwrap();
        assert!(area.create("b", 8).is_err());
        area.sweep().unwrap();
        assert_eq!(area.list().unwrap(), ["b"]);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
