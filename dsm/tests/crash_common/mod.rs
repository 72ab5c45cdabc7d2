//! Domains for crash tests: what there is before a death, and what there must and must not be after
//! it.
//!
//! After each death a survivor opens the domain (or is in it already), reaps, goes on using it, and
//! leaves as the last one out: then nothing is left, neither in `/dev/shm` nor in the directory of
//! the files nor in the table of System V segments.
//!
//! Shared bytes are not compared with those of the trace: a domain's hold a nonce and pids. The
//! notes are.
#![allow(dead_code, reason = "each test file uses its part")]
use dsm::backend::Backend::{Memfd, Mmap, Posix, Sysv};
use dsm::backend::{Backend, Place};
use dsm::{AttachError, CreateError, Domain, DomainConfig, Segment, SegmentHandle};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::depth::is_deep;
use shm_testkit::killpoint::{End, Notes, Run, Scenario, SharedMemory};
use shm_testkit::unique::{TempDir, Unique, sysv_segments};
use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

/// How many steps were done.
pub(crate) const DONE: usize = 0;
pub(crate) const BYTES: u64 = 4096;
const LIMIT: Duration = Duration::from_secs(20);

/// Runs `run`: for System V in a thread with a table of segments of its own, where the system
/// allows it.
pub(crate) fn in_own_table(backend: Backend, run: impl FnOnce() + Send) {
    static OTHERS: RwLock<()> = RwLock::new(());
    if backend != Sysv {
        let _others = OTHERS.read().unwrap_or_else(PoisonError::into_inner);
        return run();
    }
    // A child that another test forks keeps the segments that are mapped here while it lives.
    let _none = OTHERS.write().unwrap_or_else(PoisonError::into_inner);
    let alone = move || {
        // SAFETY: changes this thread only, which ends here.
        IS_ALONE.set(unsafe { libc::unshare(libc::CLONE_NEWIPC) } == 0);
        run();
    };
    let ended = std::thread::scope(|scope| scope.spawn(alone).join());
    ended.unwrap_or_else(|payload| std::panic::resume_unwind(payload));
}

std::thread_local! {
    /// Whether nobody else has System V segments here.
    pub(crate) static IS_ALONE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

pub(crate) struct World {
    pub(crate) config: DomainConfig,
    pub(crate) place: Place,
    /// Where somebody is in the domain from the beginning.
    pub(crate) survivor: Option<Domain>,
    /// What the survivor is attached to, and what only a pin keeps.
    pub(crate) common: Option<Segment>,
    pub(crate) pinned: Option<SegmentHandle>,
    pub(crate) unique: Unique,
    before: BTreeSet<i32>,
    /// Bits of the handle that the doomed one was given: not a note, for it is random.
    told: SharedMemory,
    _directory: TempDir,
}

impl World {
    pub(crate) fn new(backend: Backend) -> World {
        let (directory, mut unique) = (TempDir::new("crash"), Unique::new("crash"));
        unique.watch_directory(directory.path());
        let place = Place { directory: directory.path().to_owned(), ..Place::new(backend) };
        let config = DomainConfig {
            backend: Some(backend),
            directory: Some(directory.path().to_owned()),
            participants_max: 3,
            segments_max: Some(4),
            open_timeout: LIMIT,
            ready_max: 0,
            ..DomainConfig::new(unique.name())
        };
        let before = sysv_segments().iter().map(|segment| segment.id).collect();
        World {
            config,
            place,
            survivor: None,
            common: None,
            pinned: None,
            unique,
            before,
            told: SharedMemory::new(8),
            _directory: directory,
        }
    }

    pub(crate) fn accompanied(backend: Backend) -> World {
        World::new(backend).with_survivor()
    }

    /// Whose segments all lie in pages of the control segment.
    pub(crate) fn ready(backend: Backend) -> World {
        let mut world = World::new(backend);
        (world.config.segments_max, world.config.ready_max) = (Some(16), 16);
        world.with_survivor()
    }

    fn with_survivor(self) -> World {
        let mut world = self;
        let domain = Domain::open(world.config.clone()).unwrap();
        let common = domain.create_segment(BYTES).unwrap();
        let pinned = domain.create_segment(BYTES).unwrap();
        pinned.pin().unwrap();
        world.pinned = Some(pinned.handle());
        world.common = Some(common);
        drop(pinned);
        world.survivor = Some(domain);
        world
    }

    /// The first: that handle. The second: the doomed one's pid.
    pub(crate) fn word(&self, index: usize) -> &AtomicU64 {
        let word = self.told.base().cast::<AtomicU64>().as_ptr().wrapping_add(index);
        // SAFETY: a page of zeros, mapped as long as self, and the index is 0 or 1.
        unsafe { &*word }
    }

    pub(crate) fn open(&self) -> Result<Domain, String> {
        Domain::open(self.config.clone()).map_err(|error| format!("cannot open: {error}"))
    }

    /// Reaps, finds nothing of the dead, uses every slot, and leaves as the last one out.
    fn go_on(mut self) -> Result<(), String> {
        let domain = match self.survivor.take() {
            Some(domain) => domain,
            None => self.open()?,
        };
        domain.reap();
        let me = domain.member().id().slot();
        if domain.participants().len() != 1 {
            return Err(format!("after reaping there are {:?}", domain.participants()));
        }
        for segment in domain.segments() {
            if segment.attached.iter().any(|slot| *slot != me) {
                return Err(format!("the dead one is attached to {}", segment.handle));
            }
            if segment.attached.is_empty() && !segment.pinned {
                return Err(format!("nobody holds {}, and it is there", segment.handle));
            }
            if !segment.pinned {
                continue;
            }
            domain.unpin(segment.handle).map_err(|error| error.to_string())?;
        }
        let mut made = Vec::new();
        for _ in domain.segments().len()..self.config.segments_max.unwrap() as usize {
            let segment =
                domain.create_segment(BYTES).map_err(|error| format!("not all: {error}"))?;
            let words = segment.region().share_slice::<AtomicU64>(0, BYTES / 8);
            if words.unwrap().iter().any(|word| word.load(Ordering::Relaxed) != 0) {
                return Err(format!("a new segment is not zero: {}", segment.handle()));
            }
            made.push(segment);
        }
        drop((made, self.common.take()));
        domain.destroy().map_err(|error| error.to_string())?;
        self.assert_nothing_left()
    }

    pub(crate) fn assert_nothing_left(&self) -> Result<(), String> {
        let mut left = self.unique.left();
        if self.place.backend == Sysv {
            let new = sysv_segments().into_iter().filter(|it| !self.before.contains(&it.id));
            let ours = new.filter(|it| self.is_ours(it.creator));
            left.extend(ours.map(|it| format!("sysv:{}", it.id)));
        }
        if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
    }

    /// Where others have segments too, this process's and the doomed one's.
    fn is_ours(&self, creator: u32) -> bool {
        let doomed = self.word(1).load(Ordering::Relaxed);
        IS_ALONE.get() || creator == std::process::id() || u64::from(creator) == doomed
    }
}

/// What a doomed one has.
#[derive(Default)]
pub(crate) struct Has {
    pub(crate) domain: Option<Domain>,
    pub(crate) segment: Option<Segment>,
}

/// One sequence of calls, on one backend.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) backend: Backend,
    pub(crate) operations: &'static [&'static str],
    pub(crate) world: fn(Backend) -> World,
    pub(crate) prepare: fn(&World, &mut Has),
    pub(crate) operate: fn(&World, &mut Has, &Notes),
    /// Once the dead one has been reaped.
    pub(crate) expect: fn(&World, &Notes) -> Result<(), String>,
}

