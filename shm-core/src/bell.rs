//! A file descriptor that becomes readable when words in shared memory change: the way from
//! futexes to `poll`, to `epoll`, and to the runtimes that stand on it.
//!
//! ```text
//!  word 1 ──┐
//!  word 2 ──┼──► the kernel ──► descriptor: readable     IORING_OP_FUTEX_WAITV (Linux 6.7)
//!  a time ──┤                                            and IORING_OP_POLL_ADD
//!  a file ──┘
//!                     or
//!  1 ms ───────────────────► descriptor: readable        a timer, where that is refused
//! ```
//!
//! **By io_uring** the kernel itself waits for the words, as a sleeper in `futex_waitv` would, and
//! says so in a ring whose descriptor becomes readable: at once, without a thread, and for who
//! changes the word it is a sleeper like any other. **By a timer** (many sandboxes refuse io_uring,
//! and older kernels do not know the operation) the descriptor becomes readable a millisecond
//! after it was armed, whether something changed or not: who looks then learns of a change that
//! much later, and the looking costs processor time. Which of the two it is, is found out once in
//! the life of a process; [`Bell::is_immediate`] tells.
//!
//! # States
//!
//! | state | moved on by | to |
//! | --- | --- | --- |
//! | silent | [`arm`](Bell::arm) | armed, or rung where a word has changed already |
//! | armed | a word that is woken, the time, [`arm`](Bell::arm) | rung, rung, armed anew |
//! | rung | [`take`](Bell::take) | silent |
//!
//! # If a process dies here
//! A bell is private: it puts nothing into shared memory. What waits in the kernel for a process
//! that is killed is cancelled at its end.
//!
//! # Why nothing dangles
//!
//! The kernel reads the words while it is told to wait for them, which is within
//! [`arm`](Bell::arm), and never again: a waiter in the kernel is a key (the file and the place in
//! it; for private memory the address), which is compared with that of who wakes. So when the
//! memory goes away before the bell, what waits is woken by nobody, or by who wakes the same place
//! of the same file, or the same address: a bell that rings in vain. All the same a bell that is
//! dropped, or armed anew, cancels what waits, within the call.
//!
//! # Limits
//!
//! A forked child has no bell: it shares its parent's descriptor, and may do nothing with it. The
//! thread that armed a bell may have a system call of its interrupted when it rings, as by a signal
//! with `SA_RESTART`; when that thread ends, the bell rings. At most [`WAIT_WORDS_MAX`] words.
use crate::futex::{Futex, WAIT_WORDS_MAX};
use crate::process::{ForkGuard, Forked};
use crate::sync::Ordering;
use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, opcode, types};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

/// A bell that goes by a timer rings so long after it was armed.
const TICK: Duration = Duration::from_millis(1);

/// An arming takes three entries at most: cancel, wait, time. And one for each descriptor, which go
/// in parts; the kernel keeps answers for which there is no room.
const ENTRIES: u32 = 8;

/// `FUTEX2_SIZE_U32`: a word of 32 bits, which other processes may wake.
const SIZE_U32: u32 = 2;

