//! The doorbell of a model: two words of its kernel's an end, in place of a socket.
//!
//! As much is assumed of the kernel as the system's doorbell says of it: an end comes with what the
//! peer did before. A ring orders nothing; sleeping and being woken do, as everywhere in models.
use crate::futex::{Futex, Wake};
use crate::sync::Ordering;
use shm_testkit::model::{self, Effect};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
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

/// What one end hears: each word is 0, then 1.
#[derive(Debug)]
struct Ear {
    /// Bytes lie in the socket.
    rung: Futex,
    /// The peer has hung up or died.
    ended: Futex,
}

/// The kernel's side of one end: for the death of the process that has it.
#[derive(Clone, Debug)]
pub struct Held {
    ears: Arc<[Ear; 2]>,
    me: usize,
}

impl Held {
    /// The process is dead, or hangs up: all it did is visible to who learns of it.
    pub fn ends(&self) {
        let theirs = &self.ears[1 - self.me].ended;
        theirs.word().kernel_compare_exchange(0, 1);
        theirs.wake_by_kernel();
    }

    fn mine(&self) -> &Ear {
        &self.ears[self.me]
    }
}

/// One end of a connection between two processes of a model.
#[derive(Debug)]
pub struct Doorbell {
    held: Held,
}

impl Doorbell {
    /// Both ends of a new connection.
    pub fn pair() -> [Doorbell; 2] {
        let ear = || Ear { rung: Futex::new(0), ended: Futex::new(0) };
        let ears = Arc::new([ear(), ear()]);
        [0, 1].map(|me| Doorbell { held: Held { ears: ears.clone(), me } })
    }

    /// A socket's other end is in no model: the peer is gone.
    pub(super) fn new(_socket: UnixStream, _peer: Option<OwnedFd>) -> Doorbell {
        let [mine, theirs] = Doorbell::pair();
        drop(theirs);
        mine
    }

    /// What the kernel has of it.
    pub fn held(&self) -> Held {
        self.held.clone()
    }

    /// As the system's: one call, which orders nothing.
    pub fn ring(&self) -> bool {
        let theirs = &self.held.ears[1 - self.held.me].rung;
        theirs.word().fetch_or(1, Ordering::Relaxed);
        theirs.wake_by_kernel();
        true
    }

    /// As the system's.
    pub fn is_gone(&self) -> bool {
        model::step() == Effect::Happens && self.held.mine().ended.word().kernel_look() != 0
    }

    /// As the system's; there is no time.
    pub fn wait(&self, deadline: Option<Instant>) -> Heard {
        let Ear { rung, ended } = self.held.mine();
        let woken = Futex::wait_any(&[(rung, 0), (ended, 0)], deadline);
        if ended.word().kernel_look() != 0 {
            return Heard::Gone;
        }
        match woken {
            Wake::TimedOut => Heard::TimedOut,
            Wake::Woken => {
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
        let ears = bells.iter().map(|bell| bell.held.mine());
        let ears = ears.flat_map(|ear| [(&ear.rung, 0), (&ear.ended, 0)]);
        let words: Vec<_> = ears.chain(words.iter().copied()).collect();
        Futex::wait_any(&words, deadline);
        let heard = |bell: &&Doorbell| {
            let Ear { rung, ended } = bell.held.mine();
            if ended.word().kernel_look() != 0 {
                return Some(Heard::Gone);
            }
            if rung.word().kernel_look() == 0 {
                return None;
            }
            bell.drain();
            Some(Heard::Bell)
        };
        bells.iter().map(heard).collect()
    }

    /// Throws away what has come.
    pub(super) fn drain(&self) {
        self.held.mine().rung.word().fetch_and(0, Ordering::Relaxed);
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        // A model that has failed unwinds as a death does, and can do nothing more.
        if !std::thread::panicking() && model::step() == Effect::Happens {
            self.held.ends();
        }
    }
}
