//! What joins the two sides: own words, the other's words, the bell.
use super::super::level::{Level, Link};
use super::super::peer::Missing;
use super::shared::{DETACHED, Half};
use shm_core::mapping::Mapped;
use shm_core::sealed::{Doorbell, Heard};
use shm_core::sync::{Ordering, fence};
use shm_core::trust::Hostile;
use std::time::Instant;

impl Level for Hostile {
    type Link = Wire;
}

/// What one side has of a hostile stream, apart from the ring.
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

    #[inline]
    fn their_position(&self) -> u64 {
        let position = self.theirs.position.load(Ordering::Relaxed);
        // Pairs with the Release in the peer's `tell`: what it did before.
        fence(Ordering::Acquire);
        position
    }

    #[inline]
    fn tell(&self, position: u64) {
        // Pairs with the fence in the peer's `their_position`: what we did before.
        self.own.position.store(position, Ordering::Release);
    }

    #[inline]
    fn wake(&mut self) {
        let number = self.theirs.asleep.announced();
        if number != 0 && number != self.rung && self.bell.ring() {
            self.rung = number;
        }
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

impl Link for Wire {
    type Ticket = ();

    #[inline]
    fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    #[inline]
    fn written(&self) -> u64 {
        self.their_position()
    }

    #[inline]
    fn tell_written(&self, position: u64) {
        self.tell(position);
    }

    #[inline]
    fn read(&self) -> u64 {
        self.their_position()
    }

    #[inline]
    fn tell_read(&self, position: u64) {
        self.tell(position);
    }

    #[inline]
    fn wake_receiver(&mut self) {
        self.wake();
    }

    #[inline]
    fn wake_sender(&mut self) {
        self.wake();
    }

    fn leave(&mut self) {
        // Pairs with the fence in the peer's `look`: our last position.
        self.own.state.store(DETACHED, Ordering::Release);
        self.wake();
    }

    #[inline]
    fn known_gone(&mut self) -> Option<Missing> {
        if self.theirs.state.load(Ordering::Relaxed) == DETACHED {
            self.gone.get_or_insert(Missing::Detached);
        }
        self.gone
    }

    fn gone(&mut self) -> Option<Missing> {
        if self.gone.is_none() {
            self.gone = self.look();
        }
        self.gone
    }

    fn prepare(&mut self) {
        self.sleeps += 1;
        self.own.asleep.announce(self.sleeps);
    }

    fn sleep(&mut self, (): (), deadline: Option<Instant>) -> bool {
        let heard = self.bell.wait(deadline);
        self.own.asleep.withdraw();
        heard != Heard::TimedOut && deadline.is_none_or(|deadline| Instant::now() < deadline)
    }
}
