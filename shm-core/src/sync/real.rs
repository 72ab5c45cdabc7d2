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

/// What stands before it is done before what stands behind it, in the program of this process: a
/// death in between leaves the one without the other. No instruction, and nothing to other
/// processes while this one lives.
#[inline]
pub fn in_program_order() {
    core::sync::atomic::compiler_fence(Ordering::Release);
}
