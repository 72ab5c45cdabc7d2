//! The system's futex.
use super::{Futex, Wake};
use rustix::io::Errno;
use rustix::thread::futex;
use std::sync::OnceLock;
use std::time::Instant;

pub(super) fn wait(futex: &Futex, expected: u32, deadline: Option<Instant>) -> Wake {
    let timeout = match deadline.map(|d| d.checked_duration_since(Instant::now())) {
        Some(None) => return Wake::TimedOut,
        Some(Some(left)) => timespec(left),
        None => None,
    };
    let flags = futex::Flags::empty();
    match futex::wait(&futex.word, flags, expected, timeout.as_ref()) {
        Err(Errno::TIMEDOUT) => Wake::TimedOut,
        // Woken; the word had changed (EAGAIN); a signal (EINTR): all say "look again".
        _ => Wake::Woken,
    }
}

pub(super) fn wait_any(words: &[(&Futex, u32)], deadline: Option<Instant>) -> Wake {
    let mut waiters = [futex::Wait::new(); super::WAIT_WORDS_MAX];
    for (waiter, (futex, expected)) in waiters.iter_mut().zip(words) {
        waiter.val = u64::from(*expected);
        waiter.uaddr =
            std::ptr::from_ref(&futex.word).cast_mut().cast::<core::ffi::c_void>().into();
        waiter.flags = futex::WaitFlags::SIZE_U32;
    }
    let timeout = match deadline.map(|d| d.checked_duration_since(Instant::now())) {
        Some(None) => return Wake::TimedOut,
        // futex_waitv takes an absolute time of the monotonic clock, which is what Instant is.
        Some(Some(left)) => timespec(left).map(absolute),
        None => None,
    };
    let flags = futex::WaitvFlags::empty();
    match futex::waitv(
        &waiters[..words.len()],
        flags,
        timeout.as_ref(),
        rustix::thread::ClockId::Monotonic,
    ) {
        Err(Errno::TIMEDOUT) => Wake::TimedOut,
        _ => Wake::Woken,
    }
}

pub(super) fn wake(futex: &Futex, count: u32) {
    // An error would mean a bad address; the word is one we hold a reference to.
    let _ = futex::wake(&futex.word, futex::Flags::empty(), count);
}

/// Whether this kernel (and the sandbox we may be in) lets us sleep on several words at once.
pub fn waitv_works() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| {
        let (one, two) = (Futex::new(1), Futex::new(1));
        let mut waiters = [futex::Wait::new(); 2];
        for (waiter, futex) in waiters.iter_mut().zip([&one, &two]) {
            waiter.val = 0;
            waiter.uaddr =
                std::ptr::from_ref(&futex.word).cast_mut().cast::<core::ffi::c_void>().into();
            waiter.flags = futex::WaitFlags::SIZE_U32;
        }
        let flags = futex::WaitvFlags::empty();
        let clock = rustix::thread::ClockId::Monotonic;
        // The values differ, so a kernel that knows the call answers EAGAIN.
        futex::waitv(&waiters, flags, None, clock) == Err(Errno::AGAIN)
    })
}

fn timespec(left: std::time::Duration) -> Option<rustix::thread::Timespec> {
    // A wait longer than the clock can express is one without a limit.
    rustix::thread::Timespec::try_from(left).ok()
}

fn absolute(left: rustix::thread::Timespec) -> rustix::thread::Timespec {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let nanoseconds = now.tv_nsec + left.tv_nsec;
    rustix::thread::Timespec {
        tv_sec: now.tv_sec.saturating_add(left.tv_sec).saturating_add(nanoseconds / 1_000_000_000),
        tv_nsec: nanoseconds % 1_000_000_000,
    }
}

/// Milliseconds of a clock that only goes on, and is the same for all processes of the machine.
pub fn now_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}
