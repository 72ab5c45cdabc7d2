//! The two roles: taking one, also after its owner's death, and waiting for who has the other.
use super::AttachError;
use super::bell::Bell;
use super::lane::Hub;
use super::level::Link;
use super::shared::{Seat, Shared, Told};
use crate::wait::{Missing, look_until};
use crate::waitset::Source;
use shm_core::event::EventCount;
use shm_core::mapping::Mapped;
use shm_core::participants::{Member, ParticipantId, Watch};
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

impl Side {
    pub(super) fn other(self) -> Side {
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
    pub(super) fn bed(&self, side: Side) -> &EventCount {
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
        take(self.role(side), by, id, Seat::Given)?;
        self.bed(side.other()).notify();
        Ok(())
    }
}

/// Puts `seat(id)` into the word of a role that is free, given to it, or was left by one who is
/// gone. Who waits for the role is still to be woken.
pub(crate) fn take(
    word: &AtomicU64,
    by: &Member,
    id: ParticipantId,
    seat: fn(ParticipantId) -> Seat,
) -> Result<(), AttachError> {
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
            Seat::Free | Seat::Left(_) | Seat::Dropped(_) | Seat::Gone(_) => {}
        }
        // Pairs with the Release in `leave_seat`, or with the proof of its death: what the last
        // owner did. And with the Acquire in `gone`: the seat of whom we name.
        let (ok, err) = (Ordering::AcqRel, Ordering::Relaxed);
        match word.compare_exchange(bits, seat(id).to_bits(), ok, err) {
            Ok(_) => return Ok(()),
            Err(now) => bits = now,
        }
    }
    Err(AttachError::Restless)
}

/// Says that `me` has the role no more.
pub(crate) fn leave_seat(word: &AtomicU64, me: ParticipantId) {
    // Where it is not the one it is the other; a liar's word is left alone.
    for (from, to) in [(Seat::Open(me), Seat::Left(me)), (Seat::Dropped(me), Seat::Gone(me))] {
        // Pairs with the Acquires in `gone` and `take`: what we did.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        if word.compare_exchange(from.to_bits(), to.to_bits(), ok, err).is_ok() {
            break;
        }
    }
}

/// Whether who had the role of this word has left or died. What it did before is seen after this.
pub(crate) fn gone(word: &AtomicU64, me: &Member, watch: &mut Option<Watch>) -> Option<Missing> {
    // Pairs with the Releases in `take` and `leave_seat`: the seat of whom another named, and what
    // it did last.
    let bits = word.load(Ordering::Acquire);
    let state = Seat::from_bits(bits);
    let (Seat::Given(id) | Seat::Open(id) | Seat::Dropped(id)) = state else {
        // Nobody is there whose death would wake who waits.
        *watch = None;
        return (state != Seat::Free).then_some(Missing::Detached);
    };
    if watch.as_ref().is_none_or(|watch| watch.peer() != id) {
        *watch = Some(me.watch(id));
    }
    if !watch.as_ref().is_some_and(Watch::is_dead) {
        return None;
    }
    // The proof of its end orders what it did: who left, and then left its seat, has left.
    match Seat::from_bits(word.load(Ordering::Relaxed)) {
        now if now.to_bits() == bits => Some(Missing::Died),
        Seat::Left(its) | Seat::Gone(its) if its == id => Some(Missing::Detached),
        // Somebody has come after it.
        _ => None,
    }
}

/// What one side knows of the other.
#[derive(Debug)]
pub struct Peer {
    shared: Mapped<Shared>,
    /// Its role's word, and where it sleeps.
    theirs: Mapped<AtomicU64>,
    their_bed: Mapped<EventCount>,
    /// Our own. The receiver of a lane has its role elsewhere.
    ours: Option<Mapped<AtomicU64>>,
    our_bed: Mapped<EventCount>,
    /// The receiver of many lanes learns by it which of them it is to look at.
    bell: Option<Bell>,
    side: Side,
    member: Arc<Member>,
    watch: Option<Watch>,
}

impl Peer {
    /// The other side of `me`.
    pub(super) fn new(shared: &Mapped<Shared>, me: Side, member: Arc<Member>) -> Peer {
        let role = |side: Side| shared.part(move |shared| shared.role(side));
        let bed = |side: Side| shared.part(move |shared| shared.bed(side));
        Peer {
            shared: shared.clone(),
            theirs: role(me.other()),
            their_bed: bed(me.other()),
            ours: Some(role(me)),
            our_bed: bed(me),
            bell: None,
            side: me.other(),
            member,
            watch: None,
        }
    }

    /// The receiver of the lane that `shared` is, for its sender.
    pub(super) fn of_lanes(shared: &Mapped<Shared>, hub: Hub, member: Arc<Member>) -> Peer {
        let peer = Peer::new(shared, Side::Sender, member);
        Peer { theirs: hub.role, their_bed: hub.bed, bell: Some(hub.bell), ..peer }
    }

