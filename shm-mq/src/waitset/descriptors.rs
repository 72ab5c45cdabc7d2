//! The descriptors of a set, and its doorbells: `poll(2)`, beside a bell that the words ring.
use super::{Descriptor, Interest, Source, WaitError, doorbells, told};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shm_core::bell::{Bell, BellError};
use shm_core::participants::Night;
use shm_core::sealed::{Doorbell, Heard};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// What a set keeps for its descriptors.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    /// Made for the first sleep that needs it.
    bell: Option<Bell>,
    /// The numbers of the sources whose descriptors the last `poll` found ready; `None`: it has not
    /// been asked in this wait.
    ready: Option<Vec<usize>>,
    /// What was heard in the last sleep: the numbers of the source, and of its doorbell.
    heard: Vec<(usize, usize, Heard)>,
}

impl Descriptors {
    /// A new wait begins.
    pub(super) fn forget(&mut self) {
        self.ready = None;
        // Of a wait that ended by an error, with other sources.
        self.heard.clear();
    }

    /// Looks which descriptors are ready, unless a sleep has just told.
    pub(super) fn look_now<K>(
        &mut self,
        sources: &[(K, &mut dyn Source)],
    ) -> Result<(), WaitError> {
        let all = all(sources);
        if self.ready.is_none() && !all.is_empty() {
            let mut fds: Vec<_> = all.iter().map(|(_, descriptor)| entry(descriptor)).collect();
            ask(&mut fds, Some(Duration::ZERO))?;
            self.ready = Some(numbers(&all, &fds));
        }
        Ok(())
    }

    /// What is known to be ready: told once.
    pub(super) fn ready(&mut self) -> Vec<usize> {
        self.ready.take().unwrap_or_default()
    }

    /// What was heard in the last sleep: told once.
    pub(super) fn heard(&mut self) -> Vec<(usize, usize, Heard)> {
        std::mem::take(&mut self.heard)
    }

    /// Sleeps as `night` says, and until a descriptor is ready, or a doorbell rung; `false` where
    /// there is none.
    pub(super) fn sleep<K>(
        &mut self,
        sources: &[(K, &mut dyn Source)],
        night: &Night<'_>,
        deadline: Option<Instant>,
    ) -> Result<bool, WaitError> {
        let (all, (owners, bells)) = (all(sources), doorbells(sources));
        if all.is_empty() && bells.is_empty() {
            return Ok(false);
        }
        let mut fds: Vec<_> = all.iter().map(|(_, descriptor)| entry(descriptor)).collect();
        let flags = PollFlags::IN | PollFlags::RDHUP;
        let rung = bells.iter().flat_map(|bell| bell.descriptors());
        fds.extend(rung.map(|fd| PollFd::from_borrowed_fd(fd, flags)));
        let rung = all.len()..fds.len();
        let left = |end: Instant| end.saturating_duration_since(Instant::now());
        if !night.words().is_empty() {
            let bell = armed(&mut self.bell, night)?;
            fds.push(PollFd::from_borrowed_fd(bell.as_fd(), PollFlags::IN));
        }
        let asked = ask(&mut fds, night.end(deadline).map(left));
        if asked.is_ok() {
            self.ready = Some(numbers(&all, &fds));
            if fds[rung].iter().any(|fd| !fd.revents().is_empty()) {
                self.heard = told(&owners, Doorbell::wait_any(&bells, Some(Instant::now())));
            }
        }
        drop(fds);
        // Whatever `poll` says: what still waits in the kernel would take wake-ups from others.
        let silenced = if night.words().is_empty() { Ok(()) } else { self.silence() };
        night.peers().iter().for_each(|peer| peer.pass_on());
        asked.and(silenced).map(|()| true)
    }

    /// The bell rings no more, and has not rung.
    fn silence(&mut self) -> Result<(), WaitError> {
        let Some(bell) = &mut self.bell else { return Ok(()) };
        if bell.take().map_err(refused)? {
            return Ok(());
        }
        bell.silence().map_err(refused)
    }
}

