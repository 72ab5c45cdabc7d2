//! Any sequence of finding, keeping, letting go, reading in and evicting agrees with a plain model:
//!
//! 1. A page is found exactly where it was read in, until it was evicted.
//! 2. What is pinned, being read, or may not go is not evicted; all else is.
//! 3. No two pages are in one frame, and no frame is lost.
#![cfg(not(any(shm_loom, shm_explore)))]
mod frames_common;

use buffer_pool::frames::{Entries, Find, Frames, Free, Loading, PageId, Pin, User};
use frames_common::{Array, page};
use proptest::prelude::*;
use shm_core::hazard::{Hazards, Protected};
use shm_core::mapping::{MappedSlice, Mapping};
use shm_core::participants::Table;
use shm_core::sync::{AtomicU32, AtomicU64, Ordering::Relaxed};
use shm_testkit::depth::cases;
use std::collections::BTreeMap;
use std::sync::Arc;

const FRAMES: u32 = 4;
const PAGES: u64 = 6;
/// As many pins as one thread has.
const PINS_MAX: usize = 8;

fn user() -> User<Array> {
    let mapping = Mapping::heap(Table::bytes_for(1) as usize);
    // SAFETY: nobody else has the mapping, here and below.
    let table = unsafe { Table::create(&mapping, 0, 1) }.unwrap();
    let mapping = Mapping::heap(Hazards::bytes_for(1, 1) as usize);
    // SAFETY: as above.
    let hazards = unsafe { Hazards::create(&mapping, 0, 1, 1) }.unwrap();
    let words = Mapping::heap(Frames::<Array>::entry_bytes_for(PAGES) as usize);
    // SAFETY: as above.
    unsafe { Frames::<Array>::create_entries(&words, 0, PAGES) }.unwrap();
    let entries = Array(MappedSlice::new(&words, 0, PAGES).unwrap());
    let mapping = Mapping::heap(Frames::<Array>::bytes_for(FRAMES) as usize);
    // SAFETY: as above.
    unsafe { Frames::<Array>::create(&mapping, 0, FRAMES) }.unwrap();
    let frames = Frames::attach(&mapping, 0, FRAMES, entries, hazards).unwrap();
    frames.users(&table.join().unwrap()).unwrap().user().unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    /// Looks for a page, and keeps the pin.
    Find(u32),
    /// Lets go of a pin.
    Unpin(usize),
    /// Begins to read a page into a frame that is free.
    Load(u32),
    /// What is being read is there, or could not be read.
    Finish(usize, bool),
    /// Would have these frames; of the pages these may go.
    Evict(Vec<u32>, [bool; PAGES as usize]),
    /// Frames that were taken are anybody's.
    Drop,
}

fn step() -> impl Strategy<Value = Step> {
    let page = 0..PAGES as u32;
    prop_oneof![
        3 => page.clone().prop_map(Step::Find),
        2 => any::<usize>().prop_map(Step::Unpin),
        3 => page.prop_map(Step::Load),
        3 => (any::<usize>(), prop::bool::weighted(0.8))
            .prop_map(|(at, is_good)| Step::Finish(at, is_good)),
        3 => (prop::collection::vec(0..FRAMES + 1, 1..4), any::<[bool; 6]>())
            .prop_map(|(frames, may_go)| Step::Evict(frames, may_go)),
        1 => Just(Step::Drop),
    ]
}

