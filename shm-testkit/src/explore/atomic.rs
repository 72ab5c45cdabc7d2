//! The atomics of explored code: core's, and each access a step of the process that makes it.
//!
//! Size, layout and interface are those of core's. The explorer runs one process at a time, so
//! memory is sequentially consistent, whatever ordering is asked for. Outside of an exploration
//! they serve one thread.
use super::run::{self, Access};
use std::panic::Location;
use std::sync::atomic::Ordering;

macro_rules! explored_atomic {
    ($name:ident, $int:ty) => {
        /// As core's; each access is a step.
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name {
            word: std::sync::atomic::$name,
        }

        impl $name {
            /// A word holding `value`.
            pub const fn new(value: $int) -> Self {
                Self { word: std::sync::atomic::$name::new(value) }
            }

            /// The word at `address`.
            ///
            /// # Safety
            /// As core's.
            pub const unsafe fn from_ptr<'a>(address: *mut $int) -> &'a Self {
                // SAFETY: the caller's promise; transparent over core's, which has this layout.
                unsafe { &*address.cast() }
            }

            /// Its value, by no step of anybody.
            pub(super) fn peek(&self) -> $int {
                self.word.load(Ordering::Relaxed)
            }

            /// Writes it, by no step of anybody.
            pub(super) fn poke(&self, value: $int) {
                self.word.store(value, Ordering::Relaxed);
            }

            fn access(
                &self,
                op: &'static str,
                may_lie: bool,
                from: &'static Location<'static>,
                effect: impl FnOnce(Option<$int>) -> $int,
            ) -> Option<$int> {
                let address = std::ptr::from_ref(self).addr();
                let access = Access { op, address, width: size_of::<$int>(), may_lie, from };
                let value = run::access(&access, |lie| effect(lie.map(|lie| lie as $int)).into());
                value.map(|value| value as $int)
            }

            /// As core's.
            #[track_caller]
            pub fn load(&self, _order: Ordering) -> $int {
                let value = self.access("load", true, Location::caller(), |lie| {
                    lie.unwrap_or_else(|| self.peek())
                });
                value.unwrap_or(0)
            }

            /// As core's.
            #[track_caller]
            pub fn store(&self, value: $int, _order: Ordering) {
                self.access("store", false, Location::caller(), |_| {
                    self.poke(value);
                    value
                });
            }

            /// As core's.
            #[track_caller]
            pub fn swap(&self, value: $int, _order: Ordering) -> $int {
                self.modify("swap", Location::caller(), |_| value)
            }

            /// As core's. Of a process that is gone it succeeds, so that no loop is stuck.
            #[track_caller]
            pub fn compare_exchange(
                &self,
                current: $int,
                new: $int,
                _success: Ordering,
                _failure: Ordering,
            ) -> Result<$int, $int> {
                let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
                let found =
                    self.access("compare_exchange", true, Location::caller(), |lie| match lie {
                        Some(lie) if lie != current => lie,
                        Some(lie) => {
                            self.poke(new);
                            lie
                        }
                        None => {
                            let result = self.word.compare_exchange(current, new, ok, err);
                            result.unwrap_or_else(|found| found)
                        }
                    });
                match found.unwrap_or(current) {
                    found if found == current => Ok(found),
                    found => Err(found),
                }
            }

            /// As core's; never fails for nothing here.
            ///
            /// # Errors
            /// As core's.
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
            pub fn fetch_add(&self, value: $int, _order: Ordering) -> $int {
                self.modify("fetch_add", Location::caller(), |old| old.wrapping_add(value))
            }

            /// As core's.
            #[track_caller]
            pub fn fetch_sub(&self, value: $int, _order: Ordering) -> $int {
                self.modify("fetch_sub", Location::caller(), |old| old.wrapping_sub(value))
            }

            /// As core's.
            #[track_caller]
            pub fn fetch_or(&self, value: $int, _order: Ordering) -> $int {
                self.modify("fetch_or", Location::caller(), |old| old | value)
            }

            /// As core's.
            #[track_caller]
            pub fn fetch_and(&self, value: $int, _order: Ordering) -> $int {
                self.modify("fetch_and", Location::caller(), |old| old & value)
            }

            /// As core's.
            #[track_caller]
            pub fn fetch_max(&self, value: $int, _order: Ordering) -> $int {
                self.modify("fetch_max", Location::caller(), |old| old.max(value))
            }

            /// Changes some of its bytes, in one step: what a plain copy does to a part of a word.
            #[track_caller]
            pub fn patch(&self, first: usize, bytes: &[u8]) {
                self.access("write", false, Location::caller(), |_| {
                    let mut all = self.peek().to_ne_bytes();
                    all[first..first + bytes.len()].copy_from_slice(bytes);
                    let value = <$int>::from_ne_bytes(all);
                    self.poke(value);
                    value
                });
            }

            /// As [`load`]($name::load), and never lied to: for assertions about what a peer must
            /// not have changed.
            #[track_caller]
            pub fn look_again(&self) -> Option<$int> {
                self.access("look again", false, Location::caller(), |_| self.peek())
            }

            /// One step; a lie is what stands there, and is changed.
            fn modify(
                &self,
                op: &'static str,
                from: &'static Location<'static>,
                new: impl Fn($int) -> $int,
            ) -> $int {
                let old = self.access(op, true, from, |lie| {
                    if let Some(lie) = lie {
                        self.poke(new(lie));
                        return lie;
                    }
                    let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
                    let result = self.word.fetch_update(ok, err, |old| Some(new(old)));
                    result.unwrap_or_else(|old| old)
                });
                old.unwrap_or(0)
            }
        }
    };
}

explored_atomic!(AtomicU8, u8);
explored_atomic!(AtomicU32, u32);
explored_atomic!(AtomicU64, u64);

/// As core's: no step, for memory is sequentially consistent here.
pub fn fence(_order: Ordering) {}

/// Writes `value` at `address`, word by word, each word a step: what a plain store of a value does
/// in a process that may die half-way through it.
///
/// # Safety
/// As [`std::ptr::write`].
#[track_caller]
pub unsafe fn place<T>(address: *mut T, value: T) {
    if !run::is_exploring() {
        // SAFETY: the caller's promise.
        return unsafe { address.write(value) };
    }
    const WORD: usize = 8;
    let value = std::mem::ManuallyDrop::new(value);
    let from = std::ptr::from_ref(&value).cast::<u8>();
    let caller = Location::caller();
    for at in (0..size_of::<T>()).step_by(WORD) {
        let width = WORD.min(size_of::<T>() - at);
        // SAFETY: inside of the T.
        let to = unsafe { address.cast::<u8>().add(at) };
        // SAFETY: as above.
        let piece = unsafe { from.add(at) };
        let access =
            Access { op: "write", address: to.addr(), width, may_lie: false, from: caller };
        run::access(&access, |_| {
            // SAFETY: as many bytes on both sides; `to` is valid as the caller promises.
            unsafe { to.copy_from_nonoverlapping(piece, width) };
            0
        });
    }
}
