//! A hostile stream in a model: the code from the first message on, over two mappings of the
//! process's own. The hello, which only the system has, is over.
use super::super::frame::MESSAGE_BYTES_MAX;
use super::super::receiver::Receiver;
use super::super::ring::Ring;
use super::super::sender::Sender;
use super::shared::{HALF_BYTES, Half, RECEIVER, SENDER};
use super::wire::Wire;
use shm_core::BadPtr;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::sealed::{Doorbell, Held};
use shm_core::trust::Hostile;

/// Both ends, and what the kernel has of each process.
#[derive(Debug)]
pub struct Ends {
    /// The sender's.
    pub sender: Sender<Hostile>,
    /// To be told when the sender's process is dead.
    pub sender_held: Held,
    /// The receiver's.
    pub receiver: Receiver<Hostile>,
    /// To be told when the receiver's process is dead.
    pub receiver_held: Held,
}

/// A stream whose two sides have met.
///
/// # Errors
/// [`BadPtr`] where `ring_bytes` is no size.
pub fn hostile(ring_bytes: u64) -> Result<Ends, BadPtr> {
    let sender_bytes = HALF_BYTES.saturating_add(Ring::<Hostile>::mapped_bytes(ring_bytes));
    let theirs = Mapping::heap(HALF_BYTES as usize);
    let own = Mapping::heap(sender_bytes as usize);
    // SAFETY: our own memory, which nobody has yet.
    let written = unsafe { Mapped::place(&own, 0, Half::new(SENDER, ring_bytes, 0)) }?;
    let limit = MESSAGE_BYTES_MAX;
    // SAFETY: as above.
    let read = unsafe { Mapped::place(&theirs, 0, Half::new(RECEIVER, 0, limit as u64)) }?;
    // SAFETY: as above.
    let ring = unsafe { Ring::create(&own, HALF_BYTES, ring_bytes) }?;
    let [senders, receivers] = Doorbell::pair();
    let (sender_held, receiver_held) = (senders.held(), receivers.held());
    let sender = Wire::new(written.clone(), read.clone(), senders, limit);
    let receiver = Wire::new(read, written, receivers, limit);
    Ok(Ends {
        sender: Sender::new(ring.clone(), sender),
        sender_held,
        receiver: Receiver::new(ring, receiver),
        receiver_held,
    })
}
