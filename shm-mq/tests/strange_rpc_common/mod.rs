//! Clients and servers that are strangers, for tests.
#![allow(dead_code, reason = "not every test needs all of it")]
use shm_mq::rpc::strangers::{Connection, StrangeClient, StrangeConfig};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Longer than anything takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn soon(ms: u64) -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(ms))
}

pub(crate) fn config() -> StrangeConfig {
    StrangeConfig { calls: 4, ring_bytes: 1024, ..StrangeConfig::default() }
}

/// Two sockets, one for requests and one for answers: our ends, and the other side's.
pub(crate) fn sockets() -> ([UnixStream; 2], [UnixStream; 2]) {
    let [(requests, their_requests), (answers, their_answers)] =
        [UnixStream::pair().unwrap(), UnixStream::pair().unwrap()];
    ([requests, answers], [their_requests, their_answers])
}

/// A client, and the server's end of its connection.
pub(crate) fn met(server: &StrangeConfig, client: &StrangeConfig) -> (StrangeClient, Connection) {
    let ((ours, theirs), server) = (sockets(), *server);
    let serving = std::thread::spawn(move || Connection::connect(theirs, &server, None));
    let client = StrangeClient::connect(ours, client, None).unwrap();
    (client, serving.join().unwrap().unwrap())
}

/// So many bytes that no other `seed` has.
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
