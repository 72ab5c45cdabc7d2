//! The work cursor: each piece counts once, and none is lost, whichever worker dies where.
//!
//! Two workers claim and a leader gives back what the dead one held. A result travels to the leader
//! by the join of its thread, as it does by a queue in production. A worker that waits wakes when a
//! piece comes back. The cursor's accesses are all relaxed, so there is no ordering to weaken.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use bgworker::cursor::{Claim, WorkCursor};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU32, Ordering};
use shm_testkit::model::{self, Deaths};
use std::sync::{Arc, Mutex};

/// Seats of this process.
fn members<const N: usize>() -> [Arc<Member>; N] {
    let mapping = Mapping::heap(4096);
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, N as u32) }.unwrap();
    std::array::from_fn(|_| table.join().unwrap())
}

fn cursor(pieces: u64) -> WorkCursor {
    let mapping = Mapping::heap(4096);
    // SAFETY: nobody else has the mapping yet.
    unsafe { WorkCursor::create(&mapping, 0, pieces) }.unwrap()
}

/// Claims until nothing is free; what it sent to the leader survives it.
fn work(cursor: &WorkCursor, me: &Member, sent: &Mutex<Vec<u64>>) {
    while let Ok(Claim::Piece(index)) = cursor.claim(me) {
        sent.lock().unwrap().push(index);
    }
}

/// A worker that may die at any access, one that lives, and the leader, which releases as soon as
/// the death is certain, while the other goes on claiming.
fn a_worker_dies(fuel: u32, deaths: &Deaths) {
    const PIECES: u64 = 2;
    let cursor = cursor(PIECES);
    let [mortal, survivor] = members();
    let dying = model::thread::spawn({
        let (cursor, deaths, mortal) = (cursor.clone(), deaths.clone(), mortal.clone());
        move || {
            let sent = Mutex::new(Vec::new());
            if model::mortal(fuel, || work(&cursor, &mortal, &sent)).is_none() {
                deaths.died();
            }
            sent.into_inner().unwrap()
        }
    });
    let going_on = model::thread::spawn({
        let (cursor, survivor) = (cursor.clone(), survivor.clone());
        move || {
            let sent = Mutex::new(Vec::new());
            work(&cursor, &survivor, &sent);
            sent.into_inner().unwrap()
        }
    });
    let mut counted = Vec::new();
    for index in dying.join().unwrap() {
        assert!(cursor.complete(index, mortal.id()), "it held what it sent");
        counted.push(index);
    }
    cursor.release(mortal.id());
    for index in going_on.join().unwrap() {
        assert!(cursor.complete(index, survivor.id()), "it held what it sent");
        counted.push(index);
    }
    // What came back too late for the survivor is free for its next round.
    let sent = Mutex::new(Vec::new());
    work(&cursor, &survivor, &sent);
    for index in sent.into_inner().unwrap() {
        assert!(cursor.complete(index, survivor.id()));
        counted.push(index);
    }
    counted.sort_unstable();
    assert_eq!(counted, (0..PIECES).collect::<Vec<_>>(), "each piece once");
    assert_eq!(cursor.claim(&survivor), Ok(Claim::NothingFree));
}

/// The leader gives a piece back while the one worker left looks for work, or sleeps: it finds the
/// piece, or the model hangs.
fn who_waits_finds_what_comes_back() {
    let cursor = cursor(1);
    let [leader, dead, survivor] = members();
    assert_eq!(cursor.claim(&dead), Ok(Claim::Piece(0)));
    let watch = survivor.watch(leader.id());
    let waiting = model::thread::spawn({
        let (cursor, survivor) = (cursor.clone(), survivor.clone());
        move || {
            while cursor.claim(&survivor) != Ok(Claim::Piece(0)) {
                cursor.wait_for_work(&watch, None);
            }
        }
    });
    assert_eq!(cursor.release(dead.id()), 1);
    waiting.join().unwrap();
}

#[test]
fn a_worker_may_die_anywhere() {
    let tried = model::every_death(a_worker_dies);
    println!("cursor: {tried:?}");
    assert!(tried.deaths > 0);
}

#[test]
fn a_piece_that_comes_back_wakes_who_waits() {
    model::check(who_waits_finds_what_comes_back);
}

/// Planted bug: a piece found free is claimed by a store.
#[test]
fn finds_a_piece_that_two_have() {
    model::finds("both have it, or nobody", || {
        model::check(|| {
            let piece = Arc::new(AtomicU32::new(0));
            let claim = |piece: &AtomicU32, me| {
                let free = piece.load(Ordering::Relaxed) == 0;
                if free {
                    piece.store(me, Ordering::Relaxed);
                }
                free
            };
            let theirs = piece.clone();
            let other = model::thread::spawn(move || claim(&theirs, 2));
            let mine = claim(&piece, 1);
            assert!(mine != other.join().unwrap(), "both have it, or nobody");
        });
    });
}

/// Planted bug: a worker that finds nothing from the hint on believes it, and sleeps for good.
#[test]
fn finds_a_hint_that_is_believed() {
    model::finds("free, and nobody will look at it", || {
        model::check(|| {
            // The cursor's words in small: two pieces, of which a dead worker had the first, and
            // the hint. Who claims the second stores a hint past the one that came back.
            let words = Arc::new(([AtomicU32::new(1), AtomicU32::new(0)], AtomicU32::new(1)));
            let theirs = words.clone();
            let worker = model::thread::spawn(move || {
                let (pieces, hint) = &*theirs;
                let from = hint.load(Ordering::Relaxed) as usize;
                let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
                let free = |index: &usize| pieces[*index].compare_exchange(0, 2, ok, err).is_ok();
                if let Some(index) = (from..2).find(free) {
                    hint.store(index as u32 + 1, Ordering::Relaxed);
                }
            });
            let (pieces, hint) = &*words;
            pieces[0].store(0, Ordering::Relaxed);
            hint.store(0, Ordering::Relaxed);
            worker.join().unwrap();
            let from = hint.load(Ordering::Relaxed) as usize;
            let free = |piece: &AtomicU32| piece.load(Ordering::Relaxed) == 0;
            let found = pieces[from..].iter().any(free);
            assert!(found || !pieces.iter().any(free), "free, and nobody will look at it");
        });
    });
}
