//! The segment table under the explorer, with several deaths on one way, reapers' included: nobody
//! is attached to a segment that has been destroyed, each is destroyed once, and none is left over.
#![cfg(shm_explore)]
use dsm::SegmentHandle;
use dsm::control::{Actor, Control, Objects};
use shm_core::ShmSync;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::ParticipantId;
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_deep, kernel};

const COVERS: &[&str] = &[
    "dsm::control::Actor::claim",
    "dsm::control::Actor::publish",
    "dsm::control::Actor::abandon",
    "dsm::control::Actor::attach",
    "dsm::control::Actor::detach",
    "dsm::control::Actor::enter",
    "dsm::control::Actor::unpin",
    "dsm::control::Actor::clean_up",
    "dsm::control::Actor::retry",
    "dsm::control::Control::pin",
    "dsm::control::Control::close_if_empty",
];
const SIZE: u64 = 4096;
/// Participant slots of processes 1 to 4 and of the check: in different words of the set.
const SEATS: [u32; 5] = [0, 64, 1, 65, 2];

/// What the operating system knows: the object, and who has it mapped (as handle bits; 0 is
/// nothing). All zero at first.
#[repr(C)]
struct System {
    object: AtomicU64,
    destroyed: AtomicU64,
    mapped: [AtomicU64; 5],
    /// How often the domain was taken away; who is in it.
    domain_removed: AtomicU64,
    inside: [AtomicU64; 5],
}
// SAFETY: atomics only.
unsafe impl ShmSync for System {}

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
                self.system.destroyed.fetch_add(1, Relaxed);
            }
        }
        true
    }

    fn remove_domain(&self) {
        for inside in &self.system.inside {
            assert_eq!(inside.load(Relaxed), 0, "closed with somebody in it");
        }
        assert_eq!(self.system.object.load(Relaxed), 0, "closed with a segment in it");
        self.system.domain_removed.fetch_add(1, Relaxed);
    }
}

/// A process's participant.
fn id(pid: u32) -> ParticipantId {
    let seat = SEATS[pid as usize - 1];
    ParticipantId::from_bits(seat << 22 | 1).unwrap()
}

fn first_handle() -> SegmentHandle {
    SegmentHandle::from_bits(1 << 24).unwrap()
}

impl World {
    /// A table of one slot. Somebody else is in the domain, who stays out of it all.
    fn new() -> World {
        let world = World::empty();
        let somebody = ParticipantId::from_bits(66 << 22 | 1).unwrap();
        assert!(world.control.actor(somebody, &world).enter());
        world
    }

    /// A table of one slot in a domain that nobody is in.
    fn empty() -> World {
        let at = Control::bytes_for(1, 128).next_multiple_of(8);
        let mapping = Mapping::heap(at as usize + size_of::<System>());
        // SAFETY: nobody else has the mapping yet.
        let control = unsafe { Control::create(&mapping, 0, 1, 128, 1) }.unwrap();
        World { control, system: Mapped::new(&mapping, at).unwrap() }
    }

