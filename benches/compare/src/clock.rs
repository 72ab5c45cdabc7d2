//! A clock that takes less time to read than a line takes from one processor to the other.
use std::time::{Duration, Instant};

/// Ticks of no fixed length.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn ticks() -> u64 {
    // SAFETY: every processor has the instruction.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(crate) fn ticks() -> u64 {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    START.elapsed().as_nanos() as u64
}

/// Nanoseconds of a tick, by the clock of the kernel.
pub(crate) fn tick_ns() -> f64 {
    let (start, first) = (Instant::now(), ticks());
    while start.elapsed() < Duration::from_millis(20) {
        std::hint::spin_loop();
    }
    start.elapsed().as_nanos() as f64 / (ticks() - first) as f64
}
