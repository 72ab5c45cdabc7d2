//! The participant table under the explorer, with several deaths on one way: of members, joiners,
//! reapers, and of those who sleep on them.
//!
//! No two have a slot at once; the dead are cleaned up after, by one at a time, before their slot
//! is used again; an id of the past never looks alive; who sleeps on a peer wakes.
#![cfg(shm_explore)]
use shm_core::ShmSync;
use shm_core::event::EventCount;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{
    JoinError, JoinOptions, Member, ParticipantId, Table, Waiting, Watch, wait,
};
use shm_core::process::Liveness;
use shm_core::sync::{AtomicU32, Ordering::Relaxed};
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_deep, kernel};
use std::sync::Arc;

/// What a user keeps beside a table of one slot. All zero at first.
#[repr(C)]
struct Board {
    /// Who thinks that it has the slot; 0 when cleaned up.
    owner: AtomicU32,
    /// Who cleans up.
    cleaner: AtomicU32,
    words: AtomicU32,
    event: EventCount,
}
// SAFETY: atomics only.
unsafe impl ShmSync for Board {}

struct World {
    table: Table,
    board: Mapped<Board>,
}

fn world() -> World {
    let at = Table::bytes_for(1);
    let mapping = Mapping::heap(at as usize + size_of::<Board>());
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, 1) }.unwrap();
    World { table, board: Mapped::new(&mapping, at).unwrap() }
}

impl World {
    /// Takes the slot, if it is to be had, cleaning up after a dead one first.
    fn join(&self) -> Option<Arc<Member>> {
        let options = JoinOptions { waiting: Some(Waiting::Waitv) };
        let member = match self.table.join_with(options, |id| self.clean_up(id)) {
            Ok(member) => member,
            Err(JoinError::Full { .. }) => return None,
            Err(other) => panic!("{other}"),
        };
        let before = self.board.owner.swap(kernel::pid(), Relaxed);
        assert_eq!(before, 0, "two have the slot, or it was not cleaned up");
        let board = self.board.clone();
        member.on_leave(move |_| board.owner.store(0, Relaxed));
        Some(member)
    }

    /// Begins anew whatever a dead reaper has begun.
    fn clean_up(&self, _: ParticipantId) {
        self.board.cleaner.store(kernel::pid(), Relaxed);
        self.board.owner.store(0, Relaxed);
        assert_eq!(self.board.cleaner.load(Relaxed), kernel::pid(), "two clean up");
    }

    fn reap(&self) {
        self.table.reap(|id| self.clean_up(id));
    }

    /// A member that was there before the beginning, as process 1.
    fn first(&self) -> Arc<Member> {
        kernel::become_process(1);
        let member = self.join().unwrap();
        kernel::become_process(kernel::BUILDER);
        member
    }

    /// Whoever left or died, the slot can be had again, and by a new id.
    fn can_be_had(&self, end: &End<'_>, said: &[usize]) {
        let last = self.join().expect("the dead one's slot is reaped, the living one's is free");
        let mut ids: Vec<u64> = said.iter().flat_map(|p| end.said(*p)).copied().collect();
        for id in &ids {
            let id = ParticipantId::from_bits(*id as u32).unwrap();
            assert_eq!(self.table.liveness(id), Liveness::Dead, "an id of the past looks alive");
        }
        ids.push(last.id().to_bits().into());
        ids.sort_unstable();
        assert!(ids.is_sorted_by(|a, b| a < b), "two had the same id: {ids:?}");
        drop(last);
        assert!(self.table.is_empty());
        assert_eq!(self.board.owner.load(Relaxed), 0);
    }
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("participants", name).states_at_most(if is_deep() { 1_000_000 } else { 165_000 })
}

/// Joins, says as whom, and leaves.
fn joiner(world: &World) -> Process<'_> {
    Process::new("joiner", |me| {
        if let Some(member) = world.join() {
            me.say(member.id().to_bits().into());
        }
    })
    .mortal()
}

