//! Ready segments outlive whoever dies taking one, or giving the memory of those that nobody uses
//! back: after each death every page can be had, each once, and has memory behind it.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;

use crash_common::shared;
use dsm::SegmentHandle;
use dsm::control::{Actor, Control, Objects};
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::participants::ParticipantId;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::killpoint::{End, Notes, Run, Scenario, SharedMemory, Work};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Two chunks.
const READY: u32 = 32;
const CHUNK: u32 = 16;
const SEGMENTS: u32 = 64;
const PARTICIPANTS: u32 = 4;
const DOOMED: u32 = 1;
const SURVIVOR: u32 = 2;
const DONE: usize = 0;
const PAGE: u64 = 4096;

struct World {
    memory: SharedMemory,
    mapping: Arc<Mapping>,
}

/// One process's view, and the system's: 1 for a chunk that has memory.
struct View {
    control: Control,
    present: MappedSlice<AtomicU64>,
}

impl Objects for View {
    fn remove(&self, _: SegmentHandle) -> bool {
        true
    }

    fn remove_domain(&self) {}

    fn fill(&self, chunk: u32) -> bool {
        self.present[chunk as usize].store(1, Ordering::Relaxed);
        true
    }

    fn empty(&self, chunk: u32) -> bool {
        self.present[chunk as usize].store(0, Ordering::Relaxed);
        true
    }
}

impl View {
    fn actor(&self, who: u32) -> Actor<'_, View> {
        self.control.actor(ParticipantId::from_bits(who << 22 | 1).unwrap(), self)
    }

    /// A segment in a page with memory.
    fn create(&self, who: u32) -> Result<Option<SegmentHandle>, String> {
        let Some(handle) = self.actor(who).claim_ready() else { return Ok(None) };
        let slot = handle.to_bits() as u32 & ((1 << 24) - 1);
        if self.present[(slot / CHUNK) as usize].load(Ordering::Relaxed) == 0 {
            return Err(format!("there is no memory behind the page of slot {slot}"));
        }
        let published = self.actor(who).publish(handle, PAGE);
        if published { Ok(Some(handle)) } else { Err(format!("slot {slot} is another's")) }
    }
}

impl World {
    fn new() -> World {
        let (memory, mapping) = shared(World::at() + 16);
        // SAFETY: nobody else has the mapping.
        unsafe { Control::create(&mapping, 0, SEGMENTS, PARTICIPANTS, 5) }.unwrap();
        let world = World { memory, mapping };
        let view = world.view();
        for who in [DOOMED, SURVIVOR] {
            assert!(view.actor(who).enter());
        }
        world
    }

    fn at() -> u64 {
        Control::bytes_for(SEGMENTS, PARTICIPANTS).next_multiple_of(64)
    }

    fn view(&self) -> View {
        let control = Control::attach_ready(&self.mapping, 0, SEGMENTS, PARTICIPANTS, READY);
        let present = MappedSlice::new(&self.mapping, World::at(), 2).unwrap();
        View { control: control.unwrap(), present }
    }

    /// Every page can be had, each once.
    fn go_on(&self) -> Result<(), String> {
        let view = self.view();
        view.actor(DOOMED).clean_up();
        if !view.control.leftovers().is_empty() {
            return Err("a slot is left over".into());
        }
        let mut all = BTreeSet::new();
        while let Some(handle) = view.create(SURVIVOR)? {
            all.insert(handle);
        }
        match all.len() {
            32 => Ok(()),
            count => Err(format!("{count} of 32 pages can be had")),
        }
    }
}

/// What one does: in pages without memory, or with all of it there and not used.
struct Case {
    name: &'static str,
    operations: &'static [&'static str],
    world: fn() -> World,
    operate: fn(&View, &Notes),
}

const CREATE: Case = Case {
    name: "ready, create, detach",
    operations: &[
        "dsm::control::Actor::claim_ready",
        "dsm::control::Actor::publish",
        "dsm::control::Actor::detach",
    ],
    world: World::new,
    operate: |view, notes| {
        let handle = view.create(DOOMED).unwrap().unwrap();
        notes.count(DONE);
        view.actor(DOOMED).detach(handle);
        notes.count(DONE);
    },
};

const EMPTY: Case = Case {
    name: "ready, give back",
    operations: &["dsm::control::Actor::empty_unused"],
    world: || {
        let (world, mut all) = (World::new(), Vec::new());
        let view = world.view();
        all.extend(std::iter::from_fn(|| view.create(SURVIVOR).unwrap()));
        all.into_iter().for_each(|handle| view.actor(SURVIVOR).detach(handle));
        assert_eq!(view.actor(SURVIVOR).empty_unused(0), 0, "it is in use until the next look");
        world
    },
    operate: |view, notes| {
        // Nothing, where a bystander has used it meanwhile.
        assert!([0, CHUNK].contains(&view.actor(DOOMED).empty_unused(1)));
        notes.count(DONE);
    },
};

impl Scenario for Case {
    type World = World;
    type Doomed = View;

    fn name(&self) -> String {
        self.name.into()
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        (self.world)()
    }

    fn prepare(&self, world: &World, _: &Notes) -> View {
        world.view()
    }

    fn operate(&self, _: &World, view: &mut View, notes: &Notes) {
        (self.operate)(view, notes);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.memory.copy()
    }

    fn check(&self, world: World, _: &Notes, _: End) -> Result<(), String> {
        world.go_on()
    }

    /// The others have pages meanwhile.
    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            let view = world.view();
            let handle = view.create(SURVIVOR)?.ok_or("no page is free")?;
            view.actor(SURVIVOR).detach(handle);
            Ok(())
        }))
    }

    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            world.view().actor(DOOMED).clean_up();
            Ok(())
        }))
    }
}

#[test]
fn whoever_dies_loses_no_page() {
    Run::new(&CREATE).points(100).kill().passes();
    Run::new(&EMPTY).points(150).kill().passes();
}

#[test]
fn who_stands_still_hinders_nobody() {
    Run::new(&CREATE).points(40).stop().passes();
    Run::new(&EMPTY).points(40).stop().passes();
}

#[test]
fn who_cleans_up_after_it_may_die_too() {
    Run::new(&CREATE).points(30).nested().passes();
    Run::new(&EMPTY).points(40).nested().passes();
}

/// Planted: one that says of a chunk whose slots it does not own that it has memory.
struct Careless;

impl Scenario for Careless {
    type World = World;
    type Doomed = View;

    fn name(&self) -> String {
        "ready, planted: says that there is memory before there is".into()
    }

    fn operations(&self) -> &'static [&'static str] {
        &[]
    }

    fn world(&self) -> World {
        World::new()
    }

    fn prepare(&self, world: &World, _: &Notes) -> View {
        world.view()
    }

    fn operate(&self, world: &World, view: &mut View, notes: &Notes) {
        // `Head::filled`.
        let filled = Mapped::<AtomicU64>::new(&world.mapping, 24).unwrap();
        filled.fetch_or(1, Ordering::Release);
        view.fill(0);
        notes.count(DONE);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.memory.copy()
    }

    fn check(&self, world: World, _: &Notes, _: End) -> Result<(), String> {
        world.go_on()
    }
}

#[test]
fn memory_that_is_not_there_is_found() {
    Run::new(&Careless).points(100).kill().finds("no memory behind the page");
}
