//! The other side: whether it has come, has left or has died; and sleeping until it does something.
use super::frame::MESSAGE_BYTES_MAX;
use super::level::Link;
use super::shared::{CLOSED, DETACHED, OPEN, Role, Shared};
use super::{AttachError, RoleTaken};
use crate::wait::{Missing, look_until};
use crate::waitset::Source;
use shm_core::event::EventCount;
use shm_core::mapping::Mapped;
use shm_core::participants::{Member, ParticipantId, Watch};
use shm_core::process::{Liveness, ProcessId};
use shm_core::sync::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Before the peer has a name there is no life word to sleep on. One that is expected may die, and
/// one that has just named itself may die before it says so: so we look this often.
const UNNAMED_LOOKED_EVERY: Duration = Duration::from_millis(20);

/// One of the two roles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Sender,
    Receiver,
}

impl Shared {
    pub(super) fn role(&self, side: Side) -> &Role {
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

    /// Names the participant that has a role, and tells a side that waits for it.
    pub(super) fn name(&self, side: Side, id: ParticipantId) -> Result<(), RoleTaken> {
        // Pairs with the Acquire in `Peer::watched`: the seat of whom we name.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        match self.role(side).owner.compare_exchange(0, id.to_bits(), ok, err) {
            Ok(_) => {
                self.bed(side.other()).notify();
                Ok(())
            }
            Err(by) => Err(RoleTaken { by: ParticipantId::from_bits(by) }),
        }
    }

    /// Opens a role for its one handle: it was given to `me`, or is free.
    pub(super) fn open(&self, side: Side, me: ParticipantId) -> Result<(), AttachError> {
        match self.name(side, me) {
            Err(RoleTaken { by }) if by != Some(me) => return Err(RoleTaken { by }.into()),
            _ => {}
        }
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        if self.role(side).state.compare_exchange(CLOSED, OPEN, ok, err).is_err() {
            return Err(AttachError::OpenAlready);
        }
        self.bed(side.other()).notify();
        Ok(())
    }

    /// Says that the handle of `side` is gone.
    pub(super) fn detach(&self, side: Side) {
        // Pairs with the Acquire in `look`: the sender's last `written`.
        self.role(side).state.store(DETACHED, Ordering::Release);
        self.bed(side.other()).notify();
    }
}

impl Side {
    pub(super) fn other(self) -> Side {
        match self {
            Side::Sender => Side::Receiver,
            Side::Receiver => Side::Sender,
        }
    }
}

/// What one side knows of the other, with which it shares a mapping and a table of participants.
#[derive(Debug)]
pub struct Peer {
    shared: Mapped<Shared>,
    side: Side,
    member: Arc<Member>,
    watch: Option<Watch>,
    expected: Option<ProcessId>,
    gone: Option<Missing>,
}

impl Peer {
    /// The other side of `me`.
    pub(super) fn new(shared: Mapped<Shared>, me: Side, member: Arc<Member>) -> Peer {
        Peer { shared, side: me.other(), member, watch: None, expected: None, gone: None }
    }

    /// From now on the peer counts as dead if `process` dies before it attached. One expected
    /// earlier, which did so, no longer counts.
    pub(super) fn expect(&mut self, process: ProcessId) {
        self.expected = Some(process);
        if self.watch.is_none() && self.gone == Some(Missing::Died) {
            self.gone = None;
        }
    }

    fn look(&mut self) -> Option<Missing> {
        // The end first, then the flag: who detached and died afterwards has detached.
        let gone = self.is_gone();
        // Pairs with the Release in `detach`: the sender's last `written`.
        match self.shared.role(self.side).state.load(Ordering::Acquire) {
            DETACHED => Some(Missing::Detached),
            // A handle keeps its process's seat: an open one is left by death only.
            OPEN => gone.then_some(Missing::Died),
            _ => gone.then(|| self.how_it_ended()),
        }
    }

    /// One that has never opened its handle may have died, or left its seat and live on.
    fn how_it_ended(&self) -> Missing {
        let process = self.watch.as_ref().map_or(self.expected, Watch::process);
        match process.map(ProcessId::liveness) {
            Some(Liveness::Alive) => Missing::Detached,
            _ => Missing::Died,
        }
    }

    fn is_gone(&mut self) -> bool {
        // "Has the expected process died?" before "has it ever attached?": in the other order one
        // that attaches and dies in between would count as dead without having been looked at.
        let expected_died =
            self.watch.is_none() && self.expected.is_some_and(|p| p.liveness() == Liveness::Dead);
        self.watched().map_or(expected_died, Watch::is_dead)
    }

    /// The watch over the peer, once it has a name.
    fn watched(&mut self) -> Option<&Watch> {
        if self.watch.is_none() {
            // Pairs with the Release in `name`: what the participant wrote to its seat.
            let owner = self.shared.role(self.side).owner.load(Ordering::Acquire);
            self.watch = ParticipantId::from_bits(owner).map(|id| self.member.watch(id));
        }
        self.watch.as_ref()
    }

