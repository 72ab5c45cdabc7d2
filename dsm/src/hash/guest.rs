//! `Guest`: the hash in the hands of one who cleans up, and needs no row for that.
use super::core::Core;
use super::ground::Ground;
use super::{Hash, HashConfig, HashError};
use shm_core::sync::Ordering;

/// Who cleans up after the dead.
pub(crate) struct Guest<G: Ground>(Core<G>);

impl<G: Ground> Guest<G> {
    pub(crate) fn new(ground: G, name: u64, config: &HashConfig) -> Result<Guest<G>, HashError> {
        Hash::look(ground, name, config).map(Guest)
    }

    /// Whose rows there are, as participants' bits.
    pub(crate) fn owners(&self) -> Result<Vec<u32>, HashError> {
        let mut owners = Vec::new();
        for index in 0..self.0.rows {
            // Relaxed: the proof of a death orders what the dead one did.
            let claim = self.0.row(index)?.row.claim.load(Ordering::Relaxed);
            owners.extend(u32::try_from(claim).ok().filter(|claim| *claim != 0));
        }
        Ok(owners)
    }

    /// See [`Hash::reap`].
    pub(crate) fn reap(&self, dead: u32) -> Result<u32, HashError> {
        self.0.reap(dead)
    }
}
