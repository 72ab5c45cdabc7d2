//! A queue as one of many that lead to one receiver: `fan_in`'s lanes.
use super::bell::Bell;
use super::lines::{Header, Lines, Place, ring_at, words_for};
use super::role::Peer;
use super::shared::{Shared, Told};
use super::{Queue, Receiver, Sender};
use crate::stream::OneMapping;
use crate::wait::Missing;
use shm_core::BadPtr;
use shm_core::event::EventCount;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Watch};
use shm_core::sync::AtomicU64;
use std::sync::Arc;

/// The receiver of the lanes, as the sender of one knows it.
#[derive(Clone, Debug)]
pub(crate) struct Hub {
    /// Whose role it is.
    pub(crate) role: Mapped<AtomicU64>,
    /// Where it sleeps.
    pub(crate) bed: Mapped<EventCount>,
    pub(crate) bell: Bell,
}

/// What waits in a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Depth {
    /// Records that were released since its sender came.
    pub(crate) received: u64,
    /// Records that were not.
    pub(crate) waiting: u64,
    /// Words that these take.
    pub(crate) words: u64,
}

impl<T: OneMapping> Queue<T> {
    /// The lane with so many lines at `offset`: who asks knows what is there.
    pub(crate) fn lane(m: &Arc<Mapping>, offset: u64, lines: u64) -> Result<Queue<T>, BadPtr> {
        let shared = Mapped::<Shared>::new(m, offset)?;
        Ok(Queue { shared, lines: Lines::attach(m, ring_at(offset), lines)? })
    }

    /// The word in which its sender is named.
    pub(crate) fn word(&self) -> Mapped<AtomicU64> {
        self.shared.part(|shared| &shared.sender)
    }

    /// Wakes its sender.
    pub(crate) fn wake_sender(&self) {
        self.shared.left.notify();
    }

    /// For `me`, whom its word names as its sender. `None` where nonsense is there: it has left.
    pub(crate) fn lane_sender(&self, hub: Hub, me: &Arc<Member>) -> Option<Sender<T>> {
        let peer = Peer::of_lanes(&self.shared, hub, me.clone());
        Sender::go_on(&self.shared, self.lines.clone(), peer)
    }

    /// For `me`, who is the receiver of all lanes. Where nonsense is there it finds so.
    pub(crate) fn lane_receiver(&self, me: &Arc<Member>) -> Receiver<T> {
        let (told, peer) = (self.shared.released.last(), Peer::of_lane(&self.shared, me.clone()));
        let is_corrupt = told.is_none();
        let told = told.unwrap_or_default();
        let mut receiver = Receiver::go_on(self.lines.clone(), peer, told);
        receiver.cursor.is_corrupt = is_corrupt;
        receiver
    }

    /// What waits in it: others send and receive meanwhile.
    pub(crate) fn depth(&self) -> Depth {
        let Told { position, records: received, .. } =
            self.shared.released.last().unwrap_or_default();
        let count = self.lines.count();
        let (mut place, mut records) = (Place::at(position, count), received);
        // Each step is a word at least.
        while place.position.wrapping_sub(position) < count {
            let to_end = place.to_end(count);
            let distance = match self.lines.look(place) {
                Header::Record { number, len } if number == records as u32 => {
                    records = records.wrapping_add(1);
                    words_for(len)
                }
                Header::NextLine { number } if number == records as u32 => place.to_next_line(),
                Header::AtTheBeginning { number } if number == records as u32 => to_end,
                _ => break,
            };
            if distance > to_end {
                break;
            }
            place = place.plus(distance, count);
        }
        let words = place.position.wrapping_sub(position);
        Depth { received, waiting: records.wrapping_sub(received), words }
    }
}

impl<T: OneMapping> Receiver<T> {
    /// Wakes the sender, if it sleeps and something was released since the last time.
    pub(crate) fn wake_sender(&mut self) {
        self.cursor.wake();
    }

    /// Whether the sender has left or died. What it did before is seen after this.
    pub(crate) fn gone(&mut self) -> Option<Missing> {
        self.cursor.link.gone()
    }

    /// Whether the sender has left: one load.
    #[inline]
    pub(crate) fn has_left(&self) -> bool {
        self.cursor.link.has_left()
    }

    /// To learn of the sender's death, after [`gone`](Receiver::gone) said that it lives.
    pub(crate) fn watch(&self) -> Option<&Watch> {
        self.cursor.link.watch()
    }

    /// Prepares the lane for its next sender: by who knows that the last one has gone, and before
    /// the lane's word says so.
    pub(crate) fn begin(&mut self) {
        self.cursor.begin(&self.lines);
    }
}