    /// Waits until the peer has opened its handle.
    pub(super) fn wait_until_open(&mut self, deadline: Option<Instant>) -> Result<(), Missing> {
        let look = |peer: &mut Peer, _| match peer.gone() {
            Some(gone) => Some(Err(gone)),
            None => (peer.shared.role(peer.side).state.load(Ordering::Relaxed) == OPEN)
                .then_some(Ok(())),
        };
        look_until(self, |peer| peer, deadline, look).unwrap_or(Err(Missing::TimedOut))
    }

    pub(super) fn my_bed(&self) -> &EventCount {
        self.shared.bed(self.side.other())
    }
}

impl Link for Peer {
    #[inline]
    fn message_bytes_max(&self) -> usize {
        MESSAGE_BYTES_MAX
    }

    #[inline]
    fn written(&self) -> u64 {
        // Pairs with the Release in `tell_written`: the frames before the position.
        self.shared.written.load(Ordering::Acquire)
    }

    #[inline]
    fn tell_written(&self, position: u64) {
        // Pairs with the Acquire in `written`: the frames before the position.
        self.shared.written.store(position, Ordering::Release);
    }

    #[inline]
    fn read(&self) -> u64 {
        // Pairs with the Release in `tell_read`: the receiver's last look at the bytes before.
        self.shared.read.load(Ordering::Acquire)
    }

    #[inline]
    fn tell_read(&self, position: u64) {
        // Pairs with the Acquire in `read`: our last look at the bytes before.
        self.shared.read.store(position, Ordering::Release);
    }

    // Each by its own name: which of the two it is need not be asked in the common path.
    #[inline]
    fn wake_receiver(&mut self) {
        self.shared.arrived.notify();
    }

    #[inline]
    fn wake_sender(&mut self) {
        self.shared.left.notify();
    }

    fn leave(&mut self) {
        self.shared.detach(self.side.other());
    }

    #[inline]
    fn known_gone(&mut self) -> Option<Missing> {
        if self.shared.role(self.side).state.load(Ordering::Relaxed) == DETACHED {
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
}

/// Ready once the other side is gone.
impl Source for Peer {
    fn is_ready(&mut self) -> bool {
        self.gone().is_some()
    }

    fn bed(&self) -> Option<&EventCount> {
        Some(self.my_bed())
    }

    /// The other side, once it has a name, to sleep on its life.
    fn peers<'s>(&'s self, to: &mut Vec<&'s Watch>) {
        to.extend(&self.watch);
    }

    fn sleep_max(&self) -> Option<Duration> {
        self.watch.is_none().then_some(UNNAMED_LOOKED_EVERY)
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::super::Stream;
    use super::*;
    use crate::wait::{announce, sleep};
    use shm_core::mapping::Mapping;
    use shm_core::participants::Table;

    const STREAM_AT: u64 = 1024;

    /// The words of a stream, and two who may have its roles.
    fn world() -> (Mapped<Shared>, Arc<Member>, Arc<Member>) {
        let mapping = Mapping::heap((STREAM_AT + Stream::bytes_for(64)) as usize);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
        // SAFETY: as above, and the table ends before.
        unsafe { Stream::create(&mapping, STREAM_AT, 64) }.unwrap();
        let shared = Mapped::new(&mapping, STREAM_AT).unwrap();
        (shared, table.join().unwrap(), table.join().unwrap())
    }

    #[test]
    fn each_side_sleeps_where_the_other_wakes_it() {
        let (shared, me, other) = world();
        let sender = Peer::new(shared.clone(), Side::Sender, me);
        let receiver = Peer::new(shared.clone(), Side::Receiver, other);
        assert!(std::ptr::eq(sender.my_bed(), &raw const shared.left));
        assert!(std::ptr::eq(receiver.my_bed(), &raw const shared.arrived));
    }

    #[test]
    fn who_is_expected_anew_takes_the_place_of_one_that_died_before_it_came() {
        let (shared, me, other) = world();
        let mut peer = Peer::new(shared, Side::Receiver, me);
        let process = peer.member.process();
        for (gone, after) in [(Missing::Died, None), (Missing::Detached, Some(Missing::Detached))] {
            peer.gone = Some(gone);
            peer.expect(process);
            assert_eq!(peer.gone, after);
        }
        peer.watch = Some(peer.member.watch(other.id()));
        peer.gone = Some(Missing::Died);
        peer.expect(process);
        assert_eq!(peer.gone, Some(Missing::Died), "it had come");
    }

    #[test]
    fn an_open_handle_without_a_seat_is_a_dead_ones() {
        let (shared, me, other) = world();
        shared.open(Side::Sender, other.id()).unwrap();
        let mut peer = Peer::new(shared, Side::Receiver, me);
        assert!(peer.gone().is_none() && !peer.is_ready());
        drop(other);
        assert!(peer.is_ready(), "its end is one");
        assert_eq!(peer.gone(), Some(Missing::Died), "though its process, ours, lives");
    }

    #[test]
    fn who_waits_for_a_nameless_peer_sleeps_a_while() {
        let (shared, me, _other) = world();
        let mut peer = Peer::new(shared, Side::Receiver, me);
        let before = Instant::now();
        let ticket = announce(&mut peer);
        sleep(&mut peer, ticket, None);
        assert!(before.elapsed() >= UNNAMED_LOOKED_EVERY);
    }
}
