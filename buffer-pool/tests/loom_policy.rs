//! The words of a policy under every interleaving: parts of the hand's way are taken by one, no use
//! of a neighbour is undone, and a frame leaves the ring once. All of it is relaxed.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use buffer_pool::policy::{Batch, Kind, Policy};
use shm_core::mapping::Mapping;
use shm_testkit::model::{self, Life};
use std::sync::{Arc, Mutex};

const FRAMES: u32 = 3;

fn created(kind: Kind) -> Arc<Mapping> {
    let mapping = Mapping::heap(16384);
    // SAFETY: nobody else has the mapping yet.
    unsafe { Policy::create(&mapping, 0, kind, FRAMES) }.unwrap();
    mapping
}

/// Two take a victim each, while each may die; whoever comes later finds all frames.
fn two_look_for_victims(kind: Kind, lives: [Life; 2]) {
    let mapping = created(kind);
    let policy = Policy::attach(&mapping, 0).unwrap();
    for frame in 0..FRAMES {
        policy.admit(frame, frame.into());
    }
    // The pool's own words, which say whose a frame is.
    let taken = Arc::new(Mutex::new(Vec::new()));
    let look = |mapping: Arc<Mapping>, taken: Arc<Mutex<Vec<u32>>>, life: Life| {
        let mut policy = Policy::attach(&mapping, 0).unwrap();
        life.run(|| {
            let found = policy.victims(&mut Batch::new(1), |frame| {
                let mut taken = taken.lock().unwrap();
                let is_free = !taken.contains(&frame);
                is_free.then(|| {
                    taken.push(frame);
                    u64::from(frame)
                })
            });
            assert_eq!(found, Ok(()));
        });
    };
    let [one, other] = lives;
    let (theirs, also) = (mapping.clone(), taken.clone());
    let thread = model::thread::spawn(move || look(theirs, also, other));
    look(mapping.clone(), taken.clone(), one);
    thread.join().unwrap();
    let mut rest = taken.lock().unwrap().clone();
    let mut late = Policy::attach(&mapping, 0).unwrap();
    while late
        .victims(&mut Batch::new(1), |frame| {
            (!rest.contains(&frame)).then(|| rest.push(frame)).map(|()| 0)
        })
        .is_ok()
    {}
    rest.sort_unstable();
    assert_eq!(rest, [0, 1, 2], "a frame was lost");
}

#[test]
fn a_clock_loses_no_frame_wherever_who_looks_dies() {
    let bound = model::preemption_bound();
    let tried = model::every_death_of(bound, |[one]: [Life; 1]| {
        two_look_for_victims(Kind::Clock5, [Life::endless(), one]);
    });
    println!("policy, clock: {tried:?}");
}

#[test]
fn a_ring_loses_no_frame_wherever_who_looks_dies() {
    let bound = model::preemption_bound();
    let tried = model::every_death_of(bound, |[one]: [Life; 1]| {
        two_look_for_victims(Kind::Probation, [Life::endless(), one]);
    });
    println!("policy, ring: {tried:?}");
}

/// Two use neighbours in the same word: neither use is undone.
#[test]
fn a_use_does_not_undo_a_neighbours() {
    model::check(|| {
        let mapping = created(Kind::Clock5);
        let theirs = mapping.clone();
        let thread = model::thread::spawn(move || Policy::attach(&theirs, 0).unwrap().hit(0));
        let policy = Policy::attach(&mapping, 0).unwrap();
        policy.hit(1);
        thread.join().unwrap();
        assert_eq!(policy.use_counts(), [1, 2, 0, 0, 0, 0, 0]);
    });
}

#[test]
fn no_ordering_is_needed() {
    model::finds("no ordering site met", || {
        model::every_ordering_matters(&["buffer-pool/src/policy/"], || {
            model::check_bounded(Some(1), || {
                two_look_for_victims(Kind::Probation, [Life::endless(), Life::endless()]);
            });
        });
    });
}
