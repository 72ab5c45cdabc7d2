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

/// Record number `seed`: bytes that no other record has at these places.
pub(crate) fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&next(&mut state).to_ne_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The next pseudo-random number: xorshift.
pub(crate) fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
