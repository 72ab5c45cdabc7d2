//! Any work cursor, and any use of one.
use crate::block::{Lie, guarded, image, member, split};
use arbitrary::{Arbitrary, Unstructured};
use bgworker::cursor::{Claim, PIECES_MAX, WorkCursor};
use std::sync::LazyLock;
use std::time::Instant;

const COUNT: u64 = 16;
const BYTES: usize = WorkCursor::bytes_for(COUNT) as usize;

/// A cursor in the middle of its job.
static IMAGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    image(BYTES, |mapping| {
        // SAFETY: nobody else has the mapping.
        let cursor = unsafe { WorkCursor::create(mapping, 0, COUNT) }.expect("a cursor");
        for _ in 0..COUNT / 2 {
            if let Ok(Claim::Piece(piece)) = cursor.claim(member(0)) {
                cursor.complete(piece & !1, member(0).id());
            }
        }
    })
});

/// Every call on a cursor that is valid but for the input's lies.
pub fn cursor(bytes: &[u8]) {
    let (how, bytes) = split(bytes);
    let (block, mapping) = guarded(&IMAGE, bytes, how & 1 == 1);
    let Ok(cursor) = WorkCursor::attach(&mapping, 0) else { return };
    assert!(cursor.count() <= COUNT);
    let (worker, leader) = (member(0), member(1));
    for _ in 0..4 {
        if let Ok(Claim::Piece(piece)) = cursor.claim(worker) {
            assert!(piece < cursor.count());
            cursor.complete(piece, worker.id());
        }
    }
    for piece in [0, COUNT, PIECES_MAX, u64::MAX] {
        cursor.complete(piece, leader.id());
    }
    cursor.wait_for_work(&worker.watch(leader.id()), Some(Instant::now()));
    assert!(cursor.release(worker.id()) <= cursor.count());
    cursor.finish();
    assert!(block.is_intact());
}

#[derive(Arbitrary, Debug)]
enum Op {
    Claim {
        who: u8,
    },
    Complete {
        piece: u8,
        who: u8,
    },
    /// As the leader does once it knows that the worker is dead.
    GiveBack {
        who: u8,
    },
    Finish,
    Lie(Lie),
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Piece {
    Free,
    Held(usize),
    Done,
}

/// Claims, completes and gives back as a plain vector of states does, until the first lie.
pub fn cursor_ops(bytes: &[u8]) {
    let (block, mapping) = guarded(&[0; BYTES], &[], false);
    // SAFETY: nobody else has the mapping.
    let cursor = unsafe { WorkCursor::create(&mapping, 0, COUNT) }.expect("a cursor");
    let mut plain = vec![Piece::Free; COUNT as usize];
    let (mut honest, mut finished) = (true, false);
    for op in Unstructured::new(bytes).arbitrary_iter::<Op>().into_iter().flatten() {
        let Ok(op) = op else { break };
        match op {
            Op::Claim { who } => {
                let who = usize::from(who % 3);
                let claim = cursor.claim(member(who)).expect("not forked");
                if let Claim::Piece(piece) = claim {
                    assert!(piece < COUNT);
                    let state = &mut plain[piece as usize];
                    assert!(!honest || (!finished && *state == Piece::Free));
                    *state = Piece::Held(who);
                } else if honest {
                    assert_eq!(claim == Claim::Finished, finished);
                    assert!(finished || !plain.contains(&Piece::Free));
                }
            }
            Op::Complete { piece, who } => {
                let (piece, who) = (u64::from(piece % 20), usize::from(who % 3));
                let counts = cursor.complete(piece, member(who).id());
                let held = plain.get(piece as usize) == Some(&Piece::Held(who));
                assert!(!honest || counts == held);
                if counts {
                    plain[piece as usize] = Piece::Done;
                }
            }
            Op::GiveBack { who } => {
                let who = usize::from(who % 3);
                let held = plain.iter_mut().filter(|piece| **piece == Piece::Held(who));
                let count = held.map(|piece| *piece = Piece::Free).count();
                let back = cursor.release(member(who).id());
                assert!(if honest { back == count as u64 } else { back <= COUNT });
            }
            Op::Finish => {
                cursor.finish();
                finished = true;
            }
            Op::Lie(lie) => {
                lie.tell(&block.outside());
                honest = false;
            }
        }
    }
    assert!(block.is_intact());
}
