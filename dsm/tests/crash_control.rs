//! The segment table outlives whoever dies in any of its verbs, in shared memory and with objects
//! that live in shared memory too.
//!
//! After each death somebody cleans up in the dead one's name, as the reaper of the table of
//! participants does. Then: each segment that is alive has its object and each object its segment;
//! the dead one is attached to nothing; what survivors hold, and what was acknowledged to be
//! pinned, is there; what nobody holds is gone; every slot can be used again; and the last one out
//! takes the domain along.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;

use crash_common::shared;
use dsm::SegmentHandle;
use dsm::control::{Actor, Control, Objects};
use shm_core::participants::ParticipantId;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::killpoint::{End, Notes, Run, Scenario, SharedMemory, Work};

const SEGMENTS: u32 = 4;
const PARTICIPANTS: u32 = 4;
const GENERATION: u32 = 5;
const DOOMED: u32 = 1;
const SURVIVOR: u32 = 2;
/// Whom the doomed one reaps.
const DEAD: u32 = 3;
const BYTES: u64 = 4096;
/// In the notes: steps that are done, counted. The step that comes next may be half done.
const DONE: usize = 0;

/// The objects: of each slot which generation has one, then whether the domain has, then how often
/// a removal is still to fail.
struct Shelf<'w> {
    words: &'w [AtomicU64],
    control: &'w Control,
}

impl Shelf<'_> {
    const DOMAIN: usize = SEGMENTS as usize;
    const REFUSALS: usize = SEGMENTS as usize + 1;
    const WORDS: u64 = SEGMENTS as u64 + 2;

    /// Generations that have an object, by slot; 0: none has.
    fn objects(&self) -> Vec<u64> {
        let objects = self.words[..Shelf::DOMAIN].iter();
        objects.map(|word| word.load(Ordering::Relaxed)).collect()
    }

    fn put(&self, handle: SegmentHandle) {
        let generation = generation_of(handle);
        self.words[slot_of(handle)].store(generation, Ordering::Relaxed);
    }

    /// What made a removal fail was the lack of a process that is dead now.
    fn stop_refusing(&self) {
        self.words[Shelf::REFUSALS].store(0, Ordering::Relaxed);
    }

    fn has_domain(&self) -> bool {
        self.words[Shelf::DOMAIN].load(Ordering::Relaxed) == 1
    }
}

impl Objects for Shelf<'_> {
    fn remove(&self, handle: SegmentHandle) -> bool {
        let refusals = self.words[Shelf::REFUSALS].load(Ordering::Relaxed);
        if refusals > 0 {
            self.words[Shelf::REFUSALS].store(refusals - 1, Ordering::Relaxed);
            return false;
        }
        let (word, mine) = (&self.words[slot_of(handle)], generation_of(handle));
        // Another generation's is not ours to remove.
        let _ = word.compare_exchange(mine, 0, Ordering::Relaxed, Ordering::Relaxed);
        true
    }

    /// As the domain does it: what the table lists first, what says where it is last.
    fn remove_domain(&self) {
        for handle in self.control.leftovers() {
            self.remove(handle);
        }
        self.words[Shelf::DOMAIN].store(0, Ordering::Relaxed);
    }
}

struct World {
    memory: SharedMemory,
    control: Control,
    mapping: std::sync::Arc<shm_core::mapping::Mapping>,
}

fn participant(place: u32) -> ParticipantId {
    ParticipantId::from_bits(place << 22 | 1).unwrap()
}

/// A handle is its slot (24 bits) and its generation.
fn handle(slot: u64, nth: u64) -> SegmentHandle {
    SegmentHandle::from_bits((u64::from(GENERATION) + nth) << 24 | slot).unwrap()
}

fn slot_of(handle: SegmentHandle) -> usize {
    handle.to_bits() as usize & ((1 << 24) - 1)
}

fn generation_of(handle: SegmentHandle) -> u64 {
    handle.to_bits() >> 24
}

impl World {
    fn new() -> World {
        let table = Control::bytes_for(SEGMENTS, PARTICIPANTS);
        let (memory, mapping) = shared(table + 8 * Shelf::WORDS);
        // SAFETY: nobody else has the mapping.
        let control =
            unsafe { Control::create(&mapping, 0, SEGMENTS, PARTICIPANTS, GENERATION) }.unwrap();
        let world = World { memory, control, mapping };
        world.shelf().words[Shelf::DOMAIN].store(1, Ordering::Relaxed);
        world
    }

