//! Any bits, followed as every kind of pointer.
use crate::block::{guarded, split};
use relptr::{
    AtomicRelPtr, AtomicTaggedRelPtr, BadPtr, Region, RelPtr, RelPtr32, RelSlice, RelStr, ShmSync,
};
use shm_core::sync::{AtomicU32, AtomicU64, Ordering};

const LEN: usize = 256;

/// Follows each word of a small region, whose bytes are the input's, as every kind of pointer.
pub fn relptr(bytes: &[u8]) {
    let (how, bytes) = split(bytes);
    let (block, _mapping) = guarded(&[0; LEN], bytes, how & 1 == 1);
    // The region may end in the middle of a word.
    let len = LEN - usize::from(how >> 1) % 9;
    // SAFETY: the block lives as long as the region, and references to it lead to atomics only.
    let region = unsafe { Region::from_raw(block.base(), len) };
    for word in 0..LEN as u64 / 8 {
        let _ = follow(region, 8 * word);
        let _ = follow_slice(region, 8 * word);
    }
    carve(region);
    assert!(block.is_intact());
}

fn inside<T>(region: Region<'_>, address: std::ptr::NonNull<T>, count: usize) {
    let from = address.addr().get().wrapping_sub(region.base().addr().get());
    let end = from.checked_add(size_of::<T>() * count);
    assert!(end.is_some_and(|end| end <= region.len()), "{from} of {}", region.len());
    assert!(address.is_aligned());
}

fn loaded<T: ShmSync>(value: Result<&T, BadPtr>, load: impl FnOnce(&T) -> u64) -> u64 {
    value.map_or(0, load)
}

fn follow(region: Region<'_>, at: u64) -> Result<(), BadPtr> {
    let pointer = region.read::<RelPtr<u64>>(at)?;
    if let Ok(address) = pointer.resolve(region) {
        inside(region, address, 1);
        assert_eq!(region.offset_of(address).ok(), pointer.offset());
    }
    let _ = pointer.read(region);
    loaded(pointer.cast::<AtomicU64>().share(region), |word| word.load(Ordering::Relaxed));
    loaded(pointer.cast::<AtomicU32>().share(region), |half| half.load(Ordering::Relaxed).into());
    if let Ok(compact) = RelPtr32::try_from(pointer) {
        assert_eq!(compact.widen(), pointer);
    }
    let _ = region.read::<RelPtr32<u64>>(at)?.widen().resolve(region);
    let atomic = region.share::<AtomicRelPtr<AtomicU64>>(at)?.load(Ordering::Relaxed);
    loaded(atomic.share(region), |word| word.load(Ordering::Relaxed));
    let tagged = region.share::<AtomicTaggedRelPtr<u64>>(at)?.load(Ordering::Relaxed);
    if let Ok(next) = tagged.advance(tagged.ptr()) {
        assert_eq!((next.ptr(), next.tag()), (tagged.ptr(), tagged.tag().wrapping_add(1)));
    }
    let _ = tagged.ptr().read(region);
    Ok(())
}

fn follow_slice(region: Region<'_>, at: u64) -> Result<(), BadPtr> {
    let slice = region.read::<RelSlice<u64>>(at)?;
    if let Ok(addresses) = slice.resolve(region) {
        inside(region, addresses.cast::<u64>(), addresses.len());
    }
    let mut buffer = [0; LEN / 8];
    let _ = slice.copy_to(region, &mut buffer);
    for index in [0, slice.len().wrapping_sub(1), slice.len(), u64::MAX] {
        let read = slice.read(region, index);
        assert!(read.is_err() || index < slice.len());
    }
    let words = RelSlice::<AtomicU64>::new(slice.start().cast(), slice.len());
    if let Ok(words) = words.share(region) {
        words.iter().for_each(|word| _ = word.load(Ordering::Relaxed));
    }
    let mut buffer = [0; LEN];
    let _ = region.read::<RelStr>(at)?.copy_to(region, &mut buffer);
    Ok(())
}

/// Takes pieces as large as the region says.
fn carve(region: Region<'_>) {
    let mut carver = region.carve();
    for at in (0..LEN as u64).step_by(16) {
        let size = region.read::<u64>(at).unwrap_or(0);
        let how = region.read::<u8>(at + 8).unwrap_or(0);
        let before = carver.used();
        match how % 4 {
            0 => drop(carver.region(size, 1 << (how >> 4))),
            1 => drop(carver.take_array::<u64>(size)),
            2 => drop(carver.take_array::<[u64; 0]>(size)),
            _ => drop(carver.share_slice::<AtomicU64>(size % 8)),
        }
        assert!(before <= carver.used() && carver.used() <= region.len() as u64);
    }
    carver.rest();
}
