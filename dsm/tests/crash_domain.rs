//! Domains and the objects behind them outlive whoever dies in making, using and leaving them, on
//! every backend.
//!
//! After each death a survivor opens the domain (or is in it already), reaps, goes on using it, and
//! leaves as the last one out: then nothing is left, neither in `/dev/shm` nor in the directory of
//! the files nor in the table of System V segments.
//!
//! Shared bytes are not compared with those of the trace: a domain's hold a nonce and pids. The
//! notes are.
#![cfg(not(any(shm_loom, shm_explore)))]
use dsm::backend::Backend::{Memfd, Mmap, Posix, Sysv};
use dsm::backend::{self, Backend, Place};
use dsm::{AttachError, CreateError, Domain, DomainConfig, Segment, SegmentHandle};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::depth::is_deep;
use shm_testkit::killpoint::{End, Heap, Notes, Run, Scenario, SharedMemory};
use shm_testkit::unique::{TempDir, Unique, sysv_segments};
use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

#[global_allocator]
static HEAP: Heap = Heap;

/// How many steps were done.
const DONE: usize = 0;
const WHOLE: u64 = 0xfeed;
const BYTES: u64 = 4096;
const LIMIT: Duration = Duration::from_secs(20);

/// Runs `run`: for System V in a thread with a table of segments of its own, where the system
/// allows it.
fn in_own_table(backend: Backend, run: impl FnOnce() + Send) {
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
    static IS_ALONE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

struct World {
    config: DomainConfig,
    place: Place,
    /// Where somebody is in the domain from the beginning.
    survivor: Option<Domain>,
    /// What the survivor is attached to, and what only a pin keeps.
    common: Option<Segment>,
    pinned: Option<SegmentHandle>,
    unique: Unique,
    before: BTreeSet<i32>,
    /// Bits of the handle that the doomed one was given: not a note, for it is random.
    told: SharedMemory,
    _directory: TempDir,
}

impl World {
    fn new(backend: Backend) -> World {
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

    fn accompanied(backend: Backend) -> World {
        World::new(backend).with_survivor()
    }

    /// Whose segments all lie in pages of the control segment.
    fn ready(backend: Backend) -> World {
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
    fn word(&self, index: usize) -> &AtomicU64 {
        let word = self.told.base().cast::<AtomicU64>().as_ptr().wrapping_add(index);
        // SAFETY: a page of zeros, mapped as long as self, and the index is 0 or 1.
        unsafe { &*word }
    }

    fn open(&self) -> Result<Domain, String> {
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

    fn assert_nothing_left(&self) -> Result<(), String> {
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
struct Has {
    domain: Option<Domain>,
    segment: Option<Segment>,
}

/// One sequence of calls, on one backend.
struct Case {
    name: &'static str,
    backend: Backend,
    operations: &'static [&'static str],
    world: fn(Backend) -> World,
    prepare: fn(&World, &mut Has),
    operate: fn(&World, &mut Has, &Notes),
    /// Once the dead one has been reaped.
    expect: fn(&World, &Notes) -> Result<(), String>,
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
fn on_each(few: &[Backend], deep: &[Backend], case: impl Fn(Backend) -> Case) {
    for backend in if is_deep() { deep } else { few } {
        let case = case(*backend);
        let run = Run::new(&case).points(POINTS).allow_missed(MISSED_MAX);
        in_own_table(*backend, || run.kill().passes());
    }
}

/// And is made to fork.
fn on_each_forked(few: &[Backend], deep: &[Backend], case: impl Fn(Backend) -> Case) {
    for backend in if is_deep() { deep } else { few } {
        let case = case(*backend);
        let run = Run::new(&case).points(POINTS).allow_missed(MISSED_MAX);
        in_own_table(*backend, || run.fork().passes());
    }
}

/// Where a death leaves something new there are fewer.
const POINTS: usize = 150;
/// The system's list of segments is looked through as a text that is not of one length: where each
/// instruction is tried, so many in there may be missed.
const MISSED_MAX: usize = 500;
const ALL: [Backend; 4] = [Posix, Sysv, Mmap, Memfd];
/// Those whose domains are found by name.
const NAMED: [Backend; 3] = [Posix, Sysv, Mmap];

fn first(backend: Backend) -> Case {
    Case {
        name: "first to open",
        backend,
        operations: &["dsm::domain::Domain::open", "dsm::backend::create"],
        world: World::new,
        prepare: |_, _| {},
        operate: |world, has, notes| {
            has.domain = Some(world.open().unwrap());
            notes.set(DONE, 1);
        },
        expect: |_, _| Ok(()),
    }
}

fn second(backend: Backend) -> Case {
    Case {
        name: "second to open",
        operations: &["dsm::domain::Domain::open"],
        world: World::accompanied,
        expect: |world, _| match world.survivor.as_ref().map(|domain| domain.segments().len()) {
            Some(2) => Ok(()),
            count => Err(format!("of two segments there are {count:?}")),
        },
        ..first(backend)
    }
}

/// Comes in before the operation.
fn come_in(world: &World, has: &mut Has) {
    has.domain = Some(world.open().unwrap());
}

fn use_segments(backend: Backend) -> Case {
    Case {
        name: "create, pin, detach, attach, unpin",
        operations: &[
            "dsm::domain::Domain::create_segment",
            "dsm::segment::Segment::pin",
            "dsm::domain::Domain::attach",
            "dsm::domain::Domain::unpin",
        ],
        world: World::accompanied,
        prepare: come_in,
        operate: |world, has, notes| {
            let domain = has.domain.as_ref().unwrap();
            let segment = domain.create_segment(BYTES).unwrap();
            let handle = segment.handle();
            let word: &AtomicU64 = segment.mapping().region().share(0).unwrap();
            word.store(WHOLE, Ordering::Relaxed);
            segment.pin().unwrap();
            world.word(0).store(handle.to_bits(), Ordering::Relaxed);
            notes.set(DONE, 1);
            drop(segment);
            drop(domain.attach(world.pinned.unwrap()).unwrap().unwrap());
            notes.set(DONE, 2);
            domain.unpin(handle).unwrap();
            notes.set(DONE, 3);
        },
        expect: |world, notes| {
            let domain = world.survivor.as_ref().ok_or("nobody is there")?;
            let alive = domain.segments();
            let there = |handle| alive.iter().any(|segment| segment.handle == handle);
            let common = world.common.as_ref().map(Segment::handle);
            if ![common, world.pinned].into_iter().flatten().all(there) {
                return Err("what the survivor holds or has pinned is gone".into());
            }
            let told = world.word(0).load(Ordering::Relaxed);
            let Some(handle) = SegmentHandle::from_bits(told) else { return Ok(()) };
            match notes.get(DONE) {
                1 if !there(handle) => Err("it was told that its segment is pinned".into()),
                3 if there(handle) => Err("it was told that its segment is unpinned".into()),
                1 => holds_whole(domain, handle),
                _ => Ok(()),
            }
        },
        backend,
    }
}

/// As before, in pages of the control segment.
fn use_ready(backend: Backend) -> Case {
    Case {
        name: "ready: create, pin, detach, attach, unpin",
        world: World::ready,
        ..use_segments(backend)
    }
}

/// What a dead one has pinned can be attached to, with all that it wrote before.
fn holds_whole(domain: &Domain, handle: SegmentHandle) -> Result<(), String> {
    let segment = domain.attach(handle).map_err(|error| error.to_string())?;
    let segment = segment.ok_or("a pinned segment cannot be attached")?;
    let word: &AtomicU64 = segment.mapping().region().share(0).map_err(|e| e.to_string())?;
    match word.load(Ordering::Relaxed) {
        WHOLE => Ok(()),
        found => Err(format!("a pinned segment holds {found:#x}")),
    }
}

fn read_only(backend: Backend) -> Case {
    Case {
        name: "attach read-only, detach",
        operations: &["dsm::domain::Domain::attach_read_only"],
        operate: |world, has, notes| {
            let domain = has.domain.as_ref().unwrap();
            let segment = domain.attach_read_only(world.pinned.unwrap()).unwrap().unwrap();
            assert_eq!(segment.view().load_u64(0), Ok(0));
            notes.set(DONE, 1);
            drop(segment);
            notes.set(DONE, 2);
        },
        expect: |world, _| match world.survivor.as_ref().map(|domain| domain.segments().len()) {
            Some(2) => Ok(()),
            count => Err(format!("of two segments there are {count:?}")),
        },
        ..use_segments(backend)
    }
}

fn leave(backend: Backend) -> Case {
    Case {
        name: "detach, leave as the last one out",
        operations: &["dsm::segment::Segment::drop", "dsm::domain::Domain::drop"],
        world: World::new,
        prepare: |world, has| {
            come_in(world, has);
            has.segment = has.domain.as_ref().map(|domain| domain.create_segment(BYTES).unwrap());
        },
        operate: |_, has, notes| {
            has.segment = None;
            has.domain = None;
            notes.set(DONE, 1);
        },
        expect: |world, notes| match notes.get(DONE) {
            1 => world.assert_nothing_left(),
            _ => Ok(()),
        },
        backend,
    }
}

fn destroy(backend: Backend) -> Case {
    Case {
        name: "destroy, with a pinned segment",
        operations: &["dsm::domain::Domain::destroy"],
        prepare: |world, has| {
            come_in(world, has);
            has.domain.as_ref().unwrap().create_segment(BYTES).unwrap().pin().unwrap();
        },
        operate: |_, has, notes| {
            has.domain.take().unwrap().destroy().unwrap();
            notes.set(DONE, 1);
        },
        ..leave(backend)
    }
}

fn reap(backend: Backend) -> Case {
    Case {
        name: "reap",
        operations: &["dsm::domain::Domain::reap"],
        world: World::accompanied,
        prepare: |world, has| {
            come_in(world, has);
            die_attached(world);
        },
        operate: |_, has, notes| {
            assert_eq!(has.domain.as_ref().unwrap().reap(), 1);
            notes.set(DONE, 1);
        },
        expect: |world, _| match world.survivor.as_ref().map(|domain| domain.segments().len()) {
            Some(2) => Ok(()),
            count => Err(format!("of two segments there are {count:?}")),
        },
        backend,
    }
}

/// A process comes in, creates a segment, and ends as if it were killed.
fn die_attached(world: &World) {
    // SAFETY: the child opens the domain for itself, and ends by `_exit`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let domain = Domain::open(world.config.clone()).unwrap();
        let segment = domain.create_segment(BYTES).unwrap();
        let code = i32::from(segment.is_empty());
        // SAFETY: ends the child.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: our own child, and a place for its status.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!(status, 0);
}

#[test]
fn the_first_to_open_may_die_anywhere() {
    on_each(&[Posix, Memfd], &ALL, first);
}

#[test]
fn the_second_to_open_may_die_anywhere() {
    on_each(&[Mmap], &NAMED, second);
    on_each_forked(&[Posix], &NAMED, second);
}

#[test]
fn who_uses_segments_may_die_anywhere() {
    on_each(&[Posix, Sysv], &NAMED, use_segments);
    on_each_forked(&[Posix], &NAMED, use_segments);
}

#[test]
fn who_uses_ready_segments_may_die_anywhere() {
    on_each(&[Posix], &ALL[..3], use_ready);
    on_each_forked(&[Posix], &[Posix], use_ready);
}

#[test]
fn who_reads_a_segment_may_die_anywhere() {
    on_each(&[Sysv], &NAMED, read_only);
}

#[test]
fn the_last_one_out_may_die_anywhere() {
    on_each(&ALL, &ALL, leave);
}

#[test]
fn who_destroys_the_domain_may_die_anywhere() {
    on_each(&[Sysv, Mmap], &NAMED, destroy);
}

#[test]
fn who_reaps_may_die_anywhere() {
    on_each(&[Posix, Sysv], &NAMED, reap);
}

/// Objects by name, without a domain.
struct Names(Backend);

impl Scenario for Names {
    type World = World;
    type Doomed = ();

    fn name(&self) -> String {
        format!("objects, {}", self.0)
    }

    fn operations(&self) -> &'static [&'static str] {
        &[
            "dsm::backend::create",
            "dsm::backend::open_or_create",
            "dsm::backend::remove",
            "dsm::backend::Object::remove_exact",
        ]
    }

    fn world(&self) -> World {
        World::new(self.0)
    }

    fn prepare(&self, world: &World, _: &Notes) {
        world.word(1).store(u64::from(std::process::id()), Ordering::Relaxed);
    }

    fn operate(&self, world: &World, (): &mut (), notes: &Notes) {
        let name = world.unique.name();
        let made = backend::create(&world.place, name, BYTES).unwrap();
        notes.set(DONE, 1);
        let found = backend::open_or_create(&world.place, name, BYTES).unwrap();
        assert_eq!(found.len(), made.len());
        assert!(found.remove_exact().unwrap());
        notes.set(DONE, 2);
        backend::open_or_create(&world.place, name, BYTES).unwrap();
        notes.set(DONE, 3);
        assert!(backend::remove(&world.place, name).unwrap());
        notes.set(DONE, 4);
    }

    fn image(&self, _: &World) -> Vec<u8> {
        Vec::new()
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        let name = world.unique.name();
        let text = |error: backend::BackendError| error.to_string();
        let found = backend::open(&world.place, name).map_err(text)?;
        match (notes.get(DONE), &found) {
            (4, Some(_)) => return Err("it was told that the object is removed".into()),
            (_, Some(object)) if object.len() < BYTES => {
                return Err(format!("there is an object of {} bytes", object.len()));
            }
            (_, Some(object)) => {
                let word: &AtomicU64 =
                    object.mapping().region().share(0).map_err(|error| error.to_string())?;
                if word.load(Ordering::Relaxed) != 0 {
                    return Err("a new object is not zero".into());
                }
            }
            _ => {}
        }
        drop(found);
        let object = backend::open_or_create(&world.place, name, BYTES).map_err(text)?;
        drop(object);
        if !backend::remove(&world.place, name).map_err(text)? {
            return Err("what was just made cannot be removed".into());
        }
        world.assert_nothing_left()
    }
}

#[test]
fn who_makes_and_removes_objects_may_die_anywhere() {
    for backend in NAMED {
        let names = Names(backend);
        in_own_table(backend, || {
            Run::new(&names).points(POINTS).kill().passes();
        });
    }
}

/// System V segments that nobody has mapped, known by what they hold.
struct Unattached;

impl Scenario for Unattached {
    type World = World;
    type Doomed = ();

    fn name(&self) -> String {
        "objects, sysv, remove what is not attached".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &["dsm::backend::sysv::remove_unattached"]
    }

    fn world(&self) -> World {
        let world = World::new(Sysv);
        for nth in 0..2 {
            let name = format!("{}-{nth}", world.unique.name());
            let object = backend::create(&world.place, &name, BYTES).unwrap();
            let word: &AtomicU64 = object.mapping().region().share(0).unwrap();
            word.store(WHOLE, Ordering::Relaxed);
        }
        world
    }

    fn prepare(&self, _: &World, _: &Notes) {}

    fn operate(&self, _: &World, (): &mut (), notes: &Notes) {
        notes.set(DONE, 1 + backend::sysv::remove_unattached(is_marked).unwrap() as u64);
    }

    fn image(&self, _: &World) -> Vec<u8> {
        Vec::new()
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        let done = notes.get(DONE);
        if done != 0 && done != 3 {
            return Err(format!("of two segments {} were removed", done - 1));
        }
        if done == 0 {
            backend::sysv::remove_unattached(is_marked).map_err(|error| error.to_string())?;
        }
        world.assert_nothing_left()
    }
}

fn is_marked(mapping: &shm_core::mapping::Mapping) -> bool {
    let word = mapping.region().share::<AtomicU64>(0);
    word.is_ok_and(|word| word.load(Ordering::Relaxed) == WHOLE)
}

#[test]
fn who_removes_what_is_not_attached_may_die_anywhere() {
    in_own_table(Sysv, || {
        if !IS_ALONE.get() {
            // It looks at all segments there are, in as many instructions as there are others'.
            println!("not run: remove_unattached: no IPC namespace of our own is allowed here");
            return;
        }
        Run::new(&Unattached).points(POINTS).kill().passes();
    });
}

/// A creator that tells nobody what it makes, as ours must not.
fn forgetful(backend: Backend) -> Case {
    Case {
        name: "planted: an object that no table lists",
        operations: &[],
        operate: |world, _, notes| {
            let name = format!("shm-{}", world.unique.name());
            backend::create(&world.place, &name, BYTES).unwrap();
            notes.set(DONE, 1);
        },
        ..first(backend)
    }
}

#[test]
fn what_is_left_behind_is_found() {
    in_own_table(Posix, || {
        Run::new(&forgetful(Posix)).points(100).kill().finds("left behind");
    });
}
