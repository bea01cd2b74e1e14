//! Words in a file or in memory.

#[cfg(not(loom))]
use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::Arc;
#[cfg(test)]
use std::sync::{Mutex, PoisonError, atomic::Ordering};

use super::Word;

/// Words of a cache line.
#[cfg(all(target_arch = "x86_64", not(loom)))]
const LINE_WORDS: usize = 8;
/// Words of the smallest page.
const PAGE_WORDS: usize = 512;

/// A run of words that outlives whoever writes it. Cheap to clone; clones see the same words.
#[derive(Debug, Clone)]
pub(crate) struct Words {
    /// Where they are: looked for at every store of a request, and the backing would be one more line to fetch.
    start: NonNull<Word>,
    words: usize,
    backing: Arc<Backing>,
}

#[expect(unsafe_code, reason = "a pointer says nothing of threads")]
// SAFETY: `Words` is a shared slice of `Word`, which is `Sync`, and an `Arc` of what owns it, which may be dropped on any thread: a map and a file, or a box.
unsafe impl Send for Words {}

#[expect(unsafe_code, reason = "a pointer says nothing of threads")]
// SAFETY: as for `Send`; `&Words` gives `&[Word]` and nothing else.
unsafe impl Sync for Words {}

#[derive(Debug)]
enum Backing {
    #[cfg(not(loom))]
    Mapped(Mapped),
    Memory(Memory),
}

#[cfg(not(loom))]
#[derive(Debug)]
struct Mapped {
    /// Kept mapped, and never handed out: all access is through `words`.
    map: memmap2::MmapRaw,
    file: File,
}

#[derive(Debug)]
struct Memory {
    words: Box<[Word]>,
    /// What a power loss leaves for certain.
    #[cfg(test)]
    synced: Mutex<Box<[u64]>>,
}

impl Words {
    /// Words in memory, all 0.
    pub(crate) fn memory(words: usize) -> Self {
        let memory = Memory {
            words: (0..words).map(|_| Word::default()).collect(),
            #[cfg(test)]
            synced: Mutex::new(vec![0; words].into()),
        };
        Self::of_memory(memory)
    }

    /// Words in memory with these values.
    pub(super) fn of(values: impl Iterator<Item = u64>) -> Self {
        let words: Box<[Word]> = values.map(Word::new).collect();
        let memory = Memory {
            #[cfg(test)]
            synced: Mutex::new(vec![0; words.len()].into()),
            words,
        };
        Self::of_memory(memory)
    }

    fn of_memory(memory: Memory) -> Self {
        // In its last place first: a box that is moved is a new one to who has looked into it.
        let memory = Arc::new(Backing::Memory(memory));
        let (start, words) = match &*memory {
            Backing::Memory(memory) => (NonNull::from(&*memory.words).cast(), memory.words.len()),
            #[cfg(not(loom))]
            Backing::Mapped(_) => (NonNull::dangling(), 0),
        };
        Self { start, words, backing: memory }
    }

    /// Maps a file of ours whose size is known and whose blocks are allocated: a hole could end the process with SIGBUS when it is filled.
    #[cfg(not(loom))]
    pub(super) fn map(file: File, words: usize) -> io::Result<Self> {
        // Pages, and with them the words in it, are aligned; bytes beyond the last whole word are not looked at.
        let map = memmap2::MmapOptions::new().len(words * size_of::<Word>()).map_raw(&file)?;
        let start = NonNull::new(map.as_mut_ptr().cast::<Word>()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { start, words, backing: Arc::new(Backing::Mapped(Mapped { map, file })) })
    }

    /// Touches every page, while nobody else stores, so that the system's work for the first store after a sync is done here and not in a request:
    /// it costs several times what a record does.
    pub(crate) fn touch(&self) {
        for word in self.iter().step_by(PAGE_WORDS) {
            word.touch();
        }
    }

