//! What a queue is at each level of trust: what joins its two sides.
use super::role::Peer;
use super::shared::Told;
use crate::stream::OneMapping;
use crate::wait::Missing;
use crate::waitset::Source;
use shm_core::trust::Trust;

/// A level of trust that a queue has ends for: those of [`stream`](crate::stream::Level).
pub trait Level: Trust {
    /// How one side knows the other.
    #[doc(hidden)]
    type Link: Link;
}

impl<T: OneMapping> Level for T {
    type Link = Peer;
}

/// The other side, and the words between the two, but for the ring. What comes from it is a claim.
pub trait Link: Source {
    /// The longest record that the receiver takes, whatever the ring.
    fn message_bytes_max(&self) -> usize;

    /// How far the receiver says it is: its last look at the words before is over.
    fn released(&self) -> u64;
    /// The sender says how far it is, for its successor.
    fn tell_sent(&self, told: &mut Told, position: u64, records: u64);
    /// The receiver says how far it is.
    fn tell_released(&self, told: &mut Told, position: u64, records: u64);

    /// What is known without asking who is alive: one load, for the common path.
    fn known_gone(&mut self) -> Option<Missing>;
    /// Whether the receiver has dropped us, of whom it has many.
    fn has_dropped_us(&self) -> bool;
    /// Whether the peer has left or died, and how. What it published before can be read after this.
    fn gone(&mut self) -> Option<Missing>;

    /// Wakes the peer, if it sleeps.
    fn wake(&mut self);
    /// Wakes the sender, if it is known to sleep.
    fn wake_seen(&mut self);
    /// Says that this side has its role no more.
    fn leave(&mut self);
}
