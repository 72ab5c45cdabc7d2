//! What the leader says of a worker before it starts.
use crate::Exit;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A worker's name has at most this many bytes, as in PostgreSQL.
pub const NAME_BYTES_MAX: usize = 95;

/// A worker to be started.
///
/// ```
/// use bgworker::{Pacing, Program, Restart, WorkerSpec};
///
/// let spec = WorkerSpec {
///     argument: 7,
///     restart: Restart::OnFailure(Pacing::default()),
///     ..WorkerSpec::new("scan 7", Program::This)
/// };
/// assert_eq!(spec.argument, 7);
/// ```
#[derive(Clone, Debug)]
pub struct WorkerSpec {
    /// For people: in logs, in `ps` (cut to 15 bytes). 1 to [`NAME_BYTES_MAX`] bytes, no NUL.
    pub name: String,
    /// What to run.
    pub program: Program,
    /// The program's arguments.
    pub args: Vec<OsString>,
    /// Environment variables besides the leader's.
    pub env: Vec<(OsString, OsString)>,
    /// A number for [`Worker::argument`](crate::Worker::argument): as a rule its index.
    pub argument: u64,
    /// What it needs to find the shared memory.
    pub inherit: Inheritance,
    /// What happens when it ends.
    pub restart: Restart,
    /// Its standard output. (Its standard input is always empty.)
    pub stdout: Output,
    /// Its standard error.
    pub stderr: Output,
}

impl WorkerSpec {
    /// A worker without arguments that is never restarted and writes where the leader writes.
    pub fn new(name: impl Into<String>, program: Program) -> WorkerSpec {
        WorkerSpec {
            name: name.into(),
            program,
            args: Vec::new(),
            env: Vec::new(),
            argument: 0,
            inherit: Inheritance::default(),
            restart: Restart::Never,
            stdout: Output::Inherit,
            stderr: Output::Inherit,
        }
    }
}

/// What a worker runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Program {
    /// The leader's own executable, even if its file has been replaced or removed since.
    This,
    /// This file; a bare name is looked up in `PATH`.
    Path(PathBuf),
}

/// Where a worker writes.
#[derive(Clone, Debug)]
pub enum Output {
    /// Where the leader writes.
    Inherit,
    /// Nowhere.
    Null,
    /// To an open file, pipe or socket.
    To(Arc<OwnedFd>),
}

/// What a worker takes over from its leader so as to find the shared memory.
///
/// The descriptors keep their numbers, so a variable may name one. Only this worker gets them:
/// whatever else the leader starts meanwhile does not, nor does what the worker starts.
#[derive(Clone, Default, Debug)]
pub struct Inheritance {
    /// Environment variables.
    pub env: Vec<(OsString, OsString)>,
    /// Descriptors that stay open.
    pub fds: Vec<Arc<OwnedFd>>,
}

impl From<dsm::Inheritance> for Inheritance {
    /// What brings the worker into a domain, by [`dsm::Domain::from_env`].
    fn from(domain: dsm::Inheritance) -> Inheritance {
        Inheritance { env: domain.env, fds: domain.fds.into_iter().map(Arc::new).collect() }
    }
}

/// Whether a worker that ended is started again. One told to stop never is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Restart {
    /// Never.
    Never,
    /// When it ended by a signal, or with a code other than 0.
    OnFailure(Pacing),
    /// However it ended.
    Always(Pacing),
}

impl Restart {
    pub(crate) fn wanted_after(&self, how: Exit) -> bool {
        match self {
            Restart::Never => false,
            Restart::OnFailure(_) => !how.is_success(),
            Restart::Always(_) => true,
        }
    }

    pub(crate) fn pacing(&self) -> Option<&Pacing> {
        match self {
            Restart::Never => None,
            Restart::OnFailure(pacing) | Restart::Always(pacing) => Some(pacing),
        }
    }
}

/// How fast, and how often, a worker is restarted.
///
/// ```
/// use bgworker::Pacing;
/// use std::time::Duration;
///
/// let second = Duration::from_secs(1);
/// let (delay, delay_max) = (second, 3 * second);
/// let pacing = Pacing { delay, delay_max, in_a_row_max: 3, ..Pacing::default() };
/// let delays: Vec<_> = (0..4).map(|restarts| pacing.delay_after(restarts)).collect();
/// assert_eq!(delays, [Some(second), Some(2 * second), Some(3 * second), None]);
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pacing {
    /// Before the first restart. Doubled with each restart in a row.
    pub delay: Duration,
    /// Where the doubling ends.
    pub delay_max: Duration,
    /// The supervisor gives a worker up after so many restarts in a row.
    pub in_a_row_max: u32,
    /// A run that lasted this long ends the row.
    pub steady_after: Duration,
}

impl Pacing {
    /// Without delay, at most `in_a_row_max` times in a row.
    pub fn at_once(in_a_row_max: u32) -> Pacing {
        let (delay, delay_max) = (Duration::ZERO, Duration::ZERO);
        Pacing { delay, delay_max, in_a_row_max, ..Pacing::default() }
    }

    /// How long to wait after `restarts` restarts in a row; `None`: give up.
    pub fn delay_after(&self, restarts: u32) -> Option<Duration> {
        let doubled = self.delay.saturating_mul(2u32.saturating_pow(restarts));
        (restarts < self.in_a_row_max).then(|| doubled.min(self.delay_max))
    }
}

impl Default for Pacing {
    /// After 0.1 s, doubled up to 10 s; ten times in a row; a run of 60 s ends the row.
    fn default() -> Pacing {
        Pacing {
            delay: Duration::from_millis(100),
            delay_max: Duration::from_secs(10),
            in_a_row_max: 10,
            steady_after: Duration::from_secs(60),
        }
    }
}
