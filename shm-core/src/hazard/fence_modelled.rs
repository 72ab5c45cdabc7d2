//! A model has no kernel that could fence in another's place: with [`Fencing::Own`] each side
//! fences, which is what the kernel's barrier comes to. With [`Fencing::Kernel`] readers do not
//! fence, as in production, and nobody may free anything: a model of what they see of things that
//! are new.
use super::Fencing;
use crate::sync::{Ordering, fence};
use std::io;

/// Where the rows are attached, before anybody races: what first meets is known to all.
pub(super) fn prepare() {
    meet();
}

pub(super) fn light(fencing: Fencing) {
    if fencing == Fencing::Own {
        meet();
        // Pairs with the fence in `heavy`: the announcement before the look.
        fence(Ordering::SeqCst);
    }
}

pub(super) fn heavy(_: Fencing) -> io::Result<()> {
    meet();
    // Pairs with the fence in `light`: taken out before the slots.
    fence(Ordering::SeqCst);
    Ok(())
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

pub(super) fn best() -> Fencing {
    Fencing::Own
}

pub(super) fn register() -> bool {
    true
}