fn reaper(world: &World) -> Process<'_> {
    Process::new("reaper", |_| world.reap()).mortal()
}

#[test]
fn joiners_may_die_anywhere() {
    let world = world();
    let deaths = if is_deep() { 3 } else { 2 };
    let two = scenario(&format!("two joiners, {deaths} deaths")).deaths(deaths).lingering();
    let two = two.process(joiner(&world)).process(joiner(&world));
    two.check(|end| world.can_be_had(end, &[0, 1])).explore();
    let three = scenario("three joiners").deaths(if is_deep() { 2 } else { 1 });
    let three = three.process(joiner(&world)).process(joiner(&world)).process(joiner(&world));
    three.check(|end| world.can_be_had(end, &[0, 1, 2])).explore();
}

#[test]
fn reapers_may_die_anywhere() {
    let world = world();
    // Process 9 is dead before the beginning.
    kernel::become_process(9);
    let dead = world.join().unwrap();
    kernel::end_process(9);
    kernel::become_process(kernel::BUILDER);
    let deaths = if is_deep() { 3 } else { 2 };
    let scenario = scenario(&format!("two reapers and a joiner, {deaths} deaths")).deaths(deaths);
    let scenario = scenario.process(reaper(&world)).process(reaper(&world));
    let scenario = scenario.process(joiner(&world));
    scenario
        .check(|end| {
            assert_eq!(world.table.liveness(dead.id()), Liveness::Dead);
            world.can_be_had(end, &[2]);
        })
        .explore();
}

/// Watches a member, and what the table says of it, while that one dies, and another takes its
/// slot.
#[test]
fn who_was_found_dead_stays_dead() {
    let world = world();
    let member = world.first();
    let dies = Process::new("dies", |_| world.board.words.store(1, Relaxed)).mortal();
    let watches = Process::new("watches", |_| {
        let watch = world.table.watch(member.id(), Waiting::Waitv);
        let gone = [
            watch.is_dead(),
            world.table.liveness(member.id()) == Liveness::Dead,
            world.table.watch(member.id(), Waiting::Waitv).is_dead(),
            watch.is_dead(),
        ];
        assert!(gone.is_sorted(), "dead, and then alive: {gone:?}");
        for seat in world.table.snapshot() {
            let mine = seat.id == member.id() && seat.process.pid() == 1;
            assert!(!gone[3] || !mine || seat.liveness == Liveness::Dead, "{seat:?}");
        }
    });
    let scenario = scenario("a slot that is used again").deaths(2).lingering();
    let scenario = scenario.process(dies).process(watches).process(joiner(&world));
    scenario
        .check(|end| {
            if end.is_dead(0) {
                world.can_be_had(end, &[2])
            }
        })
        .explore();
}

/// Sleeps until the word is said or the peer is gone.
fn sleep(world: &World, watch: &Watch) {
    loop {
        let ticket = world.board.event.prepare();
        if world.board.words.load(Relaxed) == 1 || watch.is_dead() {
            return;
        }
        wait(&world.board.event, ticket, &[watch], None);
    }
}

/// A member that says something and leaves, or dies; others sleep on its word and on its life.
#[test]
fn who_sleeps_on_a_peer_wakes() {
    let world = world();
    let speaks = |stays: bool| {
        let world = &world;
        Process::new("speaks", move |me: &Me| {
            let Some(_member) = world.join() else {
                world.board.words.store(1, Relaxed);
                return world.board.event.notify();
            };
            // Its watchers may come.
            world.board.words.store(2, Relaxed);
            world.board.event.notify();
            if stays {
                world.board.words.store(1, Relaxed);
                world.board.event.notify();
                me.stay();
            }
        })
        .mortal()
    };
    let sleeps = || {
        Process::new("sleeps", |me| {
            let first = ParticipantId::from_bits(1).unwrap();
            loop {
                let ticket = world.board.event.prepare();
                if world.board.words.load(Relaxed) != 0 {
                    break;
                }
                // Before it has a seat there is no life word.
                world.board.event.wait(ticket, None);
            }
            me.say(1);
            sleep(&world, &world.table.watch(first, Waiting::Waitv));
        })
    };
    for stays in [false, true] {
        let name = if stays { "one sleeps, a peer stays" } else { "one sleeps, a peer leaves" };
        let one = scenario(name).deaths(1).lingering().process(speaks(stays));
        let one = one.process(sleeps()).process(joiner(&world));
        // Only before it knows whose life to sleep on: one that dies then wakes nobody.
        let early = |end: &End<'_>| assert!(end.is_dead(0) && end.said(1).is_empty(), "{end:?}");
        one.preemptions_at_most(1).may_all_wait(early).explore();
    }
}

