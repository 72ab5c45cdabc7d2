//! The work cursor: each piece counts once, and none is lost, whoever dies where.
//!
//! Two workers claim and a leader gives back what the dead one held. A result travels to the leader
//! by the join of its thread, as it does by a queue in production. A worker that waits wakes when a
//! piece comes back, and when the leader dies. The accesses on that way are all relaxed, and
//! `no_ordering_is_needed` holds the cursor to that. A result that a worker leaves in shared memory
//! travels by its commit.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use bgworker::cursor::{Claim, PieceState, WorkCursor};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table, process_ends};
use shm_core::process::model::become_process;
use shm_core::sync::{AtomicU32, Ordering};
use shm_testkit::model::thread::JoinHandle;
use shm_testkit::model::{self, Life};
use std::sync::{Arc, Mutex};

const PIECES: u64 = 2;

fn table(slots: u32) -> Table {
    let mapping = Mapping::heap(4096);
    // SAFETY: nobody else has the mapping yet.
    unsafe { Table::create(&mapping, 0, slots) }.unwrap()
}

/// Seats of this process.
fn members<const N: usize>() -> [Arc<Member>; N] {
    let table = table(N as u32);
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

/// A worker: what it has sent, and whether it died.
fn worker(cursor: &WorkCursor, me: &Arc<Member>, life: Life) -> JoinHandle<(Vec<u64>, bool)> {
    let (cursor, me) = (cursor.clone(), me.clone());
    model::thread::spawn(move || {
        let sent = Mutex::new(Vec::new());
        let died = life.run(|| work(&cursor, &me, &sent)).is_none();
        (sent.into_inner().unwrap(), died)
    })
}

/// Two workers, and the leader, which gives back what a dead one held while the other may go on.
/// Who comes later does the rest.
fn a_job([leader, one, other]: [Life; 3]) {
    let cursor = cursor(PIECES);
    let [first, second, late] = members();
    let mut threads = vec![worker(&cursor, &first, one), worker(&cursor, &second, other)];
    let mut counted = Vec::new();
    let mut take = |(sent, died): (Vec<u64>, bool), worker: &Member| {
        for index in sent {
            assert!(cursor.complete(index, worker.id()), "it held what it sent");
            counted.push(index);
        }
        if died {
            cursor.release(worker.id());
        }
    };
    let lived = leader.run(|| {
        take(threads.remove(0).join().unwrap(), &first);
        take(threads.remove(0).join().unwrap(), &second);
        // Where no worker is left, and for what came back too late.
        let sent = Mutex::new(Vec::new());
        work(&cursor, &late, &sent);
        take((sent.into_inner().unwrap(), false), &late);
    });
    for thread in threads {
        thread.join().unwrap();
    }
    if lived.is_some() {
        counted.sort_unstable();
        assert_eq!(counted, (0..PIECES).collect::<Vec<_>>(), "each piece once");
    }
    // The leader's death ends the job, and leaves nothing that cannot be looked at.
    assert_ne!(cursor.claim(&late), Ok(Claim::Finished));
}

/// The leader gives a piece back, or dies, while the one worker left looks for work, or sleeps: it
/// finds the piece, or that the leader has died, or the model hangs.
fn who_waits([leader, survivor]: [Life; 2]) {
    let (cursor, table) = (cursor(1), table(3));
    let me = table.join().unwrap();
    let dead = table.join().unwrap();
    become_process(2);
    let member = table.join().unwrap();
    become_process(1);
    assert_eq!(cursor.claim(&dead), Ok(Claim::Piece(0)));
    let (watch, leaders, theirs) = (member.watch(me.id()), me.process(), cursor.clone());
    let waiting = model::thread::spawn(move || {
        become_process(2);
        survivor.run(|| {
            while theirs.claim(&member) != Ok(Claim::Piece(0)) && !watch.is_dead() {
                theirs.wait_for_work(&watch, None);
            }
        });
        std::mem::forget(member);
    });
    match leader.run(|| cursor.release(dead.id())) {
        Some(back) => assert_eq!(back, 1),
        None => process_ends(&table, leaders),
    }
    waiting.join().unwrap();
    std::mem::forget((me, dead));
}

/// A worker leaves its result in its own word and commits; who looks at the piece meanwhile, be it
/// the leader or another worker, and after its death who does the piece again, counts one result.
fn a_commit([one]: [Life; 1]) {
    let cursor = cursor(1);
    let [first, second] = members();
    let words = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
    let work = |cursor: &WorkCursor, me: &Member, word: &AtomicU32| {
        if let Ok(Claim::Piece(index)) = cursor.claim(me) {
            word.store(1, Ordering::Relaxed);
            assert_eq!(cursor.commit(index, me), Ok(true), "it held the piece");
        }
    };
    let (theirs, me, result) = (cursor.clone(), first.clone(), words.clone());
    let worker = model::thread::spawn(move || one.run(|| work(&theirs, &me, &result[0])).is_none());
    let counted = |by: &Member, word: &AtomicU32| {
        let counts = cursor.state(0) == Some(PieceState::Committed(by.id()));
        counts.then(|| assert_eq!(word.load(Ordering::Relaxed), 1, "it counts, and is not there"));
        counts
    };
    let seen = counted(&first, &words[0]);
    if worker.join().unwrap() {
        let back = cursor.release(first.id());
        assert!(!seen || back == 0, "a piece that counts came back");
        work(&cursor, &second, &words[1]);
    }
    let both = [counted(&first, &words[0]), counted(&second, &words[1])];
    assert!(both[0] != both[1] && (!seen || both[0]), "it counts once, and for good: {both:?}");
}

#[test]
fn a_piece_that_is_committed_counts_once_wherever_its_worker_dies() {
    let bound = model::preemption_bound();
    println!("cursor, commit: {:?}", model::every_death_of(bound, a_commit));
}

#[test]
fn every_ordering_of_a_commit_matters() {
    let found = model::every_ordering_matters(&["bgworker/src/cursor/"], || {
        model::check(|| a_commit([Life::endless()]));
    });
    assert_eq!(found, 2, "the Release, and the Acquire");
}

#[test]
fn whoever_has_a_part_in_a_job_may_die_anywhere() {
    let bound = model::preemption_bound();
    // Three processes: one preemption less than elsewhere.
    println!("cursor, one death: {:?}", model::every_death_of(bound - 1, a_job));
    println!("cursor, two deaths: {:?}", model::every_two_deaths(bound - 2, a_job));
}

/// A worker that claims, another, and the leader: at the full bound, the worker alone dies.
#[test]
fn a_worker_may_die_anywhere() {
    let tried = model::every_death_of(model::preemption_bound(), |[one]: [Life; 1]| {
        a_job([Life::endless(), one, Life::endless()]);
    });
    println!("cursor, a worker: {tried:?}");
}

#[test]
fn a_piece_that_comes_back_wakes_who_waits() {
    let bound = model::preemption_bound();
    println!("cursor, waiting, one death: {:?}", model::every_death_of(bound, who_waits));
    println!("cursor, waiting, two deaths: {:?}", model::every_two_deaths(bound - 1, who_waits));
}

/// The models pass, and the code under them, all but the commit, has no ordering but `Relaxed`.
#[test]
fn no_ordering_is_needed() {
    let met = |files: &[&str]| {
        model::every_ordering_matters(files, || {
            model::check_bounded(Some(1), || a_job(std::array::from_fn(|_| Life::endless())));
            model::check(|| who_waits([Life::endless(), Life::endless()]));
        });
    };
    model::finds("no ordering site met", || met(&["bgworker/src/cursor/"]));
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