    /// Does the same for some of the words while others may store: the system is asked, and nothing is stored. What it does not know how to do is left to
    /// the first store.
    #[cfg(all(target_os = "linux", not(loom)))]
    pub(crate) fn make_ready(&self, words: Range<usize>) {
        if let Backing::Mapped(mapped) = &*self.backing {
            let bytes = size_of::<Word>();
            let (from, to) = (words.start.min(self.words) * bytes, words.end.min(self.words) * bytes);
            if from < to {
                let _ = mapped.map.advise_range(memmap2::Advice::PopulateWrite, from, to - from);
            }
        }
    }

    #[cfg(not(all(target_os = "linux", not(loom))))]
    #[expect(clippy::unused_self, reason = "only Linux can be asked")]
    pub(crate) fn make_ready(&self, _: Range<usize>) {}

    /// Has the processor fetch the lines of words that are stored soon: from memory that takes as long as all else that a record costs.
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    #[expect(unsafe_code, reason = "a hint to the processor takes an address")]
    pub(crate) fn prefetch(&self, words: Range<usize>) {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        for word in self.get(words).unwrap_or_default().iter().step_by(LINE_WORDS) {
            // SAFETY: a hint reads and changes nothing, and is allowed for any address; this one is of a word that is there.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(std::ptr::from_ref(word).cast()) };
        }
    }

    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    #[expect(clippy::unused_self, reason = "only one kind of processor is asked")]
    pub(crate) fn prefetch(&self, _: Range<usize>) {}

    /// Makes everything stored so far survive power loss.
    ///
    /// # Errors
    /// What the system says. It must not be tried again on the same file: the system may have dropped what it could not write.
    pub(crate) fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        super::crash::sync()?;
        match &*self.backing {
            // Stores through a shared map are in the file's pages at once: a sync of the file's data writes them.
            #[cfg(not(loom))]
            Backing::Mapped(mapped) => mapped.file.sync_data(),
            Backing::Memory(memory) => {
                memory.sync();
                Ok(())
            }
        }
    }

    /// Whether no clone of this is left: then the file may be cut.
    pub(crate) fn is_last(&self) -> bool {
        let owners = match &*self.backing {
            #[cfg(not(loom))]
            Backing::Mapped(_) => 1,
            // The area that stands for a folder has it too.
            Backing::Memory(_) => 2,
        };
        Arc::strong_count(&self.backing) <= owners
    }

    /// What a power loss leaves: of each sector of 64 bytes that was not synced the old or the new, as `keep` says.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn lose_power(&self, mut keep: impl FnMut() -> bool) {
        if let Backing::Memory(memory) = &*self.backing {
            let mut synced = memory.synced.lock().unwrap_or_else(PoisonError::into_inner);
            for (sector, old) in memory.words.chunks(8).zip(synced.chunks_mut(8)) {
                let new = sector.iter().map(|word| word.load(Ordering::Relaxed));
                if new.clone().ne(old.iter().copied()) && !keep() {
                    for (word, old) in sector.iter().zip(old) {
                        word.restore(*old);
                    }
                }
            }
            drop(synced);
            memory.sync();
        }
    }
}

impl Memory {
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "memory is as durable as it gets; tests keep a copy"))]
    fn sync(&self) {
        #[cfg(test)]
        {
            let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
            for (word, kept) in self.words.iter().zip(synced.iter_mut()) {
                *kept = word.load(Ordering::Relaxed);
            }
        }
    }
}

impl Deref for Words {
    type Target = [Word];

    #[expect(unsafe_code, reason = "the one place where a map becomes words")]
    fn deref(&self) -> &[Word] {
        // SAFETY: `backing` owns memory of `words` words from `start` on, aligned and readable and writable, for as long as `self` lives, which the slice borrows:
        // either a box that is never replaced, or a map of that length (`map` asked for it), which starts at a page. A `Word` is a transparent `AtomicU64`, for
        // which every bit pattern is valid, so shared references may exist while others, also in other processes, change the memory atomically. A file is not cut
        // while a map of it exists: only `Area::cut` cuts, and takes the last `Words`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}
