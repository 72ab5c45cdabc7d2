//! Whatever workers do in whatever order, and whichever of them die where, the shares that count
//! are those of each chunk once.
use super::*;
use crate::agg::decimal::Decimal;
use crate::agg::groups::Groups;
use crate::agg::tally::Tally;
use bgworker::cursor::{Claim, WorkCursor};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use std::collections::HashMap;
use std::sync::Arc;

const SHAPE: Shape = Shape { keys: 1, tallies: 1 };
const WORKERS: usize = 3;
const CHUNKS: u64 = 6;
const KEYS: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];

/// The groups of a chunk: every chunk has some in common with others.
fn groups_of(chunk: u64) -> Groups {
    let mut groups = Groups::new(SHAPE);
    for (n, key) in (0..).zip(KEYS) {
        if chunk >> (n % 3) & 1 == 0 {
            let (number, scale) = Decimal::parse(format!("{chunk}.{n}").as_bytes()).unwrap();
            groups.add_record(key).unwrap()[0].add(number, scale);
        }
    }
    groups
}

#[derive(Clone, Copy, Debug)]
enum Op {
    /// The worker takes its next step.
    Step(usize),
    /// It dies; the leader gives back what it held, and starts another.
    Kill(usize),
    /// It cannot use the hash any more, and sends the groups of its chunk.
    Send(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let worker = || 0..WORKERS;
    prop_oneof![
        20 => worker().prop_map(Op::Step),
        1 => worker().prop_map(Op::Kill),
        1 => worker().prop_map(Op::Send),
    ]
}

/// Where a worker is.
enum At {
    Idle,
    /// Its chunk, the groups to be added yet, and what it has read of the last one's value.
    Adding(u64, Vec<(Vec<u8>, Group)>, Option<Read>),
    Committing(u64),
}

/// A value as it was, and as it is to be.
struct Read {
    had: Option<Vec<u8>>,
    next: Vec<u8>,
}

struct World {
    table: Table,
    cursor: WorkCursor,
    /// The shared hash.
    hash: HashMap<Vec<u8>, Vec<u8>>,
    workers: Vec<(Arc<Member>, At)>,
    /// What came as messages.
    answer: Groups,
    commits_early: bool,
}

impl World {
    fn new(commits_early: bool) -> World {
        let seats = Mapping::heap(Table::bytes_for(WORKERS as u32) as usize);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&seats, 0, WORKERS as u32) }.unwrap();
        let mapping = Mapping::heap(WorkCursor::bytes_for(CHUNKS) as usize);
        // SAFETY: as above.
        let cursor = unsafe { WorkCursor::create(&mapping, 0, CHUNKS) }.unwrap();
        let workers = (0..WORKERS).map(|_| (table.join().unwrap(), At::Idle)).collect();
        let (hash, answer) = (HashMap::new(), Groups::new(SHAPE));
        World { table, cursor, hash, workers, answer, commits_early }
    }

    /// Takes a step; `false` where there is nothing to be done.
    fn step(&mut self, worker: usize) -> bool {
        let (member, at) = &mut self.workers[worker];
        match at {
            At::Idle => {
                let Claim::Piece(chunk) = self.cursor.claim(member).unwrap() else { return false };
                let groups = groups_of(chunk);
                let groups = groups.iter().map(|(key, group)| (key.to_vec(), group.clone()));
                *at = At::Adding(chunk, groups.collect(), None);
                if self.commits_early {
                    self.cursor.commit(chunk, member).unwrap();
                }
            }
            At::Adding(chunk, groups, read) => match (read.take(), groups.last()) {
                (_, None) => *at = At::Committing(*chunk),
                (None, Some((key, group))) => {
                    let had = self.hash.get(key).cloned();
                    let owner = Owner { worker: member.id(), chunk: *chunk };
                    let (state, mut next) = (|chunk| self.cursor.state(chunk), Vec::new());
                    let bytes = had.as_deref().unwrap_or_default();
                    fold(SHAPE, bytes, state, (owner, group), &mut next).unwrap();
                    *read = Some(Read { had, next });
                }
                (Some(Read { had, next }), Some((key, _))) => {
                    if self.hash.get(key) == had.as_ref() {
                        self.hash.insert(key.clone(), next);
                        groups.pop();
                    }
                }
            },
            At::Committing(chunk) => {
                assert!(self.cursor.commit(*chunk, member).unwrap() || self.commits_early);
                *at = At::Idle;
            }
        }
        true
    }

    fn kill(&mut self, worker: usize) {
        let (member, _) = self.workers.remove(worker);
        let dead = member.id();
        self.cursor.release(dead);
        // It leaves its seat, which the next one takes, under another id.
        drop(member);
        self.workers.insert(worker, (self.table.join().unwrap(), At::Idle));
        assert_ne!(self.workers[worker].0.id(), dead);
    }

    fn send(&mut self, worker: usize) {
        let (member, at) = &mut self.workers[worker];
        let (At::Adding(chunk, ..) | At::Committing(chunk)) = *at else { return };
        *at = At::Idle;
        if self.cursor.complete(chunk, member.id()) {
            self.answer.merge(groups_of(chunk)).unwrap();
        }
    }

    /// All chunks are done, and this is the answer.
    fn end(mut self) -> Groups {
        while (0..WORKERS).any(|worker| self.step(worker)) {}
        for (key, value) in &self.hash {
            assert!(value.len() <= (WORKERS + 1) * 64, "more shares than workers");
            if let Some(group) = total(SHAPE, value, |chunk| self.cursor.state(chunk)).unwrap() {
                self.answer.merge_group(key, group).unwrap();
            }
        }
        self.answer
    }
}

