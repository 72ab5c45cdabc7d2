//! `Word`: what a cell, a directory place, the root or a `next` holds.
use std::fmt;

/// `kind 4 | tag 13 | value 47`, from the highest bit down.
///
/// | kind | value | tag |
/// | --- | --- | --- |
/// | empty (the whole word is 0), and frozen | 0 | 0 |
/// | block, and frozen, pending | a block of the area | of the key's hash |
/// | block, marked | the same | the descriptor that put it there |
/// | tomb | 0 | 0; marked: the descriptor of the deletion that is under way |
/// | moved | index of the cell in the next table | of the key's hash |
///
/// *Marked* is a step that its descriptor does not yet call done; everybody may call it so, and
/// then take the mark away. *Frozen* is a cell of a table that is being left: nothing but the step
/// to `moved` changes it. *Pending* is a copy in the next table of which the old cell may not know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(u64);

const VALUE_BITS: u32 = 47;
const TAG_BITS: u32 = 13;
const TAG_MASK: u64 = (1 << TAG_BITS) - 1;
const KIND_SHIFT: u32 = VALUE_BITS + TAG_BITS;
const EMPTY: u64 = 0;
const EMPTY_FROZEN: u64 = 1;
const TOMB: u64 = 4;
const TOMB_MARKED: u64 = 5;
const MOVED: u64 = 6;
const BLOCK: u64 = 8;
const BLOCK_FROZEN: u64 = 9;
const BLOCK_PENDING: u64 = 10;
const BLOCK_MARKED: u64 = 11;

/// The first value that a word cannot hold.
pub(super) const VALUE_END: u64 = 1 << VALUE_BITS;

/// Descriptors have numbers below this.
pub(super) const DESCRIPTORS_MAX: u32 = 1 << TAG_BITS;

impl Word {
    pub(super) const EMPTY: Word = Word(0);
    pub(super) const TOMB: Word = Word::new(TOMB, 0, 0);

    const fn new(kind: u64, tag: u64, value: u64) -> Word {
        Word(kind << KIND_SHIFT | (tag & TAG_MASK) << VALUE_BITS | value & (VALUE_END - 1))
    }

