//! The segment table: whoever dies where, nobody is attached to a segment that has been destroyed,
//! each is destroyed once, and none is left over.
//!
//! Two participants sit in different words of the set: that is the hard case for "the last one
//! out".
#![cfg(all(shm_loom, not(shm_shuttle)))]
use dsm::SegmentHandle;
use dsm::control::{Actor, Control, Objects};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::ParticipantId;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::model::{self, Deaths};
use std::sync::{Arc, Mutex};

const SIZE: u64 = 4096;
/// Participant slots of A, B and C.
const SLOTS: [u32; 3] = [0, 64, 1];
const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

/// What the operating system knows: the object, and who has it mapped (as handle bits; 0 is
/// nothing).
struct System {
    object: AtomicU64,
    mapped: [AtomicU64; 3],
    destroyed: AtomicU64,
    /// How often the domain was taken away; who is in it.
    domain_removed: AtomicU64,
    inside: [AtomicU64; 3],
}
// SAFETY: modelled atomics.
unsafe impl shm_core::ShmSync for System {}

#[derive(Clone)]
struct World {
    control: Control,
    system: Mapped<System>,
    raw: Raw,
    bug: Option<Bug>,
    /// The next removal fails. No word of the model: only who destroys the segment looks.
    stuck: Arc<Mutex<bool>>,
}

/// Planted bugs, in variants of the verbs that stand at the foot of this file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    /// The attacher looks at the word again instead of changing it.
    AttachWithoutEpoch,
    /// A failing attacher takes its bit back and leaves it at that.
    FailedAttachDoesNotLook,
    /// Whoever looks whether he is the last loads the word instead of changing it.
    DetachLoads,
    /// The claimer names itself after it has taken the slot.
    ClaimWithoutOwner,
}

impl Objects for World {
    fn remove(&self, handle: SegmentHandle) -> bool {
        if std::mem::take(&mut *self.stuck.lock().unwrap()) {
            return false;
        }
        let handle = handle.to_bits();
        for mapped in &self.system.mapped {
            assert_ne!(mapped.load(Ordering::Relaxed), handle, "destroyed while attached");
        }
        match self.system.object.load(Ordering::Relaxed) {
            // A creator that died before it made the object, or a destroyer that died after.
            0 => {}
            object => {
                assert_eq!(object, handle, "the wrong object");
                self.system.object.store(0, Ordering::Relaxed);
                self.system.destroyed.fetch_add(1, Ordering::Relaxed);
            }
        }
        true
    }

    fn remove_domain(&self) {
        for inside in &self.system.inside {
            assert_eq!(inside.load(Ordering::Relaxed), 0, "closed with somebody in it");
        }
        let object = self.system.object.load(Ordering::Relaxed);
        assert_eq!(object, 0, "closed with a pinned segment in it");
        self.system.domain_removed.fetch_add(1, Ordering::Relaxed);
    }
}

fn id(who: usize) -> ParticipantId {
    ParticipantId::from_bits(SLOTS[who] << 22 | 1).unwrap()
}

fn first_handle() -> SegmentHandle {
    SegmentHandle::from_bits(1 << 24).unwrap()
}

impl World {
    fn new() -> World {
        World::with(None)
    }

    /// A table of one slot. Somebody else is in the domain.
    fn with(bug: Option<Bug>) -> World {
        let world = World::closing(bug);
        let somebody = ParticipantId::from_bits(2 << 22 | 1).unwrap();
        assert!(world.control.actor(somebody, &world).enter());
        world
    }

    /// A table of one slot in a domain that nobody is in.
    fn closing(bug: Option<Bug>) -> World {
        let mapping = Mapping::heap(4096);
        // SAFETY: nobody else has the mapping yet.
        let control = unsafe { Control::create(&mapping, 0, 1, 128, 1) }.unwrap();
        let word = || AtomicU64::new(0);
        let three = || [word(), word(), word()];
        let (mapped, inside) = (three(), three());
        let (object, destroyed, domain_removed) = (word(), word(), word());
        let system = System { object, mapped, destroyed, domain_removed, inside };
        // SAFETY: nobody else has the mapping yet; the table ends before.
        let system = unsafe { Mapped::place(&mapping, 2048, system) }.unwrap();
        World { control, system, raw: Raw::new(&mapping), bug, stuck: Arc::default() }
    }