    fn shelf(&self) -> Shelf<'_> {
        let at = Control::bytes_for(SEGMENTS, PARTICIPANTS);
        let words = self.mapping.region().share_slice(at, Shelf::WORDS).unwrap();
        Shelf { words, control: &self.control }
    }

    fn acting<T>(&self, who: u32, act: impl FnOnce(&Actor<'_, Shelf<'_>>) -> T) -> T {
        let shelf = self.shelf();
        act(&self.control.actor(participant(who), &shelf))
    }

    /// A segment of `who`'s, attached.
    fn create(&self, who: u32) -> Result<SegmentHandle, String> {
        self.acting(who, |actor| {
            let handle = actor.claim().ok_or("no slot is free")?;
            self.shelf().put(handle);
            actor.made(handle, BYTES);
            let published = actor.publish(handle, BYTES);
            if published { Ok(handle) } else { Err(format!("{handle} cannot be published")) }
        })
    }

    /// What holds whatever has happened, once the dead have been cleaned up after.
    fn check_table(&self, dead: &[u32]) -> Result<(), String> {
        let alive = self.control.segments();
        for (slot, object) in self.shelf().objects().into_iter().enumerate() {
            let segment = alive.iter().find(|segment| slot_of(segment.handle) == slot);
            let wanted = segment.map_or(0, |segment| generation_of(segment.handle));
            if object != wanted {
                return Err(format!("slot {slot} has object {object} and segment {wanted}"));
            }
        }
        for segment in &alive {
            if segment.attached.is_empty() && !segment.pinned {
                return Err(format!("nobody holds {}, and it is there", segment.handle));
            }
            if segment.size != BYTES {
                return Err(format!("{} has {} bytes", segment.handle, segment.size));
            }
        }
        let mut attached = alive.into_iter().flat_map(|segment| segment.attached);
        match attached.find(|place| dead.contains(place)) {
            Some(place) => Err(format!("dead participant {place} is still attached")),
            None if self.control.present().iter().any(|place| dead.contains(place)) => {
                Err("a dead participant is still in the domain".into())
            }
            None => Ok(()),
        }
    }

    /// The survivor comes in, unpins all there is, uses every slot, and leaves as the last one.
    fn go_on(&self) -> Result<(), String> {
        if !self.acting(SURVIVOR, |actor| actor.enter()) {
            // As who opens a domain that is closed.
            self.shelf().remove_domain();
        } else {
            for segment in self.control.segments().into_iter().filter(|segment| segment.pinned) {
                let unpinned = self.acting(SURVIVOR, |actor| actor.unpin(segment.handle));
                unpinned.map_err(|error| error.to_string())?;
            }
            let held = self.control.segments().len() as u32;
            let made: Result<Vec<_>, _> = (held..SEGMENTS).map(|_| self.create(SURVIVOR)).collect();
            made.map_err(|error| format!("of {SEGMENTS} slots not all are usable: {error}"))?;
            self.acting(SURVIVOR, |actor| actor.clean_up());
        }
        let objects = self.shelf().objects();
        if objects.iter().any(|object| *object != 0) {
            return Err(format!("the domain is gone, and these objects are there: {objects:?}"));
        }
        if self.shelf().has_domain() {
            return Err("the last one has left, and the domain is there".into());
        }
        Ok(())
    }

    /// Whether a segment is as it must be after step `done`.
    fn expect(&self, handle: SegmentHandle, alive: Option<bool>) -> Result<(), String> {
        match (self.control.is_alive(handle), alive) {
            (true, Some(false)) => Err(format!("{handle} should be gone")),
            (false, Some(true)) => Err(format!("{handle} should be there")),
            _ => Ok(()),
        }
    }
}

/// One sequence of verbs.
struct Case {
    name: &'static str,
    operations: &'static [&'static str],
    setup: fn(&World),
    operate: fn(&World, &Actor<'_, Shelf<'_>>, &dyn Fn()),
    /// Given the number of steps that are done, once the dead one has been cleaned up after.
    expect: fn(&World, u64) -> Result<(), String>,
    /// Whether the survivor is in the domain from the beginning.
    is_accompanied: bool,
}

impl Scenario for Case {
    type World = World;
    type Doomed = ();

