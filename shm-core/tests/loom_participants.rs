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
use shm_testkit::model::{self, Life};
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
    fn live_and_die<R>(&self, pid: u32, life: &Life, process: impl FnOnce() -> R) -> Option<R> {
        let process_id = become_process(pid);
        let end = life.run(process);
        if end.is_none() {
            process_ends(&self.table, process_id);
        }
        end
    }
}

/// Two processes, 1 and 2.
type Two = [Life; 2];

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

/// Two processes want the one slot.
fn two_joiners(bug: Bug, [one, other]: Two) {
    let world = world();
    let theirs = world.clone();
    let other = spawn(move || {
        let me = become_process(2);
        theirs.live_and_die(2, &other, || join_and_leave(&theirs, bug, me));
    });
    let first = world.live_and_die(1, &one, || world.join(1).map(|member| member.id())).flatten();
    other.join().unwrap();
    let last = world.join(3).expect("the dead one's slot is reaped, the living one's is free").id();
    let dead = |id: &ParticipantId| world.table.liveness(*id) == Liveness::Dead;
    let second = ParticipantId::from_bits(world.board.words.load(Relaxed));
    assert!(first.is_none() || first != second, "two had the same id");
    let past = first.iter().chain(&second).all(|old| *old != last && dead(old));
    assert!(past, "an id of the past is used again, or looks alive");
    assert_eq!(world.board.owner.load(Relaxed), 0);
    assert!(world.table.is_empty());
}

