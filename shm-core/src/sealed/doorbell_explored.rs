//! The doorbell of an exploration: words of its kernel's in the scenario's memory, in place of a
//! socket. The kernel does not lie; that a process is dead it says of its own.
use crate::futex::Futex;
use crate::mapping::{Mapped, Mapping};
use crate::sync::{AtomicU32, Ordering};
use relptr::shm_sync;
use shm_testkit::explore::kernel::{self, Slept};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// Why a [`Doorbell::wait`] ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// Somebody rang, or it ended for no reason: look.
    Bell,
    /// The peer is [gone](Doorbell::is_gone).
    Gone,
    /// The deadline passed.
    TimedOut,
}

/// What the kernel has of a connection: of each end, whether bytes lie there, and whether the other
/// one has hung up. Each word is 0, then 1.
#[derive(Debug)]
pub struct Ears {
    rung: [Futex; 2],
    hung_up: [Futex; 2],
}

shm_sync!(Ears { rung, hung_up });

impl Ears {
    /// Those of a new connection.
    #[allow(clippy::new_without_default, reason = "as of other words")]
    pub fn new() -> Ears {
        let words = || [Futex::new(0), Futex::new(0)];
        Ears { rung: words(), hung_up: words() }
    }
}

/// One end of a connection between two processes of an exploration.
#[derive(Debug)]
pub struct Doorbell {
    ears: Mapped<Ears>,
    /// 0 or 1.
    me: usize,
    peer: u32,
}

impl Doorbell {
    /// The end `me`, 0 or 1; process `peer` has the other.
    pub fn of(ears: &Mapped<Ears>, me: usize, peer: u32) -> Doorbell {
        Doorbell { ears: ears.clone(), me, peer }
    }

    /// A socket's other end is in no exploration: nobody has it.
    ///
    /// # Panics
    /// Never: the mapping is large enough.
    pub(super) fn new(_socket: UnixStream, _peer: Option<OwnedFd>) -> Doorbell {
        let mapping = Mapping::heap(size_of::<Ears>());
        // SAFETY: nobody else has the mapping.
        let ears = unsafe { Mapped::place(&mapping, 0, Ears::new()) };
        Doorbell { ears: ears.expect("it fits"), me: 0, peer: u32::MAX }
    }

    /// As the system's.
    pub fn ring(&self) -> bool {
        let theirs = &self.ears.rung[1 - self.me];
        theirs.word().store(1, Ordering::Relaxed);
        theirs.wake_all();
        true
    }

    /// As the system's.
    pub fn is_gone(&self) -> bool {
        self.hung_up().look_again() == Some(1) || kernel::is_dead(self.peer)
    }

    /// As the system's; there is no time.
    pub fn wait(&self, deadline: Option<Instant>) -> Heard {
        let words = [(self.rung(), 0), (self.hung_up(), 0)];
        let slept = kernel::sleep_beside(&[self.peer], &words, deadline.is_some());
        match slept {
            _ if self.is_gone() => Heard::Gone,
            Slept::TimedOut => Heard::TimedOut,
            Slept::Woken => {
                self.drain();
                Heard::Bell
            }
        }
    }

    /// As the system's.
    pub fn wait_any(bells: &[&Doorbell], deadline: Option<Instant>) -> Vec<Option<Heard>> {
        Doorbell::wait_beside(bells, &[], deadline)
    }

    /// As [`wait_any`](Doorbell::wait_any), and while each of `words` is as expected, until one of
    /// them is woken.
    pub fn wait_beside(
        bells: &[&Doorbell],
        words: &[(&Futex, u32)],
        deadline: Option<Instant>,
    ) -> Vec<Option<Heard>> {
        let ears = bells.iter().flat_map(|bell| [bell.rung(), bell.hung_up()]);
        let words = words.iter().map(|(word, expected)| (word.word(), *expected));
        let words: Vec<_> = ears.map(|ear| (ear, 0)).chain(words).collect();
        let peers: Vec<u32> = bells.iter().map(|bell| bell.peer).collect();
        kernel::sleep_beside(&peers, &words, deadline.is_some());
        let heard = |bell: &&Doorbell| {
            if bell.is_gone() {
                return Some(Heard::Gone);
            }
            let is_rung = bell.rung().look_again() == Some(1);
            is_rung.then(|| {
                bell.drain();
                Heard::Bell
            })
        };
        bells.iter().map(heard).collect()
    }

    /// Throws away what has come.
    pub(super) fn drain(&self) {
        self.rung().store(0, Ordering::Relaxed);
    }

    fn rung(&self) -> &AtomicU32 {
        self.ears.rung[self.me].word()
    }

    fn hung_up(&self) -> &AtomicU32 {
        self.ears.hung_up[self.me].word()
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        let theirs = &self.ears.hung_up[1 - self.me];
        theirs.word().store(1, Ordering::Relaxed);
        theirs.wake_all();
    }
}
