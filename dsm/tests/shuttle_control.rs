//! The segment table with four participants, each of which may die: a sample of schedules, for loom
//! cannot finish so many.
//!
//! Whoever dies is cleaned up after by its own thread, while the others go on.
#![cfg(all(shm_loom, shm_shuttle))]
use dsm::SegmentHandle;
use dsm::control::{Actor, Control, Objects};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::ParticipantId;
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_testkit::model::{self, Choice, Deaths, chance_of_death};

const SIZE: u64 = 4096;
/// Participant slots, in two words of the set.
const SLOTS: [u32; 4] = [0, 64, 1, 65];
const SOMEBODY: u32 = 2;
const CHOICES: [Choice; 2] = [Choice::Random, Choice::Priorities(3)];

/// What the operating system knows: the one object, and who has it mapped (as handle bits; 0 is
/// nothing); whether the domain was taken away, and who is in it.
struct System {
    object: AtomicU64,
    mapped: [AtomicU64; 4],
    domain_removed: AtomicU64,
    inside: [AtomicU64; 4],
}
// SAFETY: modelled atomics.
unsafe impl shm_core::ShmSync for System {}

#[derive(Clone)]
struct World {
    control: Control,
    system: Mapped<System>,
}

impl Objects for World {
    fn remove(&self, handle: SegmentHandle) -> bool {
        let handle = handle.to_bits();
        for mapped in &self.system.mapped {
            assert_ne!(mapped.load(Relaxed), handle, "destroyed while attached");
        }
        match self.system.object.load(Relaxed) {
            // A creator that died before it made the object, or a destroyer that died after.
            0 => {}
            object => {
                assert_eq!(object, handle, "the wrong object");
                self.system.object.store(0, Relaxed);
            }
        }
        true
    }

    fn remove_domain(&self) {
        for inside in &self.system.inside {
            assert_eq!(inside.load(Relaxed), 0, "closed with somebody in it");
        }
        self.system.domain_removed.fetch_add(1, Relaxed);
    }
}

fn id(slot: u32) -> ParticipantId {
    ParticipantId::from_bits(slot << 22 | 1).unwrap()
}

impl World {
    /// A table of one slot in a domain that nobody is in.
    fn new() -> World {
        let mapping = Mapping::heap(4096);
        // SAFETY: nobody else has the mapping yet.
        let control = unsafe { Control::create(&mapping, 0, 1, 128, 1) }.unwrap();
        let word = || AtomicU64::new(0);
        let (mapped, inside) = ([(); 4].map(|()| word()), [(); 4].map(|()| word()));
        let system = System { object: word(), mapped, domain_removed: word(), inside };
        // SAFETY: nobody else has the mapping yet; the table ends before.
        let system = unsafe { Mapped::place(&mapping, 2048, system) }.unwrap();
        World { control, system }
    }

    fn actor(&self, who: usize) -> Actor<'_, World> {
        self.control.actor(id(SLOTS[who]), self)
    }

    /// Makes a segment, where the slot is free.
    fn create(&self, who: usize) -> Option<SegmentHandle> {
        let handle = self.actor(who).claim()?;
        assert_eq!(self.system.object.load(Relaxed), 0, "the slot's last object is gone");
        self.system.object.store(handle.to_bits(), Relaxed);
        self.system.mapped[who].store(handle.to_bits(), Relaxed);
        assert!(self.actor(who).publish(handle, SIZE));
        Some(handle)
    }

    fn attach(&self, who: usize, handle: SegmentHandle) -> Option<SegmentHandle> {
        assert_eq!(self.actor(who).attach(handle)?, SIZE);
        self.system.mapped[who].store(handle.to_bits(), Relaxed);
        let object = self.system.object.load(Relaxed);
        assert_eq!(object, handle.to_bits(), "attached to a segment that has been destroyed");
        Some(handle)
    }

    /// Attaches to the segment that there is, or makes one: and detaches.
    fn use_a_segment(&self, who: usize) {
        let there = SegmentHandle::from_bits(self.system.object.load(Relaxed));
        let handle = there.and_then(|handle| self.attach(who, handle));
        if let Some(handle) = handle.or_else(|| self.create(who)) {
            self.system.mapped[who].store(0, Relaxed);
            self.actor(who).detach(handle);
        }
    }

    fn enter(&self, who: usize) -> bool {
        let entered = self.actor(who).enter();
        if entered {
            self.system.inside[who].store(1, Relaxed);
            let removed = self.system.domain_removed.load(Relaxed);
            assert_eq!(removed, 0, "came into a domain that is no more");
        }
        entered
    }

    /// Ends all that `who` has: its leaving, or what kernel and reaper do about its death.
    fn leave(&self, who: usize) {
        self.system.mapped[who].store(0, Relaxed);
        self.system.inside[who].store(0, Relaxed);
        self.actor(who).clean_up();
    }

    /// Runs `act` as each of the four, each in a thread. The dead are cleaned up after, if that is
    /// what `reaps` says.
    fn four(
        &self,
        reaps: bool,
        deaths: &Deaths,
        act: impl Fn(&World, usize) + Copy + Send + 'static,
    ) {
        let run = |who| {
            let (world, deaths, fuel) = (self.clone(), deaths.clone(), chance_of_death(60));
            model::thread::spawn(move || {
                if model::mortal(fuel, || act(&world, who)).is_none() {
                    deaths.died();
                    if reaps {
                        world.leave(who);
                    }
                }
            })
        };
        let threads: Vec<_> = (0..SLOTS.len()).map(run).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// Four attach, create and detach in turn, in a domain that somebody else keeps open.
fn four_use_segments(reaps: bool, deaths: &Deaths) {
    let world = World::new();
    assert!(world.control.actor(id(SOMEBODY), &world).enter());
    world.four(reaps, deaths, |world, who| (0..3).for_each(|_| world.use_a_segment(who)));
    assert_eq!(world.system.object.load(Relaxed), 0, "an object is left over");
    assert!(world.control.segments().is_empty(), "a segment is left over");
    assert!(world.control.leftovers().is_empty(), "a removal is left over");
    assert!(world.actor(0).claim().is_some(), "the slot is left over");
}

/// Four come, use segments and leave: the last one out takes the domain away.
fn four_leave(deaths: &Deaths) {
    let world = World::new();
    assert!(world.enter(0));
    world.four(true, deaths, |world, who| {
        if who == 0 || world.enter(who) {
            world.use_a_segment(who);
            world.leave(who);
        }
    });
    assert!(world.system.domain_removed.load(Relaxed) > 0, "the domain is left over");
    assert_eq!(world.system.object.load(Relaxed), 0, "an object is left over");
    assert!(!world.enter(0), "came into a domain that is no more");
}

fn sample(name: &str, scenario: impl Fn(&Deaths) + Copy + Send + Sync + 'static) {
    for choice in CHOICES {
        let tried = model::sample(choice, 5_000, scenario);
        println!("control, {name}: {tried:?}");
        assert!(tried.deaths > 0);
    }
}

#[test]
fn four_that_use_segments_may_die_anywhere() {
    sample("four use segments", |deaths| four_use_segments(true, deaths));
}

#[test]
fn four_that_leave_may_die_anywhere() {
    sample("four leave", four_leave);
}

/// Where nobody reaps the dead, what they held is left over: the check sees that.
#[test]
fn finds_dead_ones_that_nobody_reaped() {
    for choice in CHOICES {
        model::finds("is left over", || {
            model::sample(choice, 5_000, |deaths| four_use_segments(false, deaths));
        });
    }
}
