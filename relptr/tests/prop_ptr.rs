//! Any bits are a valid relative pointer, and none of them leads outside the region.
#![cfg(not(any(shm_loom, shm_explore)))]
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use proptest::prelude::*;
use relptr::{BadPtr, Region, RelPtr, RelPtr32, RelSlice, RelStr, TaggedRelPtr};
use shm_testkit::depth::cases;

const LEN: u64 = 128;
type Memory = [u64; 16];

fn region(memory: &mut Memory) -> Region<'_> {
    // SAFETY: 128 bytes, borrowed for as long as the region lives.
    unsafe { Region::from_raw(NonNull::from(memory).cast(), LEN as usize) }
}

/// Bits that mean something near the region as often as they mean nothing at all.
fn bits() -> impl Strategy<Value = u64> {
    prop_oneof![0..LEN + 20, (u64::MAX - 20)..=u64::MAX, any::<u64>()]
}

fn inside(region: Region<'_>, start: usize, bytes: usize) -> bool {
    let base = region.base().addr().get();
    start >= base && start + bytes <= base + region.len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn no_pointer_escapes(word in bits()) {
        let memory = &mut [0; 16];
        let region = region(memory);
        let pointer: RelPtr<AtomicU64> = RelPtr::from_bits(word);
        match pointer.resolve(region) {
            Ok(address) => {
                prop_assert!(inside(region, address.addr().get(), 8) && address.is_aligned());
                prop_assert!(pointer.share(region).is_ok());
                prop_assert_eq!(RelPtr::from_addr(region, address), Ok(pointer));
            }
            Err(error) => {
                prop_assert_eq!(error == BadPtr::Null, word == 0);
                prop_assert!(pointer.share(region).is_err());
            }
        }
        let fits = word != 0 && u128::from(word - 1) + 8 <= u128::from(LEN);
        prop_assert_eq!(pointer.cast::<u64>().read(region).is_ok(), fits);
    }

    #[test]
    fn no_compact_or_tagged_pointer_escapes(word in bits()) {
        let memory = &mut [0; 16];
        let region = region(memory);
        let compact = RelPtr32::<u64>::from_bits(word as u32).widen();
        let tagged = TaggedRelPtr::<u64>::from_bits(word).ptr();
        for pointer in [compact, tagged] {
            if let Ok(address) = pointer.resolve(region) {
                prop_assert!(inside(region, address.addr().get(), 8) && address.is_aligned());
            }
        }
    }

    #[test]
    fn no_slice_escapes(start in bits(), len in bits()) {
        let memory = &mut [0x6161_6161_6161_6161; 16];
        let region = region(memory);
        let slice = RelSlice::<u64>::new(RelPtr::from_bits(start), len);
        let fits = start != 0 && u128::from(start - 1) + u128::from(len) * 8 <= u128::from(LEN);
        match slice.resolve(region) {
            Ok(addresses) => {
                prop_assert!(fits);
                let first = addresses.cast::<u8>().addr().get();
                prop_assert!(inside(region, first, addresses.len() * 8));
                prop_assert_eq!(addresses.len() as u64, len);
            }
            Err(BadPtr::Misaligned { .. }) => prop_assert_ne!(start % 8, 1),
            Err(_) => prop_assert!(!fits),
        }
        prop_assert_eq!(slice.copy_to(region, &mut [0; 16]).is_ok(), fits);
        for index in [0, 1, len.wrapping_sub(1), len, u64::MAX] {
            prop_assert_eq!(slice.read(region, index).is_ok(), fits && index < len);
        }
        let text = RelStr::new(RelPtr::from_bits(start), len);
        let fits = start != 0 && u128::from(start - 1) + u128::from(len) <= u128::from(LEN);
        let copy = text.copy_to(region, &mut [0; LEN as usize]).map(str::len);
        prop_assert_eq!(copy.ok(), fits.then_some(len as usize));
    }

    #[test]
    fn offsets_come_back(offset in 0..u64::MAX, tag: u16) {
        let pointer = RelPtr::<u64>::from_offset(offset);
        prop_assert!(!pointer.is_null());
        prop_assert_eq!(pointer.offset(), Some(offset));
        prop_assert_eq!(RelPtr::<u64>::from_bits(pointer.to_bits()), pointer);
        prop_assert_eq!(bytemuck::cast::<_, u64>(pointer), pointer.to_bits());
        match RelPtr32::try_from(pointer) {
            Ok(compact) => {
                prop_assert!(!compact.is_null());
                prop_assert_eq!(compact.widen(), pointer);
            }
            Err(_) => prop_assert!(offset >= RelPtr32::<u64>::REACH || offset % 8 != 0),
        }
        match TaggedRelPtr::new(pointer, tag) {
            Ok(tagged) => prop_assert_eq!((tagged.ptr(), tagged.tag()), (pointer, tag)),
            Err(_) => prop_assert!(offset >= TaggedRelPtr::<u64>::REACH),
        }
    }

    #[test]
    fn near_offsets_fit_every_form(unit in 0..u64::from(u32::MAX), tag: u16) {
        let pointer = RelPtr::<u64>::from_offset(unit * 8);
        prop_assert!(RelPtr32::try_from(pointer).is_ok_and(|compact| compact.widen() == pointer));
        prop_assert!(TaggedRelPtr::new(pointer, tag).is_ok_and(|tagged| tagged.ptr() == pointer));
    }

    #[test]
    fn any_string_is_valid_utf8_or_refused(
        bytes in any::<[u8; 128]>(), start in 0..LEN, len in 0..LEN,
    ) {
        let memory = &mut bytemuck::cast::<[u8; 128], Memory>(bytes);
        let region = region(memory);
        let end = (start + len).min(LEN);
        let plain = core::str::from_utf8(&bytes[start as usize..end as usize]);
        let text = RelStr::new(RelPtr::from_offset(start), end - start);
        let mut buffer = [0; LEN as usize];
        prop_assert_eq!(text.copy_to(region, &mut buffer).ok(), plain.ok());
    }
}