    fn actor(&self, pid: u32) -> Actor<'_, World> {
        self.control.actor(id(pid), self)
    }

    fn create(&self, pid: u32) -> Option<SegmentHandle> {
        let handle = self.actor(pid).claim()?;
        assert_eq!(self.system.object.load(Relaxed), 0, "the slot's last object is there");
        self.system.object.store(handle.to_bits(), Relaxed);
        // Mapped before it is published, as the real creator does.
        self.system.mapped[pid as usize - 1].store(handle.to_bits(), Relaxed);
        assert!(self.actor(pid).publish(handle, SIZE));
        Some(handle)
    }

    fn attach(&self, pid: u32, handle: SegmentHandle) -> bool {
        let Some(size) = self.actor(pid).attach(handle) else { return false };
        assert_eq!(size, SIZE);
        self.system.mapped[pid as usize - 1].store(handle.to_bits(), Relaxed);
        let object = self.system.object.load(Relaxed);
        assert_eq!(object, handle.to_bits(), "attached to a segment that has been destroyed");
        true
    }

    fn detach(&self, pid: u32, handle: SegmentHandle) {
        self.system.mapped[pid as usize - 1].store(0, Relaxed);
        self.actor(pid).detach(handle);
    }

    fn enter(&self, pid: u32) -> bool {
        let entered = self.actor(pid).enter();
        if entered {
            self.system.inside[pid as usize - 1].store(1, Relaxed);
            let removed = self.system.domain_removed.load(Relaxed);
            assert_eq!(removed, 0, "came into a domain that is no more");
        }
        entered
    }

    /// Ends all that `pid` has: its leaving, or what kernel and reaper do about its death.
    fn leave(&self, pid: u32) {
        self.system.mapped[pid as usize - 1].store(0, Relaxed);
        self.system.inside[pid as usize - 1].store(0, Relaxed);
        self.actor(pid).clean_up();
    }

    /// A reaper that nobody kills cleans up after all dead.
    fn reap(&self, end: &End<'_>, processes: u32) {
        for pid in 1..=processes {
            if end.is_dead(pid as usize - 1) {
                self.leave(pid);
            }
        }
    }

    /// Everybody has left, or died and been reaped: nothing is there, and the slot can be had.
    fn assert_empty(&self) {
        assert_eq!(self.system.object.load(Relaxed), 0, "an object is left over");
        assert!(self.control.segments().is_empty(), "a segment is left over");
        let next = self.actor(5).claim().expect("the slot is free");
        let generation = next.to_bits() >> 24;
        let destroyed = self.system.destroyed.load(Relaxed);
        assert!(destroyed < generation, "{destroyed} destroyed, and the next is {generation}");
    }
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("segment table", name).covers(COVERS)
}

/// Attaches by handle, and detaches.
fn guest(world: &World) -> Process<'_> {
    Process::new("guest", |me: &Me| {
        if world.attach(me.pid(), first_handle()) {
            world.detach(me.pid(), first_handle());
        }
    })
    .mortal()
    .never_waits()
}

/// Creates a segment and detaches.
fn creator(world: &World) -> Process<'_> {
    Process::new("creator", |me: &Me| {
        if let Some(handle) = world.create(me.pid()) {
            world.detach(me.pid(), handle);
        }
    })
    .mortal()
    .never_waits()
}

#[test]
fn creators_and_guests_may_die_anywhere() {
    let world = World::new();
    let deaths = if is_deep() { 3 } else { 2 };
    let one = scenario(&format!("a creator, two guests, {deaths} deaths")).deaths(deaths);
    let one = one.process(creator(&world)).process(guest(&world)).process(guest(&world));
    let end = |end: &End<'_>| {
        world.reap(end, 3);
        world.assert_empty();
    };
    one.check(end).preemptions_at_most(2).explore();
    let two = scenario("two creators, a guest").deaths(1);
    let two = two.process(creator(&world)).process(creator(&world)).process(guest(&world));
    two.check(end).preemptions_at_most(2).explore();
}

/// The creator is dead, and a reaper does what it can, or dies doing so, while a guest comes.
#[test]
fn reapers_may_die_anywhere() {
    let world = World::new();
    kernel::become_process(1);
    world.create(1).unwrap();
    let dies = Process::new("creator", |_| ()).mortal();
    let reaps = Process::new("reaper", |_| {
        if kernel::is_dead(1) {
            world.leave(1);
        }
    });
    let scenario = scenario("a creator, a guest, a reaper").deaths(3).process(dies);
    let scenario = scenario.process(guest(&world)).process(reaps.mortal().never_waits());
    scenario
        .check(|end| {
            world.reap(end, 3);
            if end.is_dead(0) {
                world.assert_empty();
            }
        })
        .explore();
}

