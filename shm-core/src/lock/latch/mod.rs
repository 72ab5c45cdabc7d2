//! A latch: "there is something to do", said by anyone, and slept for until it is said.
//!
//! PostgreSQL's interface: [`set`](Latch::set), [`reset`](Latch::reset), [`wait`](Latch::wait). But
//! a process may have as many as it likes, there is no signal, and who waits also wakes when one of
//! the peers it names dies.
//!
//! ```text
//! waiter: loop { wait; reset; do what there is to do }      anyone: leave something to do; set
//! ```
//!
//! The waiter resets *before* it looks for what there is to do. Then nothing is missed: what was
//! left before a [`set`](Latch::set) that the reset took away is seen by the look that follows, and
//! a later one leaves the latch set.
//!
//! # Deaths
//!
//! A latch has no owner and no state that could be half changed. One that dies before it has set,
//! said nothing. One that dies between setting and waking leaves a latch that is set; a sleeper
//! that named it as a peer wakes by its death, and the next one to set wakes it in any case. One
//! that is stopped there for ever does not die: so a sleeper looks for itself once a second. One
//! that dies asleep costs the next one to set a system call in vain.
mod shared;

use super::{is_over, is_past, slice_of};
use crate::mapping::{Mapped, Mapping};
use crate::participants::{Member, Outcome, ParticipantId, Watch, wait};
use crate::process::Forked;
use crate::sync::Ordering;
use relptr::BadPtr;
use shared::Shared;
use std::sync::Arc;
use std::time::Instant;

/// Why a latch could not be made or attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LatchError {
    /// The memory does not hold a latch here.
    #[error("no latch here: {0}")]
    BadPlace(#[from] BadPtr),
    /// The words in shared memory are not those of a latch of this version.
    #[error("the memory at this offset holds no latch of this version")]
    NotALatch,
}

/// Why [`Latch::wait`] returned although the latch is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// A peer is dead, or has left.
    #[error("participant {by} ended, and the latch is not set")]
    Died {
        /// Which.
        by: ParticipantId,
    },
    /// The deadline passed.
    #[error("the latch was not set before the deadline")]
    TimedOut,
    /// The seat is the parent's.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// A latch in shared memory. See the [module](self).
///
/// ```
/// use shm_core::lock::latch::{Latch, WaitError};
/// use shm_core::mapping::Mapping;
/// use shm_core::participants::Table;
/// use std::time::Instant;
///
/// let mapping = Mapping::heap(4096); // a shared mapping in real life
/// // SAFETY: nobody else has the mapping.
/// let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
/// // SAFETY: as above, and the table ends before.
/// let latch = unsafe { Latch::create(&mapping, 1024) }.unwrap();
/// let me = table.join().unwrap();
/// assert_eq!(latch.wait(&me, &[], Some(Instant::now())), Err(WaitError::TimedOut));
/// let setter = std::thread::spawn({
///     let latch = latch.clone();
///     move || latch.set()
/// });
/// assert_eq!(latch.wait(&me, &[], None), Ok(()));
/// assert!(latch.reset(), "it was set");
/// setter.join().unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Latch {
    shared: Mapped<Shared>,
}

impl Latch {
    /// Bytes of a latch.
    pub const BYTES: u64 = size_of::<Shared>() as u64;

    /// Of the layout, to be [combined](crate::layout::combine) with those of what lies around it.
    #[cfg(not(shm_loom))]
    pub const FINGERPRINT: u64 = shared::FINGERPRINT;

    /// Makes a latch at `offset`, a multiple of 64, that is not set.
    ///
    /// # Errors
    /// [`LatchError::BadPlace`].
    ///
    /// # Safety
    /// Nobody else accesses [`BYTES`](Latch::BYTES) bytes at `offset` until the caller publishes
    /// the place.
    ///
    /// # If a process dies here
    /// The place was not published; whoever owns the memory makes the latch again.
    pub unsafe fn create(mapping: &Arc<Mapping>, offset: u64) -> Result<Latch, LatchError> {
        // SAFETY: the caller's promise.
        let shared = unsafe { Mapped::place(mapping, offset, Shared::new()) }?;
        Ok(Latch { shared })
    }

    /// Attaches to the latch at `offset`.
    ///
    /// # Errors
    /// [`LatchError`].
    pub fn attach(mapping: &Arc<Mapping>, offset: u64) -> Result<Latch, LatchError> {
        let shared = Mapped::<Shared>::new(mapping, offset)?;
        if shared.is_latch() { Ok(Latch { shared }) } else { Err(LatchError::NotALatch) }
    }

    /// Sets it, and wakes all who wait. No system call where nobody sleeps.
    ///
    /// Who sees it set sees what the caller wrote before. Anyone may set it, with a seat or
    /// without.
    ///
    /// # If a process dies here
    /// It is set or not. Set, and nobody woken: who named this process as a peer wakes by its
    /// death, the others by the next one to set it.
    #[inline]
    pub fn set(&self) {
        // Pairs with the Acquires in `is_set` and `reset`. A swap though it is set already: so it
        // goes on with what the one before released.
        self.shared.set.swap(1, Ordering::Release);
        self.shared.changed.notify();
    }

    /// Takes the setting away, and says whether there was one. Look for what there is to do *after*
    /// this.
    ///
    /// # If a process dies here
    /// It is set or not: of what there is to do nothing is lost.
    #[inline]
    pub fn reset(&self) -> bool {
        // Pairs with the Release in `set`.
        self.shared.set.swap(0, Ordering::Acquire) != 0
    }

    /// Whether it is set now.
    #[inline]
    pub fn is_set(&self) -> bool {
        // Pairs with the Release in `set`.
        self.shared.set.load(Ordering::Acquire) != 0
    }

    /// Waits until it is set. It stays set: [`reset`](Latch::reset) comes next.
    ///
    /// # Errors
    /// [`WaitError`]: one of `peers` ended, the deadline passed, or the seat is the parent's. A
    /// latch that a peer set before it ended is set.
    ///
    /// # If a process dies here
    /// It leaves a sign that says "somebody sleeps": a wake-up in vain.
    pub fn wait(
        &self,
        me: &Member,
        peers: &[&Watch],
        deadline: Option<Instant>,
    ) -> Result<(), WaitError> {
        me.check_fork()?;
        let unless_set = |error| if self.is_set() { Ok(()) } else { Err(error) };
        loop {
            let ticket = self.shared.changed.prepare();
            if self.is_set() {
                return Ok(());
            }
            if let Some(dead) = peers.iter().find(|peer| peer.is_dead()) {
                return unless_set(WaitError::Died { by: dead.peer() });
            }
            let outcome = wait(&self.shared.changed, ticket, peers, slice_of(deadline));
            let timed_out = outcome == Outcome::TimedOut && is_over(deadline);
            if timed_out || is_past(deadline) {
                return unless_set(WaitError::TimedOut);
            }
        }
    }
}
