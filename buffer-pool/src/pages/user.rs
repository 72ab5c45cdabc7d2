//! Who uses the pages: one thread of a process, with an intent of its own.
use super::record::Record;
use super::shared::Intent;
use super::word::Owner;
use super::{Pages, latch};
use crate::latch::LatchError;
use shm_core::participants::{Member, ParticipantId};
use shm_core::process::{ForkGuard, Forked, Liveness};
use shm_core::sync::Ordering;
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

/// Why a thread cannot use the pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// It has no row.
    #[error(transparent)]
    Latch(#[from] latch::UserError),
    /// There are not enough intents.
    #[error("all {0} intents are in use, or needed by pages that somebody mends")]
    NoIntent(usize),
}

/// One thread's use of [`Pages`]. It has an intent until it is dropped.
///
/// ```compile_fail,E0277
/// fn is_sync<T: Sync>() {}
/// // Two threads would write into one intent.
/// is_sync::<buffer_pool::pages::User>();
/// ```
#[derive(Debug)]
pub struct User {
    pub(super) pages: Pages,
    pub(super) latches: latch::User,
    pub(super) intent: usize,
    owner: Owner,
    /// Of the process whose the latches are: nearer than the member's.
    guard: ForkGuard,
    of_one_thread: PhantomData<Cell<()>>,
}

impl Pages {
    /// For thread number `thread` of `member`'s process, as
    /// [`Latches::user`](latch::Latches::user).
    ///
    /// # Errors
    /// [`UserError`].
    ///
    /// # If a process dies here
    /// An intent may be its own; who cleans up gives it back, or who is short of one.
    pub fn user(&self, member: &Arc<Member>, thread: u32) -> Result<User, UserError> {
        let latches = self.latches.user(member, thread)?;
        let owner = Owner::new(member.id(), thread);
        let intent = self.claim(owner).or_else(|| self.claim_of_the_dead(owner, &latches));
        let intent = intent.ok_or(UserError::NoIntent(self.intents.len()))?;
        Ok(User {
            pages: self.clone(),
            latches,
            intent,
            owner,
            guard: ForkGuard::new(),
            of_one_thread: PhantomData,
        })
    }

    fn claim(&self, mine: Owner) -> Option<usize> {
        let (from, to) = (Owner::NOBODY.to_bits(), mine.to_bits());
        self.intents.iter().position(|Intent { owner, .. }| {
            // Relaxed: who writes into the intent has taken a page exclusively since, and there is
            // a fence in that.
            let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
            owner.load(Ordering::Relaxed) == from
                && owner.compare_exchange(from, to, ok, err).is_ok()
        })
    }

    #[cold]
    fn claim_of_the_dead(&self, mine: Owner, mender: &latch::User) -> Option<usize> {
        let table = mender.member.table();
        self.sweep(Some(mender), |who| table.liveness(who) == Liveness::Dead);
        self.claim(mine)
    }
}

impl User {
    /// The pages that it uses.
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    /// Makes the page in `frame` whole if it is torn: whether it was, and nobody else is at it.
    /// Whoever takes a page does that by itself.
    ///
    /// # Errors
    /// [`LatchError::Torn`] where nobody says what is to be in the page: read it again from its
    /// file. [`LatchError::NoSuchFrame`], [`LatchError::Forked`], [`LatchError::Corrupt`].
    ///
    /// # If a process dies here
    /// The page is torn, or whole.
    pub fn mend(&self, frame: u32) -> Result<bool, LatchError> {
        self.pages.mend(&self.latches, frame)
    }

    /// Gives up what `dead` had, as [`Pages::clean_up`], and what others had before it, having
    /// mended the pages that these left torn.
    ///
    /// # If a process dies here
    /// Some of it is given up, and the next one to clean up does the rest.
    pub fn clean_up(&self, dead: ParticipantId) {
        self.pages.clean_up(dead);
        let table = self.latches.member.table();
        self.pages.sweep(Some(&self.latches), |who| who == dead || table.has_left(who));
    }

    #[inline]
    pub(super) fn check_fork(&self) -> Result<(), Forked> {
        self.guard.check()
    }

    pub(super) fn record(&self) -> Record<'_> {
        self.pages.record(self.intent).expect("claimed, so it is there")
    }
}

impl Drop for User {
    /// # If a process dies here
    /// The intent is nobody's, or the dead one's.
    fn drop(&mut self) {
        if self.latches.is_ours() {
            // Pairs with the fence of who takes a page to write it by this intent: what we wrote.
            let (ok, err) = (Ordering::Release, Ordering::Relaxed);
            let (from, to) = (self.owner.to_bits(), Owner::NOBODY.to_bits());
            let Intent { owner, .. } = self.record().intent;
            // Where it fails somebody scribbles.
            let _ = owner.compare_exchange(from, to, ok, err);
        }
    }
}