    fn name(&self) -> String {
        format!("segment table, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        let world = World::new();
        if self.is_accompanied {
            assert!(world.acting(SURVIVOR, |actor| actor.enter()));
        }
        (self.setup)(&world);
        world
    }

    fn prepare(&self, _: &World, _: &Notes) {}

    fn operate(&self, world: &World, (): &mut (), notes: &Notes) {
        world.acting(DOOMED, |actor| (self.operate)(world, actor, &|| notes.count(DONE)));
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.memory.copy()
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        world.shelf().stop_refusing();
        // Who found it closed removes it, and never cleans up after anybody.
        if world.control.is_open() {
            for dead in [DOOMED, DEAD] {
                world.acting(dead, |actor| actor.clean_up());
            }
        }
        if world.control.is_open() {
            world.check_table(&[DOOMED, DEAD])?;
            (self.expect)(&world, notes.get(DONE))?;
        } else if self.is_accompanied {
            return Err("somebody is in the domain, and it is closed".into());
        }
        world.go_on()
    }

    /// Another participant creates and destroys a segment while one stands still.
    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            let handle = world.create(SURVIVOR)?;
            world.acting(SURVIVOR, |actor| actor.detach(handle));
            world.expect(handle, Some(false))
        }))
    }

    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            world.shelf().stop_refusing();
            world.acting(DOOMED, |actor| actor.clean_up());
            Ok(())
        }))
    }
}

/// The first handle of the first slot.
fn first() -> SegmentHandle {
    handle(0, 0)
}

const CREATE_AND_PIN: Case = Case {
    name: "create, pin, detach, unpin",
    operations: &[
        "dsm::control::Actor::claim",
        "dsm::control::Actor::made",
        "dsm::control::Actor::publish",
        "dsm::control::Control::pin",
        "dsm::control::Actor::detach",
        "dsm::control::Actor::unpin",
    ],
    is_accompanied: true,
    setup: |_| {},
    operate: |world, actor, done| {
        assert!(actor.enter());
        let handle = actor.claim().unwrap();
        world.shelf().put(handle);
        actor.made(handle, BYTES);
        assert!(actor.publish(handle, BYTES));
        done();
        world.control.pin(handle).unwrap();
        done();
        actor.detach(handle);
        done();
        actor.unpin(handle).unwrap();
        done();
    },
    // Pinned it stays, and until then it goes with its only participant.
    expect: |world, done| match done {
        0 => world.expect(first(), Some(false)),
        1 => world.expect(first(), None),
        2 => world.expect(first(), Some(true)),
        3 => world.expect(first(), None),
        _ => world.expect(first(), Some(false)),
    },
};

const GIVE_BACK: Case = Case {
    name: "claim, abandon, claim, give up",
    operations: &["dsm::control::Actor::abandon", "dsm::control::Actor::give_up"],
    is_accompanied: true,
    setup: |_| {},
    operate: |world, actor, done| {
        let handle = actor.claim().unwrap();
        actor.abandon(handle);
        done();
        let handle = actor.claim().unwrap();
        world.shelf().put(handle);
        actor.made(handle, BYTES);
        actor.give_up(handle);
        done();
    },
    expect: |world, _| match world.control.segments().len() {
        0 => Ok(()),
        count => Err(format!("{count} segments are there")),
    },
};

const VISIT: Case = Case {
    name: "attach, detach, attach, unpin, detach",
    operations: &["dsm::control::Actor::attach", "dsm::control::Actor::enter"],
    is_accompanied: true,
    setup: |world| {
        // One that the survivor stays attached to, and one that only a pin keeps.
        world.create(SURVIVOR).unwrap();
        let pinned = world.create(SURVIVOR).unwrap();
        world.control.pin(pinned).unwrap();
        world.acting(SURVIVOR, |actor| actor.detach(pinned));
    },
    operate: |_, actor, done| {
        assert!(actor.enter());
        assert_eq!(actor.attach(first()), Some(BYTES));
        actor.detach(first());
        done();
        let pinned = handle(1, 0);
        assert_eq!(actor.attach(pinned), Some(BYTES));
        done();
        actor.unpin(pinned).unwrap();
        done();
        actor.detach(pinned);
        done();
    },
    expect: |world, done| {
        world.expect(first(), Some(true))?;
        world.expect(
            handle(1, 0),
            match done {
                0 | 1 => Some(true),
                2 => None,
                _ => Some(false),
            },
        )
    },
};

