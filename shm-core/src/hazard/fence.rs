//! The two sides' fences: an announcement before the look, what was taken out before the slots.
use crate::sync::{AtomicU64, Ordering, fence};

/// Models prepare themselves here.
pub(super) fn prepare() {}

/// Announces `value` in `slot`, and orders that before the look that follows.
#[inline(always)]
pub(super) fn announce(slot: &AtomicU64, value: u64) {
    // Pairs with the Acquire in `Hazards::announced`, and with the fence in `before_scan`: a
    // locked instruction is a full fence there, at less than half the price of `mfence`, and the
    // compiler moves no later access to before it.
    #[cfg(target_arch = "x86_64")]
    slot.swap(value, Ordering::AcqRel);
    #[cfg(not(target_arch = "x86_64"))]
    {
        // Pairs with the Acquire in `Hazards::announced`: what was read under the announcement
        // that this one replaces.
        slot.store(value, Ordering::Release);
        // Pairs with the fence in `before_scan`: the announcement before the look.
        fence(Ordering::SeqCst);
    }
}

/// After things were taken out, before the slots are looked at.
pub(super) fn before_scan() {
    // Pairs with the fence in `announce`: taken out before the slots.
    fence(Ordering::SeqCst);
}
