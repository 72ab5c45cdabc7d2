//! Stores in the order in which they are written down.

/// The compiler keeps the accesses before this one before those after it.
///
/// Nothing is ordered for others who run: this is for the reaper. It sees every store that the dead
/// one has executed, and a process is killed between two instructions, so these are the first so
/// many of its program. All that may change their order is the compiler.
#[inline(always)]
pub(super) fn in_order() {
    // Pairs with nothing: what a reaper sees is ordered by the proof of the death.
    #[cfg(not(any(shm_loom, shm_explore)))]
    shm_core::sync::compiler_fence(shm_core::sync::Ordering::AcqRel);
}