impl Scenario for Case {
    type World = World;
    type Doomed = Has;

    fn name(&self) -> String {
        format!("domain, {}, {}", self.backend, self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        (self.world)(self.backend)
    }

    fn prepare(&self, world: &World, _: &Notes) -> Has {
        world.word(1).store(u64::from(std::process::id()), Ordering::Relaxed);
        let mut has = Has::default();
        (self.prepare)(world, &mut has);
        has
    }

    fn operate(&self, world: &World, has: &mut Has, notes: &Notes) {
        (self.operate)(world, has, notes);
    }

    fn image(&self, _: &World) -> Vec<u8> {
        Vec::new()
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        if let Some(domain) = &world.survivor {
            domain.reap();
        }
        (self.expect)(&world, notes)?;
        world.go_on()
    }

    /// What it was at with its domain is left alone: who was at it is not here.
    fn forked(&self, world: &World, has: &mut Has) -> Result<(), String> {
        let mut domains = has.domain.iter().chain(&world.survivor);
        let refuses = |domain: &Domain| {
            matches!(domain.create_segment(BYTES), Err(CreateError::Forked(_)))
                && matches!(domain.attach(pinned(world)), Err(AttachError::Forked(_)))
        };
        if domains.all(refuses) { Ok(()) } else { Err("uses its parent's domain".into()) }
    }
}

/// A handle: of a segment that is there, if there is one.
fn pinned(world: &World) -> SegmentHandle {
    world.pinned.unwrap_or_else(|| SegmentHandle::from_bits(1 << 24).unwrap())
}

/// The same operations on each backend of `deep`; on those of `few` unless everything is wanted.
pub(crate) fn on_each(few: &[Backend], deep: &[Backend], case: impl Fn(Backend) -> Case) {
    for backend in if is_deep() { deep } else { few } {
        let case = case(*backend);
        let run = Run::new(&case).points(POINTS).each_up_to(EACH_MAX).allow_missed(MISSED_MAX);
        in_own_table(*backend, || run.kill().passes());
    }
}

/// And is made to fork.
pub(crate) fn on_each_forked(few: &[Backend], deep: &[Backend], case: impl Fn(Backend) -> Case) {
    for backend in if is_deep() { deep } else { few } {
        let case = case(*backend);
        let run = Run::new(&case).points(POINTS).each_up_to(EACH_MAX).allow_missed(MISSED_MAX);
        in_own_table(*backend, || run.fork().passes());
    }
}

/// Where a death leaves something new there are fewer.
pub(crate) const POINTS: usize = 150;
/// A point takes a domain that is opened, used and destroyed: where each instruction of all these
/// operations is tried, it takes hours.
const EACH_MAX: usize = 1000;
/// The system's list of segments is looked through as a text that is not of one length: where each
/// instruction is tried, so many in there may be missed.
pub(crate) const MISSED_MAX: usize = 500;
pub(crate) const ALL: [Backend; 4] = [Posix, Sysv, Mmap, Memfd];
/// Those whose domains are found by name.
pub(crate) const NAMED: [Backend; 3] = [Posix, Sysv, Mmap];

/// Comes in before the operation.
pub(crate) fn come_in(world: &World, has: &mut Has) {
    has.domain = Some(world.open().unwrap());
}
