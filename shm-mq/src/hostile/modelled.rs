//! What two sides of a model have of a hostile queue: the code from the first message on, over two
//! mappings of the process's own. The hello, which only the system has, is over.
use super::shared::{HALF_BYTES, Half};
use super::{Kind, Wire};
use shm_core::BadPtr;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::sealed::{Doorbell, Held};
use std::sync::Arc;

/// Both ends, and what the kernel has of each process.
#[derive(Debug)]
pub struct Ends<S, R> {
    /// The sender's.
    pub sender: S,
    /// To be told when the sender's process is dead.
    pub sender_held: Held,
    /// The receiver's.
    pub receiver: R,
    /// To be told when the receiver's process is dead.
    pub receiver_held: Held,
}

/// The two sides of a queue that have met, and the sender's memory: so many bytes behind its half.
pub(crate) fn meet(
    kind: &Kind,
    ring_bytes: u64,
    message_bytes_max: usize,
) -> Result<(Arc<Mapping>, Ends<Wire, Wire>), BadPtr> {
    let (own, written) = sender_memory(kind, ring_bytes)?;
    Ok((own, meet_one(kind, &written, message_bytes_max)?))
}

/// A sender's memory: so many bytes behind its half.
pub(crate) fn sender_memory(
    kind: &Kind,
    ring_bytes: u64,
) -> Result<(Arc<Mapping>, Mapped<Half>), BadPtr> {
    let own = Mapping::heap(HALF_BYTES.saturating_add(ring_bytes) as usize);
    // SAFETY: our own memory, which nobody has yet.
    let written = unsafe { Mapped::place(&own, 0, Half::new(kind.sender, ring_bytes, 0, 0)) }?;
    Ok((own, written))
}

/// A sender, of this half, and a receiver that have met.
pub(crate) fn meet_one(
    kind: &Kind,
    written: &Mapped<Half>,
    message_bytes_max: usize,
) -> Result<Ends<Wire, Wire>, BadPtr> {
    let theirs = Mapping::heap(HALF_BYTES as usize);
    let half = Half::new(kind.receiver, 0, message_bytes_max as u64, 0);
    // SAFETY: our own memory, which nobody has yet.
    let read = unsafe { Mapped::place(&theirs, 0, half) }?;
    let [senders, receivers] = Doorbell::pair();
    let (sender_held, receiver_held) = (senders.held(), receivers.held());
    let sender = Wire::new(written.clone(), read.clone(), senders, message_bytes_max);
    let receiver = Wire::new(read, written.clone(), receivers, message_bytes_max);
    Ok(Ends { sender, sender_held, receiver, receiver_held })
}
