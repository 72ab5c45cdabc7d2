//! Signals that ask us to stop, noticed between two pieces of work.

use super::error::AggError;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::{Mutex, PoisonError};

/// Whether a signal has asked us to stop.
#[derive(Debug, Default)]
pub struct Interrupt {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    signals: Option<Signals>,
    seen: Option<i32>,
}

impl Interrupt {
    /// Catches SIGINT, SIGTERM and SIGHUP from now on; a second one is a request like the first.
    ///
    /// # Errors
    /// Where the system does not let us.
    pub fn catch() -> std::io::Result<Interrupt> {
        let signals = Some(Signals::new([SIGINT, SIGTERM, SIGHUP])?);
        Ok(Interrupt { state: Mutex::new(State { signals, seen: None }) })
    }

    /// Catches nothing: for tests and benchmarks.
    pub fn never() -> Interrupt {
        Interrupt::default()
    }

    /// An error, from the first signal on.
    ///
    /// # Errors
    /// [`AggError::Interrupted`] with the first signal that came.
    pub fn check(&self) -> Result<(), AggError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { signals, seen } = &mut *state;
        if seen.is_none() {
            *seen = signals.as_mut().and_then(|signals| signals.pending().next());
        }
        match *seen {
            Some(signal) => Err(AggError::Interrupted { signal }),
            None => Ok(()),
        }
    }
}
