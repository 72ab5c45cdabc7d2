//! Memory as a stranger has it mapped, who writes what he likes.
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::any::Any;
use std::fmt;
use std::os::fd::OwnedFd;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// Bytes that lies are written to: all of them may be read and written, by any thread, at any time.
///
/// Accesses are volatile, of the widest words that fit, and race on purpose: use a mapping of its
/// own, which no Rust reference leads to. [`Guarded`](super::Guarded) has one.
#[derive(Clone)]
pub struct Outside {
    base: NonNull<u8>,
    len: usize,
    /// Before and behind the bytes, in the same mapping.
    around: (usize, usize),
    _keep: Arc<dyn Any + Send + Sync>,
}

// SAFETY: an address range, whose mapping `_keep` owns; accesses are volatile.
unsafe impl Send for Outside {}
// SAFETY: as above.
unsafe impl Sync for Outside {}

/// Unmapped when dropped.
struct Alias(NonNull<u8>, usize);

// SAFETY: an address range, unmapped once.
unsafe impl Send for Alias {}
// SAFETY: as above.
unsafe impl Sync for Alias {}

impl Drop for Alias {
    fn drop(&mut self) {
        // SAFETY: our mapping, whose last owner this is.
        let unmapped = unsafe { munmap(self.0.as_ptr().cast(), self.1) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

impl Outside {
    /// `len` bytes at `base`, which `keep` keeps mapped.
    ///
    /// # Safety
    /// They are readable and writable until `keep` is dropped, and no Rust reference leads to them
    /// but to atomics.
    pub unsafe fn from_raw(
        base: NonNull<u8>,
        len: usize,
        keep: Arc<dyn Any + Send + Sync>,
    ) -> Outside {
        Outside { base, len, around: (0, 0), _keep: keep }
    }

    /// A mapping of the first `room` bytes of `file`, of which `len` from `at` on are meant.
    pub(super) fn of_file(file: &OwnedFd, room: usize, at: usize, len: usize) -> Outside {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, wherever the kernel likes.
        let start = unsafe { mmap(null_mut(), room, access, MapFlags::SHARED, file, 0) };
        let start = NonNull::new(start.expect("memory").cast::<u8>()).expect("not 0");
        // SAFETY: `at` is less than `room`.
        let base = unsafe { start.add(at) };
        Outside { base, len, around: (at, room - at - len), _keep: Arc::new(Alias(start, room)) }
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of byte `at`, which lies in the mapping.
    fn byte(&self, at: usize) -> NonNull<u8> {
        debug_assert!(at < self.len + self.around.1);
        // SAFETY: inside the mapping: each caller has looked.
        unsafe { self.base.add(at) }
    }

    /// All bytes, as each is at some moment.
    pub fn read(&self) -> Vec<u8> {
        // SAFETY: inside the mapping.
        (0..self.len).map(|at| unsafe { self.byte(at).read_volatile() }).collect()
    }

    /// Writes `bytes` from byte `at` on; what does not fit is left out.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        let room = self.len.saturating_sub(at);
        let bytes = &bytes[..bytes.len().min(room)];
        let mut done = 0;
        while done < bytes.len() {
            // SAFETY: all of `bytes` fits behind `at`.
            done += unsafe { write_widest(self.byte(at + done), &bytes[done..]) };
        }
    }

    /// The word at byte `at`, which need not be aligned; 0 where there is none.
    pub fn word(&self, at: usize) -> u64 {
        if self.len.checked_sub(at).is_none_or(|left| left < 8) {
            return 0;
        }
        let from = self.byte(at).cast::<u64>();
        if from.is_aligned() {
            // SAFETY: aligned, and eight bytes are left from `at` on.
            return unsafe { from.read_volatile() };
        }
        // SAFETY: as above.
        let bytes = std::array::from_fn(|i| unsafe { self.byte(at + i).read_volatile() });
        u64::from_le_bytes(bytes)
    }

    /// Lets `change` write what lies around the bytes; they are zero afterwards.
    pub(super) fn whole(&self, change: impl FnOnce(&mut [u8]), at: usize, len: usize) {
        let (before, behind) = self.around;
        let mut all = vec![0; before + len + behind];
        change(&mut all);
        all[at..at + len].fill(0);
        // SAFETY: the mapping begins `before` bytes in front of the base.
        let start = unsafe { self.base.sub(before) };
        // SAFETY: as many bytes as the mapping has, of another allocation.
        unsafe { start.copy_from_nonoverlapping(NonNull::from(&all[..]).cast(), all.len()) };
    }

    /// Shows each byte that lies around.
    pub(super) fn around(&self, mut see: impl FnMut(u8)) {
        for distance in 1..=self.around.0 {
            // SAFETY: inside the mapping, before the bytes.
            see(unsafe { self.base.as_ptr().wrapping_sub(distance).read_volatile() });
        }
        for distance in 0..self.around.1 {
            // SAFETY: inside the mapping, behind the bytes.
            see(unsafe { self.byte(self.len + distance).read_volatile() });
        }
    }
}

/// Writes the first eight, four or one of `bytes` in one go; how many.
///
/// # Safety
/// All of `bytes`, of which there is one at least, may be written to `to`.
unsafe fn write_widest(to: NonNull<u8>, bytes: &[u8]) -> usize {
    if let Some(word) = bytes.first_chunk::<8>()
        && to.cast::<u64>().is_aligned()
    {
        // SAFETY: aligned, and the caller has room.
        unsafe { to.cast::<u64>().write_volatile(u64::from_ne_bytes(*word)) };
        return 8;
    }
    if let Some(half) = bytes.first_chunk::<4>()
        && to.cast::<u32>().is_aligned()
    {
        // SAFETY: as above.
        unsafe { to.cast::<u32>().write_volatile(u32::from_ne_bytes(*half)) };
        return 4;
    }
    // SAFETY: the caller has room.
    unsafe { to.write_volatile(bytes[0]) };
    1
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outside").field("base", &self.base).field("len", &self.len).finish()
    }
}
