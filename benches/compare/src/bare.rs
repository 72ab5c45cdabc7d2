//! The limits: lines that go to and fro, and a ring that does nothing but carry messages.
use crate::ours::{create, open};
use crate::queue::{Payload, Receiver, Sender, check, poll, slots};
use shm_core::mapping::Mapping;
use shm_core::sync::{AtomicU64, Ordering};
use std::ops::Range;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

/// Slots, each a word that says whose turn it is and a message; the first begins on a line. Before
/// them, on a line of its own, stands how many the reader has read.
struct Slots {
    /// Of all that `bytes_for` says, mapped for as long as this lives.
    base: NonNull<u8>,
    _mapping: Arc<Mapping>,
    /// A power of two.
    count: u64,
    bytes: usize,
}

const SLOTS_AT: u64 = 128;

impl Slots {
    fn of(mapping: Arc<Mapping>, count: u64, bytes: usize) -> Slots {
        assert!(count.is_power_of_two() && bytes.is_multiple_of(8), "slots of whole words");
        let range = mapping.region().range(0, Slots::bytes_for(count, bytes));
        Slots { base: range.expect("the same at both ends"), _mapping: mapping, count, bytes }
    }

    fn create(at: &Path, count: u64, bytes: usize) -> Slots {
        Slots::of(create(at, Slots::bytes_for(count, bytes)), count, bytes)
    }

    fn bytes_for(count: u64, bytes: usize) -> u64 {
        SLOTS_AT + count * (8 + bytes as u64)
    }

    #[inline(always)]
    fn read(&self) -> &AtomicU64 {
        // SAFETY: the first word is mapped, and only ever used as an atomic.
        unsafe { self.base.cast().as_ref() }
    }

    /// The word of a slot, and its message.
    #[inline(always)]
    fn slot(&self, number: u64) -> (&AtomicU64, *mut u8) {
        let at = SLOTS_AT + (number & (self.count - 1)) * (8 + self.bytes as u64);
        // SAFETY: a slot of so many is inside.
        let slot = unsafe { self.base.add(at as usize) };
        // SAFETY: its first word is aligned, as all are whole words, and only ever an atomic.
        let turn = unsafe { slot.cast().as_ref() };
        // SAFETY: the message follows.
        (turn, unsafe { slot.as_ptr().add(8) })
    }

    /// Where the slot is the sender's.
    #[inline(always)]
    fn put(&self, message: &[u8], number: u64) {
        assert_eq!(message.len(), self.bytes);
        let (turn, to) = self.slot(number);
        // SAFETY: the slot is as long, and the sender's until its word says otherwise.
        unsafe { to.copy_from_nonoverlapping(message.as_ptr(), self.bytes) };
        // Pairs with the Acquire in `take`: the message.
        turn.store(number + 1, Ordering::Release);
    }

    #[inline(always)]
    fn take(&self, number: u64) {
        let (turn, message) = self.slot(number);
        // Pairs with the Release in `put`: the message.
        while turn.load(Ordering::Acquire) != number + 1 {
            std::hint::spin_loop();
        }
        // SAFETY: the slot is as long, and the reader's until it says otherwise.
        check(unsafe { std::slice::from_raw_parts(message, self.bytes) }, number);
    }
}

/// One slot, written anew when the answer has come: of no use but to go to and fro.
pub(crate) struct Lines(Slots);

impl Lines {
    pub(crate) fn sender(at: &Path, bytes: usize) -> Box<dyn Sender> {
        Box::new(Lines(Slots::create(at, 1, bytes)))
    }

    pub(crate) fn receiver(at: &Path, bytes: usize) -> Box<dyn Receiver> {
        Box::new(Lines(Slots::of(open(at), 1, bytes)))
    }
}

impl Sender for Lines {
    fn send(&mut self, payload: &mut Payload, numbers: Range<u64>) {
        for number in numbers {
            self.0.put(payload.numbered(number), number);
        }
    }
}

impl Receiver for Lines {
    fn recv(&mut self, numbers: Range<u64>) {
        for number in numbers {
            self.0.take(number);
        }
    }
}

/// As many slots as the others have. The reader says now and then how far it is, and the writer
/// looks when it has to.
pub(crate) struct Ring {
    slots: Slots,
    /// How many the reader had read when the writer looked.
    seen: u64,
}

impl Ring {
    pub(crate) fn sender(at: &Path, bytes: usize) -> Box<dyn Sender> {
        Box::new(Ring { slots: Slots::create(at, slots(bytes), bytes), seen: 0 })
    }

    pub(crate) fn receiver(at: &Path, bytes: usize) -> Box<dyn Receiver> {
        Box::new(Ring { slots: Slots::of(open(at), slots(bytes), bytes), seen: 0 })
    }
}

impl Sender for Ring {
    fn send(&mut self, payload: &mut Payload, numbers: Range<u64>) {
        for number in numbers {
            if number - self.seen == self.slots.count {
                self.seen = poll(|| {
                    // Pairs with the Release in `recv`: the slots have been read.
                    let read = self.slots.read().load(Ordering::Acquire);
                    (read != self.seen).then_some(read)
                });
            }
            self.slots.put(payload.numbered(number), number);
        }
    }
}

impl Receiver for Ring {
    fn recv(&mut self, numbers: Range<u64>) {
        let most = (self.slots.count / 8).max(1);
        for number in numbers {
            self.slots.take(number);
            if (number + 1).is_multiple_of(most) {
                // Pairs with the Acquire in `send`: the slots have been read.
                self.slots.read().store(number + 1, Ordering::Release);
            }
        }
    }
}
