//! The memory that the explored processes share: saved and put back between their steps.
use super::run;
use std::alloc::Layout;
use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

thread_local! {
    static ALL: RefCell<Vec<Range>> = const { RefCell::new(Vec::new()) };
}

const ALIGN: usize = 4096;

/// One arena, as the exploring thread knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Range {
    base: NonNull<u8>,
    len: usize,
}

/// Zeroed memory, aligned to 4096 bytes, that takes part in the explorations of this thread for as
/// long as it lives: it stays at its address, and its contents belong to the state.
///
/// Make it just as long as need be: all of it is copied and compared at every step.
#[derive(Debug)]
pub struct Arena {
    range: Range,
    layout: Layout,
}

// SAFETY: an allocation of its own. Dropped by another thread it is forgotten by its own too late,
// which is why tests keep it on one.
unsafe impl Send for Arena {}
// SAFETY: as above; it gives out an address only.
unsafe impl Sync for Arena {}

impl Arena {
    /// `len` bytes, rounded up to a multiple of 8.
    ///
    /// # Panics
    /// Where `len` is zero, and inside of an explored process: its memory is made before.
    pub fn new(len: usize) -> Arena {
        assert!(!run::is_exploring(), "memory is made before the exploration, not by a process");
        let len = len.next_multiple_of(8);
        let layout = Layout::from_size_align(len, ALIGN).expect("a sane size");
        assert!(len > 0, "an arena has at least one byte");
        // SAFETY: the layout is not empty.
        let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).expect("memory");
        let range = Range { base, len };
        ALL.with_borrow_mut(|all| all.push(range));
        Arena { range, layout }
    }

    /// Its first byte.
    pub fn base(&self) -> NonNull<u8> {
        self.range.base
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // A thread that ends may have no list any more.
        let is_last = ALL.try_with(|all| {
            let mut all = all.borrow_mut();
            all.retain(|other| *other != self.range);
            all.is_empty()
        });
        if is_last == Ok(true) {
            run::reset();
        }
        // SAFETY: allocated by `new` with this layout; who has an address into it keeps it alive.
        unsafe { std::alloc::dealloc(self.range.base.as_ptr(), self.layout) }
    }
}

/// All arenas of this thread, one after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Arenas {
    ranges: Vec<Range>,
}

impl Arenas {
    /// Those that live now.
    pub(super) fn of_this_thread() -> Arenas {
        Arenas { ranges: ALL.with_borrow(Clone::clone) }
    }

    /// Their contents.
    pub(super) fn save(&self, into: &mut Vec<u8>) {
        into.clear();
        for range in &self.ranges {
            let start = into.len();
            into.resize(start + range.len, 0);
            let to = into[start..].as_mut_ptr();
            // SAFETY: as many bytes on both sides, and no process runs.
            unsafe { to.copy_from_nonoverlapping(range.base.as_ptr(), range.len) };
        }
    }

    /// Makes `saved` their contents.
    pub(super) fn restore(&self, saved: &[u8]) {
        let mut rest = saved;
        for range in &self.ranges {
            let (these, others) = rest.split_at(range.len);
            // SAFETY: as many bytes on both sides, and no process runs.
            unsafe { range.base.as_ptr().copy_from_nonoverlapping(these.as_ptr(), range.len) };
            rest = others;
        }
    }

    /// How far the `width` bytes at `address` are from the first arena's beginning; `None` where
    /// they are not all inside of one.
    pub(super) fn offset(&self, address: usize, width: usize) -> Option<usize> {
        let mut before = 0;
        for range in &self.ranges {
            let from = address.wrapping_sub(range.base.addr().get());
            if from < range.len && width <= range.len - from {
                return Some(before + from);
            }
            before += range.len;
        }
        None
    }

    /// The `width` bytes at `offset`: 1, 4 or 8 of them, aligned. `None` where they are not inside.
    pub(super) fn peek(&self, offset: usize, width: usize) -> Option<u64> {
        let mut from = offset;
        for range in &self.ranges {
            if from < range.len {
                if !from.is_multiple_of(width) || width > range.len - from {
                    return None;
                }
                // SAFETY: inside of the arena.
                let at = unsafe { range.base.add(from) };
                return Some(match width {
                    // SAFETY: one byte inside.
                    1 => unsafe { AtomicU8::from_ptr(at.as_ptr()) }.load(Relaxed).into(),
                    // SAFETY: inside, and aligned as the arena is.
                    4 => unsafe { AtomicU32::from_ptr(at.cast().as_ptr()) }.load(Relaxed).into(),
                    // SAFETY: as above.
                    _ => unsafe { AtomicU64::from_ptr(at.cast().as_ptr()) }.load(Relaxed),
                });
            }
            from -= range.len;
        }
        None
    }
}
