//! What the tests of `broadcast` share.
#![allow(dead_code, reason = "each test file uses its part")]
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_mq::broadcast::{Broadcast, BroadcastConfig};
use std::sync::Arc;
use std::time::Duration;

/// No wait of these tests takes so long unless something hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A new broadcast in this process, and a table for who comes to it.
pub(crate) fn broadcast(config: &BroadcastConfig) -> (Table, Broadcast) {
    let at = Table::bytes_for(32).next_multiple_of(128);
    let mapping = Mapping::heap((at + Broadcast::bytes_for(config)) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 32) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let broadcast = unsafe { Broadcast::create(&mapping, at, config) }.unwrap();
    (table, broadcast)
}

/// The member is no more, and neither is its handle: nothing that it would do at its end is done.
pub(crate) fn dies<H>(handle: H, member: Arc<Member>) {
    std::mem::forget(handle);
    while Arc::strong_count(&member) > 1 {
        // SAFETY: the handle's, which was forgotten; nobody else has one.
        unsafe { Arc::decrement_strong_count(Arc::as_ptr(&member)) };
    }
}
