//! A mutex between processes whose holder may die: the next taker is told so, and never that all is
//! well.
//!
//! ```text
//! word  [ participant | thread | free, held, broken, left, poisoned | WAITERS ]
//! freed [ event count: who waits for the word sleeps here                     ]
//! ```
//!
//! Uncontended, taking it and giving it up are a compare-and-swap each, and no system call.
//!
//! # The word
//!
//! | from | to | by whom | a death leaves |
//! | --- | --- | --- | --- |
//! | free | held(me) | anyone | held(dead) |
//! | held(me) | free | the holder | free; sleepers wake by the death |
//! | held(me) | left(me) | the holder, panicking | left(dead) |
//! | held(dead), broken(dead), left(by) | broken(me) | anyone, with a proof of the death | broken(dead): the next one is told that this one died |
//! | held(dead), broken(dead) | left(dead) | who cleans up | the same |
//! | broken(me) | held(me) | the holder: it has repaired | held(dead) or broken(dead) |
//! | broken(me) | poisoned(me) | the holder: it gave up without having repaired | poisoned |
//! | poisoned(by) | broken(me) | anyone, by [`recover`](Mutex::recover) alone | broken(dead) |
//!
//! The thread stands in it so that one that holds the mutex, and asks for it again, is told so
//! ([`LockError::Deadlock`]); the other threads of its process wait as everybody does.
//!
//! # Waiting
//!
//! | sleeper | who gives up |
//! | --- | --- |
//! | (A) announces itself at `freed` | (C) changes the word |
//! | fence | fence |
//! | (B) the word still says so, and has WAITERS | (D) looks at `freed` |
//!
//! Who gives up a word without WAITERS looks no further. One with WAITERS it gives up *with* it,
//! and then wakes all: so where it is stopped between the two, the next holder finds WAITERS and
//! pays its debt. Only a holder takes the bit away: it takes it, then looks at `freed` (a fence
//! between the two, as above), and if there is neither a sleeper nor a wake-up under way, gives up
//! the word that it has just made, by a compare-and-swap that fails where a sleeper has set the bit
//! again. So nobody takes away the bit of a sleeper that was not woken.
//!
//! All sleepers are woken, and the first to come has it: newcomers may pass (as with PostgreSQL's
//! lightweight locks). A sleeper that dies, or that has just timed out, takes no wake-up away from
//! others.
//!
//! Each sleeper sleeps on the life word of the holder it saw, too, so that the holder's death wakes
//! it. What is left: a holder that is *stopped* between giving up and waking, and the next one
//! *killed* before it pays that debt, or none that comes. Therefore a sleeper looks for itself once
//! a second.
//!
//! A guard that is forgotten (`mem::forget`) keeps the mutex until its member has left.
mod guard;
mod shared;

pub use guard::{Abandoned, MutexGuard};

use super::{ROUNDS_MAX, is_over, is_past, slice_of};
use crate::backoff::Backoff;
use crate::mapping::{Mapped, Mapping};
use crate::participants::{Member, Outcome, ParticipantId, wait};
use crate::process::{self, Forked, Liveness};
use crate::sync::Ordering;
use relptr::BadPtr;
use shared::{Shared, State, Word};
use std::sync::Arc;
use std::time::Instant;

/// Why a mutex could not be made or attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MutexError {
    /// The memory does not hold a mutex here.
    #[error("no mutex here: {0}")]
    BadPlace(#[from] BadPtr),
    /// The words in shared memory are not those of a mutex of this version.
    #[error("the memory at this offset holds no mutex of this version")]
    NotAMutex,
}

/// Why the caller does not simply hold the mutex.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError<'a> {
    /// It does hold it, but who held it before died, or panicked: look, repair, and say so.
    #[error(
        "participant {} held the mutex when it ended; repair what it guards, then recover it",
        .0.by()
    )]
    Abandoned(Abandoned<'a>),
    /// Somebody was told of such an end, and gave the mutex up without having repaired.
    #[error(
        "participant {by} gave up the mutex without having repaired what it guards: \
         Mutex::recover"
    )]
    Poisoned {
        /// Who gave it up.
        by: ParticipantId,
    },
    /// The deadline passed.
    #[error("the mutex was not free before the deadline")]
    TimedOut,
    /// The calling thread holds it already.
    #[error("the calling thread holds this mutex already, and would wait for itself")]
    Deadlock,
    /// The word is nonsense.
    #[error("the word of the mutex was overwritten")]
    Corrupt,
    /// The seat is the parent's.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// A mutex in shared memory. See the [module](self).
