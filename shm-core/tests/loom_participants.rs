//! The participant table, with a process that dies at any access.
//!
//! Proved for small cases: no two members in one slot; the dead are cleaned up after, by one at a
//! time, before their slot is used again, also where a reaper dies of it; an id of the past never
//! looks alive; who is found dead or gone has its last words visible; who sleeps on a peer wakes,
//! also where the kernel wakes one sleeper only.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use shm_core::ShmSync;
use shm_core::event::EventCount;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{
    JoinOptions, Member, ParticipantId, Table, Waiting, Watch, process_ends, wait,
};
use shm_core::process::model::become_process;
use shm_core::process::{Liveness, ProcessId};
use shm_core::sync::{AtomicU32, Ordering::Relaxed, yield_now};
use shm_testkit::model::thread::spawn;
use shm_testkit::model::{self, Deaths};
use std::sync::Arc;

const JOINING: u64 = 1 << 62;
const LIVE: u64 = 2 << 62;
const FUTEX_WAITERS: u32 = 0x8000_0000;

/// What a user keeps beside the table. Accessed Relaxed: the table must order it.
struct Board {
    /// Who thinks that it has the slot; 0 when cleaned up.
    owner: AtomicU32,
    words: AtomicU32,
    event: EventCount,
}
// SAFETY: modelled atomics.
unsafe impl ShmSync for Board {}

#[derive(Clone)]
struct World {
    table: Table,
    board: Mapped<Board>,
}

fn world() -> World {
    let mapping = Mapping::heap(4096);
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, 1) }.unwrap();
    let board =
        Board { owner: AtomicU32::new(0), words: AtomicU32::new(0), event: EventCount::new() };
    // SAFETY: as above.
    let board = unsafe { Mapped::place(&mapping, 2048, board) }.unwrap();
    World { table, board }
}

impl World {
    /// The calling thread, as process `pid`, takes the one slot, if it is to be had.
    fn join(&self, pid: u32) -> Option<Arc<Member>> {
        become_process(pid);
        let options = JoinOptions { waiting: Some(Waiting::Waitv) };
        let member = self.table.join_with(options, |_| self.board.owner.store(0, Relaxed)).ok()?;
        self.take_over(pid);
        let board = self.board.clone();
        member.on_leave(move |_| board.owner.store(0, Relaxed));
        Some(member)
    }

    fn take_over(&self, pid: u32) {
        let before = self.board.owner.load(Relaxed);
        // In a process that has died loads read 0 and stores are dropped.
        assert_eq!(before, 0, "{pid} has the slot that {before} has not given up");
        self.board.owner.store(pid, Relaxed);
    }

    fn note(&self, member: &Member) {
        self.board.words.store(member.id().to_bits(), Relaxed);
    }

    /// A member made by the main thread, which remains process 1.
    fn member(&self, pid: u32) -> Arc<Member> {
        let member = self.join(pid).unwrap();
        become_process(1);
        member
    }

