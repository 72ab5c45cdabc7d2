//! The segment table: whoever dies where, nobody is attached to a segment that has been destroyed,
//! each is destroyed once, and none is left over.
//!
//! Each process dies at every access, and each two of them.
#![cfg(all(shm_loom, not(shm_shuttle)))]
mod control_common;

use control_common::{SEATS, SIZE, World, first_handle, id};
use dsm::SegmentHandle;
use dsm::control::Objects;
use shm_core::mapping::Mapped;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::depth::is_deep;
use shm_testkit::model::{self, Deaths, Life};

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const D: usize = 3;

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
    /// Whoever takes over a removal does not say so.
    TakesOverInSilence,
}

impl World {
    fn create_with(&self, bug: Option<Bug>, who: usize) -> Option<SegmentHandle> {
        if bug != Some(Bug::ClaimWithoutOwner) {
            return self.create(who);
        }
        let handle = Raw::of(self).claim_without_owner(who)?;
        self.fill(who, handle);
        Some(handle)
    }

    fn visit_with(&self, bug: Option<Bug>, who: usize, handle: SegmentHandle) {
        let size = match bug {
            Some(Bug::AttachWithoutEpoch) => Raw::of(self).attach_without_epoch(who),
            Some(Bug::FailedAttachDoesNotLook) => Raw::of(self).attach_and_not_look(who),
            _ => self.actor(who).attach(handle),
        };
        if size.is_some_and(|size| self.map(who, handle, size)) {
            self.detach_with(bug, who, handle);
        }
    }

    fn detach_with(&self, bug: Option<Bug>, who: usize, handle: SegmentHandle) {
        if bug != Some(Bug::DetachLoads) {
            return self.detach(who, handle);
        }
        self.unmap(who);
        Raw::of(self).detach_with_a_load(who, self);
    }

    fn retry_with(&self, bug: Option<Bug>, who: usize) {
        match bug {
            Some(Bug::TakesOverInSilence) => Raw::of(self).take_over_in_silence(self),
            _ => self.retry(who),
        }
    }

    fn assert_destroyed_once(&self, generation: u64) {
        assert_eq!(self.assert_empty(), generation, "each segment is destroyed once");
    }
}

/// Two processes, A and B, each of which may die.
type Two = [Life; 2];

fn nobody_dies() -> Two {
    [Life::endless(), Life::endless()]
}

/// Runs A and B; whoever dies is cleaned up after, A while B may go on. Which of them died.
fn run(
    world: &World,
    [a, b]: &Two,
    as_a: impl FnOnce(&World),
    as_b: impl FnOnce(&World) + Send + 'static,
) -> [bool; 2] {
    let b = spawn(world, b, as_b);
    let a_died = a.run(|| as_a(world)).is_none();
    if a_died {
        world.leave(A);
    }
    let b_died = b.join().unwrap();
    if b_died {
        world.leave(B);
    }
    [a_died, b_died]
}

fn spawn(
    world: &World,
    life: &Life,
    process: impl FnOnce(&World) + Send + 'static,
) -> model::thread::JoinHandle<bool> {
    let (world, life) = (world.clone(), life.clone());
    model::thread::spawn(move || life.run(|| process(&world)).is_none())
}

/// B attaches and detaches while A, the creator, detaches. Each may be the last.
fn two_detach(two: Two, bug: Option<Bug>) {
    let world = World::new();
    let handle = world.create(A).unwrap();
    let as_a = |world: &World| world.detach_with(bug, A, handle);
    run(&world, &two, as_a, move |world| world.visit_with(bug, B, handle));
    world.assert_destroyed_once(2);
}

/// As `two_detach`, and the object will not go the first time: who could not remove it, or his
/// reaper, tries again.
fn a_stuck_object(two: Two) {
    let world = World::refusing(1);
    let handle = world.create(A).unwrap();
    let detaches = |world: &World| {
        world.detach(A, handle);
        world.retry(A);
    };
    let died = run(&world, &two, detaches, move |world| {
        world.visit_with(None, B, handle);
        world.retry(B);
    });
    let gone = world.system.object.load(Ordering::Relaxed) == 0;
    let known = world.control.leftovers() == [handle];
    assert!(gone || known, "an object is left over that nobody knows of");
    assert!(gone || died.contains(&true), "who lives has tried again");
    // Whoever is reaped, and his reaper failed, has left: anybody else removes what he left.
    for who in [A, B].into_iter().filter(|who| died[*who]) {
        world.vacate(who);
    }
    world.retry(C);
    world.assert_destroyed_once(2);
}

