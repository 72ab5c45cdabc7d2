//! Under `--cfg shm_loom`: loom's atomics with the repairs and the deaths of [`super::model`].
use super::model::{self, Effect};
use core::panic::Location;
use core::sync::atomic::Ordering;
use relptr::ShmSync;

macro_rules! modelled_atomic {
    ($name:ident, $inner:ident, $int:ty) => {
        /// loom's atomic of the same name, with a shadow word beside it.
        ///
        /// loom 0.7.2 remembers one last access per object, so that a thread's own load hides
        /// another thread's earlier read from it and interleavings are skipped. A relaxed
        /// read-modify-write of the shadow before each load and store orders them all and
        /// synchronizes nothing. `tests/loom_blind_spot.rs` shows both.
        #[derive(Debug)]
        pub struct $name {
            word: loom::sync::atomic::$inner,
            shadow: loom::sync::atomic::AtomicU32,
        }

        // SAFETY: a model's stand-in for the atomic integer.
        unsafe impl ShmSync for $name {}

        impl $name {
            /// A word holding `value`.
            pub fn new(value: $int) -> Self {
                Self {
                    word: loom::sync::atomic::$inner::new(value),
                    shadow: loom::sync::atomic::AtomicU32::new(0),
                }
            }

            fn touch(&self) {
                self.shadow.fetch_add(0, Ordering::Relaxed);
            }

            /// As core's.
            #[track_caller]
            pub fn load(&self, order: Ordering) -> $int {
                let order = model::order(Location::caller(), 0, order);
                match model::step() {
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
                let order = model::order(Location::caller(), 0, order);
                if let Effect::Happens = model::step() {
                    self.touch();
                    self.word.store(value, order);
                }
            }

            /// As core's.
            #[track_caller]
            pub fn swap(&self, value: $int, order: Ordering) -> $int {
                let order = model::order(Location::caller(), 0, order);
                match model::step() {
                    Effect::Happens => self.word.swap(value, order),
                    Effect::Dropped => 0,
                }
            }

            /// As core's.
            #[track_caller]
            pub fn compare_exchange(
                &self,
                current: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                let success = model::order(Location::caller(), 0, success);
                let failure = model::order(Location::caller(), 1, failure);
                match model::step() {
                    Effect::Happens => self.word.compare_exchange(current, new, success, failure),
                    Effect::Dropped => Err(0),
                }
            }

            /// As core's; never fails spuriously here.
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

            /// As core's.
            #[track_caller]
            pub fn fetch_add(&self, value: $int, order: Ordering) -> $int {
                let order = model::order(Location::caller(), 0, order);
                match model::step() {
                    Effect::Happens => self.word.fetch_add(value, order),
                    Effect::Dropped => 0,
                }
            }

            /// As core's.
            #[track_caller]
            pub fn fetch_or(&self, value: $int, order: Ordering) -> $int {
                let order = model::order(Location::caller(), 0, order);
                match model::step() {
                    Effect::Happens => self.word.fetch_or(value, order),
                    Effect::Dropped => 0,
                }
            }

            /// As core's.
            #[track_caller]
            pub fn fetch_and(&self, value: $int, order: Ordering) -> $int {
                let order = model::order(Location::caller(), 0, order);
                match model::step() {
                    Effect::Happens => self.word.fetch_and(value, order),
                    Effect::Dropped => 0,
                }
            }
        }
    };
}

modelled_atomic!(AtomicU32, AtomicU32, u32);
modelled_atomic!(AtomicU64, AtomicU64, u64);

/// What the kernel does with a futex word: no step of the process, whoever has died.
impl AtomicU32 {
    /// The newest value.
    pub(crate) fn kernel_load(&self) -> u32 {
        self.word.fetch_add(0, Ordering::AcqRel)
    }

    /// The newest value, and what was done before it was written; no edge to who looks next.
    pub(crate) fn kernel_look(&self) -> u32 {
        self.word.fetch_add(0, Ordering::Acquire)
    }

    /// Writes `new` where the word is still `current`.
    pub(crate) fn kernel_compare_exchange(&self, current: u32, new: u32) -> bool {
        let (ok, err) = (Ordering::AcqRel, Ordering::Acquire);
        self.word.compare_exchange(current, new, ok, err).is_ok()
    }
}

/// As core's.
#[track_caller]
pub fn fence(order: Ordering) {
    if let Some(order) = model::fence_order(Location::caller(), order)
        && model::step() == Effect::Happens
    {
        loom::sync::atomic::fence(order);
    }
}

/// Lets another modelled thread run.
pub fn spin_loop() {
    yield_now();
}

/// Lets another modelled thread run.
pub fn yield_now() {
    if !model::is_dead() {
        loom::thread::yield_now();
    }
}