    /// The sender of a lane, for the receiver, whose role is elsewhere.
    pub(super) fn of_lane(shared: &Mapped<Shared>, member: Arc<Member>) -> Peer {
        Peer { ours: None, ..Peer::new(shared, Side::Receiver, member) }
    }

    pub(super) fn shared(&self) -> &Mapped<Shared> {
        &self.shared
    }

    /// Whether it said that it left, and nobody came after it: one load.
    #[inline]
    pub(super) fn has_left(&self) -> bool {
        matches!(Seat::from_bits(self.theirs.load(Ordering::Relaxed)), Seat::Left(_))
    }

    /// Whether it has left or died. What it did before is seen after this.
    pub(super) fn gone(&mut self) -> Option<Missing> {
        gone(&self.theirs, &self.member, &mut self.watch)
    }

    /// Its watch, as [`gone`](Peer::gone) needed one last.
    pub(super) fn watch(&self) -> Option<&Watch> {
        self.watch.as_ref()
    }

    /// Whether the receiver of the lanes has dropped ours.
    pub(super) fn has_dropped_us(&self) -> bool {
        let ours = self.ours.as_ref().filter(|_| self.bell.is_some());
        let open = Seat::Open(self.member.id()).to_bits();
        ours.is_some_and(|ours| ours.load(Ordering::Relaxed) != open)
    }

    /// Whether somebody has the role and is there.
    fn is_open(&self) -> bool {
        matches!(Seat::from_bits(self.theirs.load(Ordering::Relaxed)), Seat::Open(_))
    }

    /// Waits until the other side is there.
    pub(super) fn wait_until_open(&mut self, deadline: Option<Instant>) -> Result<(), Missing> {
        let look = |peer: &mut Peer, _| match peer.gone() {
            None if peer.is_open() => Some(Ok(())),
            // Somebody may come after it.
            None | Some(Missing::Detached) => None,
            Some(gone) => Some(Err(gone)),
        };
        look_until(self, |peer| peer, deadline, look).unwrap_or(Err(Missing::TimedOut))
    }

    /// Wakes it, if it sleeps.
    #[inline]
    pub(super) fn wake(&self) {
        match &self.bell {
            None => self.their_bed.notify(),
            Some(bell) => bell.ring(&self.their_bed),
        }
    }

    /// Says that we have our role no more.
    pub(super) fn leave(&self) {
        let Some(word) = &self.ours else { return };
        leave_seat(word, self.member.id());
        self.wake();
    }

    pub(super) fn my_bed(&self) -> &EventCount {
        &self.our_bed
    }

    /// Who has the other role, to sleep on its life.
    pub(super) fn living(&self) -> Option<&Watch> {
        self.watch.as_ref().filter(|watch| !watch.is_dead())
    }
}

impl Link for Peer {
    #[inline]
    fn message_bytes_max(&self) -> usize {
        usize::MAX
    }

    #[inline]
    fn released(&self) -> u64 {
        // Pairs with the Release in `Progress::tell`: the receiver's last look at the words before.
        self.shared.released.position.load(Ordering::Acquire)
    }

    fn tell_sent(&self, told: &mut Told, position: u64, records: u64) {
        self.shared.sent.tell(told, position, records);
    }

    #[inline(always)]
    fn tell_released(&self, told: &mut Told, position: u64, records: u64) {
        self.shared.released.tell(told, position, records);
    }

    #[inline(always)]
    fn known_gone(&mut self) -> Option<Missing> {
        self.has_left().then_some(Missing::Detached)
    }

    #[inline(always)]
    fn has_dropped_us(&self) -> bool {
        self.has_dropped_us()
    }

    fn gone(&mut self) -> Option<Missing> {
        self.gone()
    }

    #[inline(always)]
    fn wake(&mut self) {
        Peer::wake(self);
    }

    #[inline(always)]
    fn wake_seen(&mut self) {
        // It may have fallen asleep just now: then it looks again soon.
        self.their_bed.notify_seen();
    }

    fn leave(&mut self) {
        Peer::leave(self);
    }
}

/// Ready once the other side is gone.
impl Source for Peer {
    fn is_ready(&mut self) -> bool {
        self.gone().is_some()
    }

    fn bed(&self) -> Option<&EventCount> {
        Some(self.my_bed())
    }

    fn peers<'s>(&'s self, to: &mut Vec<&'s Watch>) {
        to.extend(self.living());
    }

    fn sleep_max(&self) -> Option<Duration> {
        // It wakes us, or dies.
        let is_sure = self.side == Side::Sender && self.living().is_some();
        (!is_sure).then_some(LOOKED_EVERY)
    }
}
