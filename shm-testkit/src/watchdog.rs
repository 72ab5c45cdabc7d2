//! A limit for what might hang: a test that waits for ever tells nobody where.
use std::io::Write;
use std::panic::Location;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Runs `work` on this thread; aborts the process where it takes longer than `limit`.
///
/// The message names the test (that is, the thread) and the line of this call. It aborts because
/// a hanging thread cannot be unwound; children of [`child`](crate::child) die with the process.
///
/// ```
/// use shm_testkit::watchdog::within;
/// use std::time::Duration;
///
/// let sum = within(Duration::from_secs(10), || 1 + 1);
/// assert_eq!(sum, 2);
/// ```
///
/// # Panics
/// Where `work` does, or no thread can be started.
#[track_caller]
pub fn within<R>(limit: Duration, work: impl FnOnce() -> R) -> R {
    let (place, test) = (Location::caller(), thread::current());
    let (finished, watched) = mpsc::channel::<()>();
    let dog = thread::Builder::new().name("watchdog".into()).spawn(move || {
        if watched.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            bite(place, test.name().unwrap_or("unnamed thread"), limit);
        }
    });
    assert!(dog.is_ok(), "no watchdog thread: {dog:?}");
    // Dropped at the end or by a panic of `work`: either calls the dog off.
    let _finished = finished;
    work()
}

/// Says what was awaited and ends the process.
fn bite(place: &Location<'_>, test: &str, limit: Duration) -> ! {
    let message = format!("\nwatchdog: {test}: what {place} waits for did not end in {limit:?}\n");
    // The handle, not eprintln: the test harness captures that, and would never show it.
    let _ = std::io::stderr().write_all(message.as_bytes());
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::Child;

    const LONG: Duration = Duration::from_secs(60);

    fn hangs(_: &[String]) {
        within(Duration::from_millis(50), || thread::sleep(LONG));
    }
    crate::children! { hangs }

    #[test]
    fn a_hanging_process_is_aborted_and_says_where() {
        let exit = Child::spawn("hangs", &[]).wait(LONG);
        assert_eq!(exit.signal(), Some(libc::SIGABRT));
        assert!(exit.stderr.contains(file!()), "{exit:?}");
        assert!(exit.stderr.contains("50ms"), "{exit:?}");
    }

    #[test]
    fn work_in_time_returns_its_value() {
        assert_eq!(within(LONG, || 7), 7);
    }

    #[test]
    fn a_panic_calls_the_dog_off() {
        let limit = Duration::from_millis(500);
        // Without the panic hook, whose backtrace may take longer than the limit.
        let work = || std::panic::resume_unwind(Box::new("planted"));
        let end = std::panic::catch_unwind(|| within(limit, work));
        assert!(end.is_err_and(|payload: Box<dyn std::any::Any + Send>| payload.is::<&str>()));
        thread::sleep(limit + limit / 4);
    }
}
