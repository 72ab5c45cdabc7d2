//! What is compared: the two ends of a queue, what goes through it, and which queues there are.
use crate::{bare, iceoryx, kernel, ours, ringfire, shaq};
use std::ops::Range;
use std::path::Path;

/// One end of a queue, which waits by polling, or in the kernel where the queue is the kernel's.
pub(crate) trait Sender {
    /// Writes the messages of these numbers, each whole, and publishes them.
    fn send(&mut self, payload: &mut Payload, numbers: Range<u64>);
}

/// The other end.
pub(crate) trait Receiver {
    /// Takes the messages of these numbers, and [`check`]s each.
    fn recv(&mut self, numbers: Range<u64>);
}

/// The bytes of a message: its number, and words that come to nothing together.
pub(crate) struct Payload(Vec<u8>);

impl Payload {
    pub(crate) fn new(bytes: usize) -> Payload {
        let mut words: Vec<u64> = (0..bytes as u64 / 8).map(|at| at.wrapping_mul(!0 / 7)).collect();
        let rest = words.iter().skip(1).fold(0, |all, word| all ^ word);
        match words.as_mut_slice() {
            [_, .., last] => *last ^= rest,
            _ => assert_eq!(bytes, 8, "a number, and at least two words or none"),
        }
        Payload(words.iter().flat_map(|word| word.to_ne_bytes()).collect())
    }

    #[inline(always)]
    pub(crate) fn numbered(&mut self, number: u64) -> &[u8] {
        self.0[..8].copy_from_slice(&number.to_ne_bytes());
        &self.0
    }
}

/// Reads each byte: it is the message of this number, and whole.
#[inline(always)]
pub(crate) fn check(message: &[u8], number: u64) {
    let (words, rest) = message.as_chunks();
    let found = words.iter().fold(0, |all, word| all ^ u64::from_ne_bytes(*word));
    assert!(found == number && rest.is_empty(), "message {number} is another, or torn");
}

/// Takes what is there by then.
#[inline(always)]
pub(crate) fn poll<T>(mut take: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(taken) = take() {
            return taken;
        }
        std::hint::spin_loop();
    }
}

/// Messages that find room, in all alike: as many as 256 KiB hold, from 4 to 1024.
pub(crate) fn slots(bytes: usize) -> u64 {
    ((1 << 18) / bytes as u64).clamp(4, 1024)
}

macro_rules! kinds {
    ($($Kind:ident $name:literal $module:ident :: $End:ident;)*) => {
        /// A queue.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Kind { $($Kind),* }

        impl Kind {
            const ALL: &[Kind] = &[$(Kind::$Kind),*];

            pub(crate) fn name(self) -> &'static str {
                match self { $(Kind::$Kind => $name),* }
            }

            /// Makes the queue at this path, for messages of so many bytes.
            pub(crate) fn sender(self, at: &Path, bytes: usize) -> Box<dyn Sender> {
                match self { $(Kind::$Kind => $module::$End::sender(at, bytes)),* }
            }

            /// Comes to the queue, which has been made.
            pub(crate) fn receiver(self, at: &Path, bytes: usize) -> Box<dyn Receiver> {
                match self { $(Kind::$Kind => $module::$End::receiver(at, bytes)),* }
            }
        }
    };
}
kinds! {
    BareLines "bare lines" bare::Lines;
    BareRing "bare ring" bare::Ring;
    Spsc "spsc" ours::Spsc;
    InPlace "spsc in place" ours::InPlace;
    Stream "stream" ours::Stream;
    Iceoryx2 "iceoryx2" iceoryx::Iceoryx;
    Shaq "shaq" shaq::Shaq;
    Ringfire "ringfire" ringfire::Ringfire;
    Seqpacket "SEQPACKET" kernel::Seqpacket;
    Pipe "pipe" kernel::Pipe;
}

impl Kind {
    pub(crate) fn of(name: &str) -> Kind {
        *Kind::ALL.iter().find(|kind| kind.name() == name).expect("the name of a queue")
    }
}
