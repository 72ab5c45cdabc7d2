//! Production: core's atomics under the names that the models use too.
use super::Ordering;
pub use core::sync::atomic::{AtomicU32, AtomicU64, compiler_fence, fence};

/// Says that this processor is waiting for another one.
#[inline]
pub fn spin_loop() {
    core::hint::spin_loop();
}

/// Gives the processor away once.
#[inline]
pub fn yield_now() {
    std::thread::yield_now();
}

/// The compiler keeps the accesses before this one before those after it: a death in between leaves
/// the ones without the others.
///
/// Nothing is ordered for others who run. A reaper sees every store that the dead one has executed,
/// and a process is killed between two instructions, so these are the first so many of its program.
/// All that may change their order is the compiler.
#[inline(always)]
pub fn in_program_order() {
    // Pairs with nothing: what a reaper sees is ordered by the proof of the death.
    compiler_fence(Ordering::AcqRel);
}
