//! Production: core's atomics under the names that the models use too.
use super::Ordering;
use core::sync::atomic::compiler_fence;
pub use core::sync::atomic::{AtomicU32, AtomicU64, fence};

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

/// Tells the processor that the word's cache line will be read soon. A hint: no access takes place.
#[inline(always)]
pub fn prefetch(word: &AtomicU64) {
    let at = word.as_ptr().cast_const();
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: it does not fault, and changes nothing that a program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: as above.
        unsafe { core::arch::asm!("prfm pldl1keep, [{}]", in(reg) at, options(nostack, readonly)) };
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}

/// Tells the processor that the word's cache line will be written soon. A hint: no access takes
/// place.
#[inline(always)]
pub fn prefetch_to_write(word: &AtomicU64) {
    let at = word.as_ptr().cast_const();
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: it does not fault, and changes nothing that a program can see. Processors that do
        // not know it take it for one that does nothing.
        unsafe { core::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, readonly)) };
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: as above.
        unsafe { core::arch::asm!("prfm pstl1keep, [{}]", in(reg) at, options(nostack, readonly)) };
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}
