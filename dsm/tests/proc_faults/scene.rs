//! A domain of its own in a process of its own, and what must be true after a fault.
use dsm::backend::{self, Backend, POSIX_DIRECTORY, Place};
use dsm::{Domain, DomainConfig, Segment, SegmentHandle};
use shm_testkit::child::in_a_fork;
use shm_testkit::fault::{Ended, Footprint, Sweep, storm};
use shm_testkit::unique::{TempDir, Unique, sysv_segments};
use std::fmt::Display;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

pub(crate) const SIZE: u64 = 10_000;

/// What a run begins with.
pub(crate) struct Scene {
    pub(crate) config: DomainConfig,
    pub(crate) unique: Unique,
    _directory: TempDir,
    /// Before anything was opened.
    empty: Footprint,
}

impl Scene {
    pub(crate) fn new(backend: Backend) -> Scene {
        let (directory, mut unique) = (TempDir::new("fault"), Unique::new("fault"));
        unique.watch_directory(directory.path());
        unique.watch_process(std::process::id());
        let config = DomainConfig {
            backend: Some(backend),
            directory: Some(directory.path().to_owned()),
            participants_max: 4,
            segments_max: Some(4),
            // For a fault that stays: it is not to make a test wait.
            open_timeout: Duration::from_secs(1),
            ready_max: 0,
            ..DomainConfig::new(unique.name())
        };
        Scene { config, unique, _directory: directory, empty: Footprint::now() }
    }

    pub(crate) fn open(&self) -> Domain {
        Domain::open(self.config.clone()).unwrap()
    }

    pub(crate) fn open_pinned(&self) -> (Domain, SegmentHandle) {
        let domain = self.open();
        let segment = domain.create_segment(SIZE).unwrap();
        segment.pin().unwrap();
        let handle = segment.handle();
        (domain, handle)
    }

    /// Another seat of this process in `domain`, which knows its segments.
    pub(crate) fn second(&self, domain: &Domain) -> Domain {
        inherit(domain);
        Domain::from_env().unwrap()
    }

    /// A process that was in `domain`, with a segment, and died.
    pub(crate) fn dead(&self, domain: Option<&Domain>) {
        let inherited = domain.map(inherit).unwrap_or_default();
        let has_died = in_a_fork(|| {
            let theirs = match domain {
                Some(_) => Domain::from_env().unwrap(),
                None => self.open(),
            };
            let segment: Segment = theirs.create_segment(SIZE).unwrap();
            std::mem::forget((segment, theirs));
            true
        });
        assert!(has_died, "the one to die");
        for number in inherited {
            // SAFETY: made for the child, which had its copy; nobody else knows of it.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }

    /// What the system did not unmap when it was asked to is unmapped with the next mapping.
    pub(crate) fn settle() {
        drop(backend::create(&Place::new(Backend::Memfd), "settles", 1).unwrap());
    }

    /// Whoever comes next finds a domain or makes one, works in it, and leaves nothing.
    pub(crate) fn survivors_go_on(&self) {
        Scene::settle();
        self.empty.assert_same();
        let domain = self.open();
        domain.reap();
        let segment = domain.create_segment(SIZE).unwrap();
        assert!(domain.find_mapping(segment.handle()).is_some());
        for pinned in domain.segments().into_iter().filter(|segment| segment.pinned) {
            domain.unpin(pinned.handle).unwrap();
        }
        drop((segment, domain));
        self.empty.assert_same();
        self.unique.assert_nothing_left(Duration::ZERO);
    }
}

/// Puts into the environment what lets `Domain::from_env` come into `domain`; the numbers of the
/// descriptors that it is to take, if any.
pub(crate) fn inherit(domain: &Domain) -> Vec<i32> {
    let inheritance = domain.inheritance().unwrap();
    for (name, value) in inheritance.env {
        // SAFETY: no other thread of this process reads the environment.
        unsafe { std::env::set_var(name, value) };
    }
    inheritance.fds.into_iter().map(IntoRawFd::into_raw_fd).collect()
}

/// Removes what a trial left that was ended by something other than its own check.
pub(crate) fn sweep_up_after(ended: &Ended) {
    for segment in sysv_segments().iter().filter(|segment| segment.creator == ended.pid) {
        // SAFETY: reads no buffer.
        unsafe { libc::shmctl(segment.id, libc::IPC_RMID, std::ptr::null_mut()) };
    }
    let theirs = format!("shmtest-{}-", ended.pid);
    for directory in [POSIX_DIRECTORY.into(), std::env::temp_dir()] {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.to_string_lossy().contains(&theirs) {
                let _ = std::fs::remove_dir_all(&path);
                let _ = std::fs::remove_file(&path);
            }
        }
    }
}

/// What an operation may do to what the process holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    /// It is given back with the operation's result.
    Same,
    /// The operation lets go of something.
    Less,
}

/// One operation: how to set its scene, and what it does.
pub(crate) struct Operation<P, O> {
    pub(crate) name: &'static str,
    pub(crate) holds: Holds,
    pub(crate) prepare: P,
    pub(crate) perform: O,
}

impl<P, O> Operation<P, O> {
    /// Every error at every call of it, and storms of interruptions.
    pub(crate) fn survives<S, T, E>(&self, backend: Backend)
    where
        P: Fn(&Scene) -> S,
        O: Fn(&Scene, &mut S) -> Result<T, E>,
        E: Display,
    {
        let name = format!("{backend} {}", self.name);
        let prepare = || {
            let mut scene = Scene::new(backend);
            if self.name.ends_with("for a group") {
                scene.config.mode = 0o660;
            }
            let state = (self.prepare)(&scene);
            let before = Footprint::now();
            (scene, state, before)
        };
        let perform = |(scene, state, _): &mut (Scene, S, Footprint)| (self.perform)(scene, state);
        let check = |(scene, state, before): (Scene, S, Footprint), result: Result<T, E>| {
            if let Err(error) = &result {
                says_what_to_do(&error.to_string());
            }
            drop(result);
            if self.holds == Holds::Same {
                Scene::settle();
                before.assert_same();
            }
            drop(state);
            scene.survivors_go_on();
        };
        // Half of all faults are those of coming in: of these a third, unless SHM_DEEP=1.
        let comes_in = self.name.starts_with("open") || self.name == "from_env";
        let sweep = Sweep::new(&name).sampled(if comes_in { 3 } else { 1 });
        match sweep.run(prepare, perform, check) {
            Ok(report) => {
                report.assert_clean();
                if std::env::var("SHM_MESSAGES").is_ok() {
                    report
                        .messages
                        .iter()
                        .for_each(|(message, of)| eprintln!("  {message} [{of}]"));
                }
            }
            Err(not_run) => return eprintln!("{not_run}"),
        }
        for times in [1, 20] {
            match storm(&name, times, prepare, perform, check) {
                Ok(interruptions) => eprintln!("{name}: {interruptions} interruptions got over"),
                Err(not_run) => eprintln!("{not_run}"),
            }
        }
    }
}

/// An error names what it is about and what was refused.
fn says_what_to_do(message: &str) {
    assert!(message.len() > 30, "says too little: {message}");
}
