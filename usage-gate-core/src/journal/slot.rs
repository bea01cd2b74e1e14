//! The form of an item in its slots.
//!
//! A slot is eight words of eight bytes. An item takes one to eight of them. Its first word, the head, is stored last:
//!
//! ```text
//! 63      56 55      48 47      40 39      32 31               0
//! | magic   | kind     | slots    | 0        | mark or CRC-32   |
//! ```
//!
//! Who publishes an item gives it a mark, which says that it is at its place: it depends on the salt of the segment and the sequence of the item, and so bytes of another
//! file, or of another place of this one, are no item. As long as the kernel lives that is enough, because all that was stored before the head is there. After a loss of power it is
//! not: pages reach the disk in any order. So each item is summed, off the path of requests: its head is stored once more, with another kind and the CRC, which covers what it
//! carries as well.
//!
//! A `pad` carries nothing and is summed at once: its CRC does not cover the words behind its head, which may be half of something.

use crate::mapped::Word;
use crate::sync::Ordering;

/// Words in a slot.
pub(crate) const SLOT_WORDS: usize = 8;
/// Slots of an item as nearly all are.
pub(crate) const USUAL_SLOTS: usize = 3;
/// Slots of the largest item.
pub(crate) const MOST_SLOTS: u64 = 8;
/// Words of the largest item, its head included.
pub(crate) const ITEM_WORDS: usize = 64;

const MAGIC: u64 = 0xA7;

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What one request used, or what a dead process forfeited.
    Record,
    /// Refusals of one kind, summed.
    Refusals,
    /// Slots that are passed over.
    Pad,
}

/// What the last four bytes of a head are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sum {
    Mark(u32),
    Crc(u32),
}

/// The first word of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) slots: u64,
    sum: Sum,
}

impl Head {
    /// Reads a word; `None` if no head looks like this.
    pub(crate) fn from_word(word: u64) -> Option<Self> {
        let [magic, kind, slots, zero, sum @ ..] = word.to_be_bytes();
        let sum = u32::from_be_bytes(sum);
        let (kind, sum) = match kind {
            1 => (Kind::Record, Sum::Crc(sum)),
            2 => (Kind::Refusals, Sum::Crc(sum)),
            3 => (Kind::Pad, Sum::Crc(sum)),
            4 => (Kind::Record, Sum::Mark(sum)),
            5 => (Kind::Refusals, Sum::Mark(sum)),
            _ => return None,
        };
        let slots = u64::from(slots);
        let possible = u64::from(magic) == MAGIC && zero == 0 && (1..=MOST_SLOTS).contains(&slots);
        possible.then_some(Self { kind, slots, sum })
    }

    /// The head of slots that are passed over.
    pub(crate) fn pad(salt: &Salt, sequence: u64, slots: u64) -> u64 {
        let meta = meta(3, slots);
        meta | u64::from(salt.crc(sequence, meta, &[]))
    }

    /// The head with which an item is published at its place.
    pub(crate) fn marked(kind: Kind, salt: &Salt, sequence: u64, slots: u64) -> u64 {
        let kind = match kind {
            Kind::Record => 4,
            Kind::Refusals => 5,
            Kind::Pad => return Self::pad(salt, sequence, slots),
        };
        meta(kind, slots) | u64::from(salt.mark(sequence, slots))
    }

    /// Whether its CRC is there: what was read with it can be told from what was written only in part.
    pub(crate) const fn is_summed(self) -> bool {
        matches!(self.sum, Sum::Crc(_))
    }

    /// The same head with the CRC of the item that was read with it.
    pub(crate) fn summed(self, salt: &Salt, sequence: u64, words: &[u64; ITEM_WORDS]) -> u64 {
        let meta = self.meta();
        meta | u64::from(salt.crc(sequence, meta, self.carried(words)))
    }

    /// Whether the item that was read with this head is what was written here; without a CRC, whether it was begun here.
    pub(crate) fn fits(self, salt: &Salt, sequence: u64, words: &[u64; ITEM_WORDS]) -> bool {
        match self.sum {
            Sum::Mark(mark) => mark == salt.mark(sequence, self.slots),
            Sum::Crc(crc) => crc == salt.crc(sequence, self.meta(), self.carried(words)),
        }
    }

