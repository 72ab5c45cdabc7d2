//! A work cursor outlives its workers: what a dead one had claimed comes back, each piece is
//! complete once, and none is lost. The leader's death ends the job, and leaves no nonsense.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;

use bgworker::cursor::{Claim, PieceState, WorkCursor};
use crash_common::{shared, words_from};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, ParticipantId, Table};
use shm_testkit::killpoint::{End, Notes, Run, Scenario};
use std::sync::Arc;

const PIECES: u64 = 3;
const AT: u64 = 512;
/// In the notes: how many pieces it was given; what the leader has done; how many it has committed.
const CLAIMED: usize = 0;
const DONE: usize = 1;
const COMMITTED: usize = 2;

struct World {
    mapping: Arc<Mapping>,
    table: Table,
    leader: Arc<Member>,
}

impl World {
    fn empty() -> World {
        let (_, mapping) = shared(AT + WorkCursor::bytes_for(PIECES));
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, 3) }.unwrap();
        let leader = table.join().unwrap();
        World { mapping, table, leader }
    }

    fn with_cursor() -> World {
        let world = World::empty();
        world.create();
        world
    }

    fn create(&self) -> WorkCursor {
        // SAFETY: nobody has been told of the place.
        unsafe { WorkCursor::create(&self.mapping, AT, PIECES) }.unwrap()
    }

    fn cursor(&self) -> WorkCursor {
        WorkCursor::attach(&self.mapping, AT).unwrap()
    }

    /// The leader does what is free itself: how many pieces that were.
    fn do_the_rest(&self) -> Result<u64, String> {
        let (cursor, mut count) = (self.cursor(), 0);
        while let Claim::Piece(piece) = cursor.claim(&self.leader).map_err(|e| e.to_string())? {
            let me = self.leader.id();
            if !cursor.complete(piece, me) || cursor.complete(piece, me) {
                return Err(format!("piece {piece} did not count once"));
            }
            count += 1;
        }
        Ok(count)
    }
}

/// A worker claims two pieces, and commits the first.
struct Work;

impl Scenario for Work {
    type World = World;
    type Doomed = Arc<Member>;

    fn name(&self) -> String {
        "work cursor, claim, commit".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &["bgworker::cursor::WorkCursor::claim", "bgworker::cursor::WorkCursor::commit"]
    }

    fn world(&self) -> World {
        World::with_cursor()
    }

    fn prepare(&self, world: &World, _: &Notes) -> Arc<Member> {
        world.table.join().unwrap()
    }

    fn operate(&self, world: &World, me: &mut Arc<Member>, notes: &Notes) {
        for piece in 0..2 {
            assert_eq!(world.cursor().claim(me), Ok(Claim::Piece(piece)));
            notes.count(CLAIMED);
        }
        assert_eq!(world.cursor().commit(0, me), Ok(true));
        notes.count(COMMITTED);
    }

    /// The cursor alone: the table names processes.
    fn image(&self, world: &World) -> Vec<u8> {
        words_from(&world.mapping, AT)
    }

    fn check(&self, world: World, notes: &Notes, end: End) -> Result<(), String> {
        let dead = worker(&world, end)?;
        let cursor = world.cursor();
        let back = cursor.release(dead);
        let counts = u64::from(cursor.state(0) == Some(PieceState::Committed(dead)));
        if counts < notes.get(COMMITTED) {
            return Err("it was told that its piece counts, and it does not".into());
        }
        let (least, held) = (notes.get(CLAIMED), back + counts);
        if held < least || held > 2 {
            return Err(format!("{least} pieces were claimed, and {held} came back or count"));
        }
        match world.do_the_rest()? + counts {
            PIECES => Ok(()),
            count => Err(format!("of {PIECES} pieces {count} could be done")),
        }
    }
}

/// The one who worked: still seated where it was killed.
fn worker(world: &World, end: End) -> Result<ParticipantId, String> {
    let leader = world.leader.id();
    let other = world.table.snapshot().into_iter().map(|who| who.id).find(|id| *id != leader);
    match (other, end) {
        (Some(id), _) => Ok(id),
        // It has left; its id is that of the first user of the second seat.
        (None, End::Finished) => Ok(ParticipantId::from_bits(1 << 22 | 1).unwrap()),
        (None, End::Killed) => Err("who was killed is not in the table".into()),
    }
}

/// The leader makes a cursor, claims, completes one piece and gives back another.
struct Lead;

impl Scenario for Lead {
    type World = World;
    type Doomed = Arc<Member>;

    fn name(&self) -> String {
        "work cursor, create, complete, release".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &[
            "bgworker::cursor::WorkCursor::create",
            "bgworker::cursor::WorkCursor::complete",
            "bgworker::cursor::WorkCursor::release",
        ]
    }

    fn world(&self) -> World {
        World::empty()
    }

    fn prepare(&self, world: &World, _: &Notes) -> Arc<Member> {
        world.table.join().unwrap()
    }

    fn operate(&self, world: &World, me: &mut Arc<Member>, notes: &Notes) {
        let cursor = world.create();
        notes.count(DONE);
        for _ in 0..2 {
            cursor.claim(me).unwrap();
        }
        assert!(cursor.complete(0, me.id()));
        notes.count(DONE);
        assert_eq!(cursor.release(me.id()), 1);
        notes.count(DONE);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        words_from(&world.mapping, AT)
    }

    fn check(&self, world: World, notes: &Notes, end: End) -> Result<(), String> {
        let dead = worker(&world, end)?;
        let done = notes.get(DONE);
        if done == 0 {
            // The place was not published: whoever owns the memory makes it again.
            world.create();
        }
        let back = world.cursor().release(dead);
        if done == 3 && back > 0 {
            return Err(format!("it was told that all was given back, and {back} were not"));
        }
        let rest = world.do_the_rest()?;
        let is_right = match done {
            0 => rest == PIECES,
            1 => rest == PIECES || rest == PIECES - 1,
            _ => rest == PIECES - 1,
        };
        if is_right { Ok(()) } else { Err(format!("after step {done}, {rest} pieces were left")) }
    }
}

#[test]
fn a_worker_may_die_anywhere() {
    Run::new(&Work).kill().passes();
}

#[test]
fn a_leader_may_die_anywhere() {
    Run::new(&Lead).kill().passes();
}
