//! Doors into a region agree with arithmetic in 128 bits, whatever they are asked for.
#![cfg(not(any(shm_loom, shm_explore)))]
use core::mem::{align_of, size_of};
use core::ptr::NonNull;
use proptest::prelude::*;
use relptr::{BadPtr, Region};
use shm_testkit::depth::cases;

#[derive(Clone, Copy)]
#[repr(align(16))]
struct Memory([u8; 256]);

/// A region of `len` bytes at `memory + shift`, whose address is aligned to nothing in particular.
fn region(memory: &mut Memory, shift: u64, len: u64) -> Region<'_> {
    // SAFETY: 256 bytes, borrowed for as long as the region lives.
    let whole: Region<'_> = unsafe { Region::from_raw(NonNull::from(memory).cast(), 256) };
    whole.sub(shift, len).unwrap()
}

/// Offsets near the interesting places: the region's ends, the ends of the number line.
fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![0..300u64, (u64::MAX - 300)..=u64::MAX, any::<u64>()]
}

/// What `Region::array` has to say, computed without overflow.
fn expected<T>(base: usize, offset: u64, count: u64, len: u64) -> Result<usize, bool> {
    let end = u128::from(offset) + u128::from(count) * size_of::<T>() as u128;
    if end > u128::from(len) {
        return Err(false);
    }
    let address = base + offset as usize;
    if address.is_multiple_of(align_of::<T>()) { Ok(address) } else { Err(true) }
}

fn check_array<T>(region: Region<'_>, offset: u64, count: u64) {
    let base = region.base().addr().get();
    let found = region.array::<T>(offset, count).map(|address| address.addr().get());
    match expected::<T>(base, offset, count, region.len() as u64) {
        Ok(address) => assert_eq!(found, Ok(address)),
        Err(true) => assert!(matches!(found, Err(BadPtr::Misaligned { .. })), "{found:?}"),
        Err(false) => assert!(matches!(found, Err(BadPtr::OutOfBounds { .. })), "{found:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn arrays_agree_with_wide_arithmetic(
        shift in 0..16u64, len in 0..=240u64, offset in offset(), count in offset(),
    ) {
        let memory = &mut Memory([0; 256]);
        let region = region(memory, shift, len);
        check_array::<u8>(region, offset, count);
        check_array::<u16>(region, offset, count);
        check_array::<u64>(region, offset, count);
        check_array::<[u32; 3]>(region, offset, count);
        check_array::<u128>(region, offset, count);
        check_array::<()>(region, offset, count);
    }

    #[test]
    fn copies_are_the_bytes_that_stand_there(
        bytes in any::<[u8; 32]>(), shift in 0..16u64, len in 0..=240u64, offset in offset(),
    ) {
        let memory = &mut Memory([0; 256]);
        for (at, byte) in memory.0.iter_mut().enumerate() {
            *byte = bytes[at % 32] ^ (at as u8);
        }
        let plain = memory.0[shift as usize..][..len as usize].to_vec();
        let region = region(memory, shift, len);
        let found = region.read::<[u8; 23]>(offset).ok();
        let slice = usize::try_from(offset).ok().and_then(|o| plain.get(o..o.checked_add(23)?));
        prop_assert_eq!(found.as_ref().map(|f| &f[..]), slice);
    }

    #[test]
    fn pieces_follow_each_other_without_overlap(
        shift in 0..16u64,
        len in 0..=240u64,
        wanted in prop::collection::vec((0..5u8, 0..20u64, 0..5u32), 0..20),
    ) {
        let memory = &mut Memory([0; 256]);
        let region = region(memory, shift, len);
        let mut carver = region.carve();
        let mut used = 0u64; // the plain model: a number
        for (kind, count, align) in wanted {
            let (size, align) = match kind {
                0 => (1, 1 << align),
                1 => (1, 1),
                2 => (4, 4),
                3 => (8, 8),
                _ => (16, 16),
            };
            let piece = match kind {
                0 => carver.region(count, align).map(|r| r.base()),
                1 => carver.take_array::<u8>(count),
                2 => carver.take_array::<u32>(count).map(NonNull::cast),
                3 => carver.take_array::<u64>(count).map(NonNull::cast),
                _ => carver.take_array::<u128>(count).map(NonNull::cast),
            };
            let start = used.next_multiple_of(align);
            let address = region.base().addr().get() + start as usize;
            let aligned = kind == 0 || address.is_multiple_of(align as usize);
            if start + count * size <= len && aligned {
                prop_assert_eq!(piece.map(|p| p.addr().get()), Ok(address));
                used = start + count * size;
            } else {
                prop_assert!(piece.is_err());
            }
            prop_assert_eq!(carver.used(), used);
        }
        prop_assert_eq!(carver.rest().len() as u64, len - used);
    }
}
