//! The planted ring in sequence: without a bug, and without a death, it is a queue.
#![cfg(not(any(shm_loom, shm_explore)))]
mod planted;

use planted::{Bug, Pop, PushError, Ring};
use shm_core::mapping::Mapping;

fn ring(capacity: u64, bug: Bug) -> Ring {
    Ring::create(&Mapping::heap(Ring::bytes_for(capacity) as usize), capacity, bug)
}

#[test]
fn a_sound_ring_is_a_queue_of_its_capacity() {
    let ring = ring(3, Bug::None);
    for lap in 0..5 {
        for i in 0..3 {
            assert_eq!(ring.push(1, 10 * lap + i), Ok(()));
        }
        assert_eq!(ring.push(2, 99), Err(PushError::Full));
        for i in 0..3 {
            assert_eq!(ring.pop_waiting(None), Pop::Got(10 * lap + i));
        }
        assert_eq!(ring.pop(), Pop::Empty);
        ring.reap(1);
    }
}