///
/// ```
/// use shm_core::lock::mutex::{LockError, Mutex};
/// use shm_core::mapping::Mapping;
/// use shm_core::participants::Table;
///
/// let mapping = Mapping::heap(4096); // a shared mapping in real life
/// // SAFETY: nobody else has the mapping.
/// let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
/// // SAFETY: as above, and the table ends before.
/// let mutex = unsafe { Mutex::create(&mapping, 1024) }.unwrap();
/// let me = table.join().unwrap();
/// {
///     let _guard = mutex.lock(&me).unwrap();
///     assert!(mutex.try_lock(&me).unwrap().is_none(), "it is held");
///     assert!(matches!(mutex.lock(&me), Err(LockError::Deadlock)), "by this thread");
/// }
/// let peer = table.join().unwrap();
/// std::mem::forget(mutex.lock(&peer).unwrap());
/// drop(peer); // it is gone, and has not given it up
/// match mutex.lock(&me) {
///     Err(LockError::Abandoned(abandoned)) => drop(abandoned.recover()), // having repaired
///     other => panic!("{other:?}"),
/// };
/// ```
#[derive(Debug, Clone)]
pub struct Mutex {
    shared: Mapped<Shared>,
}

/// What an attempt comes to.
enum Attempt {
    /// The caller's, by this word; taken from this one, who did not give it up.
    Taken(Word, Option<ParticipantId>),
    /// This word says that this one has it.
    Busy(Word, ParticipantId, u32),
}

impl Mutex {
    /// Bytes of a mutex.
    pub const BYTES: u64 = size_of::<Shared>() as u64;

    /// Of the layout, to be [combined](crate::layout::combine) with those of what lies around it.
    #[cfg(not(shm_loom))]
    pub const FINGERPRINT: u64 = shared::FINGERPRINT;

    /// Makes a free mutex at `offset`, a multiple of 64.
    ///
    /// # Errors
    /// [`MutexError::BadPlace`].
    ///
    /// # Safety
    /// Nobody else accesses [`BYTES`](Mutex::BYTES) bytes at `offset` until the caller publishes
    /// the place.
    ///
    /// # If a process dies here
    /// The place was not published; whoever owns the memory makes the mutex again.
    pub unsafe fn create(mapping: &Arc<Mapping>, offset: u64) -> Result<Mutex, MutexError> {
        // SAFETY: the caller's promise.
        let shared = unsafe { Mapped::place(mapping, offset, Shared::new()) }?;
        Ok(Mutex { shared })
    }

    /// Attaches to the mutex at `offset`.
    ///
    /// # Errors
    /// [`MutexError`].
    pub fn attach(mapping: &Arc<Mapping>, offset: u64) -> Result<Mutex, MutexError> {
        let shared = Mapped::<Shared>::new(mapping, offset)?;
        if shared.is_mutex() { Ok(Mutex { shared }) } else { Err(MutexError::NotAMutex) }
    }

