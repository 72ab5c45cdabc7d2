//! What the tests of `spsc` share.
#![allow(dead_code, reason = "each test file uses its part")]
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_mq::spsc::Queue;
use std::sync::Arc;
use std::time::Duration;

/// No wait of these tests takes so long unless something hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A new queue in this process, and somebody who may have its roles.
pub(crate) fn queue(ring_bytes: u64) -> (Queue, Arc<Member>) {
    let at = Table::bytes_for(8).next_multiple_of(128);
    let mapping = Mapping::heap((at + Queue::bytes_for(ring_bytes)) as usize);
    // SAFETY: nobody else has the mapping.
    let me = unsafe { Table::create(&mapping, 0, 8) }.unwrap().join().unwrap();
    // SAFETY: as above, and the table ends before.
    let queue = unsafe { Queue::create(&mapping, at, ring_bytes, 0) }.unwrap();
    (queue, me)
}
