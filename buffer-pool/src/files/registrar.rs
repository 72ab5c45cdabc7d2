//! Who registers files, drops them and makes them shorter: one at a time.
use super::Files;
use crate::wait::{TimedOut, Waiter};
use shm_core::participants::{Member, ParticipantId};
use shm_core::process::Forked;
use shm_core::sync::Ordering;
use std::time::Instant;

/// Why one is not the registrar.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistrarError {
    /// The deadline passed.
    #[error("another one registers, drops or shortens files: it was not done before the deadline")]
    TimedOut,
    /// The member's process is the caller's parent.
    #[error(transparent)]
    Forked(#[from] Forked),
}

impl From<TimedOut> for RegistrarError {
    fn from(TimedOut: TimedOut) -> RegistrarError {
        RegistrarError::TimedOut
    }
}

/// The right to register files, to drop them and to make them shorter, for as long as this lives.
///
/// The first thing to do is to finish what others left [`unfinished`](Registrar::unfinished).
#[derive(Debug)]
#[must_use = "it is given up when dropped"]
pub struct Registrar<'f> {
    pub(super) files: &'f Files,
    member: &'f Member,
}

impl Files {
    /// Becomes the registrar, for as long as the guard lives; waits, until `deadline`, for who is.
    /// A thread that is it itself waits for itself.
    ///
    /// # Errors
    /// [`RegistrarError`].
    ///
    /// # If a process dies here
    /// The word names it, or not: whoever waits for it takes the word over.
    pub fn registrar<'f>(
        &'f self,
        member: &'f Member,
        deadline: Option<Instant>,
    ) -> Result<Registrar<'f>, RegistrarError> {
        member.check_fork()?;
        let (word, moved) = (&self.head.registrar, &self.head.moved);
        let (mut waiter, mut from) = (Waiter::new(member, deadline), NOBODY);
        // Pairs with the Release in `give_up`: what the last registrar wrote. What a dead one wrote
        // is proved by its death.
        let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
        while let Err(seen) = word.compare_exchange(from, name(member.id()), ok, err) {
            // Nonsense is nobody's.
            let is_over = holder(seen).is_none_or(|by| waiter.outlives(by, word, seen, moved));
            from = if is_over { seen } else { NOBODY };
            if is_over { waiter.goes_on_from_the_dead() } else { waiter.goes_on() }?;
        }
        Ok(Registrar { files: self, member })
    }

    /// Gives the registrar's word up where it names `dead`: nobody need wait for the proof again.
    ///
    /// For who cleans up after the dead ([`Table::reap`](shm_core::participants::Table::reap)): of
    /// a living one two could register at once. Without it whoever waits does the same.
    ///
    /// # If a process dies here
    /// The word names the dead one, or nobody.
    pub fn reap(&self, dead: ParticipantId) {
        self.give_up(dead);
    }

    fn give_up(&self, by: ParticipantId) {
        // Pairs with the Acquire in `registrar`: what we wrote, or the dead one, whose death was
        // proven to us.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        if self.head.registrar.compare_exchange(name(by), NOBODY, ok, err).is_ok() {
            self.head.moved.notify();
        }
    }
}

impl Registrar<'_> {
    pub(super) fn check_fork(&self) -> Result<(), Forked> {
        self.member.check_fork()
    }
}

impl Drop for Registrar<'_> {
    /// # If a process dies here
    /// The word names it, or nobody.
    fn drop(&mut self) {
        // In a forked child it is the parent's, and in a model who unwinds is dead.
        if !crate::model_unwinds() && self.check_fork().is_ok() {
            self.files.give_up(self.member.id());
        }
    }
}

/// The registrar's word: `ParticipantId` in bits 0–31; all zero: nobody.
const NOBODY: u64 = 0;

fn name(id: ParticipantId) -> u64 {
    u64::from(id.to_bits())
}

/// Whom the word names; `None` for nobody, and for nonsense.
pub(super) fn holder(word: u64) -> Option<ParticipantId> {
    u32::try_from(word).ok().and_then(ParticipantId::from_bits)
}
