//! Any sequence of claims, completions and releases agrees with a plain vector of states.
use bgworker::cursor::{Claim, CursorError, PIECES_MAX, WorkCursor};
use proptest::prelude::*;
use shm_core::mapping::Mapping;
use shm_core::participants::ParticipantId;

#[derive(Debug, Clone, Copy)]
enum Op {
    Claim(u32),
    Complete { piece: u64, worker: u32 },
    Release(u32),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Piece {
    Free,
    Held(u32),
    Done,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1..4u32).prop_map(Op::Claim),
        3 => (0..12u64, 1..4u32).prop_map(|(piece, worker)| Op::Complete { piece, worker }),
        1 => (1..4u32).prop_map(Op::Release),
    ]
}

fn worker(n: u32) -> ParticipantId {
    ParticipantId::from_bits(n << 22 | 1).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn agrees_with_a_vector(count in 0..10u64, ops in proptest::collection::vec(op(), 0..60)) {
        let mapping = Mapping::heap(WorkCursor::bytes_for(count) as usize);
        // SAFETY: nobody else has the mapping.
        let cursor = unsafe { WorkCursor::create(&mapping, 0, count) }.unwrap();
        let mut plain = vec![Piece::Free; count as usize];
        for op in ops {
            match op {
                Op::Claim(n) => {
                    let first = plain.iter().position(|p| *p == Piece::Free);
                    let expected = first.map_or(Claim::NothingFree, |i| Claim::Piece(i as u64));
                    prop_assert_eq!(cursor.claim(worker(n)), expected);
                    if let Some(i) = first {
                        plain[i] = Piece::Held(n);
                    }
                }
                Op::Complete { piece, worker: n } => {
                    let holds = plain.get(piece as usize) == Some(&Piece::Held(n));
                    prop_assert_eq!(cursor.complete(piece, worker(n)), holds);
                    if holds {
                        plain[piece as usize] = Piece::Done;
                    }
                }
                Op::Release(n) => {
                    let held = plain.iter_mut().filter(|p| **p == Piece::Held(n));
                    let back = held.map(|p| *p = Piece::Free).count() as u64;
                    prop_assert_eq!(cursor.release(worker(n)), back);
                }
            }
        }
        cursor.finish();
        prop_assert_eq!(cursor.claim(worker(1)), Claim::Finished);
    }

    #[test]
    fn any_words_are_a_cursor_or_an_error(words in proptest::collection::vec(any::<u64>(), 64)) {
        let mapping = Mapping::heap(512);
        for (index, word) in words.iter().enumerate() {
            let at = mapping.region().at::<u64>(index as u64 * 8).unwrap();
            // SAFETY: aligned, in bounds, and nobody else has the mapping.
            unsafe { at.write(*word) };
        }
        let magic = mapping.region().at::<u64>(0).unwrap();
        prop_assert_eq!(WorkCursor::attach(&mapping, 0).unwrap_err(), CursorError::NotACursor);
        // SAFETY: as above.
        unsafe { magic.write(u64::from_le_bytes(*b"shmkwork")) };
        if let Ok(cursor) = WorkCursor::attach(&mapping, 0) {
            cursor.claim(worker(1));
            cursor.release(worker(1));
            cursor.complete(3, worker(1));
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
