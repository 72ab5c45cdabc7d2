//! `Block`: one that its maker alone knows.
use super::heap::Heap;
use super::ptr::{AreaPtr, MARKS};
use super::shared::{Group, Intent, Page};
use shm_core::sync::{AtomicU64, Ordering, in_program_order};
use std::fmt;
use std::ptr::NonNull;

/// A block that nobody else reaches: freed when dropped and when the process dies, until it is
/// [published](Block::publish).
pub struct Block<'h> {
    heap: &'h Heap,
    /// Offset and size in bytes.
    at: u64,
    size: u64,
    kind: Of,
}

enum Of {
    Span { group: NonNull<Group>, class: u8, bit: u64 },
    Run { head: usize },
}

/// Why a block was not linked; and the block.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct LinkError<'h> {
    /// Why.
    pub cause: NotLinked,
    /// The block, as it was.
    pub block: Block<'h>,
}

/// Why a block was not linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotLinked {
    /// The destination is no word of the mapping in which the area lies.
    #[error("the destination does not lie in the mapping of the area")]
    Destination,
    /// It holds something else than was expected.
    #[error("the destination holds {found:#x}")]
    Changed {
        /// What it holds.
        found: u64,
    },
    /// In a forked child.
    #[error("the heap is the parent's")]
    Forked,
}

impl<'h> Block<'h> {
    #[inline]
    pub(super) fn of_span(
        heap: &'h Heap,
        group: &Group,
        class: usize,
        bit: u64,
        at: u64,
        size: u64,
    ) -> Block<'h> {
        let kind = Of::Span { group: NonNull::from(group), class: class as u8, bit };
        Block { heap, at, size, kind }
    }

    pub(super) fn of_run(heap: &'h Heap, head: usize, size: u64) -> Block<'h> {
        Block { heap, at: heap.inner().page_offset(head), size, kind: Of::Run { head } }
    }

    /// What to link.
    #[inline]
    pub fn ptr(&self) -> AreaPtr {
        self.heap.inner().ptr(self.at)
    }

    /// Where it is in this process.
    #[inline]
    pub fn address(&self) -> NonNull<u8> {
        self.heap.inner().address(self.at)
    }

    /// Bytes that may be used: those asked for, and up to the class's size.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Links it at `destination`, which the caller alone changes until then, by one store.
    ///
    /// # Errors
    /// [`LinkError`], with the block.
    ///
    /// # If a process dies here
    /// The destination holds the block, or the block is free once the dead one is reaped.
    #[inline]
    pub fn publish(self, destination: &AtomicU64) -> Result<AreaPtr, LinkError<'h>> {
        self.link(destination, |bits| {
            // Pairs with the Acquire of who reads the destination: the block's contents.
            destination.store(bits, Ordering::Release);
            Ok(())
        })
    }

    /// Links it at `destination` if that is `expected`, by one compare-and-swap; with `marks` in
    /// the three low bits.
    ///
    /// Others may change the destination at once. Whoever does so [settles](Heap::settle) the block
    /// first, or whoever reaps decides by himself ([`reap_with`](super::Area::reap_with)).
    ///
    /// # Errors
    /// [`LinkError`], with the block.
    ///
    /// # If a process dies here
    /// As in [`publish`](Block::publish).
    #[inline]
    pub fn publish_if(
        self,
        destination: &AtomicU64,
        expected: u64,
        marks: u64,
    ) -> Result<AreaPtr, LinkError<'h>> {
        self.link(destination, |bits| {
            // Pairs with the Acquire of who reads the destination: the block's contents. And with
            // the Release of who wrote what was expected, as a list's next one.
            let (ok, err) = (Ordering::AcqRel, Ordering::Acquire);
            let linked = destination.compare_exchange(expected, bits | marks & MARKS, ok, err);
            linked.map(drop).map_err(|found| NotLinked::Changed { found })
        })
    }

    #[inline]
    fn link(
        self,
        destination: &AtomicU64,
        write: impl FnOnce(u64) -> Result<(), NotLinked>,
    ) -> Result<AreaPtr, LinkError<'h>> {
        let (heap, ptr) = (self.heap, self.ptr());
        if heap.check_fork().is_err() {
            return Err(LinkError { cause: NotLinked::Forked, block: self });
        }
        let Some(place) = heap.area().place_of(destination) else {
            return Err(LinkError { cause: NotLinked::Destination, block: self });
        };
        heap.intend(Intent::link(ptr), place);
        if let Err(cause) = write(ptr.to_bits()) {
            heap.clear_intent();
            return Err(LinkError { cause, block: self });
        }
        in_program_order();
        match self.kind {
            Of::Span { group, bit, .. } => {
                // SAFETY: a group of a span of the heap's, in the mapping that the area keeps.
                let group = unsafe { group.as_ref() };
                let held = group.held.load(Ordering::Relaxed);
                group.held.store(held & !bit, Ordering::Relaxed);
            }
            // It fails where somebody has reached it, and settled or freed it.
            Of::Run { head } => {
                heap.inner().change_page(head, Page::taken(heap.owner()), Page::RUN);
            }
        }
        heap.clear_intent();
        std::mem::forget(self);
        Ok(ptr)
    }
}

impl Drop for Block<'_> {
    /// # If a process dies here
    /// The block is held, or free.
    #[inline]
    fn drop(&mut self) {
        let model_unwinds = cfg!(any(shm_loom, shm_explore)) && std::thread::panicking();
        if model_unwinds || self.heap.check_fork().is_err() {
            return;
        }
        match self.kind {
            Of::Span { group, class, bit } => {
                // SAFETY: as in `link`.
                let group = unsafe { group.as_ref() };
                self.heap.put_back_held(group, class as usize, bit, self.at);
            }
            Of::Run { head } => self.heap.free_own_run(head),
        }
    }
}

impl fmt::Debug for Block<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("ptr", &self.ptr()).field("size", &self.size).finish()
    }
}