    /// Without a sum, and as if there were one.
    const fn meta(self) -> u64 {
        let kind = match self.kind {
            Kind::Record => 1,
            Kind::Refusals => 2,
            Kind::Pad => 3,
        };
        meta(kind, self.slots)
    }

    /// What its CRC covers, of the words of the item with its head.
    fn carried(self, words: &[u64; ITEM_WORDS]) -> &[u64] {
        let end = match self.kind {
            Kind::Pad => 1,
            Kind::Record | Kind::Refusals => slots_words(self.slots),
        };
        words.get(1..end).unwrap_or_default()
    }
}

const fn meta(kind: u64, slots: u64) -> u64 {
    (MAGIC << 56) | (kind << 48) | (slots << 40)
}

/// What goes into every mark and sum of a segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Salt(u64);

impl Salt {
    pub(crate) const fn new(salt: u64) -> Self {
        Self(salt)
    }

    /// Who does not know the salt, which is random, cannot make words that look like a head at their place: a folded multiplication.
    fn mark(self, sequence: u64, slots: u64) -> u32 {
        let wide = u128::from(self.0 ^ slots) * u128::from(sequence ^ 0x9e37_79b9_7f4a_7c15);
        let [high, low] = halves(wide);
        let folded = high ^ low;
        let [.., a, b, c, d] = (folded ^ folded >> 32).to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }

    fn crc(self, sequence: u64, meta: u64, carried: &[u64]) -> u32 {
        let mut bytes = [[0; 8]; 3 + ITEM_WORDS];
        let covered = [self.0, sequence, meta];
        for (place, word) in bytes.iter_mut().zip(covered.iter().chain(carried)) {
            *place = word.to_le_bytes();
        }
        // In one go: the fast way through CRC-32 starts at 128 bytes.
        crc32fast::hash(bytes.get(..3 + carried.len()).unwrap_or(&bytes).as_flattened())
    }
}

/// What takes the words of an item in, those behind its head.
pub(crate) trait Sink {
    /// Adds words, all or none. What does not fit is left out: callers bound what they add, and tests know the largest item.
    fn push_all<const N: usize>(&mut self, words: [u64; N]);

    fn push(&mut self, word: u64) {
        self.push_all([word]);
    }

    fn push_wide(&mut self, number: u128) {
        self.push_all(halves(number));
    }
}

/// The place itself of an item. Words that are not stored stay what they are: 0, in a segment that was made for it.
#[derive(Debug)]
pub(crate) struct InPlace<'a>(&'a [Word]);

impl<'a> InPlace<'a> {
    pub(super) const fn new(behind_head: &'a [Word]) -> Self {
        Self(behind_head)
    }
}

impl Sink for InPlace<'_> {
    fn push_all<const N: usize>(&mut self, words: [u64; N]) {
        let split = self.0.split_first_chunk::<N>();
        debug_assert!(split.is_some(), "the place was taken for a smaller item");
        if let Some((places, rest)) = split {
            for (place, word) in places.iter().zip(words) {
                // Relaxed: the head, which is stored last, releases them.
                place.store(word, Ordering::Relaxed);
            }
            self.0 = rest;
        }
    }
}

/// An item that is ready to be written.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    kind: Kind,
    words: [u64; ITEM_WORDS - 1],
    /// Of `words`.
    used: usize,
}

impl Sink for Encoded {
    fn push_all<const N: usize>(&mut self, words: [u64; N]) {
        debug_assert!(self.used + N <= self.words.len(), "an item has at most {ITEM_WORDS} words");
        if let Some(places) = self.words.get_mut(self.used..).and_then(<[_]>::first_chunk_mut::<N>) {
            *places = words;
            self.used += N;
        }
    }
}

impl Encoded {
    /// One that carries nothing yet. Pads are no such items.
    pub(crate) const fn new(kind: Kind) -> Self {
        Self { kind, words: [0; ITEM_WORDS - 1], used: 0 }
    }

    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }

    /// How many slots it takes.
    pub(crate) const fn slots(&self) -> u64 {
        (self.used + 1).div_ceil(SLOT_WORDS) as u64
    }

    /// The words behind the head, to the end of the last slot.
    pub(crate) fn carried(&self) -> &[u64] {
        self.words.get(..slots_words(self.slots()) - 1).unwrap_or(&self.words)
    }
}

