//! Relative pointers that several processes change.
use crate::ptr::RelPtr;
use crate::region::BadPtr;
use crate::share::ShmSync;
use bytemuck::{Pod, Zeroable};
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::Ordering;

#[cfg(not(any(shm_loom, shm_explore)))]
use core::sync::atomic::AtomicU64;
#[cfg(shm_explore)]
use shm_testkit::explore::AtomicU64;
#[cfg(shm_loom)]
use shm_testkit::model::AtomicU64;

/// A [`RelPtr`] and a tag in one word, so that one compare-and-swap sees both.
///
/// A pointer that went away and came back looks as if nothing had happened (ABA); its tag has
/// moved. 48 bits hold the pointer, which reaches [`REACH`](TaggedRelPtr::REACH) bytes from the
/// base; 16 bits hold the tag, so a process is fooled only where the word changes a multiple of
/// 65,536 times between its load and its compare-and-swap.
///
/// ```
/// use relptr::{BadPtr, RelPtr, TaggedRelPtr};
/// let first = TaggedRelPtr::<u64>::new(RelPtr::from_offset(64), 0)?;
/// let again = first.advance(RelPtr::from_offset(64))?;
/// assert_eq!(again.ptr(), first.ptr());
/// assert_ne!(again, first);
/// # Ok::<(), BadPtr>(())
/// ```
#[repr(transparent)]
pub struct TaggedRelPtr<T> {
    /// Tag (16 bits) | pointer (48 bits).
    word: u64,
    target: PhantomData<fn() -> T>,
}

const PTR_BITS: u32 = 48;
const PTR_MASK: u64 = (1 << PTR_BITS) - 1;

impl<T> TaggedRelPtr<T> {
    /// The first offset that does not fit: 256 TiB less one byte.
    pub const REACH: u64 = PTR_MASK;

    /// The null pointer with tag 0. It is what zeroed memory holds.
    pub const NULL: TaggedRelPtr<T> = TaggedRelPtr::from_bits(0);

    /// `ptr` with `tag`.
    ///
    /// # Errors
    /// [`BadPtr::TooFar`] from [`REACH`](TaggedRelPtr::REACH) on.
    pub const fn new(ptr: RelPtr<T>, tag: u16) -> Result<TaggedRelPtr<T>, BadPtr> {
        match ptr.offset() {
            Some(offset) if offset >= Self::REACH => {
                Err(BadPtr::TooFar { offset, reach: Self::REACH })
            }
            _ => Ok(TaggedRelPtr::from_bits((tag as u64) << PTR_BITS | ptr.to_bits())),
        }
    }

    /// `ptr` with the next tag: what to replace this value by.
    ///
    /// # Errors
    /// As [`new`](TaggedRelPtr::new).
    pub const fn advance(self, ptr: RelPtr<T>) -> Result<TaggedRelPtr<T>, BadPtr> {
        TaggedRelPtr::new(ptr, self.tag().wrapping_add(1))
    }

    /// The value that [`to_bits`](TaggedRelPtr::to_bits) gave; any other bits will do as well.
    pub const fn from_bits(word: u64) -> TaggedRelPtr<T> {
        TaggedRelPtr { word, target: PhantomData }
    }

    /// What is stored.
    pub const fn to_bits(self) -> u64 {
        self.word
    }

    /// The pointer.
    pub const fn ptr(self) -> RelPtr<T> {
        RelPtr::from_bits(self.word & PTR_MASK)
    }

    /// The tag.
    pub const fn tag(self) -> u16 {
        (self.word >> PTR_BITS) as u16
    }
}

impl<T> Clone for TaggedRelPtr<T> {
    fn clone(&self) -> TaggedRelPtr<T> {
        *self
    }
}
impl<T> Copy for TaggedRelPtr<T> {}
impl<T> PartialEq for TaggedRelPtr<T> {
    fn eq(&self, other: &TaggedRelPtr<T>) -> bool {
        self.word == other.word
    }
}
impl<T> Eq for TaggedRelPtr<T> {}
impl<T> fmt::Debug for TaggedRelPtr<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}#{}", self.ptr(), self.tag())
    }
}
// SAFETY: one integer (transparent), for which 0 is valid.
unsafe impl<T> Zeroable for TaggedRelPtr<T> {}
// SAFETY: one integer (transparent): no padding, any bits are valid, no pointer.
unsafe impl<T: 'static> Pod for TaggedRelPtr<T> {}