    /// Runs `process` as process `pid`; afterwards the kernel does what it does at a death.
    fn live_and_die(&self, pid: u32, fuel: u32, deaths: &Deaths, process: impl FnOnce()) {
        let process_id = become_process(pid);
        if model::mortal(fuel, process).is_none() {
            deaths.died();
            process_ends(&self.table, process_id);
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Bug {
    None,
    AnonymousClaim,
    FreeBeforeBump,
}

fn join_and_leave(world: &World, bug: Bug, me: ProcessId) {
    let (claim, generation, life) = world.table.words(0);
    let release = core::sync::atomic::Ordering::Release;
    match bug {
        Bug::None => drop(world.join(2).inspect(|member| world.note(member))),
        Bug::AnonymousClaim => {
            if claim.compare_exchange(0, JOINING, Relaxed, Relaxed).is_ok() {
                claim.store(LIVE | me.to_bits(), release);
                let _ = generation.fetch_add(1, release);
                claim.store(0, release);
            }
        }
        Bug::FreeBeforeBump => {
            if let Some(member) = world.join(2) {
                world.note(&member);
                world.board.owner.store(0, Relaxed);
                life.word().store(0, release);
                claim.store(0, release);
                generation.store(member.id().generation() + 1, release);
                std::mem::forget(member);
            }
        }
    }
}

/// Two processes want the one slot; one of them may die at any access.
fn two_joiners(bug: Bug, fuel: u32, deaths: &Deaths) {
    let world = world();
    let (theirs, deaths) = (world.clone(), deaths.clone());
    let mortal = spawn(move || {
        let me = become_process(2);
        theirs.live_and_die(2, fuel, &deaths, || join_and_leave(&theirs, bug, me));
    });
    let first = world.join(1).map(|member| member.id());
    mortal.join().unwrap();
    let last = world.join(1).expect("the dead one's slot is reaped, the living one's is free").id();
    let dead = |id: &ParticipantId| world.table.liveness(*id) == Liveness::Dead;
    let second = ParticipantId::from_bits(world.board.words.load(Relaxed));
    assert!(first.is_none() || first != second, "two had the same id");
    let past = first.iter().chain(&second).all(|old| *old != last && dead(old));
    assert!(past, "an id of the past is used again, or looks alive");
    assert_eq!(world.board.owner.load(Relaxed), 0);
    assert!(world.table.is_empty());
}

/// The slot of a dead process; two reap it, one of them may die at any access.
fn two_reapers(fuel: u32, deaths: &Deaths) {
    let world = world();
    let member = world.member(4);
    let (dead, process) = (member.id(), member.process());
    std::mem::forget(member);
    process_ends(&world.table, process);
    let (theirs, deaths) = (world.clone(), deaths.clone());
    let mortal = spawn(move || {
        theirs.live_and_die(2, fuel, &deaths, || reap(&theirs, 2));
    });
    reap(&world, 1);
    mortal.join().unwrap();
    reap(&world, 1);
    assert!(world.table.is_empty());
    assert_eq!(world.board.words.load(Relaxed), 0, "a cleaning up was left half done");
    assert_eq!(world.board.owner.load(Relaxed), 0, "it was not cleaned up at all");
    assert_eq!(world.table.liveness(dead), Liveness::Dead);
    assert!(world.join(1).is_some_and(|member| member.id() != dead));
}

fn reap(world: &World, pid: u32) {
    let board = &world.board;
    world.table.reap(|_| {
        // Whoever began before is dead, or has finished: begin anew.
        board.words.store(pid, Relaxed);
        board.owner.store(0, Relaxed);
        assert_eq!(board.words.load(Relaxed), pid, "somebody else cleans up too");
        board.words.store(0, Relaxed);
    });
}

/// A member dies; another process reaps and takes the slot. Whatever an observer asks about the
/// dead one's id, once it knows of the death, it is told of the death.
fn reused() {
    let world = world();
    let member = world.member(2);
    let (old, process) = (member.id(), member.process());
    std::mem::forget(member);
    let watch = watch(&world, old);
    let theirs = world.clone();
    let heir = spawn(move || {
        process_ends(&theirs.table, process);
        let heir = theirs.join(3).expect("it is dead");
        assert_ne!(heir.id(), old);
        std::mem::forget(heir);
    });
    if process.liveness() == Liveness::Dead {
        assert!(watch.is_dead());
        assert!(self::watch(&world, old).is_dead());
        assert_eq!(world.table.liveness(old), Liveness::Dead);
        let seats = world.table.snapshot();
        assert!(
            seats.iter().all(|seat| seat.process.pid() != 3 || seat.id != old || reaping(seat))
        );
    }
    heir.join().unwrap();
}

fn reaping(info: &shm_core::participants::ParticipantInfo) -> bool {
    info.seat == shm_core::participants::Seat::Reaping
}

/// A watch of a process that has no seat of its own.
fn watch(world: &World, peer: ParticipantId) -> Watch {
    world.table.watch(peer, Waiting::Waitv)
}

#[derive(Clone, Copy, Debug)]
enum Question {
    Watch,
    Liveness,
    Empty,
}

fn all_last_words() {
    for question in [Question::Watch, Question::Liveness, Question::Empty] {
        for killed in [false, true] {
            model::check(move || last_words(killed, question));
        }
    }
}

/// A member says its last words and leaves, or is killed and reaped. Who is told that it is gone
/// has the words.
fn last_words(killed: bool, question: Question) {
    let world = world();
    let member = world.member(2);
    let (id, process) = (member.id(), member.process());
    let watch = watch(&world, id);
    let theirs = world.clone();
    let other = spawn(move || {
        theirs.board.words.store(1, Relaxed);
        if killed {
            std::mem::forget(member);
            process_ends(&theirs.table, process);
            become_process(3);
            theirs.table.reap(|_| ());
        } else {
            drop(member);
        }
    });
    let gone = match question {
        Question::Watch => watch.is_dead(),
        Question::Liveness => world.table.liveness(id) == Liveness::Dead,
        Question::Empty => world.table.is_empty(),
    };
    assert!(!gone || world.board.words.load(Relaxed) == 1);
    other.join().unwrap();
}

/// Sleeps until the words are said or the peer is gone.
fn sleep(world: &World, watch: &Watch) {
    loop {
        let ticket = world.board.event.prepare();
        if world.board.words.load(Relaxed) == 1 || watch.is_dead() {
            return;
        }
        wait(&world.board.event, ticket, &[watch], None);
    }
}

/// The peer says something and leaves; it may die at any access.
fn sleeper(fuel: u32, deaths: &Deaths) {
    let world = world();
    let member = world.member(2);
    let watch = watch(&world, member.id());
    let (theirs, deaths) = (world.clone(), deaths.clone());
    let peer = spawn(move || {
        theirs.live_and_die(2, fuel, &deaths, || {
            theirs.board.words.store(1, Relaxed);
            theirs.board.event.notify();
            drop(member);
        });
    });
    sleep(&world, &watch);
    peer.join().unwrap();
}

/// Sleeps until the peer is gone.
fn sleep_on_life(event: &EventCount, _: &World, watch: &Watch) {
    while !watch.is_dead() {
        wait(event, event.prepare(), &[watch], None);
    }
}

/// Planted bug: wakes for itself alone.
fn sleep_and_tell_nobody(event: &EventCount, world: &World, watch: &Watch) {
    let (_, _, life) = world.table.words(0);
    while !watch.is_dead() {
        let held = 2 | FUTEX_WAITERS;
        let _ = life.word().compare_exchange(2, held, Relaxed, Relaxed);
        event.wait_any(event.prepare(), &[(life, held)], None);
        // Where the peer has begun to leave, it goes on.
        yield_now();
    }
}

/// Two sleep, each on an event of its own. The peer leaves; it may die at any access.
fn two_sleepers(sleep: fn(&EventCount, &World, &Watch), fuel: u32, deaths: &Deaths) {
    let world = world();
    let member = world.member(2);
    let watch = Arc::new(watch(&world, member.id()));
    let (theirs, deaths) = (world.clone(), deaths.clone());
    let peer = spawn(move || theirs.live_and_die(2, fuel, &deaths, || drop(member)));
    let (theirs, their_watch) = (world.clone(), watch.clone());
    let sleeper = spawn(move || sleep(&EventCount::new(), &theirs, &their_watch));
    sleep(&EventCount::new(), &world, &watch);
    peer.join().unwrap();
    sleeper.join().unwrap();
}

/// The peer leaves without a word, and another process takes its slot and stays.
fn sleeper_of_a_slot_used_again() {
    let world = world();
    let member = world.member(2);
    let watch = watch(&world, member.id());
    let theirs = world.clone();
    let heir = spawn(move || {
        drop(member);
        std::mem::forget(theirs.join(3));
    });
    sleep(&world, &watch);
    heir.join().unwrap();
}

#[test]
fn one_of_two_joiners_may_die_anywhere() {
    let tried = model::every_death(|fuel, deaths| two_joiners(Bug::None, fuel, deaths));
    println!("two joiners: {tried:?}");
    assert!(tried.deaths > 0);
}

#[test]
fn one_of_two_reapers_may_die_anywhere() {
    let tried = model::every_death(two_reapers);
    println!("two reapers: {tried:?}");
    assert!(tried.deaths > 0);
}

#[test]
fn an_id_of_the_past_never_looks_alive() {
    println!("reused: {:?}", model::check(reused));
}

#[test]
fn who_is_gone_has_its_last_words_visible() {
    all_last_words();
}

#[test]
fn a_sleepers_peer_may_die_anywhere() {
    let tried = model::every_death(sleeper);
    println!("one sleeper: {tried:?}");
    assert!(tried.deaths > 0);
}

#[test]
fn all_sleepers_wake() {
    // Three threads: one preemption less than elsewhere.
    let bound = Some(model::preemption_bound() - 1);
    let tried = model::every_death_bounded(bound, |fuel, deaths| {
        two_sleepers(sleep_on_life, fuel, deaths);
    });
    println!("two sleepers: {tried:?}");
    assert!(tried.deaths > 0);
}

#[test]
fn a_sleeper_is_not_misled_by_the_slots_next_user() {
    println!("used again: {:?}", model::check(sleeper_of_a_slot_used_again));
}

/// Weakens each ordering of these files; how many were found out.
fn weaken(files: &[&str]) -> usize {
    model::every_ordering_matters(files, || {
        model::check(reused);
        all_last_words();
        model::check(sleeper_of_a_slot_used_again);
        model::every_death(|fuel, deaths| two_joiners(Bug::None, fuel, deaths));
    })
}

#[test]
fn every_ordering_matters() {
    assert_eq!(weaken(&["shm-core/src/participants/"]), 12);
}

/// loom alone does not see that the reaper's Release matters. Where this fails after an update of
/// loom, the shadow may go.
#[test]
fn without_its_shadow_a_relaxed_reaper_passes() {
    let reaper = &["shm-core/src/participants/reap.rs"];
    model::finds("no run noticed", || {
        model::without_shadow(|| weaken(reaper));
    });
    assert_eq!(weaken(reaper), 1);
}

/// A member that the others take for dead: by the kernel's word after its death, or by a guess at
/// any time. It looks after its slot for as long as it lives.
fn taken_for_dead(guessed: bool, fuel: u32, deaths: &Deaths) {
    let world = world();
    let member = world.member(2);
    let process = member.process();
    let (theirs, deaths) = (world.clone(), deaths.clone());
    let zombie = spawn(move || {
        theirs.live_and_die(2, fuel, &deaths, || {
            let owner = theirs.board.owner.load(Relaxed);
            assert_eq!(owner, 2, "one that lives has lost its slot");
            theirs.note(&member);
        });
    });
    if guessed {
        // Too long without a word from it.
        process_ends(&world.table, process);
    }
    if let Some(heir) = world.join(1) {
        let words = world.board.words.load(Relaxed);
        assert_ne!(words, heir.id().to_bits());
        assert_eq!(world.table.liveness(heir.id()), Liveness::Alive);
        drop(heir);
    }
    zombie.join().unwrap();
}

#[test]
fn who_is_certified_dead_writes_no_more() {
    let tried = model::every_death(|fuel, deaths| taken_for_dead(false, fuel, deaths));
    println!("certified: {tried:?}");
    assert!(tried.deaths > 0);
}

#[test]
fn finds_a_death_that_was_guessed() {
    model::finds("one that lives has lost its slot", || {
        model::check(|| taken_for_dead(true, u32::MAX, &Deaths::default()));
    });
}

#[test]
fn finds_a_claim_that_names_nobody() {
    model::finds("the dead one's slot is reaped", || {
        model::every_death(|fuel, deaths| two_joiners(Bug::AnonymousClaim, fuel, deaths));
    });
}

#[test]
fn finds_a_slot_freed_before_its_generation_moved() {
    model::finds("an id of the past", || {
        model::every_death(|fuel, deaths| two_joiners(Bug::FreeBeforeBump, fuel, deaths));
    });
}

#[test]
fn finds_a_sleeper_that_does_not_pass_the_wake_up_on() {
    model::finds("deadlock", || {
        let bound = Some(model::preemption_bound() - 1);
        model::check_bounded(bound, || two_sleepers(sleep_and_tell_nobody, 0, &Deaths::default()));
    });
}
