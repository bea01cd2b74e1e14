//! `mapped/` of the core: words in memory.

#[path = "../../../../usage-gate-core/src/mapped/crash.rs"]
pub(crate) mod crash;
#[path = "../../../../usage-gate-core/src/mapped/word.rs"]
mod word;
#[path = "../../../../usage-gate-core/src/mapped/words.rs"]
mod words;

pub(crate) use word::Word;
pub(crate) use words::Words;
