//! A pool's workers: processes that a leader starts with a
//! [`Supervisor`](bgworker::Supervisor), which starts them again when they die.
//!
//! [`background_writer`] writes pages out before their frames are wanted ([`Writer`]).
//! [`autoprewarm`] makes the pool as warm as it was before a restart, as PostgreSQL's worker of
//! that name: it loads the pages of a dump as far as there is room for them, dumps now and then
//! which pages there are, and once more when it is told to stop.
//!
//! What they do is said by the worker's arguments, and in which domain the pool is by what it
//! inherits:
//!
//! ```no_run
//! use bgworker::{Pacing, Program, Restart, Supervisor, SupervisorConfig, Worker, WorkerSpec};
//! use buffer_pool::workers::{Autoprewarm, BackgroundWriter, autoprewarm, background_writer};
//! use dsm::{Domain, DomainConfig};
//! use std::time::Duration;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     if let Some(worker) = Worker::from_env()? {
//!         let arguments: Vec<_> = std::env::args_os().skip(1).collect();
//!         return Ok(match worker.name() {
//!             "writer" => background_writer(&worker, &arguments)?,
//!             _ => autoprewarm(&worker, &arguments)?,
//!         });
//!     }
//!     let domain = Domain::open(DomainConfig::new("games"))?;
//!     // Here the leader makes the pool `pages`, and registers its files.
//!     let supervisor = Supervisor::start(SupervisorConfig::default())?;
//!     let writer = BackgroundWriter::new("pages").args();
//!     let prewarm = Autoprewarm::new("pages", "pages.dump").args();
//!     for (name, args) in [("writer", writer), ("prewarm", prewarm)] {
//!         supervisor.spawn(WorkerSpec {
//!             args,
//!             inherit: domain.inheritance()?.into(),
//!             restart: Restart::OnFailure(Pacing::default()),
//!             ..WorkerSpec::new(name, Program::This)
//!         })?;
//!     }
//!     // It goes on until it wants to end.
//!     supervisor.shutdown(Duration::from_secs(60));
//!     Ok(())
//! }
//! ```
//!
//! # Who dies, and what follows
//!
//! | who | what follows |
//! | --- | --- |
//! | the writer | some pages are written; who wants frames writes the others, until it is there again |
//! | who prewarms, loading | the pages that it has loaded stay; the next one loads the others |
//! | the same, dumping | the old dump is there, or the new one; what may lie beside it the next dump removes |
//! | the leader | both leave, without a dump: the one before is there |
//! | a worker that is stopped (`SIGSTOP`) | nothing, but that its work is not done |
use crate::pool::{
    DumpError, LoadError, NamedPoolError, PageError, Pool, PoolOptions, SessionError, Writer,
    WriterOptions,
};
use bgworker::Worker;
use dsm::Domain;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// So long a writer waits after an error, which is likely to come again.
const AFTER_ERROR: Duration = Duration::from_secs(1);

/// A background writer, as its leader wants it.
///
/// ```
/// use buffer_pool::workers::BackgroundWriter;
///
/// let writer = BackgroundWriter::new("pages");
/// assert_eq!(writer.args(), ["pool=pages", "delay_us=200000", "pages_max=100", "multiplier=2"]);
/// assert_eq!(BackgroundWriter::from_args(&writer.args())?, writer);
/// # Ok::<(), buffer_pool::workers::WorkError>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct BackgroundWriter {
    /// The pool's name.
    pub pool: String,
    /// How it works.
    pub options: WriterOptions,
}

/// One who prewarms a pool, as its leader wants it.
///
/// ```
/// use buffer_pool::workers::Autoprewarm;
///
/// let prewarm = Autoprewarm::new("pages", "pages.dump");
/// assert_eq!(prewarm.args(), ["pool=pages", "dump=pages.dump", "interval_ms=300000"]);
/// assert_eq!(Autoprewarm::from_args(&prewarm.args())?, prewarm);
/// # Ok::<(), buffer_pool::workers::WorkError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Autoprewarm {
    /// The pool's name.
    pub pool: String,
    /// Where the dump is. It need not be there yet.
    pub dump: PathBuf,
    /// From one dump to the next (`pg_prewarm.autoprewarm_interval`); zero: there is none but the
    /// last one.
    pub interval: Duration,
}