    pub(super) const fn from_bits(bits: u64) -> Word {
        Word(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// `block` under the tag of `hash`. The block is below [`VALUE_END`]: a ground gives no others.
    pub(super) const fn block(block: u64, hash: u64) -> Word {
        Word::new(BLOCK, hash, block)
    }

    const fn kind(self) -> u64 {
        self.0 >> KIND_SHIFT
    }

    const fn with_kind(self, kind: u64) -> Word {
        Word::new(kind, self.tag() as u64, self.value())
    }

    /// The same, block or tomb, as the step of a descriptor that is not done.
    pub(super) const fn marked(self, descriptor: u16) -> Word {
        let kind = if self.is_block() { BLOCK_MARKED } else { TOMB_MARKED };
        Word::new(kind, descriptor as u64, self.value())
    }

    /// The cell's entry now stands at `index` of the next table.
    pub(super) const fn moved(self, index: u64) -> Word {
        Word::new(MOVED, self.tag() as u64, index)
    }

    /// Empty or a block, in a table that is being left.
    pub(super) const fn frozen(self) -> Word {
        Word(self.0 | 1 << KIND_SHIFT)
    }

    /// A block, as a copy of which the old cell may not know.
    pub(super) const fn pending(self) -> Word {
        self.with_kind(BLOCK_PENDING)
    }

    /// A block, neither frozen nor pending.
    pub(super) const fn settled(self) -> Word {
        self.with_kind(BLOCK)
    }

    pub(super) const fn value(self) -> u64 {
        self.0 & (VALUE_END - 1)
    }

    pub(super) const fn tag(self) -> u16 {
        (self.0 >> VALUE_BITS & TAG_MASK) as u16
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == EMPTY
    }

    /// Was empty when it was frozen.
    pub(super) const fn is_frozen_empty(self) -> bool {
        self.kind() == EMPTY_FROZEN
    }

    pub(super) const fn is_frozen(self) -> bool {
        matches!(self.kind(), EMPTY_FROZEN | BLOCK_FROZEN)
    }

    pub(super) const fn is_pending(self) -> bool {
        self.kind() == BLOCK_PENDING
    }

    pub(super) const fn is_marked(self) -> bool {
        matches!(self.kind(), BLOCK_MARKED | TOMB_MARKED)
    }

    pub(super) const fn is_block(self) -> bool {
        matches!(self.kind(), BLOCK | BLOCK_FROZEN | BLOCK_PENDING | BLOCK_MARKED)
    }

    pub(super) const fn is_moved(self) -> bool {
        self.kind() == MOVED
    }

    pub(super) const fn is_tomb(self) -> bool {
        matches!(self.kind(), TOMB | TOMB_MARKED)
    }

    /// A word that somebody may have written.
    pub(super) const fn is_sane(self) -> bool {
        self.is_empty() || self.is_frozen() || self.is_tomb() || self.is_moved() || self.is_block()
    }

    /// May be an entry, here or in the next table, whose key has this hash. The tag of a marked one
    /// is not known; a pending one counts only where the old cell names it.
    #[inline]
    pub(super) const fn may_be(self, hash: u64) -> bool {
        match self.kind() {
            BLOCK | BLOCK_FROZEN | MOVED => self.tag() as u64 == hash & TAG_MASK,
            BLOCK_MARKED => true,
            _ => false,
        }
    }

    /// A block, neither frozen nor pending nor marked, under the tag of `hash`.
    #[inline(always)]
    pub(super) const fn is_settled_with(self, hash: u64) -> bool {
        self.0.wrapping_sub(Word::block(0, hash).0) < VALUE_END
    }

    /// Whether it is the same block, whatever its flags.
    pub(super) const fn is_same_block(self, other: Word) -> bool {
        self.is_block() && other.is_block() && self.value() == other.value()
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind() {
            EMPTY => "empty",
            EMPTY_FROZEN => "empty, frozen",
            TOMB => "tomb",
            TOMB_MARKED => "tomb, marked",
            MOVED => "moved",
            BLOCK => "block",
            BLOCK_FROZEN => "block, frozen",
            BLOCK_PENDING => "block, pending",
            BLOCK_MARKED => "block, marked",
            _ => "nonsense",
        };
        write!(f, "{kind}, {:#x} tag {:#x}", self.value(), self.tag())
    }
}

const _: () = assert!(KIND_SHIFT == 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_what_was_put_into_it() {
        let word = Word::block(VALUE_END - 1, 0xabcd);
        assert_eq!((word.value(), word.tag()), (VALUE_END - 1, 0xbcd));
        assert!(word.is_block() && !word.is_frozen() && !word.is_pending() && !word.is_marked());
        let moved = word.frozen().moved(7);
        assert_eq!((moved.value(), moved.tag(), moved.is_moved()), (7, 0xbcd, true));
        let marked = word.marked(3);
        assert_eq!((marked.value(), marked.tag()), (word.value(), 3));
        assert!(marked.is_marked() && marked.is_same_block(word.frozen()));
        assert!(marked.may_be(9) && word.may_be(0xabcd) && !word.may_be(9));
        assert!(word.frozen().is_frozen() && word.frozen().may_be(0xabcd));
        assert!(word.pending().is_pending() && !word.pending().may_be(0xabcd));
        assert_eq!((word.frozen().settled(), word.pending().settled()), (word, word));
        assert!(Word::EMPTY.frozen().is_frozen_empty() && Word::TOMB.is_tomb());
        assert!(Word::TOMB.marked(1).is_marked() && !Word::TOMB.marked(1).may_be(1));
        assert_eq!(format!("{:?}", Word::block(9, 7).frozen()), "block, frozen, 0x9 tag 0x7");
        assert!(!Word::from_bits(u64::MAX).is_sane() && Word::EMPTY.is_sane());
    }
}