/// A pin that comes and goes, while the last one attached leaves.
#[test]
fn a_pinned_segment_stays_and_an_unpinned_goes() {
    let world = World::new();
    let handle = world.create(1).unwrap();
    world.control.pin(handle).unwrap();
    let creator = Process::new("creator", |me| world.detach(me.pid(), handle)).mortal();
    let unpins = Process::new("unpins", |me| {
        if world.actor(me.pid()).unpin(handle).is_ok() {
            me.say(1);
        }
    });
    let scenario = scenario("a pin").deaths(2).process(creator);
    let scenario = scenario.process(unpins.mortal().never_waits()).process(guest(&world));
    scenario
        .check(|end| {
            world.reap(end, 3);
            let pinned = world.control.is_alive(handle);
            assert!(!pinned || end.is_dead(1), "unpinned, and still there");
            if pinned {
                world.actor(5).unpin(handle).expect("it is pinned, or it would be gone");
            }
            world.assert_empty();
        })
        .explore();
}

/// Several come into the domain and leave it. The last one out takes it away, once.
#[test]
fn the_last_one_out_may_die_anywhere() {
    let world = World::empty();
    let visits = || {
        Process::new("visitor", |me: &Me| {
            if world.enter(me.pid()) {
                world.leave(me.pid());
            }
        })
        .mortal()
        .never_waits()
    };
    let closes = Process::new("closes", |_| {
        if world.control.close_if_empty() {
            world.remove_domain();
        }
    });
    let scenario = scenario("two visitors, one who closes").deaths(2);
    let scenario = scenario.process(visits()).process(visits());
    let scenario = scenario.process(closes.mortal().never_waits()).preemptions_at_most(2);
    scenario
        .check(|end| {
            world.reap(end, 3);
            assert!(world.control.present().is_empty(), "somebody is still in it");
            let removed = world.system.domain_removed.load(Relaxed) > 0;
            // One who closed it and died, or was overtaken by a death, is followed by who comes.
            assert!(removed || end.deaths() > 0, "the domain is left over");
            assert!(!removed || !world.enter(5), "came into a domain that is no more");
        })
        .explore();
}

/// Objects that are just there, for processes that are told nonsense.
struct Blind;

impl Objects for Blind {
    fn remove(&self, _: SegmentHandle) -> bool {
        true
    }
    fn remove_domain(&self) {}
}

#[test]
fn a_lie_does_no_harm() {
    let world = World::new();
    let lies = if is_deep() { 2 } else { 1 };
    let acts = || {
        Process::new("acts", |me: &Me| {
            let actor = world.control.actor(id(me.pid()), &Blind);
            if let Some(handle) = actor.claim() {
                if actor.publish(handle, SIZE) {
                    let _ = world.control.pin(handle);
                    let _ = actor.unpin(handle);
                }
                actor.detach(handle);
            }
            actor.retry();
            actor.clean_up();
        })
        .never_waits()
    };
    let comes = Process::new("comes", |me: &Me| {
        let actor = world.control.actor(id(me.pid()), &Blind);
        if actor.attach(first_handle()).is_some() {
            actor.detach(first_handle());
        }
        let _ = (world.control.segments(), world.control.leftovers(), world.control.present());
        world.control.close_if_empty();
    });
    let scenario = scenario(&format!("{lies} lies")).lies(lies).preemptions_at_most(2);
    scenario.process(acts()).process(comes.never_waits()).explore();
}

/// Planted bug: of two that leave each looks at the set before it has cleared its own bit.
#[test]
fn finds_two_that_each_think_the_other_is_left() {
    let world = World::new();
    let set = &world.system.mapped;
    let leaves = |mine: usize, other: usize| {
        Process::new("leaves", move |me: &Me| {
            let other_is_in = set[other].load(Relaxed) == 1;
            set[mine].store(0, Relaxed);
            me.say(u64::from(!other_is_in));
        })
    };
    set[0].store(1, Relaxed);
    set[1].store(1, Relaxed);
    let scenario = scenario("in short").process(leaves(0, 1)).process(leaves(1, 0));
    let last = |end: &End<'_>| assert!(end.said(0) != [0] || end.said(1) != [0], "none is last");
    finds("none is last", || scenario.check(last).explore());
}
