//! A segment table that lies, before it is attached and while participants act on it: each call
//! ends, and nothing but the table's bytes is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/hostile_common/mod.rs"]
mod hostile_common;
use dsm::SegmentHandle;
use dsm::control::{Actor, Control, Objects};
use hostile_common::{LIMIT, guarded};
use shm_core::mapping::Mapping;
use shm_core::participants::ParticipantId;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::liar::{Liar, Scribbler, Trials};
use std::cell::Cell;
use std::sync::Arc;

const SEGMENTS: u32 = 3;
/// So many that the table has a second piece.
const SEGMENTS_IN_TWO_PIECES: u32 = 67;
const PARTICIPANTS: u32 = 128;
const GENERATION: u32 = 5;
/// In the first word of a set and in the last place of its last one.
const PLACES: [u32; 2] = [0, 127];

/// Objects that let themselves be removed, or do not, whoever asks.
#[derive(Default)]
struct System {
    refuses: Cell<bool>,
    removed: Cell<u64>,
}

impl Objects for System {
    fn remove(&self, _: SegmentHandle) -> bool {
        self.removed.set(self.removed.get() + 1);
        self.refuses.set(!self.refuses.get());
        self.refuses.get()
    }

    fn remove_domain(&self) {
        self.removed.set(self.removed.get() + 1);
    }
}

fn bytes(segments: u32) -> usize {
    Control::bytes_for(segments, PARTICIPANTS) as usize
}

fn participant(place: u32) -> ParticipantId {
    ParticipantId::from_bits(place << 22 | 1).unwrap()
}

/// What a table for so many segments holds in the course of its life. The first piece is full of
/// pinned ones where there is a second.
fn images(segments: u32) -> Vec<Vec<u8>> {
    let (block, mapping) = guarded(&vec![0; bytes(segments)], 0);
    // SAFETY: nobody else has the mapping.
    let control =
        unsafe { Control::create(&mapping, 0, segments, PARTICIPANTS, GENERATION) }.unwrap();
    let (system, mut images) = (System::default(), vec![block.outside().read()]);
    let [one, other] = PLACES.map(|place| control.actor(participant(place), &system));
    assert!(one.enter() && other.enter());
    for _ in SEGMENTS..segments {
        let handle = one.claim().unwrap();
        assert!(one.publish(handle, 4096));
        control.pin(handle).unwrap();
    }
    if segments == SEGMENTS_IN_TWO_PIECES {
        assert!(one.claim().is_none());
        control.grow_to_the_end();
    }
    let handle = one.claim().unwrap();
    images.push(block.outside().read()); // creating
    one.publish(handle, 4096);
    other.attach(handle);
    control.pin(handle).unwrap();
    one.claim().unwrap();
    images.push(block.outside().read()); // alive, pinned, with two attached
    other.clean_up();
    one.clean_up();
    images.push(block.outside().read()); // alive, pinned, nobody there
    control.close_if_empty();
    images.push(block.outside().read());
    images.rotate_left(2);
    images
}

/// State words that mean something: each state, pinned or not, of each owner and generation.
fn values() -> Vec<u64> {
    let highs = [0, 1, participant(0).to_bits(), participant(127).to_bits(), u32::MAX];
    let generations = [0, 1, GENERATION, (1 << 29) - 1];
    let words = highs.into_iter().flat_map(|high| {
        let words = generations.into_iter().flat_map(move |generation| {
            (0..8).map(move |state| u64::from(high) << 32 | u64::from(generation) << 3 | state)
        });
        words.collect::<Vec<_>>()
    });
    words.collect()
}

fn liar(seed: u64, images: &[Vec<u8>]) -> Liar {
    Liar::new(seed, &images[seed as usize % images.len()])
        .with_images(images)
        .with_values(&values())
}

/// Handles that may exist, and others.
fn handles(control: &Control) -> Vec<SegmentHandle> {
    let mut handles = control.leftovers();
    let texts = [
        "5000000",
        "5000001",
        "6000000",
        "5000003",
        "5000040",
        "5000043",
        "5ffffff",
        "1fffffffffffff",
    ];
    handles.extend(texts.map(|text| text.parse::<SegmentHandle>().unwrap()));
    handles
}

fn look(trials: &Trials, seed: u64, control: &Control, room: u32) {
    trials.call(seed, "is_open", || control.is_open());
    trials.call(seed, "present", || control.present());
    let segments = trials.call(seed, "segments", || control.segments()).unwrap_or_default();
    let sane = segments.len() <= room as usize
        && segments.iter().all(|s| s.attached.iter().all(|slot| *slot < PARTICIPANTS));
    trials.check(seed, "segments", sane, "lists what there is no room for");
    let left = trials.call(seed, "leftovers", || control.leftovers()).unwrap_or_default();
    trials.check(seed, "leftovers", left.len() <= room as usize, "lists too many");
}

