//! `Heap`: an allocator that goes the same way in each child.
use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Address space for all that a child allocates; without memory until it is used.
const BYTES: usize = 1 << 30;
/// So that copies between blocks go the same way, whatever was allocated before.
const ALIGN: usize = 64;

/// Where a child's next block begins, and where its memory ends. Zero: this is no child.
static NEXT: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);

/// The global allocator of a crash test: in each child of a [`Run`](super::Run) an operation
/// allocates by the same instructions, which those of the system's allocator are not, for they
/// depend on all that was allocated and freed before.
///
/// ```
/// #[global_allocator]
/// static HEAP: shm_testkit::killpoint::Heap = shm_testkit::killpoint::Heap;
/// ```
///
/// A child takes its blocks from memory of its own, one behind another, and frees none; after 1 GiB
/// there is no more. Elsewhere this is the system's allocator.
#[derive(Clone, Copy, Debug)]
pub struct Heap;

/// This process is a child: from now on it allocates from new memory.
///
/// Where there is no address space for it, it goes on with the system's allocator.
pub(super) fn begin() {
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
    let flags = flags | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: new memory, at an address that the kernel chooses.
    let base = unsafe { libc::mmap(null_mut(), BYTES, prot, flags, -1, 0) };
    if base != libc::MAP_FAILED {
        END.store(base.addr() + BYTES, Ordering::Relaxed);
        NEXT.store(base.expose_provenance(), Ordering::Relaxed);
    }
}

// SAFETY: blocks of a child are pieces of one mapping, each handed out once; all others are the
// system allocator's, and none of these is freed once this is a child.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if NEXT.load(Ordering::Relaxed) == 0 {
            // SAFETY: as promised to us.
            return unsafe { System.alloc(layout) };
        }
        let align = layout.align().max(ALIGN);
        // Room for the block wherever in it the first aligned address lies.
        let room = layout.size().next_multiple_of(ALIGN) + (align - ALIGN);
        let begin = NEXT.fetch_add(room, Ordering::Relaxed).next_multiple_of(align);
        let fits = begin + layout.size() <= END.load(Ordering::Relaxed);
        if fits { std::ptr::with_exposed_provenance_mut(begin) } else { null_mut() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if NEXT.load(Ordering::Relaxed) == 0 {
            // SAFETY: as promised to us.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: as promised to us. Nothing was in that memory before, so it is zero.
        unsafe { self.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if NEXT.load(Ordering::Relaxed) == 0 {
            // SAFETY: as promised to us; it came from there.
            unsafe { System.dealloc(block, layout) };
        }
    }
}
