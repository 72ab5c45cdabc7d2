//! What a stream is at each level of trust: how its bytes move, and what joins its two sides.
use super::peer::Peer;
use crate::wait::Missing;
use crate::waitset::Source;
use shm_core::trust::{Buggy, Crashing, Trust};
use std::fmt;

/// A level of trust that a stream has ends for.
pub trait Level: Trust {
    /// How one side knows the other.
    #[doc(hidden)]
    type Link: Link;
}

/// The levels at which both sides write one mapping: [`Crashing`] and [`Buggy`].
pub trait OneMapping: Level<Link = Peer> {}

impl Level for Crashing {
    type Link = Peer;
}
impl Level for Buggy {
    type Link = Peer;
}
impl OneMapping for Crashing {}
impl OneMapping for Buggy {}

/// The other side, and the words between the two. What comes from it is a claim.
pub trait Link: Source + fmt::Debug {
    /// The longest message that the receiver takes.
    fn message_bytes_max(&self) -> usize;

    /// How far the sender says it is, and the frames before.
    fn written(&self) -> u64;
    /// The sender tells the receiver how far it is.
    fn tell_written(&self, position: u64);
    /// How far the receiver says it is: its last look at the bytes before is over.
    fn read(&self) -> u64;
    /// The receiver tells the sender how far it is.
    fn tell_read(&self, position: u64);

    /// The sender wakes the receiver if it sleeps.
    fn wake_receiver(&mut self);
    /// The receiver wakes the sender if it sleeps.
    fn wake_sender(&mut self);
    /// Says that this side's handle is gone.
    fn leave(&mut self);

    /// What is known without asking who is alive: one load, for the common path.
    fn known_gone(&mut self) -> Option<Missing>;
    /// Whether the peer has left or died, and how. What it published before can be read after this.
    fn gone(&mut self) -> Option<Missing>;
}
