//! A bell between two processes, on which one can sleep; and whether the other one lives.
use super::message::{let_go, receive};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::mem::ManuallyDrop;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The other end is closed, or cannot be used any more.
const HUNG_UP: PollFlags =
    PollFlags::HUP.union(PollFlags::RDHUP).union(PollFlags::ERR).union(PollFlags::NVAL);

/// Bytes thrown away by one call, and how many calls a waking makes: a peer that rings faster than
/// that finds us awake, and no more.
const DRAIN_BYTES: usize = 4096;
const DRAIN_CALLS: usize = 4;

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

/// One end of a connection with a peer that need not be trusted.
#[derive(Debug)]
pub struct Doorbell {
    /// Taken in `drop`.
    socket: ManuallyDrop<UnixStream>,
    /// A pidfd of the peer, where its pid is known.
    peer: Option<OwnedFd>,
    /// Who made it. A forked child has the same socket, and leaves it alone.
    process: u32,
}

impl Doorbell {
    pub(super) fn new(socket: UnixStream, peer: Option<OwnedFd>) -> Doorbell {
        Doorbell { socket: ManuallyDrop::new(socket), peer, process: std::process::id() }
    }

    /// Wakes the peer; whether it will hear it. Never blocks: one system call.
    ///
    /// A peer that left its bell unanswered until no byte fits has one to wake from.
    pub fn ring(&self) -> bool {
        // NOSIGNAL: a peer that left is no SIGPIPE.
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        matches!(send(&*self.socket, b"!", flags), Ok(_) | Err(Errno::AGAIN))
    }

    /// Whether the peer's process has ended, or no process holds the other end any more: the
    /// kernel's word, for good. One system call.
    ///
    /// What the peer wrote before is visible to the caller.
    pub fn is_gone(&self) -> bool {
        self.poll(Some(Duration::ZERO)).is_ok_and(|(_, gone)| gone)
    }

    /// Sleeps until the bell is rung, the peer is gone, or `deadline`.
    ///
    /// Bells from before count: who wants to sleep looks once more at what it waits for after a
    /// wait, and before the next.
    pub fn wait(&self, deadline: Option<Instant>) -> Heard {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match self.poll(left) {
            Ok((_, true)) => Heard::Gone,
            Ok((true, false)) => {
                self.drain();
                Heard::Bell
            }
            Ok((false, false)) => Heard::TimedOut,
            // A signal, for one.
            Err(_) => Heard::Bell,
        }
    }

    /// Throws away what has come. On who sends descriptors along we hang up.
    ///
    /// From Linux 6.16 on they do not come here at all. Before, each could cost a thread that
    /// closes it, hence the first one is the last.
    pub(super) fn drain(&self) {
        let mut bytes = [0; DRAIN_BYTES];
        for _ in 0..DRAIN_CALLS {
            match receive(&self.socket, &mut bytes) {
                Ok(got) if got.has_descriptors() => {
                    let _ = self.socket.shutdown(Shutdown::Both);
                    return;
                }
                Ok(got) if got.count == DRAIN_BYTES => {}
                _ => return,
            }
        }
    }

    /// Whether bytes have come, and whether the peer is gone.
    fn poll(&self, timeout: Option<Duration>) -> Result<(bool, bool), Errno> {
        match self.entries() {
            (socket, None) => {
                let mut events = [socket];
                ask(&mut events, timeout)?;
                Ok(seen(&events))
            }
            (socket, Some(peer)) => {
                let mut events = [socket, peer];
                ask(&mut events, timeout)?;
                Ok(seen(&events))
            }
        }
    }

    /// What there is to poll for who sleeps on other things beside: where one of these can be read,
    /// or has hung up (`POLLIN`, `POLLRDHUP`), [`wait_any`](Doorbell::wait_any) says at once what
    /// it is.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.socket.as_fd()).chain(self.peer.as_ref().map(AsFd::as_fd))
    }

    /// What to poll: the socket, and the peer's process if it is known.
    fn entries(&self) -> (PollFd<'_>, Option<PollFd<'_>>) {
        let socket = PollFd::new(&*self.socket, PollFlags::IN | PollFlags::RDHUP);
        (socket, self.peer.as_ref().map(|peer| PollFd::new(peer, PollFlags::IN)))
    }

    /// Sleeps until one of these is rung, or its peer is gone, or `deadline`: what each heard, if
    /// anything. Where it ended for no reason, nobody heard anything.
    ///
    /// As [`wait`](Doorbell::wait) of each, and one system call.
    pub fn wait_any(bells: &[&Doorbell], deadline: Option<Instant>) -> Vec<Option<Heard>> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let mut events = Vec::with_capacity(2 * bells.len());
        for (socket, peer) in bells.iter().map(|bell| bell.entries()) {
            events.push(socket);
            events.extend(peer);
        }
        if ask(&mut events, left).is_err() {
            return vec![None; bells.len()];
        }
        let mut events = events.as_slice();
        let heard = |bell: &&Doorbell| {
            let (own, rest) = events.split_at(1 + usize::from(bell.peer.is_some()));
            events = rest;
            match seen(own) {
                (_, true) => Some(Heard::Gone),
                (true, false) => {
                    bell.drain();
                    Some(Heard::Bell)
                }
                (false, false) => None,
            }
        };
        bells.iter().map(heard).collect()
    }
}

fn ask(events: &mut [PollFd<'_>], timeout: Option<Duration>) -> Result<(), Errno> {
    // A wait longer than the clock can express is one without a limit.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    poll(events, timeout.as_ref()).map(drop)
}

fn seen(events: &[PollFd<'_>]) -> (bool, bool) {
    let of_socket = events[0].revents();
    let died = events.get(1).is_some_and(|peer| peer.revents().contains(PollFlags::IN));
    (of_socket.contains(PollFlags::IN), of_socket.intersects(HUNG_UP) || died)
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        // SAFETY: nobody looks at it after this.
        let socket = unsafe { ManuallyDrop::take(&mut self.socket) };
        if self.process == std::process::id() {
            let_go(socket);
        }
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
