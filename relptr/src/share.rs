//! What may be shared by reference with other processes, and written into their memory.
#[cfg(not(shm_loom))]
use core::sync::atomic::AtomicU64;

/// Types that are sound to share by reference while other processes read and write them.
///
/// [`shm_sync!`](crate::shm_sync) implements it for a struct, and checks all of the conditions.
///
/// # Safety
/// Every byte of the type that anyone writes after creation is inside an atomic, any bit pattern is
/// a valid value of each field, and dropping the value does nothing. There is no padding: what is
/// [placed](crate::Region::place) in shared memory would show others what stood on the stack.
pub unsafe trait ShmSync: Sync {}

macro_rules! atomic_integers {
    ($($t:ident),*) => { $(
        // SAFETY: an atomic integer: shared mutation is its purpose and all bit patterns are valid.
        unsafe impl ShmSync for core::sync::atomic::$t {}
    )* };
}
atomic_integers!(AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicI32, AtomicI64);
#[cfg(shm_explore)]
mod explored {
    use super::ShmSync;
    use shm_testkit::explore::{AtomicU8, AtomicU32, AtomicU64};

    // SAFETY: transparent over core's, whose accesses pass the explorer first.
    unsafe impl ShmSync for AtomicU8 {}
    // SAFETY: as above.
    unsafe impl ShmSync for AtomicU32 {}
    // SAFETY: as above.
    unsafe impl ShmSync for AtomicU64 {}
}
#[cfg(shm_loom)]
// SAFETY: a model's stand-in for the atomic integer.
unsafe impl ShmSync for shm_testkit::model::AtomicU32 {}
#[cfg(shm_loom)]
// SAFETY: as above.
unsafe impl ShmSync for shm_testkit::model::AtomicU64 {}
// SAFETY: an array of shareable values holds nothing else.
unsafe impl<T: ShmSync, const N: usize> ShmSync for [T; N] {}

/// Implements [`ShmSync`] for a struct whose fields are all [`ShmSync`], and together as large as
/// it is.
///
/// Where it does not compile because of padding, name the padding: [`Reserved`].
///
/// ```
/// use core::sync::atomic::{AtomicU32, AtomicU64};
///
/// #[repr(C)]
/// struct Shared {
///     head: AtomicU64,
///     sleepers: AtomicU32,
///     reserved: AtomicU32,
/// }
/// relptr::shm_sync!(Shared { head, sleepers, reserved });
/// ```
///
/// With padding:
///
/// ```compile_fail,E0080
/// # use core::sync::atomic::{AtomicU32, AtomicU64};
/// #[repr(C)]
/// struct Shared {
///     head: AtomicU64,
///     sleepers: AtomicU32,
/// }
/// relptr::shm_sync!(Shared { head, sleepers });
/// ```
///
/// With a field that is not named:
///
/// ```compile_fail,E0027
/// # use core::sync::atomic::AtomicU64;
/// #[repr(C)]
/// struct Shared {
///     head: AtomicU64,
///     tail: AtomicU64,
/// }
/// relptr::shm_sync!(Shared { head });
/// ```
///
/// With one that others must not write:
///
/// ```compile_fail,E0277
/// # use core::sync::atomic::AtomicU64;
/// #[repr(C)]
/// struct Shared {
///     head: AtomicU64,
///     tail: u64,
/// }
/// relptr::shm_sync!(Shared { head, tail });
/// ```
#[macro_export]
macro_rules! shm_sync {
    ($shared:ident { $($field:tt),+ $(,)? }) => {
        // SAFETY: all fields are named and ShmSync, there is nothing between them, and dropping
        // does nothing: the lines below do not compile otherwise.
        unsafe impl $crate::ShmSync for $shared {}
        const _: () = {
            // Never called.
            const _: fn(&$shared) = |shared| {
                let $shared { $($field: _),+ } = shared;
            };
            let bytes = 0 $( + $crate::share::field_bytes(|shared: &$shared| &shared.$field) )+;
            $crate::share::assert_whole::<$shared>(bytes);
        };
    };
}

/// For [`shm_sync!`](crate::shm_sync).
#[doc(hidden)]
pub const fn field_bytes<S, F: ShmSync>(_: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

/// For [`shm_sync!`](crate::shm_sync).
#[doc(hidden)]
pub const fn assert_whole<S>(bytes: usize) {
    assert!(!core::mem::needs_drop::<S>() || cfg!(shm_loom), "nobody would drop it");
    // A model's atomics have other sizes than those they stand for.
    let whole = bytes == size_of::<S>() || cfg!(shm_loom);
    assert!(whole, "it has padding, which would carry bytes of the stack: name it `Reserved`");
}

/// Words of a shared struct that have no meaning yet: what would be padding otherwise.
///
/// Written 0, never read, and nothing at all in models.
///
/// ```
/// use core::sync::atomic::AtomicU64;
/// use relptr::Reserved;
///
/// #[repr(C, align(64))]
/// struct Head {
///     hint: AtomicU64,
///     reserved: Reserved<7>,
/// }
/// relptr::shm_sync!(Head { hint, reserved });
/// let head = Head { hint: AtomicU64::new(0), reserved: Reserved::new() };
/// ```
#[repr(transparent)]
pub struct Reserved<const WORDS: usize> {
    #[cfg(not(shm_loom))]
    words: [AtomicU64; WORDS],
}

// SAFETY: atomics only, or nothing.
unsafe impl<const WORDS: usize> ShmSync for Reserved<WORDS> {}

impl<const WORDS: usize> Reserved<WORDS> {
    /// Zeros.
    pub const fn new() -> Reserved<WORDS> {
        Reserved {
            #[cfg(not(shm_loom))]
            words: [const { AtomicU64::new(0) }; WORDS],
        }
    }
}

impl<const WORDS: usize> Default for Reserved<WORDS> {
    fn default() -> Reserved<WORDS> {
        Reserved::new()
    }
}

impl<const WORDS: usize> core::fmt::Debug for Reserved<WORDS> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Reserved")
    }
}
