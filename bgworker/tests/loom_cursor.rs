//! The work cursor: each piece counts once, and none is lost, whichever worker dies where.
//!
//! Two workers claim and a leader gives back what the dead one held. A result travels to the leader
//! by the join of its thread, as it does by a queue in production. What a wake-up could lose is the
//! event count's own model.
#![cfg(shm_loom)]
use bgworker::cursor::{Claim, WorkCursor};
use shm_core::mapping::Mapping;
use shm_core::participants::ParticipantId;
use shm_core::sync::model::{self, Deaths};
use shm_core::sync::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

fn worker_id(n: u32) -> ParticipantId {
    ParticipantId::from_bits(n << 22 | 1).unwrap()
}

fn cursor(pieces: u64) -> WorkCursor {
    let mapping = Mapping::heap(4096);
    // SAFETY: nobody else has the mapping yet.
    unsafe { WorkCursor::create(&mapping, 0, pieces) }.unwrap()
}

/// Claims until nothing is free; what it sent to the leader survives it.
fn work(cursor: &WorkCursor, me: ParticipantId, sent: &Mutex<Vec<u64>>) {
    while let Claim::Piece(index) = cursor.claim(me) {
        sent.lock().unwrap().push(index);
    }
}

/// A worker that may die at any access, one that lives, and the leader, which releases as soon as
/// the death is certain, while the other goes on claiming.
fn a_worker_dies(fuel: u32, deaths: &Deaths) {
    const PIECES: u64 = 2;
    let cursor = cursor(PIECES);
    let (mortal, survivor) = (worker_id(1), worker_id(2));
    let dying = loom::thread::spawn({
        let (cursor, deaths) = (cursor.clone(), deaths.clone());
        move || {
            let sent = Mutex::new(Vec::new());
            if model::mortal(fuel, || work(&cursor, mortal, &sent)).is_none() {
                deaths.died();
            }
            sent.into_inner().unwrap()
        }
    });
    let going_on = loom::thread::spawn({
        let cursor = cursor.clone();
        move || {
            let sent = Mutex::new(Vec::new());
            work(&cursor, survivor, &sent);
            sent.into_inner().unwrap()
        }
    });
    let mut counted = Vec::new();
    for index in dying.join().unwrap() {
        assert!(cursor.complete(index, mortal), "it held what it sent");
        counted.push(index);
    }
    cursor.release(mortal);
    for index in going_on.join().unwrap() {
        assert!(cursor.complete(index, survivor), "it held what it sent");
        counted.push(index);
    }
    // What came back too late for the survivor is free for its next round.
    let sent = Mutex::new(Vec::new());
    work(&cursor, survivor, &sent);
    for index in sent.into_inner().unwrap() {
        assert!(cursor.complete(index, survivor));
        counted.push(index);
    }
    counted.sort_unstable();
    assert_eq!(counted, (0..PIECES).collect::<Vec<_>>(), "each piece once");
    assert_eq!(cursor.claim(survivor), Claim::NothingFree);
}

/// The leader gives a piece back and says so by a flag (an event's word in production): who sees
/// the flag finds the piece.
fn who_is_told_finds_it() {
    let cursor = cursor(1);
    let (dead, survivor) = (worker_id(1), worker_id(2));
    assert_eq!(cursor.claim(dead), Claim::Piece(0));
    let told = Arc::new(AtomicU32::new(0));
    let claimer = loom::thread::spawn({
        let (cursor, told) = (cursor.clone(), told.clone());
        move || {
            let early = cursor.claim(survivor);
            // Acquire: the event's fence, in production.
            let was_told = told.load(Ordering::Acquire) == 1;
            match early {
                Claim::Piece(_) => true,
                _ if was_told => cursor.claim(survivor) == Claim::Piece(0),
                _ => true,
            }
        }
    });
    assert_eq!(cursor.release(dead), 1);
    told.store(1, Ordering::Release);
    assert!(claimer.join().unwrap(), "told of work, and found none");
}

#[test]
fn a_worker_may_die_anywhere() {
    let tried = model::every_death(a_worker_dies);
    println!("cursor: {tried:?}");
    assert!(tried.deaths > 0);
}

#[test]
fn each_ordering_matters() {
    let found = model::every_ordering_matters(&["bgworker/src/cursor/"], || {
        model::check(who_is_told_finds_it);
    });
    assert_eq!(found, 2, "the hint, up and down");
}

/// Planted bug: the hint goes down without a new epoch.
#[test]
fn finds_a_hint_that_slips_past_a_piece_given_back() {
    model::finds("free, and nobody will look at it", || {
        model::check(|| {
            // The cursor's words in small: one piece, one hint.
            let words = Arc::new((AtomicU32::new(1), AtomicU32::new(0)));
            let theirs = words.clone();
            let worker = loom::thread::spawn(move || {
                let (piece, hint) = &*theirs;
                let seen = hint.load(Ordering::Acquire);
                let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
                let won = seen == 0 && piece.compare_exchange(0, 2, ok, err).is_ok();
                let _ = hint.compare_exchange(seen, seen + 1, ok, err);
                won
            });
            let (piece, hint) = &*words;
            piece.store(0, Ordering::Relaxed);
            let seen = hint.load(Ordering::Relaxed);
            if seen > 0 {
                let _ = hint.compare_exchange(seen, 0, Ordering::Release, Ordering::Relaxed);
            }
            let won = worker.join().unwrap();
            assert!(won || hint.load(Ordering::Acquire) == 0, "free, and nobody will look at it");
        });
    });
}