const LAST_OUT: Case = Case {
    name: "detach as the last, retry",
    operations: &["dsm::control::Actor::detach", "dsm::control::Actor::retry"],
    is_accompanied: true,
    setup: |world| {
        world.create(DOOMED).unwrap();
        // The first removal fails: no descriptor was free, say.
        world.shelf().words[Shelf::REFUSALS].store(1, Ordering::Relaxed);
    },
    operate: |world, actor, done| {
        actor.detach(first());
        assert!(world.control.leftovers() == [first()] || world.control.leftovers().is_empty());
        actor.retry(|_| false);
        done();
    },
    expect: |world, _| world.expect(first(), Some(false)),
};

const TAKE_OVER: Case = Case {
    name: "retry what one that left could not remove",
    operations: &["dsm::control::Actor::retry"],
    is_accompanied: true,
    setup: |world| {
        world.create(DEAD).unwrap();
        world.shelf().words[Shelf::REFUSALS].store(3, Ordering::Relaxed);
        world.acting(DEAD, |actor| actor.detach(first()));
        world.acting(DEAD, |actor| actor.clean_up());
    },
    operate: |_, actor, done| {
        for _ in 0..2 {
            actor.retry(|owner| owner == participant(DEAD));
            done();
        }
    },
    expect: |world, _| world.expect(first(), Some(false)),
};

const LEAVE: Case = Case {
    name: "leave as the last one out",
    operations: &["dsm::control::Actor::clean_up", "dsm::control::Actor::enter"],
    is_accompanied: false,
    setup: |world| {
        assert!(world.acting(DOOMED, |actor| actor.enter()));
        world.create(DOOMED).unwrap();
        world.create(DOOMED).unwrap();
    },
    operate: |_, actor, done| {
        actor.clean_up();
        done();
    },
    expect: |_, _| Err("nobody is in the domain, and it is open".into()),
};

const LEAVE_PINNED: Case = Case {
    name: "leave a pinned segment behind",
    setup: |world| {
        assert!(world.acting(DOOMED, |actor| actor.enter()));
        let pinned = world.create(DOOMED).unwrap();
        world.control.pin(pinned).unwrap();
    },
    expect: |world, _| world.expect(first(), Some(true)),
    ..LEAVE
};

const CLOSE: Case = Case {
    name: "close an empty domain",
    operations: &["dsm::control::Control::close_if_empty"],
    is_accompanied: false,
    setup: |_| {},
    operate: |world, _, done| {
        assert!(world.control.close_if_empty());
        world.shelf().remove_domain();
        done();
    },
    expect: |_, done| if done == 0 { Ok(()) } else { Err("it was closed, and is open".into()) },
};

const REAP: Case = Case {
    name: "reap",
    operations: &["dsm::control::Actor::clean_up"],
    is_accompanied: true,
    setup: |world| {
        assert!(world.acting(DEAD, |actor| actor.enter()));
        // One that others have too, one of his own, one half made, one half destroyed.
        let common = world.create(DEAD).unwrap();
        world.acting(SURVIVOR, |actor| actor.attach(common)).unwrap();
        world.create(DEAD).unwrap();
        let half = world.acting(DEAD, |actor| actor.claim()).unwrap();
        world.shelf().put(half);
        let refused = world.create(DEAD).unwrap();
        world.shelf().words[Shelf::REFUSALS].store(1, Ordering::Relaxed);
        world.acting(DEAD, |actor| actor.detach(refused));
        assert_eq!(world.control.leftovers().len(), 4);
    },
    operate: |world, _, done| {
        world.acting(DEAD, |actor| actor.clean_up());
        done();
    },
    expect: |world, _| match world.control.segments().len() {
        1 => world.expect(first(), Some(true)),
        count => Err(format!("{count} segments are there, not the one that others have")),
    },
};

const ALL: [Case; 9] =
    [CREATE_AND_PIN, GIVE_BACK, VISIT, LAST_OUT, TAKE_OVER, LEAVE, LEAVE_PINNED, CLOSE, REAP];

#[test]
fn whoever_dies_is_cleaned_up_after() {
    for case in ALL {
        Run::new(&case).points(250).kill().passes();
    }
}

#[test]
fn who_stands_still_hinders_nobody() {
    for case in [CREATE_AND_PIN, GIVE_BACK, VISIT] {
        Run::new(&case).points(40).stop().passes();
    }
}

#[test]
fn who_cleans_up_may_die_too() {
    for case in [CREATE_AND_PIN, LAST_OUT, TAKE_OVER] {
        Run::new(&case).points(30).nested().passes();
    }
}
