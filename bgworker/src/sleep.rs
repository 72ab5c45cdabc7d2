//! Sleeping in `poll`.
use rustix::event::{PollFd, Timespec, poll};
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// Sleeps until one of `fds` is ready or until `deadline`. May return early.
pub(crate) fn until_ready(fds: &mut [PollFd<'_>], deadline: Option<Instant>) {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    // A time longer than the clock can express is one without a limit.
    let timeout = left.and_then(|left| Timespec::try_from(left).ok());
    match poll(fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        // The kernel is short of memory; it says so at once, again and again.
        Err(_) => std::thread::sleep(Duration::from_millis(10)),
    }
}