fn expected() -> Groups {
    let mut all = Groups::new(SHAPE);
    (0..CHUNKS).for_each(|chunk| all.merge(groups_of(chunk)).unwrap());
    all
}

fn answer(ops: &[Op], commits_early: bool) -> Groups {
    let mut world = World::new(commits_early);
    for op in ops {
        match *op {
            Op::Step(worker) => _ = world.step(worker),
            Op::Kill(worker) => world.kill(worker),
            Op::Send(worker) => world.send(worker),
        }
    }
    world.end()
}

fn runner() -> TestRunner {
    let is_deep = std::env::var("SHM_DEEP").as_deref() == Ok("1");
    let cases = if is_deep { 10_000 } else { 64 };
    TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(cases) })
}

#[test]
fn each_chunk_counts_once_whoever_dies_where() {
    let ops = proptest::collection::vec(op(), 0..150);
    let test = |ops: Vec<Op>| {
        prop_assert_eq!(answer(&ops, false), expected());
        Ok(())
    };
    runner().run(&ops, test).unwrap();
}

/// Planted bug: the chunk is committed before all its shares are there.
#[test]
fn finds_a_commit_before_its_shares() {
    let ops = proptest::collection::vec(op(), 0..150);
    let test = |ops: Vec<Op>| {
        prop_assert_eq!(answer(&ops, true), expected());
        Ok(())
    };
    assert!(runner().run(&ops, test).is_err(), "the planted bug went unnoticed");
}

#[test]
fn nonsense_is_an_error_or_a_value() {
    let bytes = proptest::collection::vec(any::<u8>(), 0..300);
    let state = |chunk| if chunk % 2 == 0 { Some(PieceState::Done) } else { None };
    let test = |(mut bytes, at, owner): (Vec<u8>, prop::sample::Index, u64)| {
        let _ = total(SHAPE, &bytes, state);
        // A value, damaged.
        let mut value = Vec::new();
        let group = groups_of(0).iter().next().unwrap().1.clone();
        push(owner, &group, &mut value);
        push(SETTLED, &group, &mut value);
        if let Some(byte) = bytes.pop() {
            let at = at.index(value.len());
            value[at] = byte;
        }
        let _ = total(SHAPE, &value, state);
        Ok(())
    };
    runner().run(&(bytes, any::<prop::sample::Index>(), any::<u64>()), test).unwrap();
}

#[test]
fn a_group_of_too_many_rows_is_refused() {
    let mut value = Vec::new();
    let tallies = vec![Tally::default()].into_boxed_slice();
    let group = Group { rows: ROWS_MAX, tallies };
    push(SETTLED, &group, &mut value);
    assert_eq!(total(SHAPE, &value, |_| None), Ok(Some(group.clone())));
    push(SETTLED, &group, &mut value);
    assert!(total(SHAPE, &value, |_| None).is_err());
}