    fn actor(&self, who: usize) -> Actor<'_, World> {
        self.control.actor(id(who), self)
    }

    fn create(&self, who: usize) -> Option<SegmentHandle> {
        let handle = match self.bug {
            Some(Bug::ClaimWithoutOwner) => self.raw.claim_without_owner(who),
            _ => self.actor(who).claim(),
        }?;
        assert_eq!(self.system.object.load(Ordering::Relaxed), 0, "the slot's last object is gone");
        self.system.object.store(handle.to_bits(), Ordering::Relaxed);
        // Mapped before it is published, as the real creator does.
        self.system.mapped[who].store(handle.to_bits(), Ordering::Relaxed);
        assert!(self.actor(who).publish(handle, SIZE));
        Some(handle)
    }

    fn attach(&self, who: usize, handle: SegmentHandle) -> bool {
        let size = match self.bug {
            Some(Bug::AttachWithoutEpoch) => self.raw.attach_without_epoch(who),
            Some(Bug::FailedAttachDoesNotLook) => self.raw.attach_and_not_look(who),
            _ => self.actor(who).attach(handle),
        };
        let Some(size) = size else { return false };
        assert_eq!(size, SIZE);
        self.system.mapped[who].store(handle.to_bits(), Ordering::Relaxed);
        let object = self.system.object.load(Ordering::Relaxed);
        assert_eq!(object, handle.to_bits(), "attached to a segment that has been destroyed");
        true
    }

    fn detach(&self, who: usize, handle: SegmentHandle) {
        self.unmap(who);
        match self.bug {
            Some(Bug::DetachLoads) => self.raw.detach_with_a_load(who, self),
            _ => self.actor(who).detach(handle),
        }
    }

    fn unmap(&self, who: usize) {
        self.system.mapped[who].store(0, Ordering::Relaxed);
    }

    fn attach_and_detach(&self, who: usize, handle: SegmentHandle) {
        if self.attach(who, handle) {
            self.detach(who, handle);
        }
    }

    fn enter(&self, who: usize) -> bool {
        let entered = self.actor(who).enter();
        if entered {
            self.system.inside[who].store(1, Ordering::Relaxed);
            let removed = self.system.domain_removed.load(Ordering::Relaxed);
            assert_eq!(removed, 0, "came into a domain that is no more");
        }
        entered
    }

    /// Ends all that `who` has: its leaving, or what kernel and reaper do about its death.
    fn leave(&self, who: usize) {
        self.unmap(who);
        self.system.inside[who].store(0, Ordering::Relaxed);
        self.actor(who).clean_up();
    }

    fn assert_closed(&self) {
        assert!(self.system.domain_removed.load(Ordering::Relaxed) > 0, "the domain is left over");
        assert_eq!(self.system.object.load(Ordering::Relaxed), 0, "an object is left over");
        assert!(!self.enter(C), "came into a domain that is no more");
    }

    fn assert_empty(&self, generation: u64) {
        assert_eq!(self.system.object.load(Ordering::Relaxed), 0, "an object is left over");
        assert!(self.control.segments().is_empty());
        let next = self.actor(A).claim().expect("the slot is free");
        assert_eq!(next.to_bits() >> 24, generation, "each segment is destroyed once");
    }
}

/// Runs `process` with `fuel` as B, in a thread; says whether it died.
fn mortal(
    world: &World,
    fuel: u32,
    deaths: &Deaths,
    process: impl FnOnce(&World) + Send + 'static,
) -> model::thread::JoinHandle<bool> {
    let (world, deaths) = (world.clone(), deaths.clone());
    model::thread::spawn(move || {
        let died = model::mortal(fuel, || process(&world)).is_none();
        if died {
            deaths.died();
        }
        died
    })
}

/// B attaches and detaches, or dies, while A, the creator, detaches. Each may be the last.
fn two_detach(fuel: u32, deaths: &Deaths, bug: Option<Bug>) {
    let world = World::with(bug);
    let handle = world.create(A).unwrap();
    let b = mortal(&world, fuel, deaths, move |world| world.attach_and_detach(B, handle));
    world.detach(A, handle);
    if b.join().unwrap() {
        world.leave(B);
    }
    world.assert_empty(2);
}

