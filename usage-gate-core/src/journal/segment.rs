//! One file of a stream.
//!
//! It begins with what it needs to be understood alone: which stream, which sequences, the salt of its CRCs, and a text that names what records
//! call by number. No dictionary has to outlive it. The rest are slots; a slot's number in the stream is the sequence of the item that begins there.
//!
//! | word | |
//! | --- | --- |
//! | 0 | magic and version; stored last, so that a file without it was never used |
//! | 1, 2 | the stream |
//! | 3 | the salt, random |
//! | 4 | the sequence of the first slot |
//! | 5 | how many slots |
//! | 6 | slots of all this, before the first |
//! | 7 | bytes of the text, and the CRC-32 of words 1 to 6 and the text |
//! | 8 | the sequence at which it ended, if nothing more comes into it; 0 until then |
//! | 9 | the last sequence that the primary sink has (B6) |
//! | 10 | when it was told so, in microseconds |
//! | 11 | up to which sequence all items are summed; 0 for none |
//! | 16… | the text |

use super::slot::{Encoded, Head, ITEM_WORDS, InPlace, Kind, MOST_SLOTS, SLOT_WORDS, Salt, Sink, USUAL_SLOTS, halves};
use crate::mapped::{Word, Words};
use crate::sync::Ordering;

const MAGIC: u64 = u64::from_be_bytes(*b"ugjrnl\x00\x01");
const TEXT: usize = 16;
/// The least slots that a segment may have: an item, and what is lost where an item would cross its end.
pub(crate) const LEAST_SLOTS: u64 = 2 * MOST_SLOTS;

/// Words behind an item that are fetched for those that come next.
const SOON: usize = USUAL_SLOTS * SLOT_WORDS;

const ENDED: usize = 8;
const ACKED: usize = 9;
const ACKED_AT: usize = 10;
const SUMMED: usize = 11;

/// Why a file is not a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SegmentError {
    /// It was made, and the process ended before it was used.
    #[error("the segment was never begun")]
    Unbegun,
    /// Its first words are not what was written, or the file is shorter than it says.
    #[error("the beginning of the segment is damaged")]
    Damaged,
    /// The words have no room for the text and a few items.
    #[error("the segment is too small")]
    TooSmall,
}

/// A segment that is mapped.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    words: Words,
    stream: u128,
    salt: Salt,
    first: u64,
    slots: u64,
    /// Words before the first slot.
    header: usize,
}

/// What begins at a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing yet, or nothing that was finished.
    Unpublished,
    /// An item.
    Item(Head),
    /// The segment ends here.
    End,
}

impl Segment {
    /// The words that a text takes in front of the slots.
    pub(crate) const fn header_words(text: &str) -> usize {
        (TEXT + text.len().div_ceil(8)).next_multiple_of(SLOT_WORDS)
    }

    /// Begins a segment in words that are all 0.
    ///
    /// # Errors
    /// [`TooSmall`](SegmentError::TooSmall).
    pub(crate) fn begin(words: Words, stream: u128, salt: u64, first: u64, text: &str) -> Result<Self, SegmentError> {
        let header = Self::header_words(text);
        let slots = words.len().saturating_sub(header) / SLOT_WORDS;
        let slots = u64::try_from(slots).map_err(|_| SegmentError::TooSmall)?;
        let bytes = u32::try_from(text.len()).map_err(|_| SegmentError::TooSmall)?;
        if slots < LEAST_SLOTS {
            return Err(SegmentError::TooSmall);
        }
        let [high, low] = halves(stream);
        let numbers = [high, low, salt, first, slots, (header / SLOT_WORDS) as u64];
        for (word, number) in words.iter().skip(1).zip(numbers) {
            word.store(number, Ordering::Relaxed);
        }
        for (word, chunk) in words.iter().skip(TEXT).zip(text.as_bytes().chunks(8)) {
            let mut bytes = [0; 8];
            for (place, byte) in bytes.iter_mut().zip(chunk) {
                *place = *byte;
            }
            word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
        }
        let sum = (u64::from(bytes) << 32) | u64::from(header_crc(&numbers, text.as_bytes()));
        for (word, number) in words.iter().skip(7).zip([sum]) {
            word.store(number, Ordering::Relaxed);
        }
        for word in words.iter().take(1) {
            // Release: who reads the magic reads all of the above.
            word.store(MAGIC, Ordering::Release);
        }
        Ok(Self { words, stream, salt: Salt::new(salt), first, slots, header })
    }

