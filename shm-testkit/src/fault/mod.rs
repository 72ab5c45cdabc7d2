//! What a system may refuse: every error at every call, full disks, limits, sandboxes.
//!
//! A program that shares memory asks the system for a good deal (files, mappings, descriptors, a
//! thread), and each of these can be refused at the worst moment. These tools refuse them, one
//! after the other:
//!
//! - [`Sweep`] runs an operation again and again, each time in a fresh process, and makes its first
//!   system call fail, then its second, and so on until there is no further one, with each error
//!   that this call can give. What is to be true after each is the caller's to check, with
//!   [`Footprint`] for what a process may leak.
//! - [`storm`] has every call that a signal may interrupt be interrupted, some times in a row.
//! - [`forbid`] takes calls away for good, as a sandbox does.
//! - [`limit`] sets a limit of this process; [`mount_empty`] mounts a tiny file system that nobody
//!   else sees.
//! - [`trial`] runs something in a process of its own and tells how that ended.
//!
//! All of them change the calling process or fork it, so they belong into a child process that has
//! one thread: a function of [`children!`](crate::children). What the system does not allow
//! (tracing, namespaces) is answered by [`NotRun`], which a test prints; it counts as not run.
//!
//! # An operation of your own
//!
//! ```
//! use shm_testkit::child::Child;
//! use shm_testkit::fault::{Footprint, Sweep};
//! use shm_testkit::unique::TempDir;
//! use std::io::{self, Write};
//! use std::path::Path;
//! use std::time::Duration;
//!
//! /// Replaces a file as a whole: the new one is written under another name, and renamed.
//! fn replace(path: &Path) -> io::Result<()> {
//!     let other = path.with_extension("new");
//!     let written = std::fs::File::create(&other)
//!         .and_then(|mut file| file.write_all(b"new"))
//!         .and_then(|()| std::fs::rename(&other, path));
//!     // Without these two lines the sweep says: "left behind: file.new".
//!     if written.is_err() {
//!         let _ = std::fs::remove_file(&other);
//!     }
//!     written
//! }
//!
//! fn sweeps(_: &[String]) {
//!     let prepare = || {
//!         let directory = TempDir::new("replace");
//!         let path = directory.path().join("file");
//!         std::fs::write(&path, "old").unwrap();
//!         (directory, path, Footprint::now())
//!     };
//!     let swept = Sweep::new("replace").run(
//!         prepare,
//!         |(_, path, _)| replace(path),
//!         |(directory, path, before), result| {
//!             before.assert_same();
//!             let expected = if result.is_ok() { "new" } else { "old" };
//!             assert_eq!(std::fs::read_to_string(path).unwrap(), expected);
//!             let files = std::fs::read_dir(directory.path()).unwrap().count();
//!             assert_eq!(files, 1, "left behind: file.new");
//!         },
//!     );
//!     match swept {
//!         Ok(report) => report.assert_clean(),
//!         Err(not_run) => eprintln!("{not_run}"),
//!     }
//! }
//! shm_testkit::children! { sweeps }
//!
//! Child::spawn("sweeps", &[]).wait(Duration::from_secs(60)).assert_success();
//! ```
mod calls;
mod footprint;
mod limits;
mod mounts;
mod seccomp;
mod sweep;
mod trace;
mod trial;

pub use calls::{Call, errno_name};
pub use footprint::Footprint;
pub use limits::{Limit, limit, unlimited};
pub use mounts::{become_root_of_a_namespace, mount_empty};
pub use seccomp::forbid;
pub use sweep::{Finding, Report, Sweep, storm};
pub use trial::{Ended, becomes_single_threaded, trial};

use std::fmt;
use std::io;

/// What this system does not allow, so that something was not tried.
///
/// Prints as `not run: …`. A test prints it and does not count as passed by it.
#[derive(Debug)]
pub struct NotRun {
    what: &'static str,
    error: io::Error,
}

impl NotRun {
    /// `what` is refused, for the reason that the last system call gave.
    pub fn last(what: &'static str) -> NotRun {
        NotRun { what, error: io::Error::last_os_error() }
    }

    /// `what` is refused with `error`.
    pub fn new(what: &'static str, error: io::Error) -> NotRun {
        NotRun { what, error }
    }
}

impl fmt::Display for NotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not run: {} is not permitted here: {}", self.what, self.error)
    }
}

impl std::error::Error for NotRun {}
