//! What the tests of `stream` share.
#![allow(dead_code)]
use shm_core::mapping::Mapping;
use shm_core::participants::Table;
use shm_mq::stream::{Receiver, Sender, Stream};

/// Both ends of a new stream, in this process.
pub(crate) fn stream(ring_bytes: u64) -> (Sender, Receiver) {
    let at = Table::bytes_for(2).next_multiple_of(64);
    let mapping = Mapping::heap((at + Stream::bytes_for(ring_bytes)) as usize);
    // SAFETY: nobody else has the mapping.
    let me = unsafe { Table::create(&mapping, 0, 2) }.unwrap().join().unwrap();
    // SAFETY: as above, and the table ends before.
    let stream = unsafe { Stream::create(&mapping, at, ring_bytes) }.unwrap();
    (stream.sender(&me).unwrap(), stream.receiver(&me).unwrap())
}

/// Message number `seed`: bytes that no other message has at these places.
pub(crate) fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_ne_bytes());
    }
    bytes.truncate(len);
    bytes
}
