//! A condition variable: who holds a [`Mutex`](super::mutex::Mutex) waits until what it guards has
//! changed.
//!
//! ```text
//! waiter:   lock; while not so { wait }; …; give up      notifier: lock; change; give up; notify
//! ```
//!
//! A waiter announces itself while it still has the mutex, and then gives it up. So whoever changes
//! the condition afterwards, under the mutex, and then notifies, finds it announced; and whoever
//! changed it before has been seen.
//!
//! # Deaths
//!
//! There is no list of waiters, which a death could leave broken, and no notification is meant for
//! one waiter alone: all are woken, each looks for itself, and may find that another one was first.
//! So a waiter that dies, or times out, takes nobody's notification along. The price is that
//! [`notify_one`](Condvar::notify_one) wakes as many as [`notify_all`](Condvar::notify_all); that
//! it may wake more than one is part of its promise, for peers that have another version.
//!
//! A notifier that dies after its change and before it has notified is as one that has not come
//! that far: who waits *for somebody* names him as a peer, and wakes by his death ([`Woke::Died`]).
//! One that dies with the mutex leaves it abandoned, and the next to take it is told, be it a
//! waiter that takes it again ([`LockError::Abandoned`]).
mod shared;

use super::is_past;
use super::mutex::{LockError, MutexGuard};
use crate::mapping::{Mapped, Mapping};
use crate::participants::{Outcome, ParticipantId, Watch, wait};
use relptr::BadPtr;
use shared::Shared;
use std::sync::Arc;
use std::time::Instant;

/// Why a condition variable could not be made or attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CondvarError {
    /// The memory does not hold a condition variable here.
    #[error("no condition variable here: {0}")]
    BadPlace(#[from] BadPtr),
    /// The words in shared memory are not those of a condition variable of this version.
    #[error("the memory at this offset holds no condition variable of this version")]
    NotACondvar,
}

/// Why a wait ended. In any case: look at the condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woke {
    /// Somebody notified, or it was for no reason.
    Notified,
    /// One of the peers is dead, or has left.
    Died {
        /// Which.
        by: ParticipantId,
    },
    /// The deadline passed.
    TimedOut,
}

/// A condition variable in shared memory. See the [module](self).
///
/// ```
/// use shm_core::lock::condvar::{Condvar, Woke};
/// use shm_core::lock::mutex::Mutex;
/// use shm_core::mapping::Mapping;
/// use shm_core::participants::Table;
/// use std::time::Instant;
///
/// let mapping = Mapping::heap(4096); // a shared mapping in real life
/// // SAFETY: nobody else has the mapping.
/// let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
/// // SAFETY: as above, and the table ends before.
/// let mutex = unsafe { Mutex::create(&mapping, 1024) }.unwrap();
/// // SAFETY: as above, and the mutex ends before.
/// let changed = unsafe { Condvar::create(&mapping, 1024 + Mutex::BYTES) }.unwrap();
/// let me = table.join().unwrap();
/// let guard = mutex.lock(&me).unwrap();
/// let (guard, woke) = changed.wait_until(guard, &[], Instant::now()).unwrap();
/// assert_eq!(woke, Woke::TimedOut);
/// drop(guard);
/// changed.notify_one();
/// ```
#[derive(Debug, Clone)]
pub struct Condvar {
    shared: Mapped<Shared>,
}

impl Condvar {
    /// Bytes of a condition variable.
    pub const BYTES: u64 = size_of::<Shared>() as u64;

    /// Of the layout, to be [combined](crate::layout::combine) with those of what lies around it.
    #[cfg(not(shm_loom))]
    pub const FINGERPRINT: u64 = shared::FINGERPRINT;