    /// Reads what an earlier life, or another thread, began.
    ///
    /// # Errors
    /// [`Unbegun`](SegmentError::Unbegun), [`Damaged`](SegmentError::Damaged).
    pub(crate) fn open(words: Words) -> Result<Self, SegmentError> {
        let at = |word: usize| words.get(word).map_or(0, |word| word.load(Ordering::Acquire));
        match at(0) {
            MAGIC => {}
            0 => return Err(SegmentError::Unbegun),
            _ => return Err(SegmentError::Damaged),
        }
        let numbers = [at(1), at(2), at(3), at(4), at(5), at(6)];
        let [high, low, salt, first, slots, header] = numbers;
        let header = usize::try_from(header).ok().and_then(|slots| slots.checked_mul(SLOT_WORDS));
        let header = header.filter(|header| (TEXT..=words.len()).contains(header)).ok_or(SegmentError::Damaged)?;
        let stream = (u128::from(high) << 64) | u128::from(low);
        let segment = Self { words, stream, salt: Salt::new(salt), first, slots, header };
        let sum = segment.number(7);
        let text = segment.text_bytes(sum >> 32);
        let whole = u64::from(header_crc(&numbers, &text)) == sum & 0xffff_ffff;
        let ends = first.checked_add(slots).is_some() && first > 0;
        // One that has ended may have been cut behind its last item.
        if whole && ends && segment.ended().unwrap_or(u64::MAX).min(segment.end()) <= segment.mapped_end() {
            Ok(segment)
        } else {
            Err(SegmentError::Damaged)
        }
    }

    pub(crate) const fn stream(&self) -> u128 {
        self.stream
    }

    /// The sequence of its first slot.
    pub(crate) const fn first(&self) -> u64 {
        self.first
    }

    /// The sequence behind its last slot: the first of the next segment.
    pub(crate) const fn end(&self) -> u64 {
        self.first.saturating_add(self.slots)
    }

    pub(crate) const fn slots(&self) -> u64 {
        self.slots
    }

    /// The name of its file: streams sort by age, and segments within them.
    pub(crate) fn file_name(&self) -> String {
        file_name(self.stream, self.first)
    }