/// The slot of a dead process; two reap it.
fn two_reapers([one, other]: Two) {
    let world = world();
    let member = world.member(4);
    let (dead, process) = (member.id(), member.process());
    std::mem::forget(member);
    process_ends(&world.table, process);
    let theirs = world.clone();
    let other = spawn(move || {
        theirs.live_and_die(2, &other, || reap(&theirs, 2));
    });
    world.live_and_die(1, &one, || reap(&world, 1));
    other.join().unwrap();
    become_process(3);
    reap(&world, 3);
    assert!(world.table.is_empty());
    assert_eq!(world.board.words.load(Relaxed), 0, "a cleaning up was left half done");
    assert_eq!(world.board.owner.load(Relaxed), 0, "it was not cleaned up at all");
    assert_eq!(world.table.liveness(dead), Liveness::Dead);
    assert!(world.join(3).is_some_and(|member| member.id() != dead));
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

/// The peer says something and leaves.
fn sleeper([sleeps, speaks]: Two) {
    let world = world();
    let member = world.member(2);
    let watch = watch(&world, member.id());
    let theirs = world.clone();
    let peer = spawn(move || {
        theirs.live_and_die(2, &speaks, || {
            theirs.board.words.store(1, Relaxed);
            theirs.board.event.notify();
            drop(member);
        });
    });
    world.live_and_die(1, &sleeps, || sleep(&world, &watch));
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

/// Two sleep, each on an event of its own. The peer leaves.
fn two_sleepers(sleep: fn(&EventCount, &World, &Watch), [one, other, leaves]: [Life; 3]) {
    let world = world();
    let member = world.member(2);
    let watch = Arc::new(watch(&world, member.id()));
    let theirs = world.clone();
    let peer = spawn(move || theirs.live_and_die(2, &leaves, || drop(member)));
    let (theirs, their_watch) = (world.clone(), watch.clone());
    let sleeper = spawn(move || {
        theirs.live_and_die(3, &other, || sleep(&EventCount::new(), &theirs, &their_watch));
    });
    world.live_and_die(1, &one, || sleep(&EventCount::new(), &world, &watch));
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

/// Each dies, and then both, with one preemption less.
fn sweep(name: &str, scenario: impl Fn(Two) + Clone + Send + Sync + 'static) {
    let bound = model::preemption_bound();
    let one = model::every_death_of(bound, scenario.clone());
    println!("participants, {name}, one death: {one:?}");
    let two = model::every_two_deaths(bound - 1, scenario);
    println!("participants, {name}, two deaths: {two:?}");
}

#[test]
fn one_of_two_joiners_may_die_anywhere() {
    sweep("two joiners", |two| two_joiners(Bug::None, two));
}

#[test]
fn one_of_two_reapers_may_die_anywhere() {
    sweep("two reapers", two_reapers);
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
    sweep("a sleeper", sleeper);
}

/// One death: of two, a peer's and that of the sleeper whom it woke, others learn when they look
/// for themselves after a second, and a model has no clock.
#[test]
fn all_sleepers_wake() {
    // Three threads: one preemption less than elsewhere.
    let bound = model::preemption_bound() - 1;
    let tried = model::every_death_of(bound, |three| two_sleepers(sleep_on_life, three));
    println!("participants, two sleepers, one death: {tried:?}");
}

#[test]
fn a_sleeper_is_not_misled_by_the_slots_next_user() {
    println!("used again: {:?}", model::check(sleeper_of_a_slot_used_again));
}

/// Somebody who has just come writes his name somewhere. Who reads it sees that he lives.
fn one_names_himself(question: Question) {
    let world = world();
    let (theirs, name) = (world.clone(), Arc::new(AtomicU32::new(0)));
    let writes = name.clone();
    let comes = spawn(move || {
        let member = theirs.join(3).expect("there is room");
        writes.store(member.id().to_bits(), Relaxed);
        std::mem::forget(member);
    });
    if let Some(id) = ParticipantId::from_bits(name.load(Relaxed)) {
        let is_dead = match question {
            Question::Watch => watch(&world, id).is_dead(),
            _ => world.table.liveness(id) == Liveness::Dead,
        };
        assert!(!is_dead, "it has just come");
    }
    comes.join().unwrap();
}

#[test]
fn who_has_just_come_lives() {
    for question in [Question::Watch, Question::Liveness] {
        let tried = model::check(move || one_names_himself(question));
        println!("participants, {question:?} of one who has just come: {tried:?}");
    }
}

/// Weakens each ordering of these files; how many were found out.
fn weaken(files: &[&str]) -> usize {
    model::every_ordering_matters(files, || {
        model::check(reused);
        all_last_words();
        model::check(sleeper_of_a_slot_used_again);
        model::check(|| one_names_himself(Question::Watch));
        model::check(|| one_names_himself(Question::Liveness));
        model::every_death_of(model::preemption_bound(), |two| two_joiners(Bug::None, two));
    })
}

#[test]
fn every_ordering_matters() {
    assert_eq!(weaken(&["shm-core/src/participants/"]), 15);
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
fn taken_for_dead(guessed: bool, [heir, zombie]: Two) {
    let world = world();
    let member = world.member(2);
    let process = member.process();
    let theirs = world.clone();
    let zombie = spawn(move || {
        theirs.live_and_die(2, &zombie, || {
            let owner = theirs.board.owner.load(Relaxed);
            assert_eq!(owner, 2, "one that lives has lost its slot");
            theirs.note(&member);
        });
    });
    if guessed {
        // Too long without a word from it.
        process_ends(&world.table, process);
    }
    world.live_and_die(1, &heir, || {
        if let Some(heir) = world.join(1) {
            let words = world.board.words.load(Relaxed);
            assert_ne!(words, heir.id().to_bits());
            assert_eq!(world.table.liveness(heir.id()), Liveness::Alive);
            drop(heir);
        }
    });
    zombie.join().unwrap();
}

#[test]
fn who_is_certified_dead_writes_no_more() {
    sweep("certified", |two| taken_for_dead(false, two));
}

fn nobody_dies<const N: usize>() -> [Life; N] {
    std::array::from_fn(|_| Life::endless())
}

#[test]
fn finds_a_death_that_was_guessed() {
    model::finds("one that lives has lost its slot", || {
        model::check(|| taken_for_dead(true, nobody_dies()));
    });
}

fn who_has_it_dies(bug: Bug) {
    model::every_death_of(2, move |[other]: [Life; 1]| two_joiners(bug, [Life::endless(), other]));
}

#[test]
fn finds_a_claim_that_names_nobody() {
    model::finds("the dead one's slot is reaped", || {
        who_has_it_dies(Bug::AnonymousClaim);
    });
}

#[test]
fn finds_a_slot_freed_before_its_generation_moved() {
    model::finds("an id of the past", || {
        who_has_it_dies(Bug::FreeBeforeBump);
    });
}

#[test]
fn finds_a_sleeper_that_does_not_pass_the_wake_up_on() {
    model::finds("deadlock", || {
        let bound = model::preemption_bound() - 1;
        model::every_death_of(bound, |[peer]: [Life; 1]| {
            let [one, other] = nobody_dies();
            two_sleepers(sleep_and_tell_nobody, [one, other, peer]);
        });
    });
}
