//! What the tests of `fan_in` share.
#![allow(dead_code, reason = "each test file uses its part")]
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_mq::fan_in::{FanIn, FanInConfig};
use std::sync::Arc;

/// A new fan-in in this process, and somebody who may have its roles.
pub(crate) fn fan_in(lanes: u32, ring_bytes: u64) -> (FanIn, Arc<Member>) {
    let config = FanInConfig::new(lanes, ring_bytes);
    let at = Table::bytes_for(8).next_multiple_of(128);
    let mapping = Mapping::heap((at + FanIn::bytes_for(&config)) as usize);
    // SAFETY: nobody else has the mapping.
    let me = unsafe { Table::create(&mapping, 0, 8) }.unwrap().join().unwrap();
    // SAFETY: as above, and the table ends before.
    let fan_in = unsafe { FanIn::create(&mapping, at, &config) }.unwrap();
    (fan_in, me)
}