/// C has died destroying a segment, his reaper could not remove the object, and his seat is free.
/// A and B take the removal over, and fail so many times more.
fn a_removal_of_nobody(refusals: u64, two: Two, bug: Option<Bug>) {
    let world = World::refusing(2 + refusals);
    let handle = world.create(C).unwrap();
    world.detach(C, handle);
    world.leave(C);
    world.vacate(C);
    assert_eq!(world.control.leftovers(), [handle]);
    let died =
        run(&world, &two, |world| world.retry_with(bug, A), move |world| world.retry_with(bug, B));
    for who in [A, B] {
        if !died[who] {
            world.retry(who);
        }
        world.leave(who);
        world.vacate(who);
    }
    world.system.refusals.store(0, Ordering::Relaxed);
    world.retry(D);
    world.assert_destroyed_once(2);
}

/// B comes with the handle of a segment that A destroys, and of whose slot A makes another use.
fn a_stale_handle(two: Two, bug: Option<Bug>) {
    let world = World::new();
    let handle = world.create(A).unwrap();
    let mut generations = 2;
    let destroys_and_creates = |world: &World| {
        world.detach(A, handle);
        if let Some(next) = world.create(A) {
            assert_ne!(next, handle);
            generations = 3;
            world.detach(A, next);
        }
    };
    let as_b = move |world: &World| world.visit_with(bug, B, handle);
    let [a_died, _] = run(&world, &two, destroys_and_creates, as_b);
    let generation = world.assert_empty();
    // He may have died with the next one in his hands.
    assert!(generation == generations || a_died && generation == 3, "it is destroyed once");
}

/// B creates a segment; A attaches to it meanwhile.
fn a_creator(two: Two, bug: Option<Bug>) {
    let world = World::new();
    let as_a = |world: &World| world.visit_with(None, A, first_handle());
    run(&world, &two, as_a, move |world| {
        let handle = world.create_with(bug, B).expect("the slot is free");
        world.detach(B, handle);
    });
    world.assert_empty();
}

/// B unpins a segment while A, the last attached, detaches.
fn an_unpinner(two: Two) {
    let world = World::new();
    let handle = world.create(A).unwrap();
    world.control.pin(handle).unwrap();
    let as_a = |world: &World| world.detach(A, handle);
    let [_, b_died] = run(&world, &two, as_a, move |world| world.actor(B).unpin(handle).unwrap());
    if b_died {
        // It may have died before the pin was off.
        let _ = world.actor(C).unpin(handle);
    }
    world.assert_destroyed_once(2);
}

/// C has died attached. B reaps it while A attaches and detaches.
fn a_reaper(two: Two) {
    let world = World::new();
    let handle = world.create(C).unwrap();
    world.unmap(C);
    let as_a = |world: &World| world.visit_with(None, A, handle);
    let [_, b_died] = run(&world, &two, as_a, |world| world.leave(C));
    if b_died {
        world.leave(C);
    }
    world.assert_destroyed_once(2);
}

/// B comes into the domain and leaves it while A leaves. Each may be the last.
fn two_leave(two: Two) {
    let world = World::empty();
    assert!(world.enter(A));
    run(
        &world,
        &two,
        |world| world.leave(A),
        |world| {
            if world.enter(B) {
                world.leave(B);
            }
        },
    );
    world.assert_closed();
}

/// A destroys its segment and leaves, while B comes in and goes. Where B dies as it comes in, its
/// reaper may have the segment to remove when A leaves: then it goes with the domain.
fn one_comes_in(fuel: u32, deaths: &Deaths) {
    let world = World::empty();
    assert!(world.enter(A));
    let handle = world.create(A).unwrap();
    let deaths = deaths.clone();
    let comer = spawn(&world, &Life::endless(), move |world| {
        if model::mortal(fuel, || world.enter(B)).is_none() {
            deaths.died();
        }
        world.leave(B);
    });
    world.detach(A, handle);
    world.leave(A);
    comer.join().unwrap();
    world.assert_closed();
}

