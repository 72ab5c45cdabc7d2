//! The policies that ship do what plain models do: `clock5`, alone, evicts the very frames that
//! PostgreSQL's clock does; both reach the hit ratios that they are there for. Whatever stands in
//! the words, a batch has frames that there are, none twice, and each call ends.
#![cfg(not(any(shm_loom, shm_explore)))]
use buffer_pool::policy::{Batch, Kind, NoUnpinned, Policy};
use buffer_pool::simulate::{Pattern, Trace, clock5, generate, lru, optimum, shipping, victims_of};
use proptest::prelude::*;
use shm_core::mapping::Mapping;
use shm_testkit::depth::cases;
use std::collections::BTreeSet;
use std::sync::Arc;

fn made(kind: Kind, frames: u32) -> (Arc<Mapping>, Policy) {
    let mapping = Mapping::heap(Policy::bytes_for(kind, frames).unwrap() as usize);
    // SAFETY: nobody else has the mapping.
    let policy = unsafe { Policy::create(&mapping, 0, kind, frames) }.unwrap();
    (mapping, policy)
}

fn write(mapping: &Mapping, at: u64, word: u64) {
    let address = mapping.region().at::<u64>(at).unwrap();
    // SAFETY: aligned, in bounds, and only this thread has the mapping.
    unsafe { address.write(word) };
}

/// Where the counters are.
const HAND: u64 = 128;
const TAIL: u64 = 256;
const HEAD: u64 = 384;

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Clock5), Just(Kind::Probation)]
}

/// A counter near its beginning, anywhere, or near its end.
fn counter() -> impl Strategy<Value = u64> {
    prop_oneof![0..400u64, any::<u64>(), u64::MAX - 200..=u64::MAX]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(300)))]

    #[test]
    fn clock5_evicts_what_an_exact_clock_does(
        accesses in proptest::collection::vec(0..60u32, 0..800),
        frames in 1..200u32,
    ) {
        let trace = Trace::new(accesses);
        let (mut plain, mut shipped) = (Vec::new(), Vec::new());
        let expected = clock5(&trace, frames, |frame| plain.push(frame));
        let outcome = victims_of(&trace, Kind::Clock5, frames, 1, |frame| shipped.push(frame));
        prop_assert_eq!(outcome, Ok(expected));
        prop_assert_eq!(shipped, plain);
    }

    #[test]
    fn nothing_beats_the_optimum(
        accesses in proptest::collection::vec(0..60u32, 0..800),
        frames in 1..70u32,
        batch in 1..20usize,
        kind in kind(),
    ) {
        let trace = Trace::new(accesses);
        let outcome = shipping(&trace, kind, frames, batch).unwrap();
        prop_assert!(outcome.hits <= optimum(&trace, frames).hits);
    }

    /// And what it refuses it gets no victim of.
    #[test]
    fn any_words_give_frames_that_there_are(
        kind in kind(),
        frames in 1..150u32,
        words in proptest::collection::vec(any::<u64>(), 200),
        ends in proptest::collection::vec(counter(), 3),
        pinned in proptest::collection::btree_set(0..150u32, 0..150),
        room in 1..70usize,
    ) {
        let (mapping, mut policy) = made(kind, frames);
        for (at, word) in (512..mapping.len() as u64).step_by(8).zip(words.iter().cycle()) {
            if at + 8 <= mapping.len() as u64 {
                write(&mapping, at, *word);
            }
        }
        for (at, word) in [HAND, TAIL, HEAD].into_iter().zip(&ends) {
            write(&mapping, at, *word);
        }
        let mut batch = Batch::new(room);
        for round in 0..6 {
            let found = policy.victims(&mut batch, |frame| {
                (!pinned.contains(&frame)).then_some(u64::from(frame))
            });
            let all: BTreeSet<u32> = batch.frames().iter().copied().collect();
            prop_assert_eq!(all.len(), batch.frames().len(), "a frame twice");
            prop_assert!(all.iter().all(|frame| *frame < frames && !pinned.contains(frame)));
            let is_any_free = (0..frames).any(|frame| !pinned.contains(&frame));
            prop_assert_eq!(found, if is_any_free { Ok(()) } else { Err(NoUnpinned) });
            for frame in batch.frames() {
                policy.admit(*frame, round * 1000 + u64::from(*frame));
                policy.hit(*frame);
            }
            policy.hit(u32::MAX);
            policy.admit(u32::MAX, 1);
            policy.keep(u32::MAX);
        }
    }
}

