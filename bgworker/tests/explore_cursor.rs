//! The work cursor under the explorer: each piece counts once and none is lost, whichever of
//! several workers die where; who waits for work wakes when some comes back, when all is done, and
//! when the leader dies.
//!
//! Process 1 is the leader.
#![cfg(shm_explore)]
use bgworker::cursor::{Claim, PieceState, WorkCursor};
use shm_core::ShmSync;
use shm_core::event::EventCount;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{self, Member, Table};
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_deep, kernel};
use std::sync::Arc;

const WORKERS: usize = 2;

/// What each worker has sent: one bit a piece. All zero at first.
#[repr(C)]
struct Sent {
    pieces: [AtomicU64; WORKERS],
    event: EventCount,
}
// SAFETY: atomics only.
unsafe impl ShmSync for Sent {}

struct World {
    cursor: WorkCursor,
    sent: Mapped<Sent>,
    leader: Arc<Member>,
    workers: [Arc<Member>; WORKERS],
}

fn world(pieces: u64) -> World {
    let table_at = WorkCursor::bytes_for(pieces).next_multiple_of(64);
    let sent_at = table_at + Table::bytes_for(1 + WORKERS as u32);
    let mapping = Mapping::heap(sent_at as usize + size_of::<Sent>());
    // SAFETY: nobody else has the mapping yet.
    let cursor = unsafe { WorkCursor::create(&mapping, 0, pieces) }.unwrap();
    // SAFETY: as above, and the cursor ends before.
    let table = unsafe { Table::create(&mapping, table_at, 1 + WORKERS as u32) }.unwrap();
    let join = |pid| {
        kernel::become_process(pid);
        table.join().unwrap()
    };
    let (leader, workers) = (join(1), [join(2), join(3)]);
    World { cursor, sent: Mapped::new(&mapping, sent_at).unwrap(), leader, workers }
}

impl World {
    fn member(&self, me: &Me) -> (usize, &Member) {
        let worker = me.pid() as usize - 2;
        (worker, &self.workers[worker])
    }

    /// Takes what a worker has sent: each piece counts once, and only as its own.
    fn take(&self, worker: usize, counted: &mut Vec<u64>) {
        let sent = self.sent.pieces[worker].load(Relaxed);
        for piece in (0..self.cursor.count()).filter(|piece| sent >> piece & 1 == 1) {
            if self.cursor.complete(piece, self.workers[worker].id()) {
                assert!(!counted.contains(&piece), "piece {piece} counts twice");
                counted.push(piece);
            }
        }
    }
}

/// Claims pieces and sends them, and waits for work, until the job is over or its leader dead.
fn worker(world: &World) -> Process<'_> {
    Process::new("worker", |me| {
        let (index, member) = world.member(me);
        let leader = member.watch(world.leader.id());
        loop {
            match world.cursor.claim(member).unwrap() {
                Claim::Piece(piece) => {
                    world.sent.pieces[index].fetch_or(1 << piece, Relaxed);
                    world.sent.event.notify();
                }
                Claim::NothingFree if leader.is_dead() => return,
                Claim::NothingFree => drop(world.cursor.wait_for_work(&leader, None)),
                Claim::Finished => return,
            }
        }
    })
    .mortal()
}

/// Counts what was sent, gives back what the dead held, and sleeps until there is more to do: until
/// all is done or nobody is left.
fn leader(world: &World, workers: usize) -> Process<'_> {
    Process::new("leader", move |me| {
        let watches = [0, 1].map(|worker: usize| world.leader.watch(world.workers[worker].id()));
        let mut counted = Vec::new();
        let mut dead = [false, workers < 2];
        loop {
            let ticket = world.sent.event.prepare();
            for (worker, dead) in dead.iter_mut().enumerate() {
                let ended = !*dead && watches[worker].is_dead();
                // After its death, so that its last results count.
                world.take(worker, &mut counted);
                if ended {
                    *dead = true;
                    world.cursor.release(world.workers[worker].id());
                }
            }
            if counted.len() as u64 == world.cursor.count() || dead == [true; WORKERS] {
                break;
            }
            let living = watches.iter().zip(dead).filter(|(_, dead)| !dead);
            let living: Vec<_> = living.map(|(watch, _)| watch).collect();
            participants::wait(&world.sent.event, ticket, &living, None);
        }
        world.cursor.finish();
        me.say(counted.len() as u64);
    })
}

/// Leaves its results in shared memory and commits, until the job is over or its leader dead.
fn committer(world: &World) -> Process<'_> {
    Process::new("worker", |me| {
        let (index, member) = world.member(me);
        let leader = member.watch(world.leader.id());
        loop {
            match world.cursor.claim(member).unwrap() {
                Claim::Piece(piece) => {
                    world.sent.pieces[index].fetch_or(1 << piece, Relaxed);
                    assert_eq!(world.cursor.commit(piece, member), Ok(true));
                    world.sent.event.notify();
                }
                Claim::NothingFree if leader.is_dead() => return,
                Claim::NothingFree => drop(world.cursor.wait_for_work(&leader, None)),
                Claim::Finished => return,
            }
        }
    })
    .mortal()
}