#[test]
fn a_pointer_to_the_base_is_not_null() {
    let memory = &mut [7; 16];
    let region = region(memory);
    let pointer = RelPtr::from_addr(region, region.base().cast::<u64>()).unwrap();
    assert!(!pointer.is_null());
    assert_eq!(pointer.read(region), Ok(7));
}

#[test]
fn compact_forms_and_slices_say_what_they_hold() {
    let null = RelPtr32::<u64>::from_bits(0);
    assert!(null.is_null() && null.widen().is_null());
    assert_eq!(RelPtr32::<u64>::from_bits(7).to_bits(), 7);
    let slice = |start, len| RelSlice::<u64>::new(RelPtr::from_offset(start), len);
    assert_eq!(slice(8, 3).len(), 3);
    assert!(slice(8, 0).is_empty() && !slice(8, 3).is_empty());
    assert_eq!(slice(8, 3), slice(8, 3));
    assert_ne!(slice(8, 3), slice(8, 2));
    assert_ne!(slice(8, 3), slice(16, 3));
}

#[test]
fn what_is_printed_for_debugging_names_pointer_length_and_tag() {
    let pointer = RelPtr::<u64>::from_offset(8);
    assert_eq!(format!("{:?}", RelSlice::new(pointer, 3)), format!("RelSlice({pointer:?}, 3)"));
    let tagged = TaggedRelPtr::new(pointer, 5).unwrap();
    assert_eq!(format!("{tagged:?}"), format!("{pointer:?}#5"));
}

#[test]
fn an_error_says_what_was_wrong() {
    let memory = &mut [0xff; 16];
    let region = region(memory);
    let text = |pointer: RelPtr<u64>| pointer.resolve(region).unwrap_err().to_string();
    assert_eq!(text(RelPtr::NULL), "null relative pointer");
    assert_eq!(
        text(RelPtr::from_offset(200)),
        "8 bytes at offset 200 are outside a region of 128 bytes"
    );
    let name = RelStr::new(RelPtr::from_offset(0), 4);
    let refused = name.copy_to(region, &mut [0; 4]).unwrap_err();
    assert_eq!(refused.to_string(), "no UTF-8 from byte 0 on");
    let nowhere = RelStr::new(RelPtr::NULL, 4).copy_to(region, &mut [0; 4]).unwrap_err();
    assert_eq!(nowhere.to_string(), "null relative pointer");
}

#[test]
fn a_region_is_empty_without_bytes_only() {
    let memory = &mut [0; 16];
    assert!(!region(memory).is_empty());
    assert!(region(memory).sub(8, 0).unwrap().is_empty());
}
