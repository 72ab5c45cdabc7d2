//! Taking the latch of a frame that is to have another page.
use super::guard::Change;
use super::word::{State, Word};
use super::{LatchError, User};
use shm_core::sync::Ordering;

impl User {
    /// Takes the latch of a frame, to put another page into it: whatever its word says, unless it
    /// is of one who lives (`None`): that one may be at the old page still.
    ///
    /// For who has the frame to itself: nobody has pinned it, so nobody shares it. Those who do are
    /// not waited for.
    ///
    /// # Errors
    /// [`LatchError::NoSuchFrame`], [`LatchError::Forked`].
    ///
    /// # If a process dies here
    /// The frame is as it was, or torn; whoever has it to itself next reclaims it.
    pub fn reclaim(&self, frame: u32) -> Result<Option<Change<'_>>, LatchError> {
        let right = self.right(frame)?;
        let word = &right.latch.word;
        let seen = word.load(Ordering::Relaxed);
        let is_had = match Word::from_bits(seen).state() {
            Some(State::ShareExclusive(by) | State::Exclusive(by)) => {
                !self.member.watch(by).is_dead()
            }
            _ => false,
        };
        let mine = Word::exclusive(self.id()).to_bits();
        // Pairs with the Releases in `moves` and `settle`: the version.
        let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
        let is_ours = !is_had && word.compare_exchange(seen, mine, ok, err).is_ok();
        Ok(is_ours.then(|| Change::begin(right, self.id())))
    }
}
