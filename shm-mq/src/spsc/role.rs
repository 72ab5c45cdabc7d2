//! The two roles: taking one, also after its owner's death, and waiting for who has the other.
use super::AttachError;
use super::shared::{Seat, Shared};
use shm_core::backoff::Backoff;
use shm_core::event::{EventCount, Ticket};
use shm_core::mapping::Mapped;
use shm_core::participants::{self, Member, ParticipantId, Watch};
use shm_core::process::Liveness;
use shm_core::sync::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where the other role is nobody's there is no life word to sleep on, and a sender that falls
/// asleep may be missed by a receiver that releases a little: we look this often.
const LOOKED_EVERY: Duration = Duration::from_millis(20);

/// Rounds in which a role's word may change under who takes it.
const ROUNDS_MAX: u32 = 1000;

/// One of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Sender,
    Receiver,
}

/// Why the other side does nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Missing {
    TimedOut,
    Detached,
    Died,
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Sender => Side::Receiver,
            Side::Receiver => Side::Sender,
        }
    }
}

impl Shared {
    pub(super) fn role(&self, side: Side) -> &AtomicU64 {
        match side {
            Side::Sender => &self.sender,
            Side::Receiver => &self.receiver,
        }
    }

    /// Where `side` sleeps.
    fn bed(&self, side: Side) -> &EventCount {
        match side {
            Side::Sender => &self.left,
            Side::Receiver => &self.arrived,
        }
    }

    /// Names `id` for a role that is free, or was left by one who is gone.
    pub(super) fn give(
        &self,
        side: Side,
        by: &Member,
        id: ParticipantId,
    ) -> Result<(), AttachError> {
        self.take(side, by, id, Seat::Given)?;
        self.bed(side.other()).notify();
        Ok(())
    }

    /// Puts `seat(id)` into a role that is free, given to it, or was left by one who is gone. The
    /// other side is still to be woken.
    pub(super) fn take(
        &self,
        side: Side,
        by: &Member,
        id: ParticipantId,
        seat: fn(ParticipantId) -> Seat,
    ) -> Result<(), AttachError> {
        let word = self.role(side);
        let mut bits = word.load(Ordering::Relaxed);
        for _ in 0..ROUNDS_MAX {
            match Seat::from_bits(bits) {
                Seat::Open(owner) if owner == by.id() => return Err(AttachError::OpenAlready),
                Seat::Given(owner) if owner == id => {}
                Seat::Given(owner) | Seat::Open(owner) => {
                    if by.table().liveness(owner) != Liveness::Dead {
                        return Err(AttachError::Taken { by: owner });
                    }
                }
                Seat::Free | Seat::Left(_) => {}
            }
            // Pairs with the Release in `leave`, or with the proof of its death: what the last
            // owner did. And with the Acquire in `Peer::gone`: the seat of whom we name.
            let (ok, err) = (Ordering::AcqRel, Ordering::Relaxed);
            match word.compare_exchange(bits, seat(id).to_bits(), ok, err) {
                Ok(_) => return Ok(()),
                Err(now) => bits = now,
            }
        }
        Err(AttachError::Restless)
    }

    /// Says that `me` has the role no more.
    pub(super) fn leave(&self, side: Side, me: ParticipantId) {
        // Pairs with the Acquires in `Peer::gone` and `take`: what we did. A liar's word is left
        // alone.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        let word = self.role(side);
        let _ = word.compare_exchange(Seat::Open(me).to_bits(), Seat::Left(me).to_bits(), ok, err);
        self.bed(side.other()).notify();
    }
}

/// What one side knows of the other.
#[derive(Debug)]
pub(super) struct Peer {
    shared: Mapped<Shared>,
    side: Side,
    member: Arc<Member>,
    watch: Option<Watch>,
}

impl Peer {
    /// The other side of `me`.
    pub(super) fn new(shared: Mapped<Shared>, me: Side, member: Arc<Member>) -> Peer {
        Peer { shared, side: me.other(), member, watch: None }
    }