/// An atomic word that holds a value of `$value`, with the operations of core's atomics.
macro_rules! atomic_word {
    ($(#[$doc:meta])* $name:ident, $value:ident) => {
        $(#[$doc])*
        #[repr(transparent)]
        pub struct $name<T> {
            word: AtomicU64,
            target: PhantomData<fn() -> T>,
        }

        // SAFETY: one atomic word, for which any bits are valid.
        unsafe impl<T> ShmSync for $name<T> {}

        impl<T> $name<T> {
            /// A word holding `value`.
            #[cfg(not(shm_loom))]
            pub const fn new(value: $value<T>) -> $name<T> {
                $name { word: AtomicU64::new(value.to_bits()), target: PhantomData }
            }

            /// A word holding `value`.
            #[cfg(shm_loom)]
            pub fn new(value: $value<T>) -> $name<T> {
                $name { word: AtomicU64::new(value.to_bits()), target: PhantomData }
            }

            /// The value. `Acquire` makes visible what was written before it was stored.
            #[inline]
            #[cfg_attr(any(shm_loom, shm_explore), track_caller)]
            pub fn load(&self, order: Ordering) -> $value<T> {
                $value::from_bits(self.word.load(order))
            }

            /// Stores `value`. `Release` publishes what was written before.
            ///
            /// # If a process dies here
            /// It is stored or it is not; so with every operation of this type.
            #[inline]
            #[cfg_attr(any(shm_loom, shm_explore), track_caller)]
            pub fn store(&self, value: $value<T>, order: Ordering) {
                self.word.store(value.to_bits(), order);
            }

            /// Stores `value` and returns what stood there.
            #[inline]
            #[cfg_attr(any(shm_loom, shm_explore), track_caller)]
            pub fn swap(&self, value: $value<T>, order: Ordering) -> $value<T> {
                $value::from_bits(self.word.swap(value.to_bits(), order))
            }

            /// Stores `new` where `current` stands.
            ///
            /// # Errors
            /// What stands there instead.
            #[inline]
            #[cfg_attr(any(shm_loom, shm_explore), track_caller)]
            pub fn compare_exchange(
                &self,
                current: $value<T>,
                new: $value<T>,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value<T>, $value<T>> {
                let (current, new) = (current.to_bits(), new.to_bits());
                let result = self.word.compare_exchange(current, new, success, failure);
                result.map($value::from_bits).map_err($value::from_bits)
            }
        }

        impl<T> Default for $name<T> {
            fn default() -> $name<T> {
                $name::new($value::NULL)
            }
        }

        impl<T> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.load(Ordering::Relaxed).fmt(f)
            }
        }
    };
}

atomic_word! {
    /// A [`RelPtr`] that several processes read and write. 8 bytes in production; null when zeroed.
    ///
    /// A compare-and-swap of it is fooled by a pointer that went away and came back; where that can
    /// happen (a free list), use [`AtomicTaggedRelPtr`].
    ///
    /// ```
    /// use core::sync::atomic::{AtomicU64, Ordering};
    /// use relptr::{AtomicRelPtr, BadPtr, Region, RelPtr};
    /// # let mut memory = [0u64; 8];
    /// # let base = core::ptr::NonNull::from(&mut memory).cast();
    /// # // SAFETY: 64 bytes that nothing else refers to while the region lives.
    /// # let region = unsafe { Region::from_raw(base, 64) };
    /// let newest: &AtomicRelPtr<AtomicU64> = region.share(0)?;
    /// let record: &AtomicU64 = region.share(8)?;
    /// record.store(42, Ordering::Relaxed);
    /// newest.store(RelPtr::from_ref(region, record)?, Ordering::Release);
    /// // In another process, at another address:
    /// assert_eq!(newest.load(Ordering::Acquire).share(region)?.load(Ordering::Relaxed), 42);
    /// # Ok::<(), BadPtr>(())
    /// ```
    AtomicRelPtr, RelPtr
}

atomic_word! {
    /// A [`TaggedRelPtr`] that several processes read and write. 8 bytes in production.
    ///
    /// ```
    /// use core::sync::atomic::Ordering::Relaxed;
    /// use relptr::{AtomicTaggedRelPtr, BadPtr, RelPtr};
    /// let head = AtomicTaggedRelPtr::<u64>::default();
    /// let seen = head.load(Relaxed);
    /// let next = seen.advance(RelPtr::from_offset(64))?;
    /// assert!(head.compare_exchange(seen, next, Relaxed, Relaxed).is_ok());
    /// assert_eq!(head.compare_exchange(seen, next, Relaxed, Relaxed), Err(next));
    /// # Ok::<(), BadPtr>(())
    /// ```
    AtomicTaggedRelPtr, TaggedRelPtr
}

#[cfg(not(shm_loom))]
const _: () =
    assert!(size_of::<AtomicRelPtr<u8>>() == 8 && size_of::<AtomicTaggedRelPtr<u8>>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_beyond_the_reach_is_refused() {
        let reach = TaggedRelPtr::<u8>::REACH;
        let last = TaggedRelPtr::<u8>::new(RelPtr::from_offset(reach - 1), u16::MAX).unwrap();
        assert_eq!((last.ptr().offset(), last.tag()), (Some(reach - 1), u16::MAX));
        let too_far = Err(BadPtr::TooFar { offset: reach, reach });
        assert_eq!(TaggedRelPtr::<u8>::new(RelPtr::from_offset(reach), 0), too_far);
        assert_eq!(last.advance(RelPtr::from_offset(reach)), too_far);
    }

    #[test]
    fn the_tag_wraps_and_leaves_the_pointer() {
        let last = TaggedRelPtr::<u8>::new(RelPtr::from_offset(8), u16::MAX).unwrap();
        let next = last.advance(RelPtr::NULL).unwrap();
        assert_eq!(next, TaggedRelPtr::NULL);
    }
}
