//! A block of memory between two pages that nobody may touch.
use super::fault;
use super::outside::Outside;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::os::fd::OwnedFd;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// A block begins at a multiple of this: what a mapping of shared memory promises at least, and
/// what structures laid out in cache lines ask for.
const ALIGN: usize = 64;
/// What the bytes between the block and the end of its last page hold.
const CANARY: u8 = 0xc5;

/// With which of its guard pages a block is flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Edge {
    /// One byte before the block is a fault.
    Left,
    /// One byte behind the block is a fault, where its length is a multiple of 64.
    Right,
}

impl Edge {
    /// One or the other, for a row of seeds.
    pub fn of(seed: u64) -> Edge {
        if seed.is_multiple_of(2) { Edge::Right } else { Edge::Left }
    }
}

/// Shared memory between two guard pages. Clones are the same block.
///
/// It is mapped twice: at [`base`](Guarded::base) for the structure under test, and elsewhere for
/// those who lie to it ([`outside`](Guarded::outside)). Forked children share it, futexes work.
///
/// ```
/// use shm_testkit::liar::{Edge, Guarded};
///
/// let block = Guarded::holding(b"as it should be", Edge::Left);
/// block.outside().write(3, b"I say");
/// assert_eq!(block.outside().read(), b"as I sayould be");
/// // SAFETY: the first byte of the block.
/// assert_eq!(unsafe { block.base().read_volatile() }, b'a');
/// ```
#[derive(Clone, Debug)]
pub struct Guarded {
    pages: Arc<Pages>,
    outside: Outside,
}

#[derive(Debug)]
struct Pages {
    /// Of the first guard page.
    start: NonNull<u8>,
    /// Both guard pages included.
    mapped: usize,
    base: NonNull<u8>,
    len: usize,
    slot: Option<usize>,
}

// SAFETY: an address range, unmapped once, by its last owner.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Guarded {
    /// `len` zero bytes.
    ///
    /// # Panics
    /// Where `len` is 0 or there is no memory.
    pub fn new(len: usize, edge: Edge) -> Guarded {
        assert!(len > 0, "a block has at least one byte");
        let page = rustix::param::page_size();
        let room = len.next_multiple_of(page);
        let file = memfd_create("shm-testkit-liar", MemfdFlags::CLOEXEC).expect("a memfd");
        ftruncate(&file, room as u64).expect("room in the memfd");
        let start = between_guards(&file, room, page);
        let at = match edge {
            Edge::Left => 0,
            Edge::Right => (room - len) / ALIGN * ALIGN,
        };
        // SAFETY: within the mapping, behind its first guard page.
        let base = unsafe { start.add(page + at) };
        let slot = fault::guard(base.as_ptr() as usize, len, page);
        let outside = Outside::of_file(&file, room, at, len);
        let pages = Arc::new(Pages { start, mapped: room + 2 * page, base, len, slot });
        let block = Guarded { pages, outside };
        block.outside.whole(|bytes| bytes.fill(CANARY), at, len);
        block
    }

    /// A block that holds `bytes`, and nothing else.
    ///
    /// # Panics
    /// As [`new`](Guarded::new).
    pub fn holding(bytes: &[u8], edge: Edge) -> Guarded {
        let block = Guarded::new(bytes.len(), edge);
        block.outside.write(0, bytes);
        block
    }

    /// Address of the first byte, a multiple of 64, where the structure under test is to lie.
    ///
    /// It may be read and written for as long as a clone of this block lives.
    pub fn base(&self) -> NonNull<u8> {
        self.pages.base
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.pages.len
    }

    /// Never: a block has at least one byte.
    pub fn is_empty(&self) -> bool {
        self.pages.len == 0
    }

    /// The same bytes as another process has them mapped: what lies are written to.
    pub fn outside(&self) -> Outside {
        self.outside.clone()
    }

    /// Whether the bytes between the block and the ends of its pages are as they were. There are
    /// some where the length is not a multiple of the page size; a guard page does not see them.
    pub fn is_intact(&self) -> bool {
        let mut intact = true;
        self.outside.around(|byte| intact &= byte == CANARY);
        intact
    }
}

/// Maps `room` bytes of `file` between two pages without any access.
fn between_guards(file: &OwnedFd, room: usize, page: usize) -> NonNull<u8> {
    let (none, all) = (ProtFlags::empty(), ProtFlags::READ | ProtFlags::WRITE);
    let private = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new mapping, wherever the kernel likes.
    let start = unsafe { mmap_anonymous(null_mut(), room + 2 * page, none, private) };
    let start = NonNull::new(start.expect("address space").cast::<u8>()).expect("not 0");
    // SAFETY: one page into the mapping just made.
    let inside = unsafe { start.add(page) }.as_ptr().cast();
    let shared = MapFlags::SHARED | MapFlags::FIXED;
    // SAFETY: replaces pages of the mapping just made, which nobody knows of.
    unsafe { mmap(inside, room, all, shared, file, 0) }.expect("memory");
    start
}

impl Drop for Pages {
    fn drop(&mut self) {
        fault::unguard(self.slot);
        // SAFETY: our mapping, whose last owner this is.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.mapped) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::Child;
    use std::time::Duration;

    fn touches(args: &[String]) {
        let [edge, len, offset] = args else { panic!("edge, length, offset") };
        let edge = if edge == "left" { Edge::Left } else { Edge::Right };
        let block = Guarded::new(len.parse().unwrap(), edge);
        let address = block.base().as_ptr().wrapping_offset(offset.parse().unwrap());
        // SAFETY: none, and that is the point: a fault where the address is outside.
        unsafe { address.write_volatile(1) };
        assert!(block.is_intact(), "beside the block");
    }
    crate::children! { touches }

    #[track_caller]
    fn touch(edge: &str, len: &str, offset: &str) -> crate::child::Exit {
        Child::spawn("touches", &[edge, len, offset]).wait(Duration::from_secs(60))
    }

    #[test]
    fn one_byte_too_far_is_a_fault_that_says_so() {
        touch("left", "4096", "0").assert_success();
        touch("right", "640", "639").assert_success();
        for (edge, len, offset, what) in [
            ("left", "640", "-1", "1 bytes before the block of 640 bytes"),
            ("right", "640", "640", "0 bytes behind the block of 640 bytes"),
            ("right", "8192", "8200", "8 bytes behind the block of 8192 bytes"),
        ] {
            let exit = touch(edge, len, offset);
            assert_eq!(exit.signal(), Some(libc::SIGSEGV), "{exit:?}");
            assert!(exit.stderr.contains(what), "{exit:?}");
        }
    }

    #[test]
    fn a_write_beside_an_odd_block_is_seen() {
        let exit = touch("right", "100", "101");
        assert_eq!(exit.code(), Some(101), "{exit:?}");
        assert!(exit.stderr.contains("beside the block"), "{exit:?}");
    }

    #[test]
    fn both_mappings_are_the_same_memory() {
        for edge in [Edge::Left, Edge::Right] {
            let block = Guarded::holding(&[1, 2, 3], edge);
            assert!(block.base().cast::<[u64; 8]>().addr().get().is_multiple_of(ALIGN));
            // SAFETY: inside the block.
            unsafe { block.base().as_ptr().wrapping_add(2).write_volatile(9) };
            assert_eq!(block.outside().read(), [1, 2, 9]);
            assert!(block.is_intact());
        }
    }
}
