//! A child that is a copy of its parent: for what one that is forked may not do, and for one that
//! dies with something of its own.
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `work` in a fork of this process, and waits; whether it returned true there.
///
/// The fork then ends as if it were killed: nothing is dropped but what `work` drops itself. What
/// it is to die with, it forgets.
///
/// ```
/// use shm_testkit::child::in_a_fork;
///
/// let parent = std::process::id();
/// assert!(in_a_fork(|| std::process::id() != parent));
/// assert!(!in_a_fork(|| panic!("planted")));
/// ```
///
/// # Panics
/// Where there is no process to be had.
#[track_caller]
pub fn in_a_fork(work: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child ends in `_exit`; of its parent's locks it needs the allocator's, which the
    // C library keeps usable.
    match unsafe { libc::fork() } {
        -1 => panic!("no process: {}", io::Error::last_os_error()),
        0 => {
            let is_right = catch_unwind(AssertUnwindSafe(work)).unwrap_or(false);
            // SAFETY: ends the process.
            unsafe { libc::_exit(i32::from(!is_right)) }
        }
        pid => {
            let mut status = -1;
            // SAFETY: our child, and a place for its status.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            status == 0
        }
    }
}
