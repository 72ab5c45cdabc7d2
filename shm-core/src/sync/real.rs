//! Production: core's atomics under the names that the models use too.
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