    /// Whether it said that it left, and nobody came after it: one load.
    #[inline]
    pub(super) fn has_left(&self) -> bool {
        let bits = self.shared.role(self.side).load(Ordering::Relaxed);
        matches!(Seat::from_bits(bits), Seat::Left(_))
    }

    /// Whether it has left or died. What it did before is seen after this.
    pub(super) fn gone(&mut self) -> Option<Missing> {
        let word = self.shared.role(self.side);
        // Pairs with the Releases in `take` and `leave`: what it wrote to its seat, and did last.
        let bits = word.load(Ordering::Acquire);
        let state = Seat::from_bits(bits);
        let (Seat::Given(id) | Seat::Open(id)) = state else {
            // Nobody is to be watched: who sleeps now looks again soon.
            self.watch = None;
            return matches!(state, Seat::Left(_)).then_some(Missing::Detached);
        };
        let member = &self.member;
        if self.watch.as_ref().is_none_or(|watch| watch.peer() != id) {
            self.watch = Some(member.watch(id));
        }
        if !self.watch.as_ref().is_some_and(Watch::is_dead) {
            return None;
        }
        // The proof of its end orders what it did: who left, and then left its seat, has left.
        match word.load(Ordering::Relaxed) {
            now if now == bits => Some(Missing::Died),
            now if now == Seat::Left(id).to_bits() => Some(Missing::Detached),
            // Somebody has come after it.
            _ => None,
        }
    }

    /// Whether somebody has the role and is there.
    fn is_open(&self) -> bool {
        let bits = self.shared.role(self.side).load(Ordering::Relaxed);
        matches!(Seat::from_bits(bits), Seat::Open(_))
    }

    /// Waits until the other side is there.
    pub(super) fn wait_until_open(&mut self, deadline: Option<Instant>) -> Result<(), Missing> {
        let mut pause = Pause::new(deadline);
        loop {
            match self.gone() {
                None if self.is_open() => return Ok(()),
                // Somebody may come after it.
                None | Some(Missing::Detached) => {}
                Some(gone) => return Err(gone),
            }
            if !pause.step(self) {
                return Err(Missing::TimedOut);
            }
        }
    }

    /// Wakes it, if it sleeps.
    #[inline]
    pub(super) fn wake(&self) {
        self.shared.bed(self.side).notify();
    }

    /// Wakes it, if it is known to sleep: it may have fallen asleep just now.
    #[inline]
    pub(super) fn wake_seen(&self) {
        self.shared.bed(self.side).notify_seen();
    }

    pub(super) fn leave(&self) {
        self.shared.leave(self.side.other(), self.member.id());
    }

    fn my_bed(&self) -> &EventCount {
        self.shared.bed(self.side.other())
    }

    fn sleep(&self, ticket: Ticket, deadline: Option<Instant>) -> bool {
        let watch = self.watch.as_ref().filter(|watch| !watch.is_dead());
        let until = match (&watch, self.side) {
            // It wakes us, or dies.
            (Some(_), Side::Sender) => deadline,
            _ => {
                let soon = Instant::now() + LOOKED_EVERY;
                Some(deadline.map_or(soon, |deadline| deadline.min(soon)))
            }
        };
        participants::wait(self.my_bed(), ticket, watch.as_slice(), until);
        deadline.is_none_or(|deadline| Instant::now() < deadline)
    }
}

/// One wait, in steps between which the caller looks: spin, announce, sleep.
pub(super) struct Pause {
    deadline: Option<Instant>,
    backoff: Backoff,
    ticket: Option<Ticket>,
}

impl Pause {
    pub(super) fn new(deadline: Option<Instant>) -> Pause {
        Pause { deadline, backoff: Backoff::new(), ticket: None }
    }

    /// One step, after the caller looked in vain: `false` once the deadline has passed.
    pub(super) fn step(&mut self, peer: &Peer) -> bool {
        if let Some(ticket) = self.ticket.take() {
            self.backoff.reset();
            return peer.sleep(ticket, self.deadline);
        }
        if !self.backoff.snooze() {
            self.ticket = Some(peer.my_bed().prepare());
        }
        true
    }
}
