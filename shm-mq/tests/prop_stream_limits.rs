//! Arguments at the ends of their types.
#![cfg(not(any(shm_loom, shm_explore)))]
mod common;

use shm_core::mapping::Mapping;
use shm_mq::stream::{CreateError, Stream};
use std::time::Duration;

#[test]
fn a_ring_larger_than_any_memory_is_refused_before_anything_is_written() {
    let mapping = Mapping::heap(4096);
    for bytes in [u64::MAX, u64::MAX - 300, u64::MAX / 2] {
        // SAFETY: nobody else has the mapping.
        let refused = unsafe { Stream::create(&mapping, 0, bytes) };
        assert!(matches!(refused, Err(CreateError::Place(_))), "{bytes}");
        assert!(Stream::attach(&mapping, 0).is_err(), "{bytes}: nothing is there");
    }
}

#[test]
fn a_timeout_past_the_end_of_time_is_none() {
    let (mut sender, mut receiver) = common::stream(1024);
    sender.send_timeout(b"now", Duration::MAX).unwrap();
    assert_eq!(*receiver.recv_timeout(Duration::MAX).unwrap(), *b"now");
}
