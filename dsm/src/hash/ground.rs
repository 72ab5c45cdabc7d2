//! `Ground`: what the hash stands on. The area and the hazards in production, stand-ins in models.
use super::HashError;
use shm_core::sync::AtomicU64;
use shm_core::{ShmSync, process::Forked};

/// One announcement that a block is in use. Dropping it takes it back.
pub trait Shield {
    /// Announces `block`, and then asks `is_still`, whose loads see what was done before the
    /// announcement could be seen. `true`: whoever retires the block after what `is_still` saw
    /// frees it only once this is cleared. What was announced here before is not any more.
    ///
    /// # Errors
    /// [`Forked`].
    fn protect(&mut self, block: u64, is_still: impl FnOnce() -> bool) -> Result<bool, Forked>;

    /// Nothing is announced.
    fn clear(&mut self);
}

/// Blocks of shared words, and their protection, for one thread of one participant.
///
/// A block is a number that is not 0 and less than 2^47; the words in it are counted from 0. Words
/// that are handed to [`take`](Ground::take) and [`give`](Ground::give) hold its *name*.
pub trait Ground {
    /// See [`Shield`].
    type Shield<'g>: Shield
    where
        Self: 'g;

    /// A new announcement.
    ///
    /// # Errors
    /// [`HashError::Busy`] where this thread has too many.
    fn shield(&self) -> Result<Self::Shield<'_>, HashError>;

    /// Every block announced by anybody, sorted, into `all`. Call it after the unlink.
    ///
    /// # Errors
    /// [`HashError::Busy`] where that cannot be said now: free nothing then.
    fn protected(&self, all: &mut Vec<u64>) -> Result<(), HashError>;

    /// Takes a block of `words` words, aligned to a cache line where it has as many; `to` names it
    /// from then on, and held 0 before. A death on the way leaves either, and no block beside.
    ///
    /// # Errors
    /// [`HashError::OutOfMemory`].
    fn take(&self, words: u64, zeroed: bool, to: &AtomicU64) -> Result<u64, HashError>;

    /// Gives back the block that `from` names, which is 0 then. A death on the way leaves either.
    ///
    /// # Errors
    /// [`HashError::Corrupt`].
    fn give(&self, from: &AtomicU64) -> Result<(), HashError>;

    /// The `T` at word `at` of `block`.
    ///
    /// # Errors
    /// [`HashError::Corrupt`] where it does not lie in memory.
    fn share<T: ShmSync>(&self, block: u64, at: u64) -> Result<&T, HashError>;

    /// `count` words of `block` from word `at` on.
    ///
    /// # Errors
    /// As [`share`](Ground::share).
    fn words(&self, block: u64, at: u64, count: u64) -> Result<&[AtomicU64], HashError>;

    /// The name of `block`.
    fn name_of(&self, block: u64) -> u64;

    /// The block with the name that an outsider has given us.
    ///
    /// # Errors
    /// [`HashError::NotAHash`] where it is nobody's.
    fn adopt(&self, name: u64) -> Result<u64, HashError> {
        Ok(self.block_of(name))
    }

    /// The block with this name; anything where it is nobody's.
    fn block_of(&self, name: u64) -> u64;

    /// The hash of `key`.
    fn hash(&self, key: &[u8], seed: u64) -> u64;

    /// Whether this is the process that made this.
    ///
    /// # Errors
    /// [`Forked`].
    fn check_fork(&self) -> Result<(), Forked>;

    /// The participant, as bits that are not 0.
    fn me(&self) -> u32;
}
