//! The segment table outlives whoever dies giving it more memory, or in the first verbs on a piece
//! that is new.
//!
//! After each death somebody cleans up in the dead one's name. Then what was acknowledged is there,
//! and every slot of the whole table can be had, each once.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;

use crash_common::shared;
use dsm::SegmentHandle;
use dsm::control::{Control, Objects};
use shm_core::mapping::Mapping;
use shm_core::participants::ParticipantId;
use shm_testkit::killpoint::{End, Notes, Run, Scenario, SharedMemory, Work};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Two pieces and a half.
const SEGMENTS: u32 = 160;
const PIECE: usize = 64;
const PARTICIPANTS: u32 = 4;
const DOOMED: u32 = 1;
const SURVIVOR: u32 = 2;
const DONE: usize = 0;

struct NoObjects;

impl Objects for NoObjects {
    fn remove(&self, _: SegmentHandle) -> bool {
        true
    }

    fn remove_domain(&self) {}
}

struct World {
    memory: SharedMemory,
    mapping: Arc<Mapping>,
}

fn participant(place: u32) -> ParticipantId {
    ParticipantId::from_bits(place << 22 | 1).unwrap()
}

impl World {
    /// As one process has it.
    fn control(&self) -> Control {
        Control::attach(&self.mapping, 0, SEGMENTS, PARTICIPANTS).unwrap()
    }
}

/// A segment, in a piece more if need be; `None` where all slots are taken.
fn create(control: &Control, who: u32) -> Option<SegmentHandle> {
    let actor = control.actor(participant(who), &NoObjects);
    loop {
        if let Some(handle) = actor.claim() {
            return actor.publish(handle, 1).then_some(handle);
        }
        if !control.grow().ok()? {
            return None;
        }
    }
}

/// One finds the first piece full, and makes a segment and a pin in the next.
struct Grow;

impl Scenario for Grow {
    type World = World;
    type Doomed = Control;

    fn name(&self) -> String {
        "segment table, grow, create, pin".into()
    }

    fn operations(&self) -> &'static [&'static str] {
        &[
            "dsm::control::Control::grow",
            "dsm::control::Actor::claim",
            "dsm::control::Actor::publish",
            "dsm::control::Control::pin",
        ]
    }

    fn world(&self) -> World {
        let (memory, mapping) = shared(Control::bytes_for(SEGMENTS, PARTICIPANTS));
        // SAFETY: nobody else has the mapping.
        unsafe { Control::create(&mapping, 0, SEGMENTS, PARTICIPANTS, 5) }.unwrap();
        let world = World { memory, mapping };
        let control = world.control();
        for who in [DOOMED, SURVIVOR] {
            assert!(control.actor(participant(who), &NoObjects).enter());
        }
        for _ in 0..PIECE {
            create(&control, SURVIVOR).unwrap();
        }
        world
    }

    fn prepare(&self, world: &World, _: &Notes) -> Control {
        world.control()
    }

    fn operate(&self, _: &World, control: &mut Control, notes: &Notes) {
        assert!(control.grow().unwrap());
        notes.count(DONE);
        let handle = create(control, DOOMED).unwrap();
        control.pin(handle).unwrap();
        notes.count(DONE);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.memory.copy()
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        let control = world.control();
        control.actor(participant(DOOMED), &NoObjects).clean_up();
        let alive = control.segments();
        let pinned: Vec<_> = alive.iter().filter(|segment| segment.pinned).collect();
        if notes.get(DONE) == 2 && pinned.len() != 1 {
            return Err("what was acknowledged to be pinned is gone".into());
        }
        if alive.len() != PIECE + pinned.len() {
            return Err(format!("{} segments, {} of them pinned", alive.len(), pinned.len()));
        }
        let mut slots: BTreeSet<_> = alive.iter().map(|segment| segment.handle).collect();
        while let Some(handle) = create(&control, SURVIVOR) {
            slots.insert(handle);
        }
        let slots: BTreeSet<_> = slots.iter().map(|h| h.to_bits() & ((1 << 24) - 1)).collect();
        let count = slots.len();
        if count == SEGMENTS as usize { Ok(()) } else { Err(format!("{count} slots can be had")) }
    }

    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            let control = world.control();
            let handle = create(&control, SURVIVOR).ok_or("no slot is free")?;
            control.actor(participant(SURVIVOR), &NoObjects).detach(handle);
            if control.is_alive(handle) { Err("it should be gone".into()) } else { Ok(()) }
        }))
    }

    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            world.control().actor(participant(DOOMED), &NoObjects).clean_up();
            Ok(())
        }))
    }
}

#[test]
fn whoever_dies_growing_it_loses_no_slot() {
    Run::new(&Grow).points(250).kill().passes();
}

#[test]
fn who_stands_still_growing_it_hinders_nobody() {
    Run::new(&Grow).points(40).stop().passes();
}

#[test]
fn who_cleans_up_after_it_may_die_too() {
    Run::new(&Grow).points(30).nested().passes();
}