/// Why a bell cannot be had, or armed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BellError {
    /// The system says no: no descriptors left, no memory.
    #[error("no bell")]
    System(#[from] io::Error),
    /// It is the bell of the process that this one was forked from.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// Becomes readable when words change. See the [module](self).
///
/// ```
/// use shm_core::bell::Bell;
/// use shm_core::futex::Futex;
/// use shm_core::sync::Ordering;
///
/// let word = Futex::new(1);
/// let mut bell = Bell::new()?;
/// bell.arm(&[(&word, 1)], None)?;
/// word.word().store(2, Ordering::Relaxed);
/// word.wake_all();
/// while !bell.take()? {
///     std::thread::yield_now(); // or poll(2) for its descriptor
/// }
/// # Ok::<(), shm_core::bell::BellError>(())
/// ```
#[derive(Debug)]
pub struct Bell {
    kind: ManuallyDrop<Kind>,
    fork: ForkGuard,
}

#[derive(Debug)]
enum Kind {
    Ring(Box<Ring>),
    Timer { fd: OwnedFd },
}

impl Bell {
    /// A bell that the kernel rings at once, or, where it will not, one that goes by a timer.
    ///
    /// # Errors
    /// [`BellError::System`].
    pub fn new() -> Result<Bell, BellError> {
        if !ring_works() {
            return Bell::by_timer();
        }
        Ok(Bell::of(Kind::Ring(Box::new(Ring::new()?))))
    }

    /// A bell that goes by a timer, for who is to do without io_uring.
    ///
    /// # Errors
    /// [`BellError::System`].
    pub fn by_timer() -> Result<Bell, BellError> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(io::Error::from)?;
        Ok(Bell::of(Kind::Timer { fd }))
    }

    fn of(kind: Kind) -> Bell {
        Bell { kind: ManuallyDrop::new(kind), fork: ForkGuard::new() }
    }

    /// Whether it rings as soon as a word changes, and not otherwise.
    pub fn is_immediate(&self) -> bool {
        matches!(*self.kind, Kind::Ring(_))
    }

    /// Has it ring when one of `words` is woken or not as expected, and after `most`. What it was
    /// armed with before, and whether it rang, is forgotten.
    ///
    /// # Errors
    /// [`BellError`].
    ///
    /// # Panics
    /// Where there are more than [`WAIT_WORDS_MAX`] words.
    pub fn arm(
        &mut self,
        words: &[(&Futex, u32)],
        most: Option<Duration>,
    ) -> Result<(), BellError> {
        self.arm_beside(words, &[], most)
    }

    /// As [`arm`](Bell::arm), and when one of `fds` can be read, or has hung up.
    ///
    /// # Errors
    /// As [`arm`](Bell::arm).
    ///
    /// # Panics
    /// As [`arm`](Bell::arm).
    pub fn arm_beside(
        &mut self,
        words: &[(&Futex, u32)],
        fds: &[BorrowedFd<'_>],
        most: Option<Duration>,
    ) -> Result<(), BellError> {
        assert!(words.len() <= WAIT_WORDS_MAX, "at most 128 words");
        self.fork.check()?;
        match &mut *self.kind {
            Kind::Ring(ring) => ring.arm(words, fds, most)?,
            Kind::Timer { fd } => {
                let is_still = |(word, expected): &(&Futex, u32)| {
                    // What is to be seen behind it, who looks afterwards sees by himself.
                    word.load(Ordering::Relaxed) == *expected
                };
                let time = if !words.iter().all(is_still) {
                    Duration::from_nanos(1)
                } else if words.is_empty() && fds.is_empty() {
                    // 0 would be never.
                    most.map_or(Duration::ZERO, |most| most.max(Duration::from_nanos(1)))
                } else {
                    most.map_or(TICK, |most| most.clamp(Duration::from_nanos(1), TICK))
                };
                set_timer(fd, time)?;
            }
        }
        Ok(())
    }

    /// Whether it has rung since it was armed; says so once.
    ///
    /// # Errors
    /// [`BellError`].
    pub fn take(&mut self) -> Result<bool, BellError> {
        self.fork.check()?;
        match &mut *self.kind {
            Kind::Ring(ring) => Ok(ring.take()),
            Kind::Timer { fd } => match rustix::io::read(fd, &mut [0; 8]) {
                Ok(_) => Ok(true),
                Err(rustix::io::Errno::AGAIN) => Ok(false),
                Err(error) => Err(io::Error::from(error).into()),
            },
        }
    }

    /// Has it ring no more.
    ///
    /// # Errors
    /// [`BellError`].
    pub fn silence(&mut self) -> Result<(), BellError> {
        self.arm(&[], None)
    }
}

impl AsFd for Bell {
    /// Readable once it has rung. For `poll` and its like: reading from it is [`Bell::take`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &*self.kind {
            Kind::Ring(ring) => ring.as_fd(),
            Kind::Timer { fd } => fd.as_fd(),
        }
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        // SAFETY: nobody uses it after this.
        let kind = unsafe { ManuallyDrop::take(&mut self.kind) };
        match kind {
            Kind::Ring(mut ring) if self.fork.check().is_ok() => ring.cancel(),
            Kind::Ring(ring) => ring.forget(),
            Kind::Timer { .. } => {}
        }
    }
}

fn set_timer(fd: &OwnedFd, time: Duration) -> io::Result<()> {
    let never = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    // What the clock cannot express never comes.
    let once = rustix::time::Timespec::try_from(time).unwrap_or(never);
    let time = Itimerspec { it_interval: never, it_value: once };
    timerfd_settime(fd, TimerfdTimerFlags::empty(), &time)?;
    Ok(())
}

/// Whether this kernel, and the sandbox we may be in, lets a ring wait for words.
fn ring_works() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| {
        let word = Futex::new(1);
        // It is not 0: the answer is there when the call returns.
        Ring::new()
            .is_ok_and(|mut ring| ring.arm(&[(&word, 0)], &[], None).is_ok() && ring.was_moved())
    })
}

