//! In a model there are no descriptors.
use super::{Source, WaitError};
use shm_core::participants::Night;
use std::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Descriptors;

impl Descriptors {
    pub(super) fn forget(&mut self) {}

    pub(super) fn look_now<K>(&mut self, _: &[(K, &mut dyn Source)]) -> Result<(), WaitError> {
        Ok(())
    }

    pub(super) fn ready(&mut self) -> Vec<usize> {
        Vec::new()
    }

    pub(super) fn sleep<K>(
        &mut self,
        _: &[(K, &mut dyn Source)],
        _: &Night<'_>,
        _: Option<Instant>,
    ) -> Result<bool, WaitError> {
        Ok(false)
    }
}
