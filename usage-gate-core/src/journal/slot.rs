//! The form of an item in its slots.
//!
//! A slot is eight words of eight bytes. An item takes one to eight of them. Its first word, the head, is stored last:
//!
//! ```text
//! 63      56 55      48 47      40 39      32 31               0
//! | magic   | kind     | slots    | 0        | CRC-32           |
//! ```
//!
//! The CRC covers the salt of the segment, the sequence of the item, and what it carries: bytes of another file, or of another place of this one, are no item.
//! A `pad` carries nothing, and its CRC does not cover the words behind its head: they may be half of something.

/// Words in a slot.
pub(crate) const SLOT_WORDS: usize = 8;
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

/// The first word of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) slots: u64,
    crc: u32,
}

impl Head {
    /// Reads a word; `None` if no head looks like this.
    pub(crate) fn from_word(word: u64) -> Option<Self> {
        let [magic, kind, slots, zero, crc @ ..] = word.to_be_bytes();
        let kind = match kind {
            1 => Kind::Record,
            2 => Kind::Refusals,
            3 => Kind::Pad,
            _ => return None,
        };
        let slots = u64::from(slots);
        let possible = u64::from(magic) == MAGIC && zero == 0 && (1..=MOST_SLOTS).contains(&slots);
        possible.then(|| Self { kind, slots, crc: u32::from_be_bytes(crc) })
    }

    fn meta(kind: Kind, slots: u64) -> u64 {
        let kind = match kind {
            Kind::Record => 1,
            Kind::Refusals => 2,
            Kind::Pad => 3,
        };
        (MAGIC << 56) | (kind << 48) | (slots << 40)
    }

    /// The head of slots that are passed over.
    pub(crate) fn pad(salt: u64, sequence: u64, slots: u64) -> u64 {
        let meta = Self::meta(Kind::Pad, slots);
        meta | u64::from(crc(salt, sequence, meta, &[]))
    }

    /// Whether the item that was read with this head, its head included, is what was written here.
    pub(crate) fn fits(self, salt: u64, sequence: u64, words: &[u64; ITEM_WORDS]) -> bool {
        let carried = match self.kind {
            Kind::Pad => &[],
            Kind::Record | Kind::Refusals => carried(words, self.slots),
        };
        crc(salt, sequence, Self::meta(self.kind, self.slots), carried) == self.crc
    }
}

/// An item that is ready to be written.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    kind: Kind,
    words: [u64; ITEM_WORDS],
    used: usize,
}

impl Encoded {
    pub(crate) const fn new(kind: Kind) -> Self {
        Self { kind, words: [0; ITEM_WORDS], used: 1 }
    }

    /// Adds a word. What does not fit is left out: callers bound what they add, and tests know the largest item.
    pub(crate) fn push(&mut self, word: u64) {
        debug_assert!(self.used < ITEM_WORDS, "an item has at most {ITEM_WORDS} words");
        if let Some(place) = self.words.get_mut(self.used) {
            *place = word;
            self.used += 1;
        }
    }

    pub(crate) fn push_wide(&mut self, number: u128) {
        let [high, low] = halves(number);
        self.push(high);
        self.push(low);
    }

    /// How many slots it takes.
    pub(crate) const fn slots(&self) -> u64 {
        self.used.div_ceil(SLOT_WORDS) as u64
    }

    /// The words behind the head, to the end of the last slot.
    pub(crate) fn carried(&self) -> &[u64] {
        carried(&self.words, self.slots())
    }

    /// The head of this item at its place.
    pub(crate) fn head(&self, salt: u64, sequence: u64) -> u64 {
        let meta = Head::meta(self.kind, self.slots());
        meta | u64::from(crc(salt, sequence, meta, self.carried()))
    }
}

fn carried(words: &[u64; ITEM_WORDS], slots: u64) -> &[u64] {
    let end = usize::try_from(slots).unwrap_or(usize::MAX).saturating_mul(SLOT_WORDS);
    words.get(1..end.min(ITEM_WORDS)).unwrap_or_default()
}

/// A number of 128 bits as two words.
pub(crate) fn halves(number: u128) -> [u64; 2] {
    let mut halves = [0; 2];
    for (half, bytes) in halves.iter_mut().zip(number.to_be_bytes().as_chunks().0) {
        *half = u64::from_be_bytes(*bytes);
    }
    halves
}

/// In one go over one buffer: the fast way through CRC-32 starts at 128 bytes. A usual item has a small one, since clearing it costs as much as the sum.
fn crc(salt: u64, sequence: u64, meta: u64, carried: &[u64]) -> u32 {
    const USUAL: usize = 3 * SLOT_WORDS;
    if carried.len() < USUAL {
        crc_in([0; (USUAL + 2) * 8], salt, sequence, meta, carried)
    } else {
        crc_in([0; (ITEM_WORDS + 2) * 8], salt, sequence, meta, carried)
    }
}

fn crc_in<const BYTES: usize>(mut bytes: [u8; BYTES], salt: u64, sequence: u64, meta: u64, carried: &[u64]) -> u32 {
    let mut places = bytes.as_chunks_mut().0.iter_mut();
    for (word, place) in [salt, sequence, meta].into_iter().zip(places.by_ref()) {
        *place = word.to_le_bytes();
    }
    for (word, place) in carried.iter().zip(places) {
        *place = word.to_le_bytes();
    }
    let used = (carried.len() + 3) * 8;
    crc32fast::hash(bytes.get(..used).unwrap_or(&bytes))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn item(words: usize) -> Encoded {
        let mut item = Encoded::new(Kind::Record);
        (1..words).for_each(|word| item.push(u64::MAX / word as u64));
        item
    }

    #[test]
    fn an_item_is_valid_at_its_place_only() {
        for used in 1..=ITEM_WORDS {
            let item = item(used);
            assert_eq!(item.slots(), used.div_ceil(8) as u64);
            let word = item.head(5, 17);
            let head = Head::from_word(word).unwrap();
            assert_eq!((head.kind, head.slots), (Kind::Record, item.slots()));
            assert!(head.fits(5, 17, &item.words));
            assert!(!head.fits(6, 17, &item.words), "another file");
            assert!(!head.fits(5, 18, &item.words), "another place");
            let mut torn = item.words;
            for at in 1..=item.carried().len() {
                torn[at] ^= 1 << 40;
                assert!(!head.fits(5, 17, &torn), "word {at} of {used}");
                torn[at] = item.words[at];
            }
        }
    }

    #[test]
    fn a_pad_is_valid_whatever_is_behind_its_head() {
        let head = Head::from_word(Head::pad(5, 17, 3)).unwrap();
        assert_eq!((head.kind, head.slots), (Kind::Pad, 3));
        assert!(head.fits(5, 17, &[7; ITEM_WORDS]));
        assert!(!head.fits(5, 16, &[7; ITEM_WORDS]));
    }

    #[test]
    fn other_words_are_no_heads() {
        let good = item(9).head(5, 17);
        for bad in [0, u64::MAX, good ^ (1 << 63), good ^ (9 << 48), good ^ (15 << 40), good | (1 << 32)] {
            assert_eq!(Head::from_word(bad), None, "{bad:x}");
        }
    }
}
