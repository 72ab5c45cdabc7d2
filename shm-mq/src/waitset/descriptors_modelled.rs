//! In a model there are no descriptors, and doorbells are words.
use super::{Source, WaitError, doorbells, told};
use shm_core::participants::Night;
use shm_core::sealed::{Doorbell, Heard};
use std::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Descriptors {
    heard: Vec<(usize, usize, Heard)>,
}

impl Descriptors {
    pub(super) fn forget(&mut self) {}

    pub(super) fn look_now<K>(&mut self, _: &[(K, &mut dyn Source)]) -> Result<(), WaitError> {
        Ok(())
    }

    pub(super) fn ready(&mut self) -> Vec<usize> {
        Vec::new()
    }

    pub(super) fn heard(&mut self) -> Vec<(usize, usize, Heard)> {
        std::mem::take(&mut self.heard)
    }

    pub(super) fn sleep<K>(
        &mut self,
        sources: &[(K, &mut dyn Source)],
        night: &Night<'_>,
        deadline: Option<Instant>,
    ) -> Result<bool, WaitError> {
        let (numbers, bells) = doorbells(sources);
        if bells.is_empty() {
            return Ok(false);
        }
        let heard = Doorbell::wait_beside(&bells, night.words(), night.end(deadline));
        self.heard = told(&numbers, heard);
        night.peers().iter().for_each(|peer| peer.pass_on());
        Ok(true)
    }
}
