//! A domain's segments, and the objects behind them, outlive whoever dies in making, using and
//! leaving them, on every backend.
#![cfg(not(any(shm_loom, shm_explore)))]
mod crash_common;

use crash_common::{ALL, BYTES, Case, DONE, IS_ALONE, MISSED_MAX, NAMED, POINTS, World, come_in};
use crash_common::{in_own_table, on_each, on_each_forked};
use dsm::backend::Backend::{Posix, Sysv};
use dsm::backend::{self, Backend};
use dsm::{Domain, Segment, SegmentHandle};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::killpoint::{End, Heap, Notes, Run, Scenario};

#[global_allocator]
static HEAP: Heap = Heap;

/// What a segment holds, where a dead one has written into it.
const WHOLE: u64 = 0xfeed;

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
            Run::new(&names).points(POINTS).allow_missed(MISSED_MAX).kill().passes();
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
