//! Any sequence of claims, completions and releases agrees with a plain vector of states, whatever
//! somebody writes into the hint meanwhile. A forked child claims and commits
//! nothing.
#![cfg(not(any(shm_loom, shm_explore)))]
use bgworker::cursor::{Claim, CursorError, PIECES_MAX, PieceState, WorkCursor};
use proptest::prelude::*;
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, ParticipantId, Table};
use shm_core::process::Forked;
use shm_testkit::child::in_a_fork;
use shm_testkit::depth::cases;
use std::sync::{Arc, LazyLock};

/// Where the hint lies in a cursor.
const HINT_AT: u64 = 24;

#[derive(Debug, Clone, Copy)]
enum Op {
    Claim(u32),
    Complete { piece: u64, worker: u32 },
    Commit { piece: u64, worker: u32 },
    Release(u32),
    Scribble(u64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Piece {
    Free,
    Held(u32),
    Done,
    Committed(u32),
}

impl Piece {
    fn state(self) -> PieceState {
        match self {
            Piece::Free => PieceState::Free,
            Piece::Held(n) => PieceState::Claimed(worker(n)),
            Piece::Done => PieceState::Done,
            Piece::Committed(n) => PieceState::Committed(worker(n)),
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..3u32).prop_map(Op::Claim),
        3 => (0..12u64, 0..3u32).prop_map(|(piece, worker)| Op::Complete { piece, worker }),
        3 => (0..12u64, 0..3u32).prop_map(|(piece, worker)| Op::Commit { piece, worker }),
        1 => (0..3u32).prop_map(Op::Release),
        1 => prop_oneof![0..12u64, any::<u64>()].prop_map(Op::Scribble),
    ]
}

/// Three seats of this process.
static MEMBERS: LazyLock<[Arc<Member>; 3]> = LazyLock::new(|| {
    let mapping = Mapping::heap(Table::bytes_for(3) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 3) }.unwrap();
    std::array::from_fn(|_| table.join().unwrap())
});

fn member(n: u32) -> &'static Member {
    &MEMBERS[n as usize]
}

fn worker(n: u32) -> ParticipantId {
    member(n).id()
}

fn write(mapping: &Mapping, at: u64, word: u64) {
    let address = mapping.region().at::<u64>(at).unwrap();
    // SAFETY: aligned, in bounds, and only this thread has the mapping.
    unsafe { address.write(word) };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(2_000)))]

    #[test]
    fn agrees_with_a_vector(count in 0..10u64, ops in proptest::collection::vec(op(), 0..60)) {
        let mapping = Mapping::heap(WorkCursor::bytes_for(count) as usize);
        // SAFETY: nobody else has the mapping.
        let cursor = unsafe { WorkCursor::create(&mapping, 0, count) }.unwrap();
        let mut plain = vec![Piece::Free; count as usize];
        for op in ops {
            match op {
                Op::Claim(n) => {
                    match cursor.claim(member(n)).unwrap() {
                        Claim::Piece(index) => {
                            let piece = &mut plain[index as usize];
                            prop_assert_eq!(std::mem::replace(piece, Piece::Held(n)), Piece::Free);
                        }
                        other => {
                            prop_assert_eq!(other, Claim::NothingFree);
                            prop_assert!(!plain.contains(&Piece::Free));
                        }
                    }
                }
                Op::Complete { piece, worker: n } => {
                    let holds = plain.get(piece as usize) == Some(&Piece::Held(n));
                    prop_assert_eq!(cursor.complete(piece, worker(n)), holds);
                    if holds {
                        plain[piece as usize] = Piece::Done;
                    }
                }
                Op::Commit { piece, worker: n } => {
                    let holds = plain.get(piece as usize) == Some(&Piece::Held(n));
                    prop_assert_eq!(cursor.commit(piece, member(n)), Ok(holds));
                    if holds {
                        plain[piece as usize] = Piece::Committed(n);
                    }
                }
                Op::Release(n) => {
                    let held = plain.iter_mut().filter(|p| **p == Piece::Held(n));
                    let back = held.map(|p| *p = Piece::Free).count() as u64;
                    prop_assert_eq!(cursor.release(worker(n)), back);
                }
                Op::Scribble(hint) => write(&mapping, HINT_AT, hint),
            }
        }
        for piece in 0..=count {
            let plain = plain.get(piece as usize).map(|piece| piece.state());
            prop_assert_eq!(cursor.state(piece), plain);
        }
        cursor.finish();
        prop_assert_eq!(cursor.claim(member(1)), Ok(Claim::Finished));
    }

    #[test]
    fn any_words_are_a_cursor_or_an_error(words in proptest::collection::vec(any::<u64>(), 64)) {
        let mapping = Mapping::heap(512);
        for (index, word) in words.iter().enumerate() {
            write(&mapping, index as u64 * 8, *word);
        }
        prop_assert_eq!(WorkCursor::attach(&mapping, 0).unwrap_err(), CursorError::NotACursor);
        write(&mapping, 0, u64::from_le_bytes(*b"shmkwork"));
        if let Ok(cursor) = WorkCursor::attach(&mapping, 0) {
            cursor.claim(member(1)).unwrap();
            cursor.release(worker(1));
            cursor.complete(3, worker(1));
            cursor.commit(4, member(1)).unwrap();
            cursor.state(5);
        }
    }
}

#[test]
fn too_many_pieces_are_refused() {
    let mapping = Mapping::heap(4096);
    // SAFETY: nobody else has the mapping.
    let made = unsafe { WorkCursor::create(&mapping, 0, PIECES_MAX + 1) };
    assert_eq!(made.unwrap_err(), CursorError::TooMany { count: PIECES_MAX + 1 });
}

#[test]
fn pieces_are_claimed_in_order_and_a_lost_hint_loses_none() {
    let mapping = Mapping::heap(WorkCursor::bytes_for(4) as usize);
    // SAFETY: nobody else has the mapping.
    let cursor = unsafe { WorkCursor::create(&mapping, 0, 4) }.unwrap();
    for (hint, expected) in [(None, 0), (None, 1), (Some(u64::MAX), 2), (Some(4), 3)] {
        if let Some(hint) = hint {
            write(&mapping, HINT_AT, hint);
        }
        assert_eq!(cursor.claim(member(0)), Ok(Claim::Piece(expected)));
    }
    assert_eq!(cursor.claim(member(0)), Ok(Claim::NothingFree));
}

#[test]
fn a_forked_child_claims_and_commits_nothing() {
    let mapping = Mapping::heap(WorkCursor::bytes_for(1) as usize);
    // SAFETY: nobody else has the mapping.
    let cursor = unsafe { WorkCursor::create(&mapping, 0, 1) }.unwrap();
    let member = member(0);
    let claims = || cursor.claim(member) == Err(Forked);
    assert!(in_a_fork(|| claims() && cursor.commit(0, member) == Err(Forked)));
}
