//! Bytes that are nobody's, told to AddressSanitizer: under `--cfg shm_asan`, private to our own
//! checks and where `SHM_POISON` is set, and nothing at all otherwise.
//!
//! A sanitizer knows what the allocator gave back, and nothing of what a peer owns inside a
//! mapping. So a structure says here which bytes it has given back, and whoever touches one in this
//! process is reported as *use-after-poison*. A peer's process has a shadow of its own.
use crate::mapping::MappedSlice;
use std::marker::PhantomData;

/// A ring of bytes, some of which are given back. No size but under `--cfg shm_asan`.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    #[cfg(shm_asan)]
    bytes: (usize, usize),
    nothing: PhantomData<()>,
}

impl Ring {
    /// The bytes of `words`.
    #[inline]
    pub fn of<T>(words: &MappedSlice<T>) -> Ring {
        let _bytes = words.extent();
        Ring {
            #[cfg(shm_asan)]
            bytes: _bytes,
            nothing: PhantomData,
        }
    }

    /// From now on the `len` bytes at `position`, modulo the ring, are nobody's here.
    #[inline]
    pub fn give_back(&self, _position: u64, _len: u64) {
        #[cfg(shm_asan)]
        self.each(_position, _len, asan::poison);
    }

    /// They are the caller's again.
    #[inline]
    pub fn take(&self, _position: u64, _len: u64) {
        #[cfg(shm_asan)]
        self.each(_position, _len, asan::unpoison);
    }

    /// At most two pieces.
    #[cfg(shm_asan)]
    fn each(&self, position: u64, len: u64, change: fn(usize, usize)) {
        let (base, ring) = self.bytes;
        let (at, len) = ((position % ring as u64) as usize, (len as usize).min(ring));
        let to_end = len.min(ring - at);
        change(base + at, to_end);
        change(base, len - to_end);
    }
}

/// All `len` bytes at `base` may be used again, by whatever is mapped there next.
#[inline]
pub(crate) fn forget(_base: usize, _len: usize) {
    #[cfg(shm_asan)]
    asan::unpoison(_base, _len);
}

#[cfg(shm_asan)]
mod asan {
    use std::ffi::c_void;
    use std::sync::LazyLock;

    unsafe extern "C" {
        fn __asan_poison_memory_region(base: *const c_void, len: usize);
        fn __asan_unpoison_memory_region(base: *const c_void, len: usize);
    }

    /// Only where asked for: tests that lie through the same mapping write what is nobody's.
    static WANTED: LazyLock<bool> = LazyLock::new(|| std::env::var_os("SHM_POISON").is_some());

    pub(super) fn poison(base: usize, len: usize) {
        if !*WANTED {
            return;
        }
        // SAFETY: changes the sanitizer's shadow of mapped memory, and nothing else.
        unsafe { __asan_poison_memory_region(base as *const c_void, len) }
    }

    pub(super) fn unpoison(base: usize, len: usize) {
        // SAFETY: as above.
        unsafe { __asan_unpoison_memory_region(base as *const c_void, len) }
    }
}