/// Every verb of a participant, on every handle.
fn act(trials: &Trials, seed: u64, control: &Control, actor: &Actor<'_, System>) {
    trials.call(seed, "enter", || actor.enter());
    trials.call(seed, "grow", || control.grow());
    let claimed = trials.call(seed, "claim", || actor.claim()).flatten();
    if let Some(handle) = claimed {
        trials.call(seed, "publish", || actor.publish(handle, 4096));
        trials.call(seed, "abandon", || actor.abandon(handle));
    }
    let handles = trials.call(seed, "handles", || handles(control)).unwrap_or_default();
    for handle in handles {
        trials.call(seed, "is_alive", || control.is_alive(handle));
        trials.call(seed, "attach", || actor.attach(handle));
        trials.call(seed, "pin", || control.pin(handle));
        trials.call(seed, "detach", || actor.detach(handle));
        trials.call(seed, "unpin", || actor.unpin(handle));
    }
    trials.call(seed, "retry", || actor.retry(|_| true));
}

fn use_it(trials: &Trials, seed: u64, mapping: &Arc<Mapping>, segments: u32) {
    let attach = || Control::attach(mapping, 0, segments, PARTICIPANTS).unwrap();
    let Some(control) = trials.call(seed, "attach to the table", attach) else { return };
    look(trials, seed, &control, segments);
    let system = System::default();
    let actors = PLACES.map(|place| control.actor(participant(place), &system));
    for actor in &actors {
        act(trials, seed, &control, actor);
    }
    for actor in &actors {
        trials.call(seed, "clean_up", || actor.clean_up());
    }
    trials.call(seed, "close_if_empty", || control.close_if_empty());
}

/// Found by reading: nobody sits in places beyond the last participant's, so nobody would ever
/// clear such a bit, and the segment, and with it the domain, would stay for good.
#[test]
fn bits_of_nobody_keep_nothing() {
    let mapping = Mapping::heap(Control::bytes_for(1, 4) as usize);
    // SAFETY: nobody else has the mapping.
    let control = unsafe { Control::create(&mapping, 0, 1, 4, GENERATION) }.unwrap();
    let system = System::default();
    let actor = control.actor(participant(0), &system);
    let handle = actor.claim().unwrap();
    assert!(actor.publish(handle, 4096));
    let sets = Control::bytes_for(1, 4) - 2 * 8;
    for set in mapping.region().share_slice::<AtomicU64>(sets, 2).unwrap() {
        set.fetch_or(1 << 63 | 1 << 4, Ordering::Relaxed);
    }
    assert_eq!(control.segments()[0].attached, [0]);
    actor.detach(handle);
    assert_eq!((control.segments().len(), system.removed.get()), (0, 1));
    assert!(control.close_if_empty());
}

fn lies_before(name: &'static str, segments: u32, seeds: u64) {
    let (trials, images) = (Trials::new(name, LIMIT), images(segments));
    for seed in trials.seeds(seeds) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        trials.tell(&block.outside(), &mut liar(seed, &images), seed % 6);
        use_it(&trials, seed, &mapping, segments);
        trials.check(seed, "table", block.is_intact(), "wrote beside the table");
    }
    trials.finish();
}

fn lies_meanwhile(name: &'static str, segments: u32, seeds: u64, uses: u64) {
    let (trials, images) = (Trials::new(name, LIMIT), images(segments));
    for seed in trials.seeds(seeds) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        let scribbler = Scribbler::start(block.outside(), liar(seed, &images).restoring());
        scribbler.meanwhile(uses, || use_it(&trials, seed, &mapping, segments));
        trials.add(scribbler.stop());
        trials.check(seed, "table", block.is_intact(), "wrote beside the table");
    }
    trials.finish();
}

#[test]
fn a_table_of_lies_is_used() {
    lies_before("control, before", SEGMENTS, 1200);
    lies_before("control, two pieces, before", SEGMENTS_IN_TWO_PIECES, 300);
}

#[test]
fn a_table_that_changes_all_the_time_is_used() {
    lies_meanwhile("control, meanwhile", SEGMENTS, 60, 400);
    lies_meanwhile("control, two pieces, meanwhile", SEGMENTS_IN_TWO_PIECES, 20, 100);
}
