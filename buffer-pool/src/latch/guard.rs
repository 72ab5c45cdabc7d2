//! What was taken, and giving it back.
use super::shared::Latch;
use super::word::{Shared, Word};
use super::{LatchError, User};
use shm_core::participants::ParticipantId;
use shm_core::process::Forked;
use shm_core::sync::{AtomicU64, Ordering, fence};
use std::fmt;
use std::marker::PhantomData;
use std::time::Instant;

/// A share of a frame: nobody changes its page.
///
/// ```compile_fail,E0277
/// fn is_send<T: Send>() {}
/// // Given back by the thread that took it, as everywhere.
/// is_send::<buffer_pool::latch::Share<'_>>();
/// ```
#[must_use = "it is given back when dropped"]
pub struct Share<'u> {
    user: &'u User,
    latch: &'u Latch,
    /// The word of our row.
    word: &'u AtomicU64,
    of_one_thread: PhantomData<*const ()>,
}

/// A share that one alone has: the page may be written out, for nobody changes it meanwhile.
#[derive(Debug)]
#[must_use = "it is given back when dropped"]
pub struct ShareExclusive<'u> {
    right: Right<'u>,
}

/// A frame of ours alone: its page is whole, and others may still [look](super::Latches::look).
#[derive(Debug)]
#[must_use = "it is given back when dropped"]
pub struct Exclusive<'u> {
    right: Right<'u>,
}

/// A page that we change, or repair; nobody reads it. Dropped without having been
/// [`done`](Change::done), by a panic too, it is torn.
#[derive(Debug)]
#[must_use = "dropped, the page is torn"]
pub struct Change<'u> {
    right: Right<'u>,
    by: ParticipantId,
}

/// Our name in the word of a latch, or the wish for it.
#[derive(Clone, Copy)]
pub(super) struct Right<'u> {
    pub(super) user: &'u User,
    pub(super) latch: &'u Latch,
    pub(super) frame: u32,
    of_one_thread: PhantomData<*const ()>,
}

impl<'u> Share<'u> {
    pub(super) fn new(user: &'u User, latch: &'u Latch, word: &'u AtomicU64) -> Share<'u> {
        Share { user, latch, word, of_one_thread: PhantomData }
    }
}

impl fmt::Debug for Share<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").field("latch", self.latch).finish_non_exhaustive()
    }
}

impl Drop for Share<'_> {
    /// # If a process dies here
    /// Its row names it, or not; who waits for it wakes by its death.
    #[inline]
    fn drop(&mut self) {
        if self.user.is_ours() {
            // Pairs with the Acquire in `sharer`: what was read, before it is changed.
            self.word.store(Shared::NOTHING.to_bits(), Ordering::Release);
            self.latch.drained.notify();
        }
    }
}

impl<'u> ShareExclusive<'u> {
    pub(super) fn new(right: Right<'u>) -> ShareExclusive<'u> {
        ShareExclusive { right }
    }

    /// Goes on to have the frame alone; waits for readers until `deadline`. It is given back where
    /// they do not go.
    ///
    /// # Errors
    /// [`LatchError::TimedOut`], [`LatchError::Forked`], [`LatchError::Corrupt`].
    ///
    /// # If a process dies here
    /// The word names it, and the page is whole: whoever waits for it frees it.
    pub fn upgrade(
        self,
        deadline: Option<Instant>,
    ) -> Result<Exclusive<'u>, (ShareExclusive<'u>, LatchError)> {
        if let Err(why) = self.claims() {
            return Err((self, why));
        }
        match self.right.drain(deadline) {
            Ok(()) => Ok(self.into_exclusive()),
            Err(why) => Err((self.stays(), why)),
        }
    }

    /// As [`upgrade`](ShareExclusive::upgrade), where nobody shares it.
    ///
    /// # Errors
    /// The latch as it was.
    ///
    /// # If a process dies here
    /// As in [`upgrade`](ShareExclusive::upgrade).
    pub fn try_upgrade(self) -> Result<Exclusive<'u>, ShareExclusive<'u>> {
        // Who finds a reader beforehand does not turn the next ones away for nothing.
        if !self.right.is_drained() || self.claims().is_err() {
            return Err(self);
        }
        if self.right.is_drained() { Ok(self.into_exclusive()) } else { Err(self.stays()) }
    }