/// B unpins the last segment and leaves, while A leaves: the domain stays until then.
fn a_pinned_domain(two: Two) {
    let world = World::empty();
    assert!(world.enter(A) && world.enter(B));
    let handle = world.create(A).unwrap();
    world.control.pin(handle).unwrap();
    world.detach(A, handle);
    run(
        &world,
        &two,
        |world| world.leave(A),
        move |world| {
            world.actor(B).unpin(handle).unwrap();
            world.leave(B);
        },
    );
    if world.control.is_alive(handle) {
        // B died before the pin was off: the domain is still there for the next one.
        assert!(world.enter(C));
        world.actor(C).unpin(handle).unwrap();
        world.leave(C);
    }
    world.assert_closed();
}

/// C has died in the domain, alone in a segment. An outsider, B, reaps it while A leaves.
fn an_outsider_reaps(two: Two) {
    let world = World::empty();
    assert!(world.enter(A) && world.enter(C));
    world.create(C).unwrap();
    world.unmap(C);
    world.system.inside[C].store(0, Ordering::Relaxed);
    let as_a = |world: &World| {
        world.leave(A);
        if world.enter(A) {
            world.leave(A);
        }
    };
    let [_, b_died] = run(&world, &two, as_a, |world| world.actor(C).clean_up());
    if b_died {
        world.actor(C).clean_up();
    }
    world.assert_closed();
}

/// One without a seat, B, closes the domain while A leaves and comes again.
fn one_closes(two: Two) {
    let world = World::empty();
    assert!(world.enter(A));
    let as_a = |world: &World| {
        world.leave(A);
        if world.enter(A) {
            world.leave(A);
        }
    };
    let [_, b_died] = run(&world, &two, as_a, |world| {
        if world.control.close_if_empty() {
            world.remove_domain();
        }
    });
    assert!(!world.enter(C), "somebody closed it");
    if b_died {
        // Who comes to a closed one.
        world.remove_domain();
    }
    assert!(world.system.domain_removed.load(Ordering::Relaxed) > 0);
}

/// B, the creator, detaches and leaves, while A attaches, pins, and leaves: the pin holds.
fn a_pin_is_kept(two: Two) {
    let world = World::empty();
    assert!(world.enter(A) && world.enter(B));
    let handle = world.create(B).unwrap();
    let mut pinned = false;
    let pins = |world: &World| {
        if world.attach(A, handle) {
            world.control.pin(handle).unwrap();
            pinned = true;
            world.detach(A, handle);
        }
        world.leave(A);
    };
    run(&world, &two, pins, move |world| {
        world.detach(B, handle);
        world.leave(B);
    });
    let alive = world.control.is_alive(handle);
    assert!(alive || !pinned, "a pin was lost");
    if alive {
        assert!(world.enter(C));
        world.actor(C).unpin(handle).unwrap();
        world.leave(C);
    }
    world.assert_closed();
}

/// Three destroy one segment and nobody dies: it happens once.
fn three_detach() {
    let world = World::new();
    let handle = world.create(A).unwrap();
    assert!(world.attach(B, handle));
    let b = spawn(&world, &Life::endless(), move |world| world.detach(B, handle));
    let c = spawn(&world, &Life::endless(), move |world| world.visit_with(None, C, handle));
    world.detach(A, handle);
    b.join().unwrap();
    c.join().unwrap();
    assert_eq!(world.system.destroyed.load(Ordering::Relaxed), 1);
    world.assert_destroyed_once(2);
}

/// One death; then two, with fewer preemptions.
fn sweep(name: &str, scenario: impl Fn(Two) + Clone + Send + Sync + 'static) {
    sweep_bounded(name, [0, 1], scenario);
}

/// For scenarios that are long: with so many preemptions less than elsewhere.
fn sweep_bounded(
    name: &str,
    [one, two]: [usize; 2],
    scenario: impl Fn(Two) + Clone + Send + Sync + 'static,
) {
    let bound = model::preemption_bound();
    let tried = model::every_death_of(bound - one, scenario.clone());
    println!("control, {name}, one death: {tried:?}");
    let tried = model::every_two_deaths(bound - two, scenario);
    println!("control, {name}, two deaths: {tried:?}");
}

/// For those that are dear too: one preemption less where one dies, but with `SHM_DEEP=1`.
fn dear() -> [usize; 2] {
    [usize::from(!is_deep()), 2]
}

#[test]
fn one_of_two_that_detach_may_die_anywhere() {
    sweep("two detach", |two| two_detach(two, None));
}

#[test]
fn an_object_that_will_not_go_is_not_lost() {
    sweep_bounded("a stuck object", dear(), a_stuck_object);
}

