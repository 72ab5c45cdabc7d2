//! Numbers and bytes that look random: one seed gives the same ones each time.
use std::time::UNIX_EPOCH;

/// A new seed, which it prints; or what `SHM_SEED` in the environment says, so that a run that
/// failed is tried again, as far as the kernel lets it.
///
/// # Panics
/// Where `SHM_SEED` is no number.
#[must_use]
pub fn seed() -> u64 {
    let given = std::env::var("SHM_SEED").ok().map(|seed| seed.parse().expect("SHM_SEED"));
    let micros = UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_micros() as u64);
    let seed = given.unwrap_or(micros ^ u64::from(std::process::id()) << 40);
    println!("SHM_SEED={seed}");
    // None of them is the one from which `next` leads nowhere.
    seed | 1
}

/// The next number: xorshift. From 0 it leads nowhere.
pub fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// A sequence of numbers that is told by where it begins.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of one of those who are told the same seed.
    #[must_use]
    pub fn new(seed: u64, of: u64) -> Random {
        Random((seed ^ of.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1)
    }

    /// The next one, below `end`.
    ///
    /// # Panics
    /// Where `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        next(&mut self.0) % end
    }
}

/// Message number `seed`: bytes that no other message has at these places.
///
/// ```
/// use shm_testkit::random::text;
///
/// assert_eq!(text(1, 5), text(1, 9)[..5]);
/// assert_ne!(text(1, 5), text(2, 5));
/// ```
#[must_use]
pub fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&next(&mut state).to_ne_bytes());
    }
    bytes.truncate(len);
    bytes
}