    /// The text it was begun with; empty if it is none.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.text_bytes(self.number(7) >> 32)).unwrap_or_default()
    }

    pub(crate) fn words(&self) -> &Words {
        &self.words
    }

    pub(crate) fn into_words(self) -> Words {
        self.words
    }

    /// Whether all of these slots are in it.
    pub(crate) const fn holds(&self, sequence: u64, slots: u64) -> bool {
        self.first <= sequence && sequence.saturating_add(slots) <= self.end()
    }

    /// The sequence at which it ended, if it did: nothing begins there or behind it.
    pub(crate) fn ended(&self) -> Option<u64> {
        // Acquire: pairs with `end_at`, which comes after the last item.
        Some(self.number(ENDED)).filter(|ended| *ended != 0)
    }

    /// Ends it.
    pub(crate) fn end_at(&self, sequence: u64) {
        self.set(ENDED, sequence);
    }

    /// The last sequence that is known to be in the primary sink; 0 for none.
    pub(crate) fn acked(&self) -> u64 {
        self.number(ACKED)
    }

    /// When that became known, in microseconds after 1970.
    pub(crate) fn acked_at(&self) -> u64 {
        self.number(ACKED_AT)
    }

    /// Remembers what the sink has. One thread a stream does this.
    pub(crate) fn ack(&self, through: u64, at: u64) {
        let through = through.min(self.end().saturating_sub(1));
        if through >= self.first && through > self.acked() {
            self.set(ACKED_AT, at);
            self.set(ACKED, through);
        }
    }

    /// Whether all that is in it, and ever will be, is in the primary sink.
    pub(crate) fn is_acked(&self) -> bool {
        let end = self.ended().unwrap_or_else(|| self.end());
        end <= self.first || self.acked().saturating_add(1) >= end
    }

    /// Writes an item into its reserved place and publishes it.
    pub(crate) fn publish(&self, sequence: u64, item: &Encoded) {
        self.publish_by(sequence, item.slots(), item.kind(), |place| {
            item.carried().iter().for_each(|word| place.push(*word));
        });
    }

    /// Has an item written straight into its reserved place, and publishes it. It is to be [summed](Self::sum_all) later.
    pub(crate) fn publish_by(&self, sequence: u64, slots: u64, kind: Kind, write: impl FnOnce(&mut InPlace<'_>)) {
        let Some(place) = self.place(sequence, slots) else { return };
        write(&mut InPlace::new(place.get(1..).unwrap_or_default()));
        self.publish_head(place, Head::marked(kind, &self.salt, sequence, slots));
        let next = self.words_to(sequence + slots);
        self.words.prefetch(next..(next + SOON).min(self.words.len()));
    }

    /// Gives slots up: whoever reads on passes over them.
    pub(crate) fn pad(&self, sequence: u64, slots: u64) {
        if let Some(place) = self.place(sequence, slots) {
            self.publish_head(place, Head::pad(&self.salt, sequence, slots));
        }
    }

    /// Gives up any number of slots.
    pub(crate) fn pad_all(&self, from: u64, to: u64) {
        let mut at = from;
        while at < to {
            let slots = MOST_SLOTS.min(to - at);
            self.pad(at, slots);
            at += slots;
        }
    }

    #[expect(clippy::unused_self, reason = "says whose slot it is")]
    fn publish_head(&self, place: &[Word], head: u64) {
        if let Some(word) = place.first() {
            // Release: pairs with the Acquire of `at`. Whoever sees the head sees all words behind it.
            word.store(head, Ordering::Release);
        }
    }

    /// What begins at a sequence, as a reader of a living stream sees it: what is published there is whole.
    pub(crate) fn at(&self, sequence: u64) -> Found {
        if sequence >= self.ended().unwrap_or(u64::MAX).min(self.end()) {
            return Found::End;
        }
        let head =
            self.place(sequence, 1).and_then(|place| place.first()).map_or(0, |word| word.load(Ordering::Acquire));
        match Head::from_word(head) {
            Some(head) if self.holds(sequence, head.slots) => Found::Item(head),
            _ => Found::Unpublished,
        }
    }

    /// What begins at a sequence, as recovery sees it: only what its mark or CRC vouches for.
    pub(crate) fn verified_at(&self, sequence: u64) -> Found {
        match self.at(sequence) {
            Found::Item(head) if !head.fits(&self.salt, sequence, &self.read(sequence, head.slots)) => {
                Found::Unpublished
            }
            found => found,
        }
    }

    /// The same after a loss of power: only what its CRC vouches for.
    pub(crate) fn verified_by_sum_at(&self, sequence: u64) -> Found {
        match self.verified_at(sequence) {
            Found::Item(head) if !head.is_summed() => Found::Unpublished,
            found => found,
        }
    }

    /// Sums the item that is published at a sequence. Any thread may at any time: all store the same.
    pub(crate) fn sum_at(&self, sequence: u64) {
        if let Found::Item(head) = self.at(sequence) {
            self.sum(sequence, head);
        }
    }

    /// Sums whatever is published before the first place where nothing is, and says whether that is all that will ever be in it. Any thread may: where it is noted
    /// how far that was, a smaller number means that some heads are looked at twice.
    pub(crate) fn sum_all(&self) -> bool {
        let before = self.number(SUMMED).max(self.first);
        let mut at = before;
        while let Found::Item(head) = self.at(at) {
            self.sum(at, head);
            at = at.saturating_add(head.slots);
        }
        if at > before {
            self.set(SUMMED, at);
        }
        at >= self.ended().unwrap_or_else(|| self.end())
    }

    fn sum(&self, sequence: u64, head: Head) {
        if let Some(place) = self.place(sequence, head.slots).filter(|_| !head.is_summed()) {
            self.publish_head(place, head.summed(&self.salt, sequence, &self.read(sequence, head.slots)));
        }
    }

    /// The first sequence from this one on, which begins an item, where nothing is published; its end if there is none.
    pub(crate) fn published_from(&self, sequence: u64) -> u64 {
        let mut at = sequence;
        while let Found::Item(head) = self.at(at) {
            at = at.saturating_add(head.slots);
        }
        at
    }

    /// Whether all of it that lies before a sequence is published.
    pub(crate) fn is_published(&self, before: u64) -> bool {
        let acked = self.acked().saturating_add(1).max(self.first);
        self.published_from(acked) >= before.min(self.end())
    }

    /// The words of an item that was found.
    pub(crate) fn read(&self, sequence: u64, slots: u64) -> [u64; ITEM_WORDS] {
        let mut words = [0; ITEM_WORDS];
        for (value, word) in words.iter_mut().zip(self.place(sequence, slots).unwrap_or_default()) {
            *value = word.load(Ordering::Relaxed);
        }
        words
    }

    /// Has the system ready for stores into these slots, as far as it has them.
    pub(crate) fn make_ready(&self, from: u64, to: u64) {
        let (from, to) = (from.max(self.first), to.min(self.end()));
        if from < to {
            self.words.make_ready(self.words_to(from)..self.words_to(to));
        }
    }

    /// Words from its start to a sequence.
    pub(crate) fn words_to(&self, sequence: u64) -> usize {
        let slots = usize::try_from(sequence.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.header.saturating_add(slots.saturating_mul(SLOT_WORDS))
    }

    /// The sequence behind the last slot that the file has.
    fn mapped_end(&self) -> u64 {
        let slots = self.words.len().saturating_sub(self.header) / SLOT_WORDS;
        self.first.saturating_add(u64::try_from(slots).unwrap_or(u64::MAX)).min(self.end())
    }

    fn place(&self, sequence: u64, slots: u64) -> Option<&[Word]> {
        if !self.holds(sequence, slots) {
            return None;
        }
        self.words.get(self.words_to(sequence)..self.words_to(sequence + slots))
    }

    fn number(&self, at: usize) -> u64 {
        self.words.get(at).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn set(&self, at: usize, number: u64) {
        if let Some(word) = self.words.get(at) {
            // Release: what is said of the segment is said after what was done to it.
            word.store(number, Ordering::Release);
        }
    }

    fn text_bytes(&self, bytes: u64) -> Vec<u8> {
        let words = self.words.get(TEXT..self.header).unwrap_or_default();
        let text = words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
        text.take(usize::try_from(bytes).unwrap_or(usize::MAX)).collect()
    }
}

/// How the segment of a stream that begins at a sequence is named.
pub(crate) fn file_name(stream: u128, first: u64) -> String {
    format!("{stream:032x}-{first:016x}.seg")
}

/// The stream and first sequence in a file's name, for tests.
#[cfg(test)]
pub(crate) fn place_of(name: &str) -> Option<(u128, u64)> {
    let (stream, first) = name.strip_suffix(".seg")?.split_once('-')?;
    Some((u128::from_str_radix(stream, 16).ok()?, u64::from_str_radix(first, 16).ok()?))
}

fn header_crc(numbers: &[u64; 6], text: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(text);
    hasher.finalize()
}
