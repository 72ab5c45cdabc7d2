//! Real threads use, evict and admit for a fixed time, with a word a frame that says whose it is:
//! no frame is lost, and there is always a victim.
#![cfg(not(any(shm_loom, shm_explore)))]
use buffer_pool::policy::{Batch, Kind, Policy};
use shm_core::mapping::Mapping;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::random;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_millis(700);
const FRAMES: u32 = 1000;
const THREADS: u64 = 4;
/// What a frame's word says while it is in somebody's hands.
const TAKEN: u64 = 1;

#[test]
fn no_frame_is_lost() {
    let seed = random::seed();
    for kind in Kind::ALL {
        let mapping = Mapping::heap(Policy::bytes_for(kind, FRAMES).unwrap() as usize);
        // SAFETY: nobody else has the mapping.
        let policy = unsafe { Policy::create(&mapping, 0, kind, FRAMES) }.unwrap();
        let words: Vec<AtomicU64> = (0..FRAMES).map(|_| AtomicU64::new(0)).collect();
        (0..FRAMES).for_each(|frame| policy.admit(frame, frame.into()));
        let end = Instant::now() + TIME;
        let evict = |policy: &mut Policy, state: &mut u64| {
            let mut batch = Batch::new(16);
            let found = policy.victims(&mut batch, |frame| {
                let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
                let word = &words[frame as usize];
                word.compare_exchange(0, TAKEN, ok, err).is_ok().then_some(frame.into())
            });
            assert_eq!(found, Ok(()), "64 of {FRAMES} frames are taken at most");
            for frame in batch.frames() {
                let word = &words[*frame as usize];
                assert_eq!(word.swap(0, Ordering::Relaxed), TAKEN, "frame {frame} is ours");
                policy.admit(*frame, random::next(state) % 2000);
            }
            batch.frames().len()
        };
        let evicted: usize = std::thread::scope(|scope| {
            let run = |thread: u64| {
                let (mapping, evict) = (&mapping, &evict);
                scope.spawn(move || {
                    let mut policy = Policy::attach(mapping, 0).unwrap();
                    let mut state = seed.wrapping_add(thread << 40) | 1;
                    let mut evicted = 0;
                    while Instant::now() < end {
                        for _ in 0..100 {
                            policy.hit((random::next(&mut state) % u64::from(FRAMES)) as u32);
                        }
                        evicted += evict(&mut policy, &mut state);
                    }
                    evicted
                })
            };
            let threads: Vec<_> = (0..THREADS).map(run).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        let (mut left, mut late) = (BTreeSet::new(), Policy::attach(&mapping, 0).unwrap());
        let mut batch = Batch::new(64);
        while late.victims(&mut batch, |frame| left.insert(frame).then_some(0)).is_ok() {}
        assert_eq!(left.len() as u32, FRAMES, "{kind:?}");
        println!("{}: {evicted} evictions by {THREADS} threads", kind.name());
        assert!(evicted > 1000);
    }
}