/// What there should be: page → frame.
#[derive(Default)]
struct Model<'u> {
    resident: BTreeMap<u32, u32>,
    pins: Vec<(Pin<'u>, u32)>,
    loading: Vec<(Loading<'u, Array>, u32)>,
    free: Vec<Free<'u, Array>>,
}

impl<'u> Model<'u> {
    fn has_pinned(&self, number: u32) -> bool {
        self.pins.iter().any(|(_, pinned)| *pinned == number)
    }

    fn is_loading(&self, number: u32) -> Option<u32> {
        let of = |(loading, page): &(Loading<'u, Array>, u32)| {
            (*page == number).then(|| loading.frame())
        };
        self.loading.iter().find_map(of)
    }

    fn find(&mut self, user: &'u User<Array>, number: u32) {
        match user.find(page(number)).unwrap() {
            Find::Pinned(pin) => {
                assert_eq!(self.resident.get(&number), Some(&pin.frame()));
                self.pins.push((pin, number));
            }
            Find::Loading { frame } => {
                assert_eq!(self.is_loading(number), Some(frame));
                // It lives.
                assert!(user.take_over(page(number), frame).unwrap().is_none());
            }
            Find::Absent => {
                assert!(!self.resident.contains_key(&number) && self.is_loading(number).is_none());
            }
        }
    }

    fn load(&mut self, number: u32) {
        let Some(free) = self.free.pop() else { return };
        let is_absent = !self.resident.contains_key(&number) && self.is_loading(number).is_none();
        match free.load(page(number)).unwrap() {
            Ok(loading) => {
                assert!(is_absent);
                self.loading.push((loading, number));
            }
            Err(free) => {
                assert!(!is_absent);
                self.free.push(free);
            }
        }
    }

    fn finish(&mut self, at: usize, is_good: bool) {
        if self.loading.is_empty() {
            return;
        }
        let (loading, number) = self.loading.swap_remove(at % self.loading.len());
        if is_good {
            let pin = loading.publish().unwrap().expect("nobody overwrites it");
            self.resident.insert(number, pin.frame());
        }
    }

    fn evict(&mut self, user: &'u User<Array>, candidates: &[u32], may_go: [bool; 6]) {
        let (mut protected, mut freed) = (Protected::default(), Vec::new());
        let let_go = |_, page: PageId| may_go[page.block() as usize];
        user.evict(candidates, &mut protected, &mut freed, let_go).unwrap();
        let taken: Vec<u32> = freed.iter().map(Free::frame).collect();
        for frame in 0..FRAMES {
            let held = self.resident.iter().find(|(_, at)| **at == frame).map(|(page, _)| *page);
            let is_claimed = self.free.iter().any(|free| free.frame() == frame)
                || self.loading.iter().any(|(loading, _)| loading.frame() == frame);
            let stays = held.is_some_and(|page| self.has_pinned(page) || !may_go[page as usize]);
            let goes = candidates.contains(&frame) && !is_claimed && !stays;
            assert_eq!(taken.iter().filter(|taken| **taken == frame).count(), usize::from(goes));
            if goes {
                held.map(|page| self.resident.remove(&page));
            }
        }
        self.free.append(&mut freed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn agrees_with_a_plain_model(steps in prop::collection::vec(step(), 1..80)) {
        let user = user();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Find(number) if model.pins.len() < PINS_MAX - 1 => model.find(&user, number),
                Step::Find(_) => {}
                Step::Unpin(_) if model.pins.is_empty() => {}
                Step::Unpin(at) => drop(model.pins.swap_remove(at % model.pins.len())),
                Step::Load(number) => model.load(number),
                Step::Finish(at, is_good) => model.finish(at, is_good),
                Step::Evict(frames, may_go) => model.evict(&user, &frames, may_go),
                Step::Drop => model.free.clear(),
            }
        }
        model.pins.clear();
        model.loading.clear();
        model.free.clear();
        model.evict(&user, &[0, 1, 2, 3], [true; 6]);
        prop_assert_eq!(model.free.len() as u32, FRAMES);
    }
}

/// Two files' pages at one word: the second file's once the first was dropped.
#[derive(Clone, Debug)]
struct Replaced {
    words: MappedSlice<AtomicU64>,
    /// How often the first file may still be asked for.
    asked: Arc<AtomicU32>,
}

const OLD: u32 = 1;
const NEW: u32 = 2;

impl Entries for Replaced {
    fn entry(&self, page: PageId) -> Option<&AtomicU64> {
        let left = |left: u32| left.checked_sub(1);
        let is_there =
            page.file() == NEW || self.asked.fetch_update(Relaxed, Relaxed, left).is_ok();
        is_there.then(|| &self.words[0])
    }
}

/// One asks for the entry of a page, and is late: the file is dropped, the entry another file's,
/// and somebody has died as he loaded that file's page into the very frame. Nothing may be left
/// that says that the frame is being loaded: it is anybody's.
#[test]
fn who_takes_over_with_an_old_address_leaves_nothing() {
    let mapping = Mapping::heap(Table::bytes_for(1) as usize);
    // SAFETY: nobody else has the mapping, here and below.
    let table = unsafe { Table::create(&mapping, 0, 1) }.unwrap();
    let mapping = Mapping::heap(Hazards::bytes_for(1, 1) as usize);
    // SAFETY: as above.
    let hazards = unsafe { Hazards::create(&mapping, 0, 1, 1) }.unwrap();
    let words = Mapping::heap(Frames::<Replaced>::entry_bytes_for(1) as usize);
    // SAFETY: as above.
    unsafe { Frames::<Replaced>::create_entries(&words, 0, 1) }.unwrap();
    let words = MappedSlice::new(&words, 0, 1).unwrap();
    let entries = Replaced { words, asked: Arc::default() };
    let mapping = Mapping::heap(Frames::<Replaced>::bytes_for(1) as usize);
    // SAFETY: as above.
    unsafe { Frames::<Replaced>::create(&mapping, 0, 1) }.unwrap();
    let frames = Frames::attach(&mapping, 0, 1, entries.clone(), hazards).unwrap();
    let member = table.join().unwrap();
    let user = frames.users(&member).unwrap().user().unwrap();
    let [old, new] = [OLD, NEW].map(|file| PageId::new(file, 0).unwrap());
    let (mut protected, mut free) = (Protected::default(), Vec::new());
    user.evict(&[0], &mut protected, &mut free, |_, _| true).unwrap();
    // It dies: its claim is nobody's, and the entry says that it loads.
    std::mem::forget(free.pop().unwrap().load(new).unwrap().unwrap());
    let claim = MappedSlice::<AtomicU64>::new(&mapping, 0, 1).unwrap();
    claim[0].store(0, Relaxed);

    entries.asked.store(1, Relaxed);
    let late = user.take_over(old, 0);
    assert!(matches!(late, Ok(None)), "{late:?}");
    assert!(matches!(user.find(new), Ok(Find::Absent)));
    assert!(!frames.is_claimed(0) && frames.resident_in(0).is_none());
}