    /// Takes it, and waits for as long as somebody else has it.
    ///
    /// # Errors
    /// [`LockError`]. With [`LockError::Abandoned`] the caller has it.
    ///
    /// # If a process dies here
    /// It has it or not, by one word. If it has, the next taker is told.
    #[inline]
    pub fn lock<'a>(&'a self, me: &'a Member) -> Result<MutexGuard<'a>, LockError<'a>> {
        let mine = self.name(me)?;
        if self.take(Word::FREE, mine) {
            return Ok(MutexGuard::new(self, me, mine));
        }
        self.lock_slowly(me, mine, false, None)
    }

    /// As [`lock`](Mutex::lock), until `deadline`.
    ///
    /// # Errors
    /// [`LockError`]. With [`LockError::Abandoned`] the caller has it.
    ///
    /// # If a process dies here
    /// As in [`lock`](Mutex::lock).
    pub fn lock_until<'a>(
        &'a self,
        me: &'a Member,
        deadline: Instant,
    ) -> Result<MutexGuard<'a>, LockError<'a>> {
        let mine = self.name(me)?;
        if self.take(Word::FREE, mine) {
            return Ok(MutexGuard::new(self, me, mine));
        }
        self.lock_slowly(me, mine, false, Some(deadline))
    }

    /// Takes it if nobody has it: `None` where somebody does, be it the caller.
    ///
    /// Asks the kernel about a holder, so that a dead one is not taken for a slow one: a few system
    /// calls where it is held.
    ///
    /// # Errors
    /// [`LockError`]. With [`LockError::Abandoned`] the caller has it.
    ///
    /// # If a process dies here
    /// As in [`lock`](Mutex::lock).
    pub fn try_lock<'a>(&'a self, me: &'a Member) -> Result<Option<MutexGuard<'a>>, LockError<'a>> {
        let mine = self.name(me)?;
        for _ in 0..ROUNDS_MAX {
            let (word, owner) = match self.attempt(me, mine, false)? {
                Attempt::Taken(mine, by) => return self.taken(me, mine, by).map(Some),
                Attempt::Busy(word, owner, _) => (word, owner),
            };
            if owner == me.id() || me.table().liveness(owner) != Liveness::Dead {
                return Ok(None);
            }
            if let Some(Attempt::Taken(mine, by)) = self.take_over(me, word, owner, mine) {
                return self.taken(me, mine, by).map(Some);
            }
        }
        Err(LockError::Corrupt)
    }

    /// As [`lock`](Mutex::lock), and takes a poisoned mutex too, as one that is abandoned.
    ///
    /// # Errors
    /// [`LockError`], but not [`LockError::Poisoned`]. With [`LockError::Abandoned`] the caller has
    /// it.
    ///
    /// # If a process dies here
    /// As in [`lock`](Mutex::lock).
    pub fn recover<'a>(&'a self, me: &'a Member) -> Result<MutexGuard<'a>, LockError<'a>> {
        let mine = self.name(me)?;
        self.lock_slowly(me, mine, true, None)
    }

    /// Gives up what `gone` held, in its name: the next taker is told.
    ///
    /// For who cleans up after the dead ([`Table::reap`](crate::participants::Table::reap)), or
    /// after itself ([`Member::on_leave`]): a participant that will never act again. Without it the
    /// next taker does the same; who sleeps is woken once more.
    ///
    /// # If a process dies here
    /// The next one to clean up, or to take it, does the rest.
    pub fn clean_up(&self, gone: ParticipantId) {
        for _ in 0..ROUNDS_MAX {
            let word = self.word();
            let Some(State::Held(owner, _) | State::Broken(owner, _)) = word.state() else { break };
            let left = word.followed_by(Word::new(State::Left(owner)));
            if owner != gone || self.pass(word, left) {
                break;
            }
        }
        self.shared.freed.notify();
    }

    /// The word of one who holds it in this thread.
    #[inline]
    fn name<'a>(&self, me: &Member) -> Result<Word, LockError<'a>> {
        me.check_fork()?;
        Ok(Word::new(State::Held(me.id(), process::thread())))
    }

    fn word(&self) -> Word {
        Word::from_bits(self.shared.word.load(Ordering::Relaxed))
    }

    /// Takes what is free, or was given up. Only in `recover` what is poisoned.
    fn attempt<'a>(&self, me: &Member, mine: Word, heals: bool) -> Result<Attempt, LockError<'a>> {
        for _ in 0..ROUNDS_MAX {
            let word = self.word();
            match word.state().ok_or(LockError::Corrupt)? {
                State::Free => {
                    if self.take(word, word.followed_by(mine)) {
                        return Ok(Attempt::Taken(mine, None));
                    }
                }
                State::Held(owner, thread) | State::Broken(owner, thread) => {
                    return Ok(Attempt::Busy(word, owner, thread));
                }
                State::Poisoned(by) if !heals => return Err(LockError::Poisoned { by }),
                State::Left(by) | State::Poisoned(by) => {
                    let broken = broken(me, mine);
                    if self.take(word, word.followed_by(broken)) {
                        return Ok(Attempt::Taken(broken, Some(by)));
                    }
                }
            }
        }
        Err(LockError::Corrupt)
    }

    #[cold]
    fn lock_slowly<'a>(
        &'a self,
        me: &'a Member,
        mine: Word,
        heals: bool,
        deadline: Option<Instant>,
    ) -> Result<MutexGuard<'a>, LockError<'a>> {
        let mut backoff = Backoff::new();
        loop {
            let (word, owner, thread) = match self.attempt(me, mine, heals)? {
                Attempt::Taken(mine, by) => return self.taken(me, mine, by),
                Attempt::Busy(word, owner, thread) => (word, owner, thread),
            };
            if owner == me.id() && thread == process::thread() {
                return Err(LockError::Deadlock);
            }
            // In a model a spin is a step like any other.
            if !cfg!(any(shm_loom, shm_explore)) && backoff.snooze() {
                continue;
            }
            if let Some(Attempt::Taken(mine, by)) = self.sleep(me, word, owner, mine, deadline)? {
                return self.taken(me, mine, by);
            }
            if is_past(deadline) {
                return Err(LockError::TimedOut);
            }
        }
    }

    /// Sleeps until `word` may have changed. Where `owner` is dead, takes what it held.
    fn sleep<'a>(
        &self,
        me: &Member,
        word: Word,
        owner: ParticipantId,
        mine: Word,
        deadline: Option<Instant>,
    ) -> Result<Option<Attempt>, LockError<'a>> {
        let ticket = self.shared.freed.prepare();
        let signed = word.with_waiters();
        let is_signed =
            if word.has_waiters() { self.word() == word } else { self.swap(word, signed) };
        if !is_signed {
            return Ok(None);
        }
        let watch = me.watch(owner);
        if !watch.is_dead() {
            let outcome = wait(&self.shared.freed, ticket, &[&watch], slice_of(deadline));
            if !watch.is_dead() {
                let timed_out = outcome == Outcome::TimedOut && is_over(deadline);
                return if timed_out { Err(LockError::TimedOut) } else { Ok(None) };
            }
        }
        Ok(self.take_over(me, signed, owner, mine))
    }

    /// Takes what `owner`, who is dead, holds by `word`.
    fn take_over(
        &self,
        me: &Member,
        word: Word,
        owner: ParticipantId,
        mine: Word,
    ) -> Option<Attempt> {
        let broken = broken(me, mine);
        // What the dead one did last we see by the proof of its death.
        let taken = self.swap(word, word.followed_by(broken));
        taken.then_some(Attempt::Taken(broken, Some(owner)))
    }

    fn taken<'a>(
        &'a self,
        me: &'a Member,
        mine: Word,
        by: Option<ParticipantId>,
    ) -> Result<MutexGuard<'a>, LockError<'a>> {
        let guard = MutexGuard::new(self, me, mine);
        match by {
            None => Ok(guard),
            Some(by) => Err(LockError::Abandoned(Abandoned::new(guard, by))),
        }
    }

    /// From `mine` on to `next`, which others may take.
    #[inline]
    fn give_up(&self, mine: Word, next: Word) {
        if !self.pass(mine, next) {
            self.give_up_slowly(mine, next);
        }
    }

    #[cold]
    fn give_up_slowly(&self, mine: Word, next: Word) {
        let freed = &self.shared.freed;
        // Among honest processes only the bit has been set. Where it fails somebody scribbles.
        let is_mine = self.swap(mine.with_waiters(), mine);
        if is_mine && !freed.has_sleepers() && self.pass(mine, next) {
            return;
        }
        // Somebody sleeps, or is about to.
        let next = next.with_waiters();
        let _ = self.pass(mine, next) || self.pass(mine.with_waiters(), next);
        freed.notify();
    }

    /// From one word of the caller's to another, whether or not somebody waits.
    fn change(&self, from: Word, to: Word) {
        let _ = self.swap(from, to) || self.swap(from.with_waiters(), to.with_waiters());
    }

    #[inline]
    fn take(&self, from: Word, to: Word) -> bool {
        // Pairs with the Release in `pass`: what was guarded, as the last holder left it.
        let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
        self.shared.word.compare_exchange(from.bits(), to.bits(), ok, err).is_ok()
    }

    #[inline]
    fn pass(&self, from: Word, to: Word) -> bool {
        // Pairs with the Acquire in `take`.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        self.shared.word.compare_exchange(from.bits(), to.bits(), ok, err).is_ok()
    }

    /// Neither gives up nor takes what somebody gave up.
    fn swap(&self, from: Word, to: Word) -> bool {
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        self.shared.word.compare_exchange(from.bits(), to.bits(), ok, err).is_ok()
    }
}

/// The word of one who holds it after somebody who did not give it up.
fn broken(me: &Member, mine: Word) -> Word {
    match mine.state() {
        Some(State::Held(_, thread)) => Word::new(State::Broken(me.id(), thread)),
        _ => mine,
    }
}