/// Waits for words, by io_uring.
struct Ring {
    ring: IoUring,
    /// The number of the last arming, which its answers carry.
    number: u64,
    /// So many parts of it have not answered.
    waiting: usize,
    /// What its entries point to: kept, for the kernel may refuse to read them at once.
    waits: Vec<types::FutexWaitV>,
    time: Box<types::Timespec>,
}

/// What an answer belongs to: an arming's wait, the end of its time, or a cancelling.
const WAIT: u64 = 0;
const TIME: u64 = 1;
const CANCEL: u64 = 2;

/// Of a descriptor: something can be read, or its other side has gone.
const READABLE: u32 = (libc::POLLIN | libc::POLLRDHUP) as u32;

impl Ring {
    /// Its memory is not there in a forked child, lest two use one queue.
    fn new() -> io::Result<Ring> {
        let ring = IoUring::builder().dontfork().setup_submit_all().build(ENTRIES)?;
        Ok(Ring { ring, number: 0, waiting: 0, waits: Vec::new(), time: Box::default() })
    }

    fn arm(
        &mut self,
        words: &[(&Futex, u32)],
        fds: &[BorrowedFd<'_>],
        most: Option<Duration>,
    ) -> io::Result<()> {
        // What it refused last time goes first, as long as what that points to is there.
        self.submit()?;
        self.take();
        if self.waiting > 0 {
            self.push_cancel()?;
        }
        self.number += 1;
        let number = self.number << 2;
        *self.time = types::Timespec::from(most.unwrap_or_default());
        self.waits.clear();
        self.waits.extend(words.iter().map(|(word, expected)| wait_for(word, *expected)));
        if !self.waits.is_empty() {
            let (first, count) = (self.waits.as_ptr(), self.waits.len() as u32);
            let wait = opcode::FutexWaitV::new(first, count).build();
            let wait = wait.user_data(number | WAIT);
            self.push(if most.is_some() { wait.flags(Flags::IO_LINK) } else { wait })?;
            if most.is_some() {
                self.push(opcode::LinkTimeout::new(&*self.time).build().user_data(number | TIME))?;
            }
        } else if most.is_some() {
            self.push(opcode::Timeout::new(&*self.time).build().user_data(number | WAIT))?;
        }
        self.waiting = usize::from(!self.waits.is_empty() || most.is_some());
        for fd in fds {
            let poll = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), READABLE).build();
            self.push(poll.user_data(number | WAIT))?;
            self.waiting += 1;
        }
        self.submit()
    }

    fn push(&mut self, entry: Entry) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.submit()?;
        }
        // SAFETY: what it points to is this ring's, and is not touched before it is submitted.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        debug_assert!(pushed.is_ok(), "there is room");
        Ok(())
    }

    fn push_cancel(&mut self) -> io::Result<()> {
        let all = types::CancelBuilder::user_data(self.number << 2 | WAIT).all();
        let cancel = opcode::AsyncCancel2::new(all).build();
        self.push(cancel.user_data(CANCEL).flags(Flags::SKIP_SUCCESS))?;
        self.waiting = 0;
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Ok(0) => return Err(io::ErrorKind::WouldBlock.into()),
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn cancel(&mut self) {
        if self.waiting > 0 {
            // Where it is refused, closing the ring cancels.
            let _ = self.push_cancel().and_then(|()| self.submit());
        }
    }

    /// Takes all answers; whether that of the last arming was among them.
    fn take(&mut self) -> bool {
        self.answer().is_some()
    }

    fn answer(&mut self) -> Option<i32> {
        let waited_for = self.number << 2 | WAIT;
        let mut last = None;
        loop {
            for answer in self.ring.completion().filter(|one| one.user_data() == waited_for) {
                last = Some(answer.result());
                self.waiting = self.waiting.saturating_sub(1);
            }
            // Those for which there was no room come with a call: so many as descriptors, at most.
            if !self.ring.submission().cq_overflow() || self.ring.submit().is_err() {
                return last;
            }
        }
    }

    /// Whether the answer is that a word is not as expected.
    fn was_moved(&mut self) -> bool {
        self.answer() == Some(-libc::EAGAIN)
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring's own, as long as the ring lives.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }

    /// In a forked child: closes the descriptor. The memory is not there.
    fn forget(self) {
        let fd = self.ring.as_raw_fd();
        std::mem::forget(self.ring);
        // SAFETY: nobody has it any more.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

fn wait_for(word: &Futex, expected: u32) -> types::FutexWaitV {
    let at = std::ptr::from_ref(word.word()).addr() as u64;
    types::FutexWaitV::new().val(expected.into()).uaddr(at).flags(SIZE_U32)
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}