#[test]
fn one_that_takes_over_a_removal_may_die_anywhere() {
    sweep("a removal of nobody", |two| a_removal_of_nobody(0, two, None));
    sweep("a stuck removal of nobody", |two| a_removal_of_nobody(2, two, None));
}

#[test]
fn an_attacher_with_a_stale_handle_may_die_anywhere() {
    sweep_bounded("a stale handle", dear(), |two| a_stale_handle(two, None));
}

#[test]
fn a_creator_may_die_anywhere() {
    sweep("a creator", |two| a_creator(two, None));
}

#[test]
fn an_unpinner_may_die_anywhere() {
    sweep("an unpinner", an_unpinner);
}

#[test]
fn a_reaper_may_die_anywhere() {
    sweep("a reaper", a_reaper);
}

#[test]
fn one_of_two_that_leave_may_die_anywhere() {
    sweep_bounded("two leave", [1, 2], two_leave);
}

#[test]
fn one_that_comes_in_may_die_anywhere() {
    let tried = model::every_death(one_comes_in);
    println!("control, one comes in: {tried:?}");
}

#[test]
fn one_that_unpins_and_leaves_may_die_anywhere() {
    sweep_bounded("a pinned domain", [1, 2], a_pinned_domain);
}

#[test]
fn an_outsider_that_reaps_may_die_anywhere() {
    sweep_bounded("an outsider reaps", [1, 2], an_outsider_reaps);
}

#[test]
fn one_that_closes_may_die_anywhere() {
    sweep("one closes", one_closes);
}

#[test]
fn a_pin_outlives_whoever_dies() {
    sweep_bounded("a pin is kept", dear(), a_pin_is_kept);
}

#[test]
fn three_that_detach_destroy_it_once() {
    println!("control, three detach: {:?}", model::check(three_detach));
}

#[test]
fn every_ordering_matters() {
    let found = model::every_ordering_matters(&["dsm/src/control/"], || {
        model::check(|| two_detach(nobody_dies(), None));
        model::check(|| a_creator(nobody_dies(), None));
        model::check(|| a_stale_handle(nobody_dies(), None));
        model::check(three_detach);
    });
    assert_eq!(found, 6, "the state's two AcqRel each way, and the set");
}

/// The words of the one slot, for the planted bugs.
struct Raw {
    state: Mapped<AtomicU64>,
    set: [Mapped<AtomicU64>; 2],
}

const ALIVE: u64 = 1 << 3 | 2;
const CREATING: u64 = 1 << 3 | 1;
const FREE: u64 = 1 << 3;
const MORIBUND: u64 = 1 << 3 | 3;

fn bit(who: usize) -> u64 {
    1 << (SEATS[who] % 64)
}

impl Raw {
    fn of(world: &World) -> Raw {
        let word = size_of::<AtomicU64>() as u64;
        // The head, the domain's slot and set; then the one slot and its set.
        let head = (5 * word + 24).next_multiple_of(64);
        let slot = (head + 4 * word).next_multiple_of(64);
        let at = |index| Mapped::new(&world.mapping, slot + index * word).unwrap();
        Raw { state: at(0), set: [at(2), at(3)] }
    }

    fn set_of(&self, who: usize) -> &AtomicU64 {
        &self.set[SEATS[who] as usize / 64]
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

    fn take_over_in_silence(&self, world: &World) {
        let word = self.state.load(Ordering::Acquire);
        if word as u32 == MORIBUND as u32 && world.remove(first_handle()) {
            self.change(word, 2 << 3);
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
        model::check(|| two_detach(nobody_dies(), Some(Bug::AttachWithoutEpoch)));
    });
}

#[test]
fn finds_a_failed_attacher_that_does_not_look() {
    model::finds("an object is left over", || {
        let bug = Some(Bug::FailedAttachDoesNotLook);
        model::check(move || a_stale_handle(nobody_dies(), bug));
    });
}

#[test]
fn finds_two_that_each_think_the_other_is_left() {
    model::finds("an object is left over", || {
        model::check(|| two_detach(nobody_dies(), Some(Bug::DetachLoads)));
    });
}

#[test]
fn finds_a_claim_without_an_owner() {
    model::finds("the slot is left over", || {
        model::every_death_of(2, |two| a_creator(two, Some(Bug::ClaimWithoutOwner)));
    });
}

#[test]
fn finds_a_removal_taken_over_in_silence() {
    model::finds("destroyed, and the next is", || {
        model::check(|| a_removal_of_nobody(0, nobody_dies(), Some(Bug::TakesOverInSilence)));
    });
}