#[test]
fn a_pool_in_which_all_is_pinned_has_no_victim() {
    for kind in Kind::ALL {
        for frames in [1, 7, 64, 300] {
            let (_mapping, mut policy) = made(kind, frames);
            for frame in 0..frames {
                policy.admit(frame, frame.into());
                policy.hit(frame);
            }
            let mut batch = Batch::new(64);
            assert_eq!(policy.victims(&mut batch, |_| None), Err(NoUnpinned), "{kind:?}, {frames}");
            let only = frames / 2;
            let found = policy.victims(&mut batch, |frame| (frame == only).then_some(1));
            assert_eq!((found, batch.frames()), (Ok(()), &[only][..]), "{kind:?}, {frames}");
        }
    }
}

/// The counters end: the hand at 2^64 goes on, with each frame met once a pass but for one jump.
#[test]
fn what_is_used_aside_counts_once_and_stays_out_of_the_ring() {
    for kind in Kind::ALL {
        let (_mapping, mut policy) = made(kind, 40);
        (0..30).for_each(|frame| policy.admit_aside(frame));
        (30..40).for_each(|frame| policy.admit(frame, frame.into()));
        for _ in 0..3 {
            (0..41).for_each(|frame| policy.hit_aside(frame));
        }
        assert!((0..30).all(|frame| policy.use_count(frame) == Some(1)), "{kind:?}");
        let in_ring = if kind == Kind::Clock5 { 0 } else { 10 };
        assert_eq!(policy.next_of_ring().count(), in_ring);
        assert_eq!(policy.use_counts()[6], in_ring as u32);
        // A use by others is told from that one.
        policy.hit(7);
        assert_eq!(policy.use_count(7), Some(2));
        // The first pass of the hand takes the one away, the next use brings it back.
        let mut batch = Batch::new(1);
        while policy.use_count(3) == Some(1) {
            policy.victims(&mut batch, |frame| (frame == 29).then_some(29)).unwrap();
        }
        policy.hit_aside(3);
        assert_eq!(policy.use_count(3), Some(1));
    }
}

#[test]
fn the_hand_and_the_ring_go_on_at_the_end_of_their_numbers() {
    for kind in Kind::ALL {
        let (mapping, _) = made(kind, 100);
        for at in [HAND, TAIL, HEAD] {
            write(&mapping, at, u64::MAX - 70);
        }
        let mut policy = Policy::attach(&mapping, 0).unwrap();
        let mut batch = Batch::new(1);
        for frame in 0..100 {
            policy.admit(frame, frame.into());
        }
        let mut met = BTreeSet::new();
        for tag in 1000..3000 {
            policy.victims(&mut batch, |frame| Some(frame.into())).unwrap();
            let frame = batch.frames()[0];
            met.insert(frame);
            policy.admit(frame, tag);
        }
        assert_eq!(met.len(), 100, "{kind:?}");
    }
}

/// A tenth of the pages fit. In points of a hundred.
#[test]
fn the_hit_ratios_are_what_they_should_be() {
    let patterns = [Pattern::Zipf(0.99), Pattern::Drift, Pattern::ZipfScans];
    for pattern in patterns {
        let trace = generate(pattern, 50_000, 500_000, 1);
        let frames = trace.frames(10.0);
        let run = |kind, batch| shipping(&trace, kind, frames, batch).unwrap().percent();
        let exact = clock5(&trace, frames, |_| {}).percent();
        let lru = lru(&trace, frames).percent();
        for batch in [1, 64] {
            let [clock, probation] = Kind::ALL.map(|kind| run(kind, batch));
            println!("{pattern:?}: lru {lru:.2} exact {exact:.2} {clock:.2} {probation:.2}");
            assert!((clock - exact).abs() <= 0.5, "{pattern:?}: {clock}, exactly {exact}");
            let less = if pattern == Pattern::Drift { 1.0 } else { 0.0 };
            assert!(probation > exact.max(lru) - less, "{pattern:?}: {probation}, {exact}, {lru}");
        }
    }
}
