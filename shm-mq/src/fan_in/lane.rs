//! A lane, as the receiver has it.
use super::receiver::Why;
use crate::spsc::{self, Bell, Queue, RecvError, Seat};
use crate::stream::OneMapping;
use crate::wait::Missing;
use shm_core::mapping::Mapped;
use shm_core::participants::{Member, ParticipantId, Watch};
use shm_core::sync::{AtomicU64, Ordering};
use std::sync::Arc;

/// Rounds in which a lane's word may change while its sender is dropped: it leaves, once.
const ROUNDS_MAX: u32 = 8;

/// What a look at a lane has found. Words side by side: it is moved about.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) sender: ParticipantId,
    /// Its end; or a record of `len` bytes.
    pub(super) end: Option<Why>,
    pub(super) len: usize,
}

impl Found {
    #[inline(always)]
    fn record(sender: ParticipantId, len: usize) -> Found {
        Found { sender, end: None, len }
    }

    fn end(sender: ParticipantId, why: Why) -> Found {
        Found { sender, end: Some(why), len: 0 }
    }
}

/// The receiving end of a lane, and whose it is.
pub(super) struct Lane<T: OneMapping> {
    pub(super) end: spsc::Receiver<T>,
    pub(super) bell: Bell,
    /// Looks in which there was nothing, since something was, or since a closer look.
    pub(super) idle: u32,
    /// Who sends, as we learned from the word: until we free the lane it is no other's.
    sender: Option<ParticipantId>,
    word: Mapped<AtomicU64>,
}

impl<T: OneMapping> Lane<T> {
    pub(super) fn new(queue: &Queue<T>, bell: Bell, me: &Arc<Member>) -> Lane<T> {
        let (end, word) = (queue.lane_receiver(me), queue.word());
        Lane { end, bell, idle: 0, sender: None, word }
    }

    /// Looks for a record.
    #[inline]
    pub(super) fn look(&mut self) -> Option<Found> {
        let sender = match self.sender {
            Some(sender) => sender,
            None => self.meet()?,
        };
        match self.end.find() {
            Ok(None) => None,
            Ok(Some(len)) => {
                self.idle = 0;
                Some(Found::record(sender, len))
            }
            Err(RecvError::Corrupt) => Some(Found::end(sender, Why::Corrupt)),
            Err(_) => None,
        }
    }

    /// Looks for a record, and whether the sender has gone. It is woken, if there is room.
    #[cold]
    pub(super) fn look_closer(&mut self) -> Option<Found> {
        self.end.wake_sender();
        let sender = match self.sender {
            Some(sender) => sender,
            None => self.meet()?,
        };
        // What it did before its end is seen after this.
        let gone = self.end.gone();
        let is_its = match self.seat() {
            Seat::Given(its) | Seat::Open(its) | Seat::Left(its) => its == sender,
            _ => false,
        };
        let why = match (self.end.find(), gone) {
            _ if !is_its => Why::Corrupt,
            (Err(RecvError::Corrupt), _) => Why::Corrupt,
            (Err(_), _) => return None,
            (Ok(Some(len)), _) => return Some(Found::record(sender, len)),
            (Ok(None), None) => return None,
            (Ok(None), Some(Missing::Detached)) => Why::Left,
            (Ok(None), Some(_)) => Why::Died,
        };
        Some(Found::end(sender, why))
    }

    /// Learns who has joined; frees a lane that was dropped, once its sender is no more.
    #[cold]
    fn meet(&mut self) -> Option<ParticipantId> {
        // Who asks whether it lives looks at the word again.
        match self.seat() {
            Seat::Given(sender) | Seat::Open(sender) | Seat::Left(sender) => {
                self.sender = Some(sender);
            }
            Seat::Dropped(sender) | Seat::Gone(sender) => {
                if self.end.gone().is_some() {
                    self.free(sender);
                }
            }
            Seat::Free => {}
        }
        self.sender
    }

    fn seat(&self) -> Seat {
        Seat::from_bits(self.word.load(Ordering::Relaxed))
    }

    /// Whether it has a sender that has left: one load.
    #[inline]
    pub(super) fn has_left(&self) -> bool {
        self.sender.is_some() && self.end.has_left()
    }

    pub(super) fn is_free(&self) -> bool {
        self.sender.is_none()
    }

    /// To learn of its sender's death.
    pub(super) fn watch(&self) -> Option<&Watch> {
        self.sender.and_then(|_| self.end.watch())
    }

    /// The end of the lane's sender has been told.
    pub(super) fn finish(&mut self, sender: ParticipantId, why: Why) {
        match why {
            Why::Left | Why::Died => self.free(sender),
            Why::Corrupt => self.dismiss(sender),
        }
        (self.sender, self.idle) = (None, 0);
    }

    /// Gives the lane to others: its sender has gone, and so nobody changes its word any more.
    fn free(&mut self, sender: ParticipantId) {
        self.end.begin();
        let seat = self.seat();
        // A liar's word is left alone.
        if seat.id() == Some(sender) {
            // Pairs with the Acquire in `take_lane`: the lane is empty.
            let (ok, err) = (Ordering::Release, Ordering::Relaxed);
            let (from, free) = (seat.to_bits(), Seat::Free.to_bits());
            let _ = self.word.compare_exchange(from, free, ok, err);
        }
    }

    /// Drops the sender, which may still write, and finds out by its next call.
    fn dismiss(&mut self, sender: ParticipantId) {
        let mut bits = self.word.load(Ordering::Relaxed);
        for _ in 0..ROUNDS_MAX {
            let to = match Seat::from_bits(bits) {
                Seat::Left(its) if its == sender => Seat::Gone(sender),
                Seat::Open(its) | Seat::Given(its) if its == sender => Seat::Dropped(sender),
                Seat::Free => Seat::Dropped(sender),
                // A lie brought another one here: its end is still to be told.
                _ => break,
            };
            let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
            match self.word.compare_exchange(bits, to.to_bits(), ok, err) {
                Ok(_) => break,
                Err(now) => bits = now,
            }
        }
    }
}
