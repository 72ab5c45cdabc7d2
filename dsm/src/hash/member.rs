//! `MemberGround`: blocks of an area and announcements of hazard rows, for one thread of a member.
use super::HashError;
use super::ground::{Ground, Shield};
use super::word::VALUE_END;
use crate::area::{AllocError, Area, AreaPtr, FreeError, Heap};
use shm_core::ShmSync;
use shm_core::hazard::{HazardRow, Hazards, Protected, Protector, Slot};
use shm_core::participants::Member;
use shm_core::process::Forked;
use shm_core::sync::AtomicU64;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::num::NonZeroU64;
use std::ptr::NonNull;
use std::sync::Arc;

/// What one thread of a member needs to use a hash in an area: a heap there, and a group of
/// announcements.
///
/// A block's number is its pointer without the tag of the area and without the three bits that are
/// always zero.
pub struct MemberGround {
    heap: Heap,
    hazards: Hazards,
    protector: Protector,
    protected: RefCell<Protected>,
    member: Arc<Member>,
    /// The bits of this area's pointers that a block's number leaves out; 0 until it has seen one.
    tag: Cell<u64>,
}

const MARK_BITS: u32 = 3;
const TAG_SHIFT: u32 = 50;

impl MemberGround {
    /// A heap of `area` and a group of `row`, in the member's name; what a dead one had of both is
    /// taken back where they are reaped.
    ///
    /// # Errors
    /// [`HashError::Busy`] where there is none left.
    pub fn new(area: &Area, row: &HazardRow) -> Result<MemberGround, HashError> {
        let member = row.member().clone();
        let heap = area.heap(&member).map_err(|_| HashError::Busy)?;
        let protector = row.protector().map_err(|_| HashError::Busy)?;
        let hazards = row.hazards().clone();
        let (protected, tag) = (RefCell::default(), Cell::new(0));
        Ok(MemberGround { heap, hazards, protector, protected, member, tag })
    }

    #[inline(always)]
    fn ptr(&self, block: u64) -> AreaPtr {
        AreaPtr::from_bits(self.tag.get() | block << MARK_BITS)
    }

    /// `count` units of `size` bytes, beginning with the word `at` of the block.
    #[inline(always)]
    fn address(&self, block: u64, at: u64, count: u64, size: u64) -> Option<NonNull<u8>> {
        let offset = (block << MARK_BITS).checked_add(at.checked_mul(8)?)?;
        self.heap.area().resolve_offset(offset, count.checked_mul(size)?)
    }
}

/// An announcement in a slot of the thread's group.
pub struct MemberShield<'g>(Slot<'g>);

impl Shield for MemberShield<'_> {
    #[inline(always)]
    fn protect(&mut self, block: u64, is_still: impl FnOnce() -> bool) -> Result<bool, Forked> {
        match NonZeroU64::new(block) {
            // `Core::shields` has asked whether this is a forked child.
            Some(block) => Ok(self.0.protect_here(block, is_still)),
            None => Ok(false),
        }
    }

    #[inline(always)]
    fn clear(&mut self) {
        self.0.clear_here();
    }
}

impl Ground for MemberGround {
    type Shield<'g> = MemberShield<'g>;

    #[inline(always)]
    fn shield(&self) -> Result<MemberShield<'_>, HashError> {
        self.protector.slot().map(MemberShield).ok_or(HashError::Busy)
    }

    fn protected(&self, all: &mut Vec<u64>) -> Result<(), HashError> {
        let protected = &mut *self.protected.borrow_mut();
        self.hazards.snapshot_into(protected);
        all.extend(protected.iter());
        Ok(())
    }

    fn take(&self, words: u64, zeroed: bool, to: &AtomicU64) -> Result<u64, HashError> {
        let bytes = words.saturating_mul(8);
        let align = if words >= 8 { 64 } else { 8 };
        let init = |address: NonNull<u8>| {
            if zeroed {
                // SAFETY: the block is of so many bytes, and nobody else's.
                unsafe { address.as_ptr().write_bytes(0, bytes as usize) };
            }
        };
        let block = self.heap.alloc_aligned_to(to, bytes, align, init);
        let block = block.map_err(|error| match error {
            AllocError::Forked(forked) => HashError::Forked(forked),
            AllocError::Destination(_) => HashError::Place,
            _ => HashError::OutOfMemory { bytes },
        })?;
        self.adopt(block.to_bits())
    }

    fn give(&self, from: &AtomicU64) -> Result<(), HashError> {
        let nonsense = |error| match error {
            FreeError::Forked(forked) => HashError::Forked(forked),
            _ => HashError::corrupt("a block to give back", 0),
        };
        self.heap.free_from(from).map_err(nonsense)
    }

    #[inline(always)]
    fn share<T: ShmSync>(&self, block: u64, at: u64) -> Result<&T, HashError> {
        let address = self.address(block, at, 1, size_of::<T>() as u64).map(NonNull::cast::<T>);
        match address.filter(|address| address.is_aligned()) {
            // SAFETY: in the area, which is mapped for as long as the heap lives, and aligned; any
            // bits are a `ShmSync`.
            Some(address) => Ok(unsafe { address.as_ref() }),
            None => Err(HashError::corrupt("a block", block)),
        }
    }

    #[inline(always)]
    fn words(&self, block: u64, at: u64, count: u64) -> Result<&[AtomicU64], HashError> {
        // Blocks begin at multiples of eight bytes.
        match self.address(block, at, count, 8) {
            Some(address) => {
                let words = NonNull::slice_from_raw_parts(address.cast(), count as usize);
                // SAFETY: as above.
                Ok(unsafe { words.as_ref() })
            }
            None => Err(HashError::corrupt("a block", block)),
        }
    }

    fn name_of(&self, block: u64) -> u64 {
        self.ptr(block).to_bits()
    }

    fn block_of(&self, name: u64) -> u64 {
        (name & ((1 << TAG_SHIFT) - 1)) >> MARK_BITS
    }

    #[inline(always)]
    fn adopt(&self, name: u64) -> Result<u64, HashError> {
        let ptr = AreaPtr::from_bits(name);
        self.heap.area().resolve(ptr).map_err(|_| HashError::NotAHash)?;
        self.tag.set(name & !((1 << TAG_SHIFT) - 1));
        Ok(self.block_of(name))
    }

    #[inline(always)]
    fn hash(&self, key: &[u8], seed: u64) -> u64 {
        xxhash_rust::xxh3::xxh3_64_with_seed(key, seed)
    }

    #[inline(always)]
    fn check_fork(&self) -> Result<(), Forked> {
        self.protector.check_fork()
    }

    fn me(&self) -> u32 {
        self.member.id().to_bits()
    }
}

impl fmt::Debug for MemberGround {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemberGround").field("member", &self.member.id()).finish_non_exhaustive()
    }
}

impl fmt::Debug for MemberShield<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemberShield").field(&self.0.value()).finish()
    }
}

const _: () = assert!(VALUE_END == 1 << (TAG_SHIFT - MARK_BITS));