/// The words of this many slots.
fn slots_words(slots: u64) -> usize {
    usize::try_from(slots).unwrap_or(usize::MAX).saturating_mul(SLOT_WORDS).min(ITEM_WORDS)
}

/// A number of 128 bits as two words.
pub(crate) fn halves(number: u128) -> [u64; 2] {
    let mut halves = [0; 2];
    for (half, bytes) in halves.iter_mut().zip(number.to_be_bytes().as_chunks().0) {
        *half = u64::from_be_bytes(*bytes);
    }
    halves
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn item(words: usize) -> Encoded {
        let mut item = Encoded::new(Kind::Record);
        for word in 1..words {
            item.push(u64::MAX / word as u64);
        }
        item
    }

    fn head(item: &Encoded, salt: &Salt, sequence: u64) -> u64 {
        Head::marked(item.kind, salt, sequence, item.slots())
    }

    /// As it is read.
    fn words(item: &Encoded) -> [u64; ITEM_WORDS] {
        let mut words = [0; ITEM_WORDS];
        words.iter_mut().skip(1).zip(item.carried()).for_each(|(word, carried)| *word = *carried);
        words
    }

    #[test]
    fn a_summed_item_is_valid_at_its_place_only() {
        let (salt, other) = (Salt::new(5), Salt::new(6));
        for used in 1..=ITEM_WORDS {
            let item = item(used);
            assert_eq!(item.slots(), used.div_ceil(8) as u64);
            let words = words(&item);
            let head = Head::from_word(head(&item, &salt, 17)).unwrap().summed(&salt, 17, &words);
            let head = Head::from_word(head).unwrap();
            assert_eq!((head.kind, head.slots, head.is_summed()), (Kind::Record, item.slots(), true));
            assert!(head.fits(&salt, 17, &words));
            assert!(!head.fits(&other, 17, &words), "another file");
            assert!(!head.fits(&salt, 18, &words), "another place");
            for at in 1..=item.carried().len() {
                let mut torn = words;
                torn[at] ^= 1 << 40;
                assert!(!head.fits(&salt, 17, &torn), "word {at} of {used}");
            }
        }
    }

    #[test]
    fn the_head_of_a_published_item_is_valid_at_its_place_only() {
        for (salt, sequence) in
            (0..100_u64).flat_map(|salt| (1..100).map(move |sequence| (salt << 57 | salt, sequence)))
        {
            let item = item(20);
            let head = Head::from_word(Head::marked(Kind::Refusals, &Salt::new(salt), sequence, item.slots())).unwrap();
            assert_eq!((head.kind, head.slots, head.is_summed()), (Kind::Refusals, 3, false));
            let fits = |salt, sequence| head.fits(&Salt::new(salt), sequence, &[7; ITEM_WORDS]);
            assert!(fits(salt, sequence));
            assert!(!fits(salt + 1, sequence) && !fits(salt, sequence + 1) && !fits(salt, sequence ^ (1 << 40)));
        }
    }

    #[test]
    fn the_sum_is_that_of_what_earlier_versions_wrote() {
        let item = item(20);
        let mut bytes = [5, 17, meta(1, 3)].map(u64::to_le_bytes).concat();
        bytes.extend(item.carried().iter().flat_map(|word| word.to_le_bytes()));
        let (salt, head) = (Salt::new(5), Head::from_word(head(&item, &Salt::new(5), 17)).unwrap());
        assert_eq!(head.summed(&salt, 17, &words(&item)) & 0xffff_ffff, u64::from(crc32fast::hash(&bytes)));
    }

    #[test]
    fn a_pad_is_valid_whatever_is_behind_its_head() {
        let salt = Salt::new(5);
        let head = Head::from_word(Head::pad(&salt, 17, 3)).unwrap();
        assert_eq!((head.kind, head.slots), (Kind::Pad, 3));
        assert!(head.fits(&salt, 17, &[7; ITEM_WORDS]));
        assert!(!head.fits(&salt, 16, &[7; ITEM_WORDS]));
    }

    #[test]
    fn other_words_are_no_heads() {
        let good = head(&item(9), &Salt::new(5), 17);
        for bad in [0, u64::MAX, good ^ (1 << 63), good ^ (8 << 48), good ^ (15 << 40), good | (1 << 32)] {
            assert_eq!(Head::from_word(bad), None, "{bad:x}");
        }
    }
}
