//! Relative pointers that lie, in a region flush with a guard page: whatever their bits, before
//! they are followed and meanwhile, each leads to a place inside the region or is refused.
#![cfg(not(any(shm_loom, shm_explore)))]
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};
use relptr::{
    AtomicRelPtr, AtomicTaggedRelPtr, BadPtr, Region, RelPtr, RelPtr32, RelSlice, RelStr,
};
use shm_testkit::liar::{Edge, Guarded, Liar, Random, Scribbler, Trials};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const LEN: usize = 256;
/// Fewer bytes than a word has stand at the end of this one.
const ODD_LEN: usize = 250;

/// A region of pointers: to its base, its last word, itself, and just outside.
fn image() -> Vec<u8> {
    let at = [0, LEN as u64 - 8, 8, LEN as u64, LEN as u64 - 7, 16, u64::MAX, 1];
    let pointers = at.map(|at| RelPtr::<u64>::from_offset(at).to_bits());
    (0..LEN / 8).flat_map(|word| pointers[word % 8].to_le_bytes()).collect()
}

fn region(block: &Guarded, len: usize) -> Region<'_> {
    // SAFETY: the block lives as long as the region, and references to it lead to atomics only.
    unsafe { Region::from_raw(block.base(), len) }
}

/// Follows what stands at word `word` of the region, as every kind of pointer.
fn follow(trials: &Trials, seed: u64, region: Region<'_>, word: u64) {
    let at = 8 * word;
    let inside = |address: usize, len: usize| {
        let from = address.wrapping_sub(region.base().addr().get());
        from.checked_add(len).is_some_and(|end| end <= region.len())
    };
    let check = |what, good| trials.check(seed, what, good, "an address outside the region");
    if let Some(Ok(pointer)) = trials.call(seed, "read", || region.read::<RelPtr<u64>>(at)) {
        if let Ok(address) = pointer.resolve(region) {
            check("resolve", inside(address.addr().get(), 8));
        }
        trials.call(seed, "RelPtr::read", || pointer.read(region));
        let share = || pointer.cast::<AtomicU64>().share(region).map(|word| word.load(Relaxed));
        trials.call(seed, "RelPtr::share", share);
        let share = || pointer.cast::<AtomicU16>().share(region).map(|word| word.load(Relaxed));
        trials.call(seed, "RelPtr::share", share);
        trials.call(seed, "RelPtr32::try_from", || RelPtr32::try_from(pointer));
        trials.call(seed, "offset_of", || {
            let odd = pointer.offset().unwrap_or(0) as usize;
            region.offset_of::<u64>(region.base().cast().map_addr(|a| a | odd))
        });
    }
    if let Some(Ok(bits)) = trials.call(seed, "read", || region.read::<RelPtr32<u64>>(at)) {
        trials.call(seed, "RelPtr32::widen", || bits.widen().read(region));
    }
    trials.call(seed, "AtomicRelPtr", || {
        let pointer = region.share::<AtomicRelPtr<AtomicU64>>(at)?.load(Relaxed);
        pointer.share(region).map(|word| word.load(Relaxed))
    });
    trials.call(seed, "AtomicTaggedRelPtr", || {
        let seen = region.share::<AtomicTaggedRelPtr<u64>>(at)?.load(Relaxed);
        seen.advance(seen.ptr())?.ptr().read(region)
    });
}

/// Follows the slice and the string whose two words begin at word `word`.
fn follow_slices(trials: &Trials, seed: u64, region: Region<'_>, word: u64) {
    let at = 8 * word;
    if let Some(Ok(slice)) = trials.call(seed, "read", || region.read::<RelSlice<u64>>(at)) {
        let mut buffer = [0; LEN / 8];
        trials.call(seed, "RelSlice::copy_to", || slice.copy_to(region, &mut buffer).map(|_| ()));
        for index in [0, 1, slice.len().wrapping_sub(1), slice.len(), u64::MAX / 8, u64::MAX] {
            trials.call(seed, "RelSlice::read", || slice.read(region, index));
        }
        trials.call(seed, "RelSlice::resolve", || slice.resolve(region).map(|_| ()));
        trials.call(seed, "RelSlice::share", || {
            let slice = RelSlice::<AtomicU64>::new(slice.start().cast(), slice.len());
            Ok::<_, BadPtr>(slice.share(region)?.iter().map(|word| word.load(Relaxed)).max())
        });
    }
    if let Some(Ok(text)) = trials.call(seed, "read", || region.read::<RelStr>(at)) {
        let mut buffer = [0; LEN];
        let copied = trials.call(seed, "RelStr::copy_to", || {
            text.copy_to(region, &mut buffer).map(|text| text.chars().count())
        });
        let sane = !matches!(copied, Some(Ok(chars)) if chars > LEN);
        trials.check(seed, "RelStr::copy_to", sane, "more characters than bytes");
    }
}

/// Takes pieces of sizes that the region says.
fn carve(trials: &Trials, seed: u64, region: Region<'_>) {
    let mut random = Random::new(seed);
    let mut carver = region.carve();
    for _ in 0..6 {
        let size = region.read::<u64>(random.below(LEN / 8) as u64 * 8).unwrap_or(0);
        let align = 1 << random.below(12);
        trials.call(seed, "Carver::region", || carver.region(size, align).map(|_| ()));
        let words = size % 16;
        trials.call(seed, "Carver::share_slice", || {
            let words = carver.share_slice::<AtomicU64>(words)?;
            Ok::<_, BadPtr>(words.iter().map(|word| word.load(Relaxed)).max())
        });
        trials.call(seed, "Carver::take_array", || carver.take_array::<u64>(size).map(|_| ()));
        trials.call(seed, "Carver::take_array", || carver.take_array::<[u64; 0]>(size).map(|_| ()));
        trials.check(
            seed,
            "carve",
            carver.used() <= region.len() as u64,
            "used more than there is",
        );
    }
    trials.call(seed, "Carver::rest", || carver.rest().len());
}

fn use_it(trials: &Trials, seed: u64, block: &Guarded) {
    for len in [LEN, ODD_LEN] {
        let region = region(block, len);
        for word in 0..LEN as u64 / 8 {
            follow(trials, seed, region, word);
            follow_slices(trials, seed, region, word);
        }
        carve(trials, seed, region);
        trials.call(seed, "sub", || region.sub(seed, len as u64 - seed % 8).map(|_| ()));
    }
}

fn liar(seed: u64) -> Liar {
    Liar::new(seed, &image()).with_values(&[1, LEN as u64 + 1, LEN as u64 - 7, LEN as u64 - 6])
}

#[test]
fn any_bits_are_followed_inside_or_refused() {
    let trials = Trials::new("pointers, before", LIMIT);
    for seed in trials.seeds(300) {
        let block = Guarded::holding(&image(), Edge::of(seed));
        trials.tell(&block.outside(), &mut liar(seed), seed % 32);
        use_it(&trials, seed, &block);
    }
    trials.finish();
}

#[test]
fn bits_that_change_all_the_time_are_followed_inside_or_refused() {
    let trials = Trials::new("pointers, meanwhile", LIMIT);
    for seed in trials.seeds(40) {
        let block = Guarded::holding(&image(), Edge::of(seed));
        let scribbler = Scribbler::start(block.outside(), liar(seed).restoring());
        scribbler.meanwhile(400, || use_it(&trials, seed, &block));
        trials.add(scribbler.stop());
    }
    trials.finish();
}