/// As `two_detach`, and the object will not go the first time: who could not remove it, or his
/// reaper, tries again.
fn a_stuck_object(fuel: u32, deaths: &Deaths) {
    let world = World::new();
    let handle = world.create(A).unwrap();
    *world.stuck.lock().unwrap() = true;
    let b = mortal(&world, fuel, deaths, move |world| {
        world.attach_and_detach(B, handle);
        world.actor(B).retry();
    });
    world.detach(A, handle);
    let died = b.join().unwrap();
    let gone = world.system.object.load(Ordering::Relaxed) == 0;
    let known = world.control.leftovers() == [handle];
    assert!(gone || known, "an object is left over that nobody knows of");
    world.actor(A).retry();
    if died {
        // Where a reaper fails, it is the last one out of the domain who tries again.
        *world.stuck.lock().unwrap() = false;
        world.leave(B);
    }
    world.assert_empty(2);
}

/// B comes with the handle of a segment that A destroys, and of whose slot A makes another use.
fn a_stale_handle(fuel: u32, deaths: &Deaths, bug: Option<Bug>) {
    let world = World::with(bug);
    let handle = world.create(A).unwrap();
    let b = mortal(&world, fuel, deaths, move |world| world.attach_and_detach(B, handle));
    world.detach(A, handle);
    let next = world.create(A);
    if let Some(next) = next {
        assert_ne!(next, handle);
        world.detach(A, next);
    }
    if b.join().unwrap() {
        world.leave(B);
    }
    world.assert_empty(if next.is_some() { 3 } else { 2 });
}

/// B creates a segment, or dies doing so; A attaches to it meanwhile.
fn a_creator(fuel: u32, deaths: &Deaths, bug: Option<Bug>) {
    let world = World::with(bug);
    let b = mortal(&world, fuel, deaths, |world| {
        let handle = world.create(B).expect("the slot is free");
        world.detach(B, handle);
    });
    world.attach_and_detach(A, first_handle());
    if b.join().unwrap() {
        world.leave(B);
    }
    assert!(world.control.segments().is_empty());
    assert_eq!(world.system.object.load(Ordering::Relaxed), 0, "an object is left over");
    assert!(world.actor(A).claim().is_some(), "the slot is left over");
}

/// B unpins a segment, or dies doing so, while A, the last attached, detaches.
fn an_unpinner(fuel: u32, deaths: &Deaths) {
    let world = World::new();
    let handle = world.create(A).unwrap();
    world.control.pin(handle).unwrap();
    let b = mortal(&world, fuel, deaths, move |world| world.actor(B).unpin(handle).unwrap());
    world.detach(A, handle);
    if b.join().unwrap() {
        world.leave(B);
        // It may have died before the pin was off.
        let _ = world.actor(A).unpin(handle);
    }
    world.assert_empty(2);
}

/// A has died attached. B reaps it, or dies doing so, while C attaches and detaches.
fn a_reaper(fuel: u32, deaths: &Deaths) {
    let world = World::new();
    let handle = world.create(A).unwrap();
    world.unmap(A);
    let b = mortal(&world, fuel, deaths, |world| world.leave(A));
    world.attach_and_detach(C, handle);
    if b.join().unwrap() {
        world.leave(A);
        world.leave(B);
    }
    world.assert_empty(2);
}

/// B comes into the domain and leaves it, or dies, while A leaves. Each may be the last.
fn two_leave(fuel: u32, deaths: &Deaths) {
    let world = World::closing(None);
    assert!(world.enter(A));
    let b = mortal(&world, fuel, deaths, |world| {
        if world.enter(B) {
            world.leave(B);
        }
    });
    world.leave(A);
    if b.join().unwrap() {
        world.leave(B);
    }
    world.assert_closed();
}

/// B unpins the last segment and leaves, or dies, while A leaves: the domain stays until then.
fn a_pinned_domain(fuel: u32, deaths: &Deaths) {
    let world = World::closing(None);
    assert!(world.enter(A) && world.enter(B));
    let handle = world.create(A).unwrap();
    world.control.pin(handle).unwrap();
    world.detach(A, handle);
    let b = mortal(&world, fuel, deaths, move |world| {
        world.actor(B).unpin(handle).unwrap();
        world.leave(B);
    });
    world.leave(A);
    if b.join().unwrap() {
        world.leave(B);
        if world.control.is_alive(handle) {
            // It died before the pin was off: the domain is still there for the next one.
            assert!(world.enter(C));
            world.actor(C).unpin(handle).unwrap();
            world.leave(C);
        }
    }
    world.assert_closed();
}