/// Counts what is committed, gives back what the dead held, and sleeps until there is more to do.
fn counter(world: &World) -> Process<'_> {
    Process::new("leader", move |me| {
        let watches = [0, 1].map(|worker: usize| world.leader.watch(world.workers[worker].id()));
        let mut dead = [false; WORKERS];
        let committed = |piece| match world.cursor.state(piece) {
            Some(PieceState::Committed(by)) => Some(by),
            _ => None,
        };
        loop {
            let ticket = world.sent.event.prepare();
            for (worker, dead) in dead.iter_mut().enumerate() {
                if !*dead && watches[worker].is_dead() {
                    *dead = true;
                    world.cursor.release(world.workers[worker].id());
                }
            }
            let all = (0..world.cursor.count()).all(|piece| committed(piece).is_some());
            if all || dead == [true; WORKERS] {
                break;
            }
            let living = watches.iter().zip(dead).filter(|(_, dead)| !dead);
            let living: Vec<_> = living.map(|(watch, _)| watch).collect();
            participants::wait(&world.sent.event, ticket, &living, None);
        }
        world.cursor.finish();
        for piece in 0..world.cursor.count() {
            let Some(by) = committed(piece) else { continue };
            let worker = world.workers.iter().position(|worker| worker.id() == by);
            let words = world.sent.pieces[worker.expect("one of ours")].load(Relaxed);
            assert!(words >> piece & 1 == 1, "it counts, and is not there");
            me.say(piece);
        }
    })
}

/// Each piece that is committed was left by who committed it; while anybody lives all are.
#[test]
fn who_commits_may_die_anywhere() {
    let world = world(1);
    let scenario = scenario("2 workers commit, 1 death").deaths(1);
    let scenario = scenario.process(counter(&world)).process(committer(&world));
    let done = |end: &End<'_>| assert_eq!(end.said(0), [0]);
    scenario.process(committer(&world)).preemptions_at_most(0).check(done).explore();
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    // More than any case has in ordinary runs; deep ones, which have no end, go ten times as far.
    Scenario::new("work cursor", name).states_at_most(400_000)
}

/// A leader and so many workers, any of whom may die.
fn workers_die(pieces: u64, workers: usize, deaths: u32, preemptions: u32) {
    let world = world(pieces);
    let name = format!("{pieces} pieces, {workers} workers, {deaths} deaths");
    let mut scenario = scenario(&name).deaths(deaths).process(leader(&world, workers));
    for _ in 0..workers {
        scenario = scenario.process(worker(&world));
    }
    let done = |end: &End<'_>| {
        let nobody_is_left = end.deaths() == workers as u32;
        assert!(nobody_is_left || end.said(0) == [pieces], "{:?}", end.said(0));
    };
    scenario.preemptions_at_most(preemptions).check(done).explore();
}

#[test]
fn workers_may_die_anywhere() {
    workers_die(2, 1, 1, 4);
    workers_die(1, 2, 1, 0);
    workers_die(2, 2, 1, 0);
}

/// The leader dies, and nobody waits for it for ever.
#[test]
fn the_leader_may_die_anywhere() {
    for (workers, preemptions) in [(1, 2), (2, 0)] {
        let world = world(1);
        let scenario = scenario(&format!("the leader of {workers} dies")).deaths(1);
        let scenario = if workers == 1 { scenario.lingering() } else { scenario };
        let mut scenario = scenario.process(leader(&world, workers).mortal());
        for _ in 0..workers {
            scenario = scenario.process(worker(&world));
        }
        scenario.preemptions_at_most(preemptions).explore();
    }
}

#[test]
fn a_lie_does_no_harm() {
    let world = world(2);
    let lies = if is_deep() { 2 } else { 1 };
    let works = || {
        Process::new("worker", |me| {
            let (_, member) = world.member(me);
            while let Ok(Claim::Piece(_)) = world.cursor.claim(member) {}
        })
        .never_waits()
    };
    let leads = Process::new("leader", |_| {
        for piece in 0..3 {
            world.cursor.complete(piece, world.workers[0].id());
            world.cursor.state(piece);
        }
        world.cursor.release(world.workers[1].id());
        world.cursor.finish();
    });
    let scenario = scenario(&format!("{lies} lies")).lies(lies).preemptions_at_most(2);
    scenario.process(leads.never_waits()).process(works()).process(works()).explore();
}

/// Planted bug: a piece found free is taken by a store.
#[test]
fn finds_a_piece_that_two_have() {
    let mapping = Mapping::heap(8);
    let piece: Mapped<AtomicU64> = Mapped::new(&mapping, 0).unwrap();
    let takes = || {
        Process::new("worker", |me: &Me| {
            if piece.load(Relaxed) == 0 {
                piece.store(me.pid().into(), Relaxed);
                me.say(1);
            }
        })
    };
    let once = |end: &End<'_>| assert!(end.said(0).len() + end.said(1).len() == 1, "two have it");
    let scenario = scenario("in short").process(takes()).process(takes()).check(once);
    finds("two have it", || scenario.explore());
}
