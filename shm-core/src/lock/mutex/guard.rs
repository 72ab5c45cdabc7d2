//! The right to what a mutex guards, and giving it up.
use super::Mutex;
use super::shared::{State, Word};
use crate::lock::model_unwinds;
use crate::participants::{Member, ParticipantId};
use std::fmt;
use std::marker::PhantomData;

/// A [`Mutex`] that the calling thread holds. Giving it back costs no system call unless somebody
/// sleeps.
///
/// Where the thread panics meanwhile, what the mutex guards may be half changed: the next taker is
/// told ([`LockError::Abandoned`](super::LockError::Abandoned)).
///
/// ```compile_fail,E0277
/// fn is_send<T: Send>() {}
/// // Given back by the thread that took it: its word names it.
/// is_send::<shm_core::lock::mutex::MutexGuard<'_>>();
/// ```
#[must_use = "it is given back when dropped"]
pub struct MutexGuard<'a> {
    pub(in crate::lock) lock: &'a Mutex,
    pub(in crate::lock) me: &'a Member,
    /// What the lock's word says for as long as this lives, but for the bit WAITERS.
    mine: Word,
    /// Whether the thread was unwinding already when it took it.
    panicked: bool,
    _of_one_thread: PhantomData<*const ()>,
}

impl<'a> MutexGuard<'a> {
    #[inline]
    pub(super) fn new(lock: &'a Mutex, me: &'a Member, mine: Word) -> MutexGuard<'a> {
        let panicked = std::thread::panicking();
        MutexGuard { lock, me, mine, panicked, _of_one_thread: PhantomData }
    }

    /// What is to stand in the word after this.
    #[inline]
    fn next(&self) -> Word {
        match self.mine.state() {
            Some(State::Broken(..)) => Word::new(State::Poisoned(self.me.id())),
            _ if std::thread::panicking() && !self.panicked => Word::new(State::Left(self.me.id())),
            _ => Word::FREE,
        }
    }
}

impl Drop for MutexGuard<'_> {
    /// # If a process dies here
    /// It held the mutex, or had given it up; who sleeps for it wakes by the death.
    #[inline]
    fn drop(&mut self) {
        if !model_unwinds() && self.me.check_fork().is_ok() {
            self.lock.give_up(self.mine, self.next());
        }
    }
}

impl fmt::Debug for MutexGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MutexGuard").field("me", &self.me.id()).finish_non_exhaustive()
    }
}

/// The right to what a mutex guards, taken over from one who died, or panicked, holding it: what it
/// guards may be half changed.
///
/// [`recover`](Abandoned::recover) makes it an ordinary guard. Dropped, the mutex is poisoned for
/// all.
#[derive(Debug)]
#[must_use = "dropped, the mutex is poisoned for all"]
pub struct Abandoned<'a> {
    guard: MutexGuard<'a>,
    by: ParticipantId,
}

impl<'a> Abandoned<'a> {
    pub(super) fn new(guard: MutexGuard<'a>, by: ParticipantId) -> Abandoned<'a> {
        Abandoned { guard, by }
    }

    /// Who held it.
    pub fn by(&self) -> ParticipantId {
        self.by
    }

    /// Says that what the mutex guards is whole again.
    ///
    /// # If a process dies here
    /// The next taker is told, and looks itself.
    pub fn recover(self) -> MutexGuard<'a> {
        let mut guard = self.guard;
        let (me, broken) = (guard.me.id(), guard.mine);
        if let Some(State::Broken(_, thread)) = broken.state() {
            guard.mine = Word::new(State::Held(me, thread));
            guard.lock.change(broken, guard.mine);
        }
        guard
    }
}
