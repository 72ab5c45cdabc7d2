//! What was taken, and giving it back.
use super::shared::{Row, Word};
use super::{RwLock, model_unwinds};
use crate::participants::{Member, ParticipantId};
use crate::sync::Ordering;

/// A share of a [`RwLock`]. Giving it back costs no system call unless a writer sleeps.
///
/// ```compile_fail,E0277
/// fn is_send<T: Send>() {}
/// // Given back by the thread that took it, as everywhere.
/// is_send::<shm_core::lock::rwlock::ReadGuard<'_>>();
/// ```
#[derive(Debug)]
#[must_use = "it is given back when dropped"]
pub struct ReadGuard<'a> {
    lock: &'a RwLock,
    row: &'a Row,
    me: &'a Member,
    _of_one_thread: std::marker::PhantomData<*const ()>,
}

/// The exclusive right of a [`RwLock`].
///
/// ```compile_fail,E0277
/// fn is_send<T: Send>() {}
/// is_send::<shm_core::lock::rwlock::WriteGuard<'_>>();
/// ```
#[derive(Debug)]
#[must_use = "it is given back when dropped"]
pub struct WriteGuard<'a> {
    right: Right<'a>,
    /// Whether the thread was unwinding already when it took it.
    panicked: bool,
}

/// The exclusive right of an abandoned [`RwLock`], for who repairs what it guards.
///
/// [`done`](Recovery::done) makes it an ordinary lock again. Dropped, it is abandoned as before.
#[derive(Debug)]
#[must_use = "dropped, the lock is abandoned as before"]
pub struct Recovery<'a> {
    right: Right<'a>,
    by: ParticipantId,
    done: bool,
}

/// The name in the lock's word.
#[derive(Debug, Clone, Copy)]
struct Right<'a> {
    lock: &'a RwLock,
    me: &'a Member,
    _of_one_thread: std::marker::PhantomData<*const ()>,
}

impl<'a> ReadGuard<'a> {
    #[inline]
    pub(super) fn new(lock: &'a RwLock, row: &'a Row, me: &'a Member) -> ReadGuard<'a> {
        ReadGuard { lock, row, me, _of_one_thread: std::marker::PhantomData }
    }
}

impl Drop for ReadGuard<'_> {
    /// # If a process dies here
    /// Its row names it, or not; a writer that sleeps for it wakes by its death.
    #[inline]
    fn drop(&mut self) {
        if !model_unwinds() && self.me.check_fork().is_ok() {
            self.lock.leave(self.row, self.me.id());
        }
    }
}

impl<'a> WriteGuard<'a> {
    pub(super) fn new(lock: &'a RwLock, me: &'a Member) -> WriteGuard<'a> {
        WriteGuard { right: Right::new(lock, me), panicked: std::thread::panicking() }
    }
}

impl Drop for WriteGuard<'_> {
    /// # If a process dies here
    /// It is free, or abandoned; who waits for it wakes by the death.
    fn drop(&mut self) {
        let broken = std::thread::panicking() && !self.panicked;
        self.right.give_back(if broken { Word::abandoned(self.right.me.id()) } else { Word::FREE });
    }
}

impl<'a> Recovery<'a> {
    pub(super) fn new(lock: &'a RwLock, me: &'a Member, by: ParticipantId) -> Recovery<'a> {
        Recovery { right: Right::new(lock, me), by, done: false }
    }

    /// Who abandoned it.
    pub fn by(&self) -> ParticipantId {
        self.by
    }

    /// What the lock guards is whole again.
    pub fn done(mut self) -> WriteGuard<'a> {
        self.done = true;
        WriteGuard { right: self.right, panicked: std::thread::panicking() }
    }
}

impl Drop for Recovery<'_> {
    /// # If a process dies here
    /// It is abandoned, by the one named before or by the one who recovered.
    fn drop(&mut self) {
        if !self.done {
            self.right.give_back(Word::abandoned(self.by));
        }
    }
}

impl<'a> Right<'a> {
    fn new(lock: &'a RwLock, me: &'a Member) -> Right<'a> {
        Right { lock, me, _of_one_thread: std::marker::PhantomData }
    }

    fn give_back(&self, next: Word) {
        if model_unwinds() || self.me.check_fork().is_err() {
            return;
        }
        let held = Word::held(self.me.id()).bits();
        // Pairs with the Acquire of the next one, in `enters` and in `recover`, and with its fence
        // in `drain`: what we wrote.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        // It fails where somebody scribbles.
        let _ = self.lock.head.writer.compare_exchange(held, next.bits(), ok, err);
        self.lock.head.freed.notify();
    }
}