/// Why a worker could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkError {
    /// An argument is missing, or makes no sense.
    #[error("the worker's argument `{0}=` is missing or makes no sense: have `args` make it")]
    Argument(&'static str),
    /// The worker has not come into a domain.
    #[error(transparent)]
    Domain(#[from] dsm::OpenError),
    /// There is no pool of this name.
    #[error(transparent)]
    Pool(#[from] NamedPoolError),
    /// The pool is not for this process.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The last dump could not be written.
    #[error(transparent)]
    Dump(#[from] DumpError),
}

/// The work of a worker with the [arguments](BackgroundWriter::args) of a background writer, until
/// it is told to stop. Files are those of the system.
///
/// # Errors
/// [`WorkError`]. That a page cannot be written is none: it is logged, and tried again.
///
/// # If a process dies here
/// Some pages are written.
pub fn background_writer(worker: &Worker, args: &[OsString]) -> Result<(), WorkError> {
    let writer = BackgroundWriter::from_args(args)?;
    let domain = Domain::from_env()?;
    writer.run(worker, &Pool::find_named(&domain, &writer.pool, PoolOptions::default())?)
}

/// The work of a worker with the [arguments](Autoprewarm::args) of one who prewarms, until it is
/// told to stop. Files are those of the system.
///
/// # Errors
/// [`WorkError`]. A dump that is damaged, or cannot be written now, is logged.
///
/// # If a process dies here
/// As in [`Session::load`](crate::pool::Session::load) and [`Pool::dump`].
pub fn autoprewarm(worker: &Worker, args: &[OsString]) -> Result<(), WorkError> {
    let prewarm = Autoprewarm::from_args(args)?;
    let domain = Domain::from_env()?;
    prewarm.run(worker, &Pool::find_named(&domain, &prewarm.pool, PoolOptions::default())?)
}

impl BackgroundWriter {
    /// With PostgreSQL's settings.
    pub fn new(pool: impl Into<String>) -> BackgroundWriter {
        BackgroundWriter { pool: pool.into(), options: WriterOptions::default() }
    }

    /// What the worker is told. Of the delay it is told whole microseconds.
    pub fn args(&self) -> Vec<OsString> {
        let WriterOptions { delay, pages_max, multiplier } = self.options;
        vec![
            argument("pool", &self.pool),
            argument("delay_us", in_units(delay, Duration::from_micros(1)).to_string()),
            argument("pages_max", pages_max.to_string()),
            argument("multiplier", multiplier.to_string()),
        ]
    }

    /// What a worker was told by [`args`](BackgroundWriter::args), among others.
    ///
    /// # Errors
    /// [`WorkError::Argument`].
    pub fn from_args(args: &[OsString]) -> Result<BackgroundWriter, WorkError> {
        let makes_sense = |multiplier: &f64| multiplier.is_finite() && *multiplier >= 0.0;
        let options = WriterOptions {
            delay: Duration::from_micros(parsed(args, "delay_us", |delay| *delay > 0)?),
            pages_max: parsed(args, "pages_max", |_| true)?,
            multiplier: parsed(args, "multiplier", makes_sense)?,
        };
        Ok(BackgroundWriter { pool: parsed(args, "pool", |_| true)?, options })
    }

    /// Works in this pool until `worker` is told to stop.
    ///
    /// # Errors
    /// [`WorkError::Session`].
    ///
    /// # If a process dies here
    /// Some pages are written.
    pub fn run(&self, worker: &Worker, pool: &Pool) -> Result<(), WorkError> {
        let (session, mut writer) = (pool.session()?, Writer::new(self.options));
        while !worker.should_stop() {
            match writer.round(&session) {
                // A file may be forgotten at any time.
                Ok(_) | Err(PageError::NoSuchFile(_)) => {
                    writer.rest_unless(pool, worker.stop_event(), || worker.should_stop());
                }
                Err(error) => {
                    warn!(pool = self.pool, %error, "a page stays dirty");
                    worker.wait_until_stop(Instant::now().checked_add(AFTER_ERROR));
                }
            }
        }
        Ok(())
    }
}

impl Autoprewarm {
    /// With a dump every five minutes, as PostgreSQL's.
    pub fn new(pool: impl Into<String>, dump: impl Into<PathBuf>) -> Autoprewarm {
        let interval = Duration::from_secs(300);
        Autoprewarm { pool: pool.into(), dump: dump.into(), interval }
    }

    /// What the worker is told. Of the interval it is told whole milliseconds.
    pub fn args(&self) -> Vec<OsString> {
        let interval = in_units(self.interval, Duration::from_millis(1));
        vec![
            argument("pool", &self.pool),
            argument("dump", &self.dump),
            argument("interval_ms", interval.to_string()),
        ]
    }

    /// What a worker was told by [`args`](Autoprewarm::args), among others.
    ///
    /// # Errors
    /// [`WorkError::Argument`].
    pub fn from_args(args: &[OsString]) -> Result<Autoprewarm, WorkError> {
        Ok(Autoprewarm {
            pool: parsed(args, "pool", |_| true)?,
            dump: value(args, "dump")?.into(),
            interval: Duration::from_millis(parsed(args, "interval_ms", |_| true)?),
        })
    }

    /// Works in this pool until `worker` is told to stop. The files are to be registered by then:
    /// pages of others are not loaded, nor in the next dump.
    ///
    /// A dump is not replaced by one who was told to stop before he had loaded it, nor by one whose
    /// leader is dead, who has no time for it.
    ///
    /// # Errors
    /// [`WorkError::Session`], [`WorkError::Dump`].
    ///
    /// # If a process dies here
    /// As in [`Session::load`](crate::pool::Session::load) and [`Pool::dump`].
    pub fn run(&self, worker: &Worker, pool: &Pool) -> Result<(), WorkError> {
        if !self.load(worker, pool)? {
            return Ok(());
        }
        while !worker.wait_until_stop(self.next_dump()) {
            if let Err(error) = pool.dump(&self.dump) {
                warn!(pool = self.pool, %error, "the pool's pages are not dumped");
            }
        }
        if !worker.leader_is_gone() {
            pool.dump(&self.dump)?;
        }
        Ok(())
    }

    /// `None`: when it is told to stop.
    fn next_dump(&self) -> Option<Instant> {
        if self.interval.is_zero() { None } else { Instant::now().checked_add(self.interval) }
    }

    /// Whether it came to an end.
    fn load(&self, worker: &Worker, pool: &Pool) -> Result<bool, SessionError> {
        match pool.session()?.load_while(&self.dump, || !worker.should_stop()) {
            Ok(loaded) => {
                info!(pool = self.pool, ?loaded, "the pool is warm");
                return Ok(loaded.left == 0 || !worker.should_stop());
            }
            Err(LoadError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!(pool = self.pool, %error, "the pool is not warm"),
        }
        Ok(true)
    }
}

fn argument(name: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut argument = OsString::from(name);
    argument.push("=");
    argument.push(value);
    argument
}

/// So many, and where it is not whole one more.
fn in_units(duration: Duration, unit: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(unit.as_nanos())).unwrap_or(u64::MAX)
}

fn value<'a>(args: &'a [OsString], name: &'static str) -> Result<&'a OsStr, WorkError> {
    let of_it = |argument: &'a OsString| {
        argument.as_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b"=")
    };
    args.iter().find_map(of_it).map(OsStr::from_bytes).ok_or(WorkError::Argument(name))
}

fn parsed<T: FromStr>(
    args: &[OsString],
    name: &'static str,
    makes_sense: impl Fn(&T) -> bool,
) -> Result<T, WorkError> {
    let found = value(args, name)?.to_str().and_then(|text| text.parse().ok());
    found.filter(makes_sense).ok_or(WorkError::Argument(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_leader_says_its_worker_hears() {
        let dump: PathBuf = OsStr::from_bytes(b"a\xffb=\n").into();
        for millis in [1, 7, 86_400_000, u64::from(u32::MAX)] {
            let time = Duration::from_millis(millis);
            let options = WriterOptions { delay: time, pages_max: u32::MAX, multiplier: 0.1 };
            let writer = BackgroundWriter { pool: "a b=c".into(), options };
            assert_eq!(BackgroundWriter::from_args(&writer.args()).unwrap(), writer);
            let prewarm = Autoprewarm { pool: "ä".into(), dump: dump.clone(), interval: time };
            assert_eq!(Autoprewarm::from_args(&prewarm.args()).unwrap(), prewarm);
        }
    }

    #[test]
    fn times_are_rounded_up_and_never_too_long() {
        let micro = Duration::from_micros(1);
        let nanos = [0, 1, 999, 1000, 1001].map(Duration::from_nanos);
        assert_eq!(nanos.map(|time| in_units(time, micro)), [0, 1, 1, 1, 2]);
        assert_eq!(in_units(Duration::MAX, micro), u64::MAX);
    }

    #[test]
    fn nonsense_is_named() {
        let args = BackgroundWriter::new("pages").args();
        for (at, name) in ["pool", "delay_us", "pages_max", "multiplier"].into_iter().enumerate() {
            let bad: &[&str] = match name {
                "pool" => &[""],
                "multiplier" => &["=", "=x", "=-1", "=inf", "=NaN", ""],
                _ => &["=", "=x", "=-1", "=1e3", "=18446744073709551616", ""],
            };
            for bad in bad.iter().map(|bad| format!("{name}{bad}")).chain(["".into()]) {
                let mut args = args.clone();
                args[at] = bad.into();
                let error = BackgroundWriter::from_args(&args).unwrap_err();
                assert!(matches!(error, WorkError::Argument(found) if found == name), "{error}");
            }
        }
        let mut args = Autoprewarm::new("pages", "dump").args();
        args.reverse();
        args.push("another".into());
        Autoprewarm::from_args(&args).unwrap();
        let error = Autoprewarm::from_args(&args[..2]).unwrap_err();
        assert!(matches!(error, WorkError::Argument("pool")), "{error}");
    }
}
