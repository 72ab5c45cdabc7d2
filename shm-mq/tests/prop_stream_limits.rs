//! Arguments at the ends of their types.
#![cfg(not(any(shm_loom, shm_explore)))]
mod common;

use proptest::prelude::*;
use shm_core::mapping::Mapping;
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_mq::stream::{CreateError, Stream};
use shm_testkit::depth::cases;
use std::time::Duration;

const LEN: u64 = 4096;

/// Sizes that no memory has: more than there is, up to the last that a number says.
fn too_much() -> impl Strategy<Value = u64> {
    let last = u64::MAX;
    prop_oneof![LEN..2 * LEN, LEN..=last, last - 300..=last, Just(last / 2), Just(last)]
}

/// Times to wait that end after the clock does, or long after the test.
fn for_ever() -> impl Strategy<Value = Duration> {
    let last = u64::MAX;
    let seconds = prop_oneof![3600..=last, last - 300..=last, Just(last)];
    (seconds, 0..1_000_000_000_u32).prop_map(|(seconds, rest)| Duration::new(seconds, rest))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn a_ring_larger_than_any_memory_is_refused_before_anything_is_written(
        bytes in too_much(), offset in 0..LEN / 8,
    ) {
        let (mapping, offset) = (Mapping::heap(LEN as usize), offset * 8);
        // SAFETY: nobody else has the mapping.
        let refused = unsafe { Stream::create(&mapping, offset, bytes) };
        prop_assert!(matches!(refused, Err(CreateError::Place(_))), "{:?}", refused.err());
        prop_assert!(Stream::attach(&mapping, offset).is_err(), "nothing is there");
        let words: &[AtomicU64] = mapping.region().share_slice(0, LEN / 8).unwrap();
        prop_assert!(words.iter().all(|word| word.load(Relaxed) == 0), "something was written");
    }

    #[test]
    fn a_timeout_past_the_end_of_time_is_none(timeout in for_ever()) {
        let (mut sender, mut receiver) = common::stream(1024);
        sender.send_timeout(b"now", timeout).unwrap();
        prop_assert_eq!(&*receiver.recv_timeout(timeout).unwrap(), b"now");
    }
}
