//! Memory that a test and its children share: notes, a last message, and where things are.
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

const NOTES: usize = 64;
const MESSAGE_BYTES: usize = 1024;

/// A few words in which the doomed process writes down what it was told, for the check to compare
/// with. All are 0 when it begins.
///
/// They belong to the image: what is written here must not differ from run to run (no pids).
#[derive(Debug)]
pub struct Notes {
    words: [AtomicU64; NOTES],
}

impl Notes {
    /// Words there are.
    pub const COUNT: usize = NOTES;

    /// What was noted last under `index`; 0 where nothing was.
    ///
    /// # Panics
    /// Where `index` is not below [`COUNT`](Notes::COUNT).
    pub fn get(&self, index: usize) -> u64 {
        // Relaxed, all of them: the reader has seen the writer stop or die.
        self.words[index].load(Ordering::Relaxed)
    }

    /// Notes `value` under `index`.
    ///
    /// # Panics
    /// As [`get`](Notes::get).
    pub fn set(&self, index: usize, value: u64) {
        self.words[index].store(value, Ordering::Relaxed);
    }

    /// Counts one more under `index`.
    ///
    /// # Panics
    /// As [`get`](Notes::get).
    pub fn count(&self, index: usize) {
        self.words[index].fetch_add(1, Ordering::Relaxed);
    }

    /// All words, in order.
    pub fn all(&self) -> impl Iterator<Item = u64> + '_ {
        self.words.iter().map(|word| word.load(Ordering::Relaxed))
    }
}

/// What one child and its parent share. Zeroed is a valid value.
#[repr(C)]
pub(super) struct Shared {
    pub(super) notes: Notes,
    /// Errno of a `ptrace` that was refused.
    pub(super) refused: AtomicU64,
    /// For a child that it is made to fork: the address of a function, and of what that is given.
    pub(super) fork_entry: AtomicU64,
    pub(super) fork_argument: AtomicU64,
    /// How the forked one ended: a status of `wait4`.
    pub(super) forked_status: AtomicU64,
    message_len: AtomicU64,
    message: [AtomicU8; MESSAGE_BYTES],
}

impl Shared {
    /// Leaves a message for the parent: the first one counts.
    pub(super) fn say(&self, message: &str) {
        if self.message_len.load(Ordering::Relaxed) != 0 {
            return;
        }
        let bytes = message.as_bytes();
        let len = bytes.len().min(MESSAGE_BYTES);
        for (to, from) in self.message.iter().zip(&bytes[..len]) {
            to.store(*from, Ordering::Relaxed);
        }
        self.message_len.store(len as u64, Ordering::Relaxed);
    }

    /// What the child has said.
    pub(super) fn said(&self) -> String {
        let len = (self.message_len.load(Ordering::Relaxed) as usize).min(MESSAGE_BYTES);
        let bytes: Vec<u8> =
            self.message[..len].iter().map(|b| b.load(Ordering::Relaxed)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Zeroed memory that is shared with the children forked after it was made.
///
/// A clone is the same memory, which goes when the last one does.
#[derive(Clone, Debug)]
pub struct SharedMemory {
    mapped: Arc<Mapped>,
}

#[derive(Debug)]
struct Mapped {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: an address range, which this only reads, by atomic loads.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl SharedMemory {
    /// At least `len` bytes, in whole pages.
    ///
    /// ```
    /// let memory = shm_testkit::killpoint::SharedMemory::new(100);
    /// assert!(memory.len() >= 100 && memory.copy().iter().all(|byte| *byte == 0));
    /// ```
    ///
    /// # Panics
    /// Where there is no memory, or `len` is 0.
    pub fn new(len: usize) -> SharedMemory {
        let len = len.next_multiple_of(4096);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, where the kernel likes.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        assert_ne!(address, libc::MAP_FAILED, "no memory: {}", std::io::Error::last_os_error());
        let base = NonNull::new(address.cast()).expect("the kernel maps nothing at 0");
        SharedMemory { mapped: Arc::new(Mapped { base, len }) }
    }

    /// Where it begins: at the start of a page.
    pub fn base(&self) -> NonNull<u8> {
        self.mapped.base
    }

    /// Its size in bytes.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.mapped.len
    }

    /// What it holds now, by words: for [`Scenario::image`](super::Scenario::image).
    pub fn copy(&self) -> Vec<u8> {
        let first = self.mapped.base.cast::<AtomicU64>();
        // SAFETY: whole pages, mapped as long as self; any bits are a valid word.
        let words = unsafe { NonNull::slice_from_raw_parts(first, self.len() / 8).as_ref() };
        let mut bytes = Vec::with_capacity(self.len());
        for word in words {
            bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        bytes
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and no clone is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// A `Shared` in memory of its own, which children that are forked later share.
pub(super) struct Page {
    memory: SharedMemory,
}

impl Page {
    pub(super) fn new() -> Page {
        Page { memory: SharedMemory::new(size_of::<Shared>()) }
    }

    /// All zero again. Nobody else uses it.
    pub(super) fn clear(&mut self) {
        let shared = self.memory.base().cast::<Shared>();
        // SAFETY: our own mapping, used by nobody else; all zero is a valid `Shared`.
        unsafe { shared.write_bytes(0, 1) };
    }
}

impl std::ops::Deref for Page {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        // SAFETY: mapped as long as self, and zeroed by the kernel, which is a valid `Shared`.
        unsafe { self.memory.base().cast().as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_not_refused_and_the_first_one_counts() {
        let mut page = Page::new();
        page.say(&"x".repeat(5000));
        page.say("later");
        assert_eq!(page.said(), "x".repeat(MESSAGE_BYTES));
        page.notes.count(3);
        page.notes.count(3);
        assert_eq!((page.notes.get(3), page.notes.all().sum::<u64>()), (2, 2));
        page.clear();
        assert_eq!((page.said(), page.notes.get(3)), (String::new(), 0));
    }
}