/// B has died in the domain, alone in a segment. An outsider reaps it, or dies doing so, while A
/// leaves and then C comes.
fn an_outsider_reaps(fuel: u32, deaths: &Deaths) {
    let world = World::closing(None);
    assert!(world.enter(A) && world.enter(B));
    world.create(B).unwrap();
    world.unmap(B);
    world.system.inside[B].store(0, Ordering::Relaxed);
    let b = mortal(&world, fuel, deaths, |world| world.actor(B).clean_up());
    world.leave(A);
    if world.enter(C) {
        world.leave(C);
    }
    if b.join().unwrap() {
        world.actor(B).clean_up();
    }
    world.assert_closed();
}

/// One without a seat closes the domain, or dies, while A leaves and then C comes.
fn one_closes(fuel: u32, deaths: &Deaths) {
    let world = World::closing(None);
    assert!(world.enter(A));
    let b = mortal(&world, fuel, deaths, |world| {
        if world.control.close_if_empty() {
            world.remove_domain();
        }
    });
    world.leave(A);
    if world.enter(C) {
        world.leave(C);
    }
    let died = b.join().unwrap();
    assert!(!world.enter(B), "somebody closed it");
    if died {
        // Who comes to a closed one.
        world.remove_domain();
    }
    assert!(world.system.domain_removed.load(Ordering::Relaxed) > 0);
}

/// B, the creator, detaches and leaves, or dies, while A attaches, pins, and leaves: the pin holds.
fn a_pin_is_kept(fuel: u32, deaths: &Deaths) {
    let world = World::closing(None);
    assert!(world.enter(A) && world.enter(B));
    let handle = world.create(B).unwrap();
    let b = mortal(&world, fuel, deaths, move |world| {
        world.detach(B, handle);
        world.leave(B);
    });
    let pinned = world.attach(A, handle);
    if pinned {
        world.control.pin(handle).unwrap();
        world.detach(A, handle);
    }
    world.leave(A);
    if b.join().unwrap() {
        world.leave(B);
    }
    if pinned {
        assert!(world.control.is_alive(handle), "a pin was lost");
        assert!(world.enter(C));
        world.actor(C).unpin(handle).unwrap();
        world.leave(C);
    }
    world.assert_closed();
}

/// Two destroy one segment and nobody dies: it happens once.
fn three_detach() {
    let world = World::new();
    let handle = world.create(A).unwrap();
    assert!(world.attach(B, handle));
    let b = mortal(&world, u32::MAX, &Deaths::default(), move |world| world.detach(B, handle));
    let c = mortal(&world, u32::MAX, &Deaths::default(), move |world| {
        world.attach_and_detach(C, handle);
    });
    world.detach(A, handle);
    b.join().unwrap();
    c.join().unwrap();
    assert_eq!(world.system.destroyed.load(Ordering::Relaxed), 1);
    world.assert_empty(2);
}

fn sweep(name: &str, scenario: impl Fn(u32, &Deaths) + Clone + Send + Sync + 'static) {
    let tried = model::every_death(scenario);
    println!("{name}: {tried:?}");
    assert!(tried.deaths > 0);
}

#[test]
fn one_of_two_that_detach_may_die_anywhere() {
    sweep("two_detach", |fuel, deaths| two_detach(fuel, deaths, None));
}

#[test]
fn an_object_that_will_not_go_is_not_lost() {
    sweep("a_stuck_object", a_stuck_object);
}

#[test]
fn an_attacher_with_a_stale_handle_may_die_anywhere() {
    sweep("a_stale_handle", |fuel, deaths| a_stale_handle(fuel, deaths, None));
}

#[test]
fn a_creator_may_die_anywhere() {
    sweep("a_creator", |fuel, deaths| a_creator(fuel, deaths, None));
}

#[test]
fn an_unpinner_may_die_anywhere() {
    sweep("an_unpinner", an_unpinner);
}

#[test]
fn a_reaper_may_die_anywhere() {
    sweep("a_reaper", a_reaper);
}

#[test]
fn one_of_two_that_leave_may_die_anywhere() {
    sweep("two_leave", two_leave);
}

#[test]
fn one_that_unpins_and_leaves_may_die_anywhere() {
    sweep("a_pinned_domain", a_pinned_domain);
}

#[test]
fn an_outsider_that_reaps_may_die_anywhere() {
    sweep("an_outsider_reaps", an_outsider_reaps);
}

#[test]
fn one_that_closes_may_die_anywhere() {
    sweep("one_closes", one_closes);
}

#[test]
fn a_pin_outlives_whoever_dies() {
    sweep("a_pin_is_kept", a_pin_is_kept);
}

#[test]
fn three_that_detach_destroy_it_once() {
    println!("three_detach: {:?}", model::check(three_detach));
}