/// The bell, which rings when the night is to end. A forked child makes its own.
fn armed<'b>(bell: &'b mut Option<Bell>, night: &Night<'_>) -> Result<&'b Bell, WaitError> {
    if let Some(Err(BellError::Forked(_))) = bell.as_mut().map(Bell::take) {
        *bell = None;
    }
    let bell = match bell {
        Some(bell) => bell,
        None => bell.insert(Bell::new().map_err(refused)?),
    };
    bell.arm(night.words(), None).map_err(refused)?;
    Ok(bell)
}

fn refused(error: BellError) -> WaitError {
    WaitError::System(match error {
        BellError::System(error) => error,
        other => std::io::Error::other(other),
    })
}

/// The descriptors that are in the set, each with the number of its source.
fn all<'s, K>(sources: &'s [(K, &mut dyn Source)]) -> Vec<(usize, Descriptor<'s>)> {
    let all = sources.iter().enumerate();
    all.filter_map(|(number, (_, source))| Some((number, source.descriptor()?))).collect()
}

fn entry<'d>(descriptor: &Descriptor<'d>) -> PollFd<'d> {
    let flags = match descriptor.interest {
        Interest::Readable => PollFlags::IN,
        Interest::Writable => PollFlags::OUT,
        Interest::Both => PollFlags::IN | PollFlags::OUT,
    };
    PollFd::from_borrowed_fd(descriptor.fd, flags)
}

fn numbers(all: &[(usize, Descriptor<'_>)], fds: &[PollFd<'_>]) -> Vec<usize> {
    // Behind them stand doorbells, and the bell.
    let ready = all.iter().zip(fds).filter(|(_, fd)| !fd.revents().is_empty());
    ready.map(|((number, _), _)| *number).collect()
}

fn ask(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> Result<(), WaitError> {
    // A wait longer than the clock can express is one without a limit.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match poll(fds, timeout.as_ref()) {
        // A signal: look again.
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(std::io::Error::from(error).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Alarm;
    use super::*;
    use shm_core::event::EventCount;
    use shm_core::participants::Sleeper;
    use shm_testkit::child::in_a_fork;
    use shm_testkit::fault::{Limit, limit, unlimited};
    use std::os::unix::net::UnixStream;

    /// Sleeps on a socket and on `event`; the system polls one descriptor at most if it `refuses`.
    fn sleeps(descriptors: &mut Descriptors, event: &EventCount, refuses: bool) -> bool {
        let (socket, _other) = UnixStream::pair().unwrap();
        let mut silent = Descriptor::new(socket.as_fd(), Interest::Readable);
        let (mut sleeper, events) = (Sleeper::new(), [(event, event.prepare())]);
        let night = sleeper.lie_down(&events, &[]).unwrap();
        let mut never = Alarm::never();
        let sources: [((), &mut dyn Source); 2] = [((), &mut silent), ((), &mut never)];
        if refuses {
            limit(Limit::Descriptors, 1);
        }
        let slept = descriptors.sleep(&sources, &night, Some(Instant::now()));
        unlimited(Limit::Descriptors);
        slept.is_ok()
    }

    #[test]
    fn the_bell_is_silent_after_a_poll_that_the_system_refused() {
        let is_silent = in_a_fork(|| {
            let (mut descriptors, event) = (Descriptors::default(), EventCount::new());
            assert!(sleeps(&mut descriptors, &event, false), "it makes the bell");
            assert!(!sleeps(&mut descriptors, &event, true));
            event.notify();
            let bell = descriptors.bell.as_mut().unwrap();
            let mut fds = [PollFd::new(bell, PollFlags::IN)];
            ask(&mut fds, Some(Duration::from_millis(200))).unwrap();
            !bell.take().unwrap()
        });
        assert!(is_silent);
    }
}
