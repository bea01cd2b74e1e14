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
    pub(crate) fn pad(salt: &Salt, sequence: u64, slots: u64) -> u64 {
        let meta = Self::meta(Kind::Pad, slots);
        meta | u64::from(salt.crc(&[sequence, meta].map(u64::to_le_bytes)))
    }

    /// Whether the item that was read with this head, its head included, is what was written here.
    pub(crate) fn fits(self, salt: &Salt, sequence: u64, words: &[u64; ITEM_WORDS]) -> bool {
        let carried = match self.kind {
            Kind::Pad => 0,
            Kind::Record | Kind::Refusals => slots_words(self.slots).saturating_sub(1),
        };
        let mut item = Encoded::new(self.kind);
        for (place, word) in item.words.iter_mut().skip(FRONT).zip(words.iter().skip(1).take(carried)) {
            *place = word.to_le_bytes();
        }
        let meta = Self::meta(self.kind, self.slots);
        item.crc(salt, sequence, meta, carried) == self.crc
    }
}

/// What begins every sum of a segment. It is summed once.
#[derive(Debug, Clone)]
pub(crate) struct Salt(crc32fast::Hasher);

impl Salt {
    pub(crate) fn new(salt: u64) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&salt.to_le_bytes());
        Self(hasher)
    }

    /// In one go: the fast way through CRC-32 starts at 128 bytes.
    fn crc(&self, covered: &[[u8; 8]]) -> u32 {
        let mut hasher = self.0.clone();
        hasher.update(covered.as_flattened());
        hasher.finalize()
    }
}

/// Words of an [`Encoded`] before what it carries: the sequence, and the head without its sum.
const FRONT: usize = 2;

/// An item that is ready to be written, in the form in which it is summed: copied once, from here to its place.
#[derive(Debug, Clone)]
pub(crate) struct EncodedIn<const WORDS: usize> {
    kind: Kind,
    words: [[u8; 8]; WORDS],
    /// Of `words`.
    used: usize,
}

/// Any item.
pub(crate) type Encoded = EncodedIn<{ FRONT - 1 + ITEM_WORDS }>;
/// An item of at most [`USUAL_SLOTS`], as nearly all are: to clear and to fetch what the others need costs more than to look at how large one is.
pub(crate) type Usual = EncodedIn<{ FRONT - 1 + USUAL_SLOTS * SLOT_WORDS }>;

/// Slots of a usual item.
pub(crate) const USUAL_SLOTS: usize = 3;

impl<const WORDS: usize> EncodedIn<WORDS> {
    pub(crate) const fn new(kind: Kind) -> Self {
        Self { kind, words: [[0; 8]; WORDS], used: FRONT }
    }

    /// Adds a word. What does not fit is left out: callers bound what they add, and tests know the largest item.
    pub(crate) fn push(&mut self, word: u64) {
        self.push_all([word]);
    }

    /// Adds words, all or none.
    pub(crate) fn push_all<const N: usize>(&mut self, words: [u64; N]) {
        debug_assert!(self.used + N <= self.words.len(), "an item has at most {ITEM_WORDS} words");
        if let Some(places) = self.words.get_mut(self.used..).and_then(<[_]>::first_chunk_mut::<N>) {
            *places = words.map(u64::to_le_bytes);
            self.used += N;
        }
    }

    pub(crate) fn push_wide(&mut self, number: u128) {
        self.push_all(halves(number));
    }

    /// How many slots it takes.
    pub(crate) const fn slots(&self) -> u64 {
        (self.used - (FRONT - 1)).div_ceil(SLOT_WORDS) as u64
    }

    /// The words behind the head, to the end of the last slot.
    pub(crate) fn carried(&self) -> impl ExactSizeIterator<Item = u64> {
        let end = FRONT - 1 + slots_words(self.slots());
        self.words.get(FRONT..end).unwrap_or_default().iter().map(|word| u64::from_le_bytes(*word))
    }

    /// The head of this item at its place.
    pub(crate) fn head(&mut self, salt: &Salt, sequence: u64) -> u64 {
        let meta = Head::meta(self.kind, self.slots());
        let carried = slots_words(self.slots()).saturating_sub(1);
        meta | u64::from(self.crc(salt, sequence, meta, carried))
    }

    fn crc(&mut self, salt: &Salt, sequence: u64, meta: u64, carried: usize) -> u32 {
        if let Some(front) = self.words.first_chunk_mut::<FRONT>() {
            *front = [sequence, meta].map(u64::to_le_bytes);
        }
        salt.crc(self.words.get(..FRONT + carried).unwrap_or(&self.words))
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

    /// As it is read.
    fn words(item: &Encoded) -> [u64; ITEM_WORDS] {
        let mut words = [0; ITEM_WORDS];
        words.iter_mut().skip(1).zip(item.carried()).for_each(|(word, carried)| *word = carried);
        words
    }

    #[test]
    fn an_item_is_valid_at_its_place_only() {
        let (salt, other) = (Salt::new(5), Salt::new(6));
        for used in 1..=ITEM_WORDS {
            let mut item = item(used);
            assert_eq!(item.slots(), used.div_ceil(8) as u64);
            let word = item.head(&salt, 17);
            let head = Head::from_word(word).unwrap();
            let words = words(&item);
            assert_eq!((head.kind, head.slots), (Kind::Record, item.slots()));
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
    fn the_sum_is_that_of_what_earlier_versions_wrote() {
        let mut item = item(20);
        let mut bytes = [5, 17, Head::meta(Kind::Record, 3)].map(u64::to_le_bytes).concat();
        bytes.extend(item.carried().flat_map(u64::to_le_bytes));
        assert_eq!(item.head(&Salt::new(5), 17) & 0xffff_ffff, u64::from(crc32fast::hash(&bytes)));
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
        let good = item(9).head(&Salt::new(5), 17);
        for bad in [0, u64::MAX, good ^ (1 << 63), good ^ (9 << 48), good ^ (15 << 40), good | (1 << 32)] {
            assert_eq!(Head::from_word(bad), None, "{bad:x}");
        }
    }
}
