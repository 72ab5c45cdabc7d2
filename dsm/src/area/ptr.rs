//! `AreaPtr`: where a block is, in 64 bits that mean the same to every process.
use std::fmt;

/// tag 14 bits | segment 10 | offset 40. All zero: null.
///
/// The tag tells this area from another, and from an earlier one in the same place; it is never
/// zero. The offset counts from the base of the mapping. A block begins at a multiple of 8: in a
/// word of one's own the three low bits are free for marks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct AreaPtr(u64);

const OFFSET_BITS: u32 = 40;
const SEGMENT_BITS: u32 = 10;
const TAG_SHIFT: u32 = OFFSET_BITS + SEGMENT_BITS;
const TAGS: u64 = 1 << (64 - TAG_SHIFT);

/// Offsets end here.
pub(super) const REACH: u64 = 1 << OFFSET_BITS;
/// The bits of a destination that are not the pointer's.
pub(super) const MARKS: u64 = 7;

impl AreaPtr {
    /// No block.
    pub const NULL: AreaPtr = AreaPtr(0);

    /// Reads a word that may be anybody's: whoever follows the pointer checks it.
    pub const fn from_bits(bits: u64) -> AreaPtr {
        AreaPtr(bits)
    }

    /// As one word: 0 for null.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Whether it is null.
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    pub(super) const fn new(tag: Tag, offset: u64) -> AreaPtr {
        AreaPtr(tag.0 << TAG_SHIFT | offset)
    }

    /// The offset, if it is of the area with this tag.
    pub(super) const fn offset(self, tag: Tag) -> Option<u64> {
        // The segment, which is 0, is part of the comparison.
        if self.0 >> OFFSET_BITS == tag.0 << SEGMENT_BITS {
            Some(self.0 & (REACH - 1))
        } else {
            None
        }
    }
}

impl fmt::Debug for AreaPtr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tag, offset) = (self.0 >> TAG_SHIFT, self.0 & (REACH - 1));
        write!(f, "AreaPtr({tag:#x}+{offset:#x})")
    }
}

/// Which area a pointer is of: 1 to 16,383.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tag(u64);

impl Tag {
    /// From any number.
    pub(super) const fn of(any: u64) -> Tag {
        Tag(any % (TAGS - 1) + 1)
    }

    pub(super) const fn from_word(word: u64) -> Option<Tag> {
        if word != 0 && word < TAGS { Some(Tag(word)) } else { None }
    }

    pub(super) const fn to_word(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_knows_its_area() {
        let (tag, other) = (Tag::of(u64::MAX), Tag::of(7));
        assert_ne!(tag, other);
        for offset in [0, 8, REACH - 8] {
            let ptr = AreaPtr::new(tag, offset);
            assert_eq!((ptr.offset(tag), ptr.offset(other)), (Some(offset), None));
            assert!(!ptr.is_null());
            assert_eq!(AreaPtr::from_bits(ptr.to_bits()), ptr);
        }
        assert_eq!((AreaPtr::NULL.offset(tag), AreaPtr::NULL.is_null()), (None, true));
        assert_eq!(AreaPtr::from_bits(AreaPtr::new(tag, 8).to_bits() | REACH).offset(tag), None);
    }

    #[test]
    fn a_tag_is_never_zero() {
        for any in [0, 1, TAGS - 2, TAGS - 1, TAGS, u64::MAX] {
            let tag = Tag::of(any);
            assert_eq!(Tag::from_word(tag.to_word()), Some(tag));
        }
        assert_eq!((Tag::from_word(0), Tag::from_word(TAGS)), (None, None));
    }
}
