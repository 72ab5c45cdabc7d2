//! Whatever stands in the words of frames and entries, every call ends, with an error or an answer,
//! and touches nothing else.
#![cfg(not(any(shm_loom, shm_explore)))]
mod frames_common;

use buffer_pool::frames::{Find, FindError, Frames};
use frames_common::{Array, page};
use proptest::prelude::*;
use shm_core::hazard::{Hazards, Protected};
use shm_core::mapping::{MappedSlice, Mapping};
use shm_core::participants::Table;
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_testkit::depth::cases;

const FRAMES: u32 = 3;
const PAGES: u64 = 4;
const WORDS_A_FRAME: usize = 8;

/// Any word, and those that are nearly right.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0..FRAMES + 1, 0_u64..5).prop_map(|(frame, kind)| u64::from(frame) << 32 | kind),
        0_u64..6,
        Just(1 << 22 | 1),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn every_call_ends(
        entries in prop::collection::vec(word(), PAGES as usize),
        frames in prop::collection::vec(word(), FRAMES as usize * WORDS_A_FRAME),
    ) {
        let mapping = Mapping::heap(Table::bytes_for(2) as usize);
        // SAFETY: nobody else has the mapping, here and below.
        let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
        let mapping = Mapping::heap(Hazards::bytes_for(2, 1) as usize);
        // SAFETY: as above.
        let hazards = unsafe { Hazards::create(&mapping, 0, 2, 1) }.unwrap();
        let words = Mapping::heap(Frames::<Array>::entry_bytes_for(PAGES) as usize);
        let array = MappedSlice::<AtomicU64>::new(&words, 0, PAGES).unwrap();
        let mapping = Mapping::heap(Frames::<Array>::bytes_for(FRAMES) as usize);
        let all = MappedSlice::<AtomicU64>::new(&mapping, 0, frames.len() as u64).unwrap();
        array.iter().zip(&entries).for_each(|(word, value)| word.store(*value, Relaxed));
        all.iter().zip(&frames).for_each(|(word, value)| word.store(*value, Relaxed));

        let frames = Frames::attach(&mapping, 0, FRAMES, Array(array), hazards).unwrap();
        let member = table.join().unwrap();
        let user = frames.users(&member).unwrap().user().unwrap();
        let (mut protected, mut free) = (Protected::default(), Vec::new());
        for number in 0..PAGES as u32 + 1 {
            let page = page(number);
            match user.find(page) {
                Ok(Find::Pinned(pin)) => prop_assert!(pin.frame() < FRAMES),
                Ok(Find::Loading { frame }) => {
                    prop_assert!(frame < FRAMES);
                    drop(user.take_over(page, frame));
                }
                Ok(Find::Absent) => {}
                Err(FindError::NoSuchPage(_)) => prop_assert_eq!(u64::from(number), PAGES),
                Err(error) => prop_assert!(matches!(error, FindError::Corrupt(_)), "{error}"),
            }
        }
        user.evict(&[0, 1, 2, 3, u32::MAX], &mut protected, &mut free, |_, _| true).unwrap();
        prop_assert!(free.iter().all(|free| free.frame() < FRAMES));
        for (number, free) in (0..PAGES as u32).zip(free) {
            if let Ok(Ok(loading)) = free.load(page(number)) {
                drop(loading.publish());
            }
        }
        frames.reap(member.id());
    }
}
