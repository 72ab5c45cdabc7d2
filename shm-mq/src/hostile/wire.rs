//! What joins the two sides: own words, the other's words, the bell.
use super::shared::{DETACHED, Half};
use crate::wait::Missing;
use crate::waitset::Source;
use shm_core::mapping::Mapped;
use shm_core::sealed::Doorbell;
use shm_core::sync::{Ordering, fence};

/// What one side has of a hostile queue, apart from the ring.
#[derive(Debug)]
pub struct Wire {
    /// Written by us, never read back.
    own: Mapped<Half>,
    /// 1. It is mapped read-only: only `Relaxed` loads of at most 8 bytes are made.
    theirs: Mapped<Half>,
    bell: Doorbell,
    message_bytes_max: usize,
    /// Sleeps announced so far; each has a number of its own.
    sleeps: u64,
    /// The peer's last sleep that we have rung for.
    rung: u64,
    gone: Option<Missing>,
}

impl Wire {
    /// `theirs` is only loaded from, as [`Foreign::share`](shm_core::sealed::Foreign::share) wants.
    pub(super) fn new(
        own: Mapped<Half>,
        theirs: Mapped<Half>,
        bell: Doorbell,
        message_bytes_max: usize,
    ) -> Wire {
        Wire { own, theirs, bell, message_bytes_max, sleeps: 0, rung: 0, gone: None }
    }

    /// What the other side rings, to sleep by.
    pub(crate) fn bell(&self) -> &Doorbell {
        &self.bell
    }

    /// The longest message that the receiver takes.
    #[inline]
    pub(crate) fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    /// What a publisher says of its longest record, before the first one: a claim.
    pub(crate) fn record_bytes(&self) -> u64 {
        self.theirs.message_bytes_max.load(Ordering::Relaxed)
    }

    /// How far the other side says it is, and what it did before.
    #[inline]
    pub(crate) fn position(&self) -> u64 {
        let position = self.theirs.position.load(Ordering::Relaxed);
        // Pairs with the Release in the peer's `tell`: what it did before.
        fence(Ordering::Acquire);
        position
    }

    /// Says how far we are.
    #[inline]
    pub(crate) fn tell(&self, position: u64) {
        // Pairs with the fence in the peer's `position`: what we did before.
        self.own.position.store(position, Ordering::Release);
    }

    /// Wakes the other side if it sleeps.
    #[inline]
    pub(crate) fn wake(&mut self) {
        let number = self.theirs.asleep.announced();
        self.ring_for(number);
    }

    /// The same of one of many, behind a fence for all: `false` where it hears no bell any more.
    #[inline]
    pub(crate) fn wake_one(&mut self) -> bool {
        let number = self.theirs.asleep.look();
        self.ring_for(number)
    }

    #[inline]
    fn ring_for(&mut self, number: u64) -> bool {
        if number == 0 || number == self.rung {
            return true;
        }
        let rang = self.bell.ring();
        if rang {
            self.rung = number;
        }
        rang
    }

    /// Says that our handle is gone.
    pub(crate) fn leave(&mut self) {
        // Pairs with the fence in the peer's `look`: our last position.
        self.own.state.store(DETACHED, Ordering::Release);
        self.wake();
    }

    /// Whether the peer says that it has left: one load. What it did before may not be seen yet.
    #[inline]
    pub(crate) fn says_that_it_left(&self) -> bool {
        self.theirs.state.load(Ordering::Relaxed) == DETACHED
    }

    /// What is known without asking who is alive: one load, for a sender, to which it does not
    /// matter what the peer did before.
    #[inline]
    pub(crate) fn known_gone(&mut self) -> Option<Missing> {
        if self.says_that_it_left() {
            self.gone.get_or_insert(Missing::Detached);
        }
        self.gone
    }

    /// Whether the peer has left or died, and how. What it published before can be read after this.
    pub(crate) fn gone(&mut self) -> Option<Missing> {
        if self.gone.is_none() {
            self.gone = self.look();
        }
        self.gone
    }

    /// Whether the peer is known to be [gone](Wire::gone), or says so: one load.
    #[inline]
    pub(crate) fn may_have_ended(&self) -> bool {
        self.gone.is_some() || self.says_that_it_left()
    }

    fn look(&self) -> Option<Missing> {
        // The end first, then the flag: who detached and died afterwards has detached.
        let ended = self.bell.is_gone();
        let state = self.theirs.state.load(Ordering::Relaxed);
        // Pairs with the Release in the peer's `leave`: its last position.
        fence(Ordering::Acquire);
        match state {
            DETACHED => Some(Missing::Detached),
            _ => ended.then_some(Missing::Died),
        }
    }
}

/// Ready once the other side is gone.
impl Source for Wire {
    fn is_ready(&mut self) -> bool {
        self.gone().is_some()
    }

    fn announce(&mut self) {
        self.sleeps += 1;
        self.own.asleep.announce(self.sleeps);
    }

    fn doorbells<'s>(&'s self, to: &mut Vec<&'s Doorbell>) {
        to.push(self.bell());
    }

    fn woken(&mut self) {
        self.own.asleep.withdraw();
    }
}
