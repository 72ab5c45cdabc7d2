//! The runtime's atomics, with the repairs and the deaths.
use super::death::{Effect, is_dead, step};
use super::{orders, runtime};
#[cfg(not(shm_shuttle))]
use core::cell::Cell;
use core::panic::Location;
use core::sync::atomic::Ordering;

#[cfg(not(shm_shuttle))]
thread_local! {
    static SHADOW: Cell<bool> = const { Cell::new(true) };
}

/// Runs `model` on loom's words as they are, blind spot and all.
///
/// loom 0.7.2 remembers one last access per object, so that a thread's own load hides another
/// thread's earlier read from it, and interleavings of "load, then store of the same word" are
/// skipped. So each word has a *shadow*: a relaxed read-modify-write of it before each load and
/// store orders all accesses for the search, and synchronizes nothing.
///
/// For tests that show what the shadow is good for, and that fail when a later loom can do without.
#[cfg(not(shm_shuttle))]
pub fn without_shadow<R>(model: impl FnOnce() -> R) -> R {
    struct Again;
    impl Drop for Again {
        fn drop(&mut self) {
            SHADOW.set(true);
        }
    }
    let _again = Again;
    SHADOW.set(false);
    model()
}

macro_rules! read_modify_write {
    ($int:ty: $($verb:ident)*) => { $(
        /// As core's.
        #[track_caller]
        pub fn $verb(&self, value: $int, order: Ordering) -> $int {
            let order = orders::order(Location::caller(), 0, order);
            match step() {
                Effect::Happens => self.word.$verb(value, order),
                Effect::Dropped => 0,
            }
        }
    )* };
}

macro_rules! modelled_atomic {
    ($name:ident, $int:ty) => {
        /// The model's stand-in for core's atomic of the same name.
        ///
        /// Each call is one access, at which the process may die. A dead one reads 0 and changes
        /// nothing.
        #[derive(Debug)]
        pub struct $name {
            word: runtime::sync::atomic::$name,
            #[cfg(not(shm_shuttle))]
            shadow: runtime::sync::atomic::AtomicU32,
        }

        impl $name {
            /// A word holding `value`.
            pub fn new(value: $int) -> Self {
                Self {
                    word: runtime::sync::atomic::$name::new(value),
                    #[cfg(not(shm_shuttle))]
                    shadow: runtime::sync::atomic::AtomicU32::new(0),
                }
            }

            fn touch(&self) {
                #[cfg(not(shm_shuttle))]
                if SHADOW.get() {
                    self.shadow.fetch_add(0, Ordering::Relaxed);
                }
            }

            /// As core's.
            #[track_caller]
            pub fn load(&self, order: Ordering) -> $int {
                let order = orders::order(Location::caller(), 0, order);
                match step() {
                    Effect::Happens => {
                        self.touch();
                        self.word.load(order)
                    }
                    Effect::Dropped => 0,
                }
            }

            /// As core's.
            #[track_caller]
            pub fn store(&self, value: $int, order: Ordering) {
                let order = orders::order(Location::caller(), 0, order);
                if let Effect::Happens = step() {
                    self.touch();
                    self.word.store(value, order);
                }
            }

            /// As core's.
            ///
            /// # Errors
            /// What stands there instead.
            #[track_caller]
            pub fn compare_exchange(
                &self,
                current: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                let success = orders::order(Location::caller(), 0, success);
                let failure = orders::order(Location::caller(), 1, failure);
                match step() {
                    Effect::Happens => self.word.compare_exchange(current, new, success, failure),
                    Effect::Dropped => Err(0),
                }
            }

            /// As core's; never fails spuriously here.
            ///
            /// # Errors
            /// What stands there instead.
            #[track_caller]
            pub fn compare_exchange_weak(
                &self,
                current: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                self.compare_exchange(current, new, success, failure)
            }

            read_modify_write! {
                $int: swap fetch_add fetch_sub fetch_and fetch_or fetch_xor fetch_max fetch_min
            }
        }
    };
}

modelled_atomic!(AtomicU32, u32);
modelled_atomic!(AtomicU64, u64);

/// What the kernel does with a futex word: no step of the process, whoever has died.
impl AtomicU32 {
    /// The newest value.
    pub fn kernel_load(&self) -> u32 {
        self.word.fetch_add(0, Ordering::AcqRel)
    }

    /// The newest value, and what was done before it was written; no edge to who looks next.
    pub fn kernel_look(&self) -> u32 {
        self.word.fetch_add(0, Ordering::Acquire)
    }

    /// Writes `new` where the word is still `current`; whether it was.
    pub fn kernel_compare_exchange(&self, current: u32, new: u32) -> bool {
        let (ok, err) = (Ordering::AcqRel, Ordering::Acquire);
        self.word.compare_exchange(current, new, ok, err).is_ok()
    }
}

/// As core's.
#[track_caller]
pub fn fence(order: Ordering) {
    if let Some(order) = orders::fence_order(Location::caller(), order)
        && step() == Effect::Happens
    {
        runtime::sync::atomic::fence(order);
    }
}

/// Lets another modelled thread run.
pub fn spin_loop() {
    yield_now();
}

/// Lets another modelled thread run.
pub fn yield_now() {
    if !is_dead() {
        runtime::thread::yield_now();
    }
}