/// The kernel wakes one sleeper a life word, who wakes the others.
#[test]
fn all_who_sleep_on_a_life_word_wake() {
    let world = world();
    let member = world.first();
    let sleeps = || {
        Process::new("sleeps", |_| {
            let watch = world.table.watch(member.id(), Waiting::Waitv);
            let event = &world.board.event;
            while !watch.is_dead() {
                let ticket = event.prepare();
                wait(event, ticket, &[&watch], None);
            }
        })
    };
    let dies = || Process::new("dies", |_| ()).mortal();
    let all_live = |end: &End<'_>| assert!(!end.is_dead(0), "it is dead, and they sleep");
    let two = scenario("two sleep").deaths(1).lingering().process(dies());
    two.process(sleeps()).process(sleeps()).may_all_wait(all_live).explore();
    let with_reaper = scenario("two sleep, one reaps").deaths(1).process(dies());
    let with_reaper = with_reaper.process(sleeps()).process(sleeps()).process(joiner(&world));
    with_reaper.may_all_wait(all_live).preemptions_at_most(1).explore();
}

#[test]
fn a_lie_does_no_harm() {
    let world = world();
    let member = world.first();
    let lies = if is_deep() { 2 } else { 1 };
    let joins = || {
        Process::new("joins", |_| {
            let options = JoinOptions { waiting: Some(Waiting::Waitv) };
            let _ = world.table.join_with(options, |_| ());
        })
    };
    let watches = Process::new("watches", |_| {
        let watch = world.table.watch(member.id(), Waiting::Waitv);
        let ticket = world.board.event.prepare();
        if !watch.is_dead() {
            wait(&world.board.event, ticket, &[&watch], None);
        }
        let _ = world.table.liveness(member.id());
        let _ = (world.table.snapshot(), world.table.is_empty());
    });
    let dies = Process::new("dies", |_| world.board.event.notify()).mortal();
    let watched = scenario(&format!("a watcher, {lies} lies")).lies(lies).deaths(1).process(dies);
    watched.process(watches).may_all_wait(|_| ()).explore();
    let joined = scenario(&format!("two joiners, {lies} lies")).lies(lies).deaths(1);
    joined.process(joins().mortal()).process(joins()).explore();
}

/// Planted bug: it wakes for itself alone.
#[test]
fn finds_a_sleeper_that_does_not_pass_the_wake_up_on() {
    let world = world();
    let member = world.first();
    let life: Mapped<AtomicU32> =
        Mapped::new(world.board.mapping(), Table::bytes_for(0) + 12).unwrap();
    let sleeps = || {
        Process::new("sleeps", |_| {
            let watch = world.table.watch(member.id(), Waiting::Waitv);
            while !watch.is_dead() {
                let held = 1 | kernel::FUTEX_WAITERS;
                let _ = life.compare_exchange(1, held, Relaxed, Relaxed);
                kernel::sleep(&[(&life, held)], false);
                shm_core::sync::yield_now();
            }
        })
    };
    let dies = Process::new("dies", |_| ()).mortal();
    let all_live = |end: &End<'_>| assert!(!end.is_dead(0), "it is dead, and they sleep");
    let scenario = scenario("tells nobody").deaths(1).process(dies);
    let scenario = scenario.process(sleeps()).process(sleeps()).may_all_wait(all_live);
    finds("it is dead, and they sleep", || scenario.explore());
}
