//! Files as words of memory: what journal, seats and lease table stand on.
//!
//! A file is created whole (allocated, zeroed, then named), mapped shared, and seen as `&[Word]`. A store into a word survives the end of the process,
//! however it ends; it survives power loss once [`Words::sync`] has returned. The same code runs on plain memory: for gates without a data directory, and in tests.
//!
//! - [`word`]: one word, and the only way to change it.
//! - [`words`]: many of them, in a file or in memory. The only unsafe code of the project.
//! - [`area`]: a folder of such files, or what stands for one in memory.
//! - [`lock`]: whose folder it is.
//! - `crash` (tests): ends the process at any chosen store.

mod area;
#[cfg(test)]
pub(crate) mod crash;
mod lock;
mod word;
mod words;

pub(crate) use area::Area;
pub use lock::{FolderLock, LockError};
pub(crate) use word::Word;
pub(crate) use words::Words;
