//! In a model each side has a fence, as on machines without the one locked instruction.
use crate::sync::{AtomicU64, Ordering, fence};

/// Where the rows are attached, before anybody races: what first meets is known to all.
pub(super) fn prepare() {
    meet();
}

pub(super) fn announce(slot: &AtomicU64, value: u64) {
    // Pairs with the Acquire in `Hazards::announced`: what was read under the announcement
    // that this one replaces.
    slot.store(value, Ordering::Release);
    meet();
    // Pairs with the fence in `before_scan`: the announcement before the look.
    fence(Ordering::SeqCst);
}

pub(super) fn before_scan() {
    meet();
    // Pairs with the fence in `announce`: taken out before the slots.
    fence(Ordering::SeqCst);
}

/// loom does not switch at a fence. So each side touches one word before its own, in no order, and
/// both ways round are tried, and what lies between an access and the fence that follows it.
#[cfg(shm_loom)]
fn meet() {
    use crate::sync::AtomicU64;
    shm_testkit::model::runtime::lazy_static! {
        static ref BEFORE: AtomicU64 = AtomicU64::new(0);
    }
    BEFORE.fetch_add(0, Ordering::Relaxed);
}

#[cfg(not(shm_loom))]
fn meet() {}
