//! The words' values: which page, where it is, and who moves it.
use shm_core::participants::ParticipantId;

/// A page: a block of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PageId(u64);

impl PageId {
    /// The page of a frame that has none.
    pub(super) const NOWHERE: PageId = PageId(u64::MAX);

    /// Block `block` of file number `file`; the last block of the last file is none.
    pub fn new(file: u32, block: u32) -> Option<PageId> {
        let page = PageId(u64::from(file) << 32 | u64::from(block));
        (page != PageId::NOWHERE).then_some(page)
    }

    /// The file's number.
    pub fn file(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The block in the file.
    pub fn block(self) -> u32 {
        self.0 as u32
    }

    pub(super) fn from_bits(bits: u64) -> PageId {
        PageId(bits)
    }

    /// As one number, as a [policy](crate::policy) wants it.
    pub fn to_bits(self) -> u64 {
        self.0
    }
}

/// Where a page is: frame 32 bits | kind 2 bits. All zero: in no frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry(u64);

/// The kind that a hit finds.
const RESIDENT: u32 = 2;

/// What an [`Entry`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Absent,
    /// The frame's claimer reads it in.
    Loading(u32),
    Resident(u32),
    /// The frame's claimer looks whether anybody uses it. It is as good as resident.
    Leaving(u32),
}

impl Entry {
    pub(super) const ABSENT: Entry = Entry(0);

    pub(super) fn loading(frame: u32) -> Entry {
        Entry(u64::from(frame) << 32 | 1)
    }

    pub(super) fn resident(frame: u32) -> Entry {
        Entry(u64::from(frame) << 32 | u64::from(RESIDENT))
    }

    pub(super) fn leaving(frame: u32) -> Entry {
        Entry(u64::from(frame) << 32 | 3)
    }

    pub(super) fn from_bits(bits: u64) -> Entry {
        Entry(bits)
    }

    pub(super) fn to_bits(self) -> u64 {
        self.0
    }

    /// The frame that the page is in, and stays in, among `frames` frames.
    #[inline]
    pub(super) fn resident_in(self, frames: u32) -> Option<u32> {
        let (frame, kind) = ((self.0 >> 32) as u32, self.0 as u32);
        (kind == RESIDENT && frame < frames).then_some(frame)
    }

    /// What it says among `frames` frames; `None` where that is nonsense.
    #[inline]
    pub(super) fn place(self, frames: u32) -> Option<Place> {
        let frame = (self.0 >> 32) as u32;
        match self.0 as u32 {
            0 if self == Entry::ABSENT => Some(Place::Absent),
            1 if frame < frames => Some(Place::Loading(frame)),
            RESIDENT if frame < frames => Some(Place::Resident(frame)),
            3 if frame < frames => Some(Place::Leaving(frame)),
            _ => None,
        }
    }
}

/// Who moves pages into a frame or out of it: `ParticipantId` in bits 0–31 | put by in bit 32. All
/// zero: nobody. A frame that was put by has no page, and is for its owner first, but anybody's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Claim(u64);

impl Claim {
    pub(super) const NOBODY: Claim = Claim(0);

    pub(super) fn of(id: ParticipantId) -> Claim {
        Claim(u64::from(id.to_bits()))
    }

    pub(super) fn put_by(id: ParticipantId) -> Claim {
        Claim(1 << 32 | u64::from(id.to_bits()))
    }

    pub(super) fn from_bits(bits: u64) -> Claim {
        Claim(bits)
    }

    pub(super) fn to_bits(self) -> u64 {
        self.0
    }

    /// Who moves a page; `None` for nobody, where it was put by, and for nonsense.
    pub(super) fn holder(self) -> Option<ParticipantId> {
        u32::try_from(self.0).ok().and_then(ParticipantId::from_bits)
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_what_was_written() {
        let place = |entry: Entry| entry.place(8);
        assert_eq!(place(Entry::ABSENT), Some(Place::Absent));
        assert_eq!(place(Entry::loading(7)), Some(Place::Loading(7)));
        assert_eq!(place(Entry::resident(0)), Some(Place::Resident(0)));
        assert_eq!(place(Entry::leaving(3)), Some(Place::Leaving(3)));
    }

    #[test]
    fn nonsense_is_no_place() {
        for bits in [4, 1 << 32, 8 << 32 | 2, u64::MAX, u64::MAX << 32 | 1] {
            assert_eq!(Entry::from_bits(bits).place(8), None, "{bits:#x}");
        }
    }

    #[test]
    fn a_page_is_a_file_and_a_block() {
        let page = PageId::new(7, u32::MAX).unwrap();
        assert_eq!((page.file(), page.block()), (7, u32::MAX));
        assert_eq!(PageId::new(u32::MAX, u32::MAX), None);
        assert_eq!(PageId::from_bits(page.to_bits()), page);
    }

    #[test]
    fn a_claim_names_its_holder() {
        let id = ParticipantId::from_bits(7 << 22 | 3).unwrap();
        assert_eq!(Claim::of(id).holder(), Some(id));
        assert_eq!(Claim::NOBODY.holder(), None);
        assert_eq!(Claim::put_by(id).holder(), None);
        assert_ne!(Claim::put_by(id), Claim::of(id));
        assert_eq!(Claim::from_bits(1 << 40 | 3).holder(), None);
    }
}