    /// Makes a condition variable at `offset`, a multiple of 64.
    ///
    /// # Errors
    /// [`CondvarError::BadPlace`].
    ///
    /// # Safety
    /// Nobody else accesses [`BYTES`](Condvar::BYTES) bytes at `offset` until the caller publishes
    /// the place.
    ///
    /// # If a process dies here
    /// The place was not published; whoever owns the memory makes it again.
    pub unsafe fn create(mapping: &Arc<Mapping>, offset: u64) -> Result<Condvar, CondvarError> {
        // SAFETY: the caller's promise.
        let shared = unsafe { Mapped::place(mapping, offset, Shared::new()) }?;
        Ok(Condvar { shared })
    }

    /// Attaches to the condition variable at `offset`.
    ///
    /// # Errors
    /// [`CondvarError`].
    pub fn attach(mapping: &Arc<Mapping>, offset: u64) -> Result<Condvar, CondvarError> {
        let shared = Mapped::<Shared>::new(mapping, offset)?;
        if shared.is_condvar() { Ok(Condvar { shared }) } else { Err(CondvarError::NotACondvar) }
    }

    /// Gives the mutex up, waits until somebody notifies or one of `peers` ends, and takes it
    /// again, however long that takes. Returns for no reason, too: look at the condition, and wait
    /// again.
    ///
    /// # Errors
    /// Those of [`Mutex::lock`](super::mutex::Mutex::lock), of taking it again. With
    /// [`LockError::Abandoned`] the caller has it.
    ///
    /// # If a process dies here
    /// It had the mutex, or not; of a notification nothing is lost.
    pub fn wait<'a>(
        &self,
        guard: MutexGuard<'a>,
        peers: &[&Watch],
    ) -> Result<(MutexGuard<'a>, Woke), LockError<'a>> {
        let (lock, me) = (guard.lock, guard.me);
        let woke = self.sleep(guard, peers, None)?;
        Ok((lock.lock(me)?, woke))
    }

    /// As [`wait`](Condvar::wait), until `deadline`, which holds for taking the mutex again, too.
    ///
    /// # Errors
    /// Those of [`Mutex::lock_until`](super::mutex::Mutex::lock_until), of taking it again: with
    /// [`LockError::TimedOut`] the deadline passed and somebody else has the mutex, so that the
    /// caller has not. With [`LockError::Abandoned`] the caller has it.
    ///
    /// # If a process dies here
    /// As in [`wait`](Condvar::wait).
    pub fn wait_until<'a>(
        &self,
        guard: MutexGuard<'a>,
        peers: &[&Watch],
        deadline: Instant,
    ) -> Result<(MutexGuard<'a>, Woke), LockError<'a>> {
        let (lock, me) = (guard.lock, guard.me);
        let woke = self.sleep(guard, peers, Some(deadline))?;
        Ok((lock.lock_until(me, deadline)?, woke))
    }

    /// Wakes at least one of those who wait. No system call where nobody does.
    ///
    /// # If a process dies here
    /// All who wait are woken, or nobody, and then the next one to notify wakes them.
    #[inline]
    pub fn notify_one(&self) {
        self.shared.changed.notify();
    }

    /// Wakes all who wait. No system call where nobody does.
    ///
    /// # If a process dies here
    /// As in [`notify_one`](Condvar::notify_one).
    #[inline]
    pub fn notify_all(&self) {
        self.shared.changed.notify();
    }

    /// Gives the mutex up and sleeps.
    fn sleep<'a>(
        &self,
        guard: MutexGuard<'a>,
        peers: &[&Watch],
        deadline: Option<Instant>,
    ) -> Result<Woke, LockError<'a>> {
        // A child's guard gives nothing up.
        guard.me.check_fork()?;
        // While we have the mutex: who changes the condition later finds us announced.
        let ticket = self.shared.changed.prepare();
        drop(guard);
        let outcome = wait(&self.shared.changed, ticket, peers, deadline);
        Ok(match peers.iter().find(|peer| peer.is_dead()) {
            Some(dead) => Woke::Died { by: dead.peer() },
            None if outcome == Outcome::TimedOut || is_past(deadline) => Woke::TimedOut,
            None => Woke::Notified,
        })
    }
}