#[test]
fn every_ordering_matters() {
    let nobody = Deaths::default();
    let found = model::every_ordering_matters(&["dsm/src/control/"], || {
        let (one, two, three) = (nobody.clone(), nobody.clone(), nobody.clone());
        model::check(move || two_detach(u32::MAX, &one, None));
        model::check(move || a_creator(u32::MAX, &two, None));
        model::check(move || a_stale_handle(u32::MAX, &three, None));
        model::check(three_detach);
    });
    assert_eq!(found, 6, "the state's two AcqRel each way, and the set");
}

/// The words of the one slot, for the planted bugs.
#[derive(Clone)]
struct Raw {
    state: Mapped<AtomicU64>,
    set: [Mapped<AtomicU64>; 2],
}

const ALIVE: u64 = 1 << 3 | 2;
const CREATING: u64 = 1 << 3 | 1;
const FREE: u64 = 1 << 3;
const MORIBUND: u64 = 1 << 3 | 3;

fn bit(who: usize) -> u64 {
    1 << (SLOTS[who] % 64)
}

impl Raw {
    fn new(mapping: &Arc<Mapping>) -> Raw {
        let word = size_of::<AtomicU64>() as u64;
        let at = |index| Mapped::new(mapping, 64 + index * word).unwrap();
        // Two slots, the segment's and the domain's; then their sets.
        Raw { state: at(0), set: [at(4), at(5)] }
    }

    fn set_of(&self, who: usize) -> &AtomicU64 {
        &self.set[SLOTS[who] as usize / 64]
    }

    fn change(&self, from: u64, to: u64) -> bool {
        let (ok, err) = (Ordering::AcqRel, Ordering::Relaxed);
        self.state.compare_exchange(from, to, ok, err).is_ok()
    }

    fn is_alive(&self) -> bool {
        self.state.load(Ordering::Acquire) & 0xffff_ffff == ALIVE
    }

    fn attach_without_epoch(&self, who: usize) -> Option<u64> {
        self.set_of(who).fetch_or(bit(who), Ordering::AcqRel);
        if self.is_alive() {
            return Some(SIZE);
        }
        self.set_of(who).fetch_and(!bit(who), Ordering::AcqRel);
        None
    }

    fn attach_and_not_look(&self, who: usize) -> Option<u64> {
        if !self.is_alive() {
            return None;
        }
        self.set_of(who).fetch_or(bit(who), Ordering::AcqRel);
        if self.change(ALIVE, ALIVE + (1 << 32)) {
            return Some(SIZE);
        }
        self.set_of(who).fetch_and(!bit(who), Ordering::AcqRel);
        None
    }

    fn detach_with_a_load(&self, who: usize, world: &World) {
        self.set_of(who).fetch_and(!bit(who), Ordering::AcqRel);
        let word = self.state.load(Ordering::Acquire);
        let empty = self.set.iter().all(|word| word.load(Ordering::Acquire) == 0);
        let owner = u64::from(id(who).to_bits()) << 32;
        if word & 7 == 2 && empty && self.change(word, owner | MORIBUND) {
            world.remove(first_handle());
            self.change(owner | MORIBUND, 2 << 3);
        }
    }

    fn claim_without_owner(&self, who: usize) -> Option<SegmentHandle> {
        let owner = u64::from(id(who).to_bits()) << 32;
        let claimed = self.change(FREE, CREATING) && self.change(CREATING, CREATING | owner);
        claimed.then(first_handle)
    }
}

#[test]
fn finds_an_attacher_that_does_not_move_the_epoch() {
    model::finds("attached to a segment that has been destroyed", || {
        model::check(|| two_detach(u32::MAX, &Deaths::default(), Some(Bug::AttachWithoutEpoch)));
    });
}

#[test]
fn finds_a_failed_attacher_that_does_not_look() {
    model::finds("an object is left over", || {
        let bug = Some(Bug::FailedAttachDoesNotLook);
        model::check(move || a_stale_handle(u32::MAX, &Deaths::default(), bug));
    });
}

#[test]
fn finds_two_that_each_think_the_other_is_left() {
    model::finds("an object is left over", || {
        model::check(|| two_detach(u32::MAX, &Deaths::default(), Some(Bug::DetachLoads)));
    });
}

#[test]
fn finds_a_claim_without_an_owner() {
    model::finds("the slot is left over", || {
        model::every_death(|fuel, deaths| a_creator(fuel, deaths, Some(Bug::ClaimWithoutOwner)));
    });
}
