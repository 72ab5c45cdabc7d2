//! The watchdog of a run: children that hang are killed, and a check that hangs is named.
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One for each run, with a thread of its own.
pub(super) struct Dog {
    shared: Arc<(Mutex<State>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    /// What is going on, for the message.
    what: String,
    since: Instant,
    /// Killed when it takes too long: by descriptor, so that no other process can be hit.
    children: Vec<(i32, OwnedFd)>,
    has_bitten: bool,
    ended: bool,
}

impl Dog {
    /// `patience` for each thing that is watched.
    pub(super) fn new(patience: Duration) -> Dog {
        let state = State {
            what: String::new(),
            since: Instant::now(),
            children: Vec::new(),
            has_bitten: false,
            ended: false,
        };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let watched = shared.clone();
        let thread = std::thread::Builder::new().name("killpoint dog".into());
        let thread = thread.spawn(move || watch(&watched, patience)).expect("a watchdog thread");
        Dog { shared, thread: Some(thread) }
    }

    /// From now on this is what goes on, and may take as long as the patience.
    pub(super) fn watch(&self, what: &str) {
        let mut state = lock(&self.shared.0);
        state.what.clear();
        state.what.push_str(what);
        state.since = Instant::now();
        state.has_bitten = false;
    }

    /// It makes progress: all its time is given again.
    pub(super) fn pat(&self) {
        lock(&self.shared.0).since = Instant::now();
    }

    /// Whether children were killed since the last `watch`.
    pub(super) fn has_bitten(&self) -> bool {
        lock(&self.shared.0).has_bitten
    }

    /// A child that is killed if what goes on takes too long. The caller has not reaped it.
    pub(super) fn guard(&self, pid: i32) {
        let by_number = Pid::from_raw(pid).expect("a child has a pid");
        let fd = pidfd_open(by_number, PidfdFlags::empty()).expect("a descriptor for a child");
        lock(&self.shared.0).children.push((pid, fd));
    }

    /// The child has been reaped.
    pub(super) fn forget(&self, pid: i32) {
        lock(&self.shared.0).children.retain(|(child, _)| *child != pid);
    }
}

impl Drop for Dog {
    fn drop(&mut self) {
        lock(&self.shared.0).ended = true;
        self.shared.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread: after one patience the children are killed; if that does not help, after another one
/// it is the test itself that hangs, and nothing but its end helps.
fn watch((mutex, woken): &(Mutex<State>, Condvar), patience: Duration) {
    let mut state = lock(mutex);
    while !state.ended {
        let waited = woken.wait_timeout(state, patience / 8);
        state = waited.map_or_else(|error| error.into_inner().0, |(state, _)| state);
        let taken = state.since.elapsed();
        if !state.ended && taken > patience && !state.has_bitten {
            state.has_bitten = true;
            for (_, child) in &state.children {
                let _ = pidfd_send_signal(child, Signal::KILL);
            }
        }
        if !state.ended && taken > 2 * patience {
            let message = format!("\nkillpoint: {}: not done after {taken:?}\n", state.what);
            // The handle, not eprintln: the test harness captures that, and would never show it.
            let _ = std::io::stderr().write_all(message.as_bytes());
            std::process::abort();
        }
    }
}