    /// From here on no reader enters.
    fn claims(&self) -> Result<(), LatchError> {
        self.right.user.check_fork()?;
        let id = self.right.user.id();
        let is_claimed = self.right.moves(Word::share_exclusive(id), Word::exclusive(id));
        // It fails where somebody scribbles.
        if is_claimed { Ok(()) } else { Err(LatchError::Corrupt) }
    }

    /// Readers may enter again.
    fn stays(self) -> ShareExclusive<'u> {
        let id = self.right.user.id();
        self.right.give_back(Word::exclusive(id), Word::share_exclusive(id));
        self
    }

    fn into_exclusive(self) -> Exclusive<'u> {
        let right = self.right;
        std::mem::forget(self);
        Exclusive::new(right)
    }
}

impl Drop for ShareExclusive<'_> {
    /// # If a process dies here
    /// It is free, or the dead one's; who waits for it wakes by the death.
    fn drop(&mut self) {
        self.right.give_back(Word::share_exclusive(self.right.user.id()), Word::FREE);
    }
}

impl<'u> Exclusive<'u> {
    pub(super) fn new(right: Right<'u>) -> Exclusive<'u> {
        Exclusive { right }
    }

    /// From here on nobody reads the page, and who dies leaves it torn.
    ///
    /// # Errors
    /// [`Forked`]: it is the parent's.
    ///
    /// # If a process dies here
    /// The page is torn, though it be whole.
    pub fn change(self) -> Result<Change<'u>, Forked> {
        let right = self.right;
        right.user.member.check_fork()?;
        std::mem::forget(self);
        Ok(Change::begin(right, right.user.id()))
    }
}

impl Drop for Exclusive<'_> {
    /// # If a process dies here
    /// It is free, or the dead one's and whole; who waits for it wakes by the death.
    fn drop(&mut self) {
        self.right.give_back(Word::exclusive(self.right.user.id()), Word::FREE);
    }
}

impl<'u> Change<'u> {
    /// Of who has the latch exclusively. One who repairs begins anew: who looks learns nothing from
    /// the fence of a dead one.
    pub(super) fn begin(right: Right<'u>, by: ParticipantId) -> Change<'u> {
        let version = &right.latch.version;
        // Relaxed: nobody else writes it.
        version.store(version.load(Ordering::Relaxed) | 1, Ordering::Relaxed);
        // Pairs with the fence in `look`: it has begun, before any byte of it.
        fence(Ordering::Release);
        Change { right, by }
    }

    /// Who began it: this process, or one that left the page torn.
    pub fn by(&self) -> ParticipantId {
        self.by
    }

    /// The page is whole, and may be looked at.
    ///
    /// # Errors
    /// [`Forked`]: it is the parent's.
    ///
    /// # If a process dies here
    /// The page is whole; or it is torn, as far as anybody knows.
    pub fn done(self) -> Result<Exclusive<'u>, Forked> {
        let right = self.right;
        right.user.member.check_fork()?;
        let version = &right.latch.version;
        let next = (version.load(Ordering::Relaxed) | 1).wrapping_add(1);
        // Pairs with the Acquire in `look`: the bytes.
        version.store(next, Ordering::Release);
        std::mem::forget(self);
        Ok(Exclusive::new(right))
    }
}

impl Drop for Change<'_> {
    /// # If a process dies here
    /// The page is torn, left by who is named or by the dead one.
    fn drop(&mut self) {
        self.right.give_back(Word::exclusive(self.right.user.id()), Word::torn(self.by));
    }
}

impl<'u> Right<'u> {
    pub(super) fn new(user: &'u User, latch: &'u Latch, frame: u32) -> Right<'u> {
        Right { user, latch, frame, of_one_thread: PhantomData }
    }

    fn moves(&self, from: Word, to: Word) -> bool {
        // Pairs with the Acquires in `takes`, `repair` and `enters`: what we wrote.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        self.latch.word.compare_exchange(from.to_bits(), to.to_bits(), ok, err).is_ok()
    }

    /// Nothing where it is not ours, or somebody scribbles.
    fn give_back(&self, from: Word, to: Word) {
        if self.user.is_ours() {
            self.moves(from, to);
            self.latch.freed.notify();
        }
    }
}

impl fmt::Debug for Right<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Right { latch, frame, .. } = self;
        f.debug_struct("Right").field("frame", frame).field("latch", latch).finish_non_exhaustive()
    }
}
