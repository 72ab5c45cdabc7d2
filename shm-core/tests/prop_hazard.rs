//! Any sequence of rows and groups taken, things protected and let go agrees with a plain model of
//! who announces what.
#![cfg(not(any(shm_loom, shm_explore)))]
use proptest::prelude::*;
use shm_core::hazard::{
    GROUP_SLOTS, GROUPS_MAX, HazardRow, Hazards, HazardsError, ProtectError, Protected, Protector,
    ProtectorError, RowError, Slot,
};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, ParticipantId, SLOTS_MAX, Table};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::depth::cases;
use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::sync::{Arc, LazyLock};

const SEATS: u32 = 3;
const GROUPS: u32 = 2;

/// What is done with groups that are there.
#[derive(Debug, Clone, Copy)]
enum Op {
    /// With a new slot of this seat.
    New {
        seat: usize,
        value: u64,
        is_still: bool,
    },
    /// With one of the slots.
    Again {
        slot: usize,
        value: u64,
        is_still: bool,
    },
    /// The same, by a word; 0 for nothing to protect.
    Word {
        slot: usize,
        value: u64,
    },
    Clear(usize),
    Drop(usize),
    Swap(usize, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let (seat, slot, value) = (0..SEATS as usize, 0..64usize, prop_oneof![1..6u64, 1..u64::MAX]);
    prop_oneof![
        4 => (seat, value.clone(), any::<bool>())
            .prop_map(|(seat, value, is_still)| Op::New { seat, value, is_still }),
        3 => (slot.clone(), value.clone(), any::<bool>())
            .prop_map(|(slot, value, is_still)| Op::Again { slot, value, is_still }),
        2 => (slot.clone(), prop_oneof![1 => Just(0), 4 => value])
            .prop_map(|(slot, value)| Op::Word { slot, value }),
        1 => slot.clone().prop_map(Op::Clear),
        1 => slot.clone().prop_map(Op::Drop),
        1 => (slot.clone(), slot).prop_map(|(one, other)| Op::Swap(one, other)),
    ]
}

/// Takes and gives back rows and groups.
#[derive(Debug, Clone, Copy)]
enum Turn {
    /// The row of a seat, or a group of it, if there is none or one more.
    Take(usize),
    /// A group, or the row if it has none.
    Give(usize),
    /// Cleans up after an earlier user of a seat, whoever has it now.
    ClearRow(u32),
}

fn turn() -> impl Strategy<Value = Turn> {
    let seat = 0..SEATS as usize;
    prop_oneof![
        3 => seat.clone().prop_map(Turn::Take),
        2 => seat.prop_map(Turn::Give),
        1 => (0..SEATS + 1).prop_map(Turn::ClearRow),
    ]
}

/// Seats of this process.
static MEMBERS: LazyLock<[Arc<Member>; SEATS as usize]> = LazyLock::new(|| {
    let mapping = Mapping::heap(Table::bytes_for(SEATS) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
    std::array::from_fn(|_| table.join().unwrap())
});

fn hazards() -> Hazards {
    let mapping = Mapping::heap(Hazards::bytes_for(SEATS, GROUPS) as usize);
    // SAFETY: nobody else has the mapping.
    unsafe { Hazards::create(&mapping, 0, SEATS, GROUPS) }.unwrap()
}

/// Protects `value` in `slot`: what it then announces.
fn protect(slot: &mut Slot<'_>, value: u64, is_still: bool) -> u64 {
    let announced = NonZeroU64::new(value).unwrap();
    assert_eq!(slot.protect(announced, || is_still), Ok(is_still));
    if is_still { value } else { 0 }
}

/// Each slot knows whether it is alone with its value, and of each seat is told what it announces.
fn who_announces(
    hazards: &Hazards,
    slots: &[Slot<'_>],
    plain: &[u64],
    owners: &[(usize, usize)],
) -> Result<(), TestCaseError> {
    let announcing = || (0..plain.len()).filter(|at| plain[*at] != 0);
    for at in announcing() {
        let is_same = |other: &usize| *other != at && plain[*other] == plain[at];
        let same: Vec<_> = announcing().filter(is_same).collect();
        prop_assert_eq!(slots[at].is_alone(), same.is_empty());
        let is_doubled = same.iter().any(|other| owners[*other] == owners[at]);
        prop_assert_eq!(slots[at].is_doubled(), is_doubled);
    }
    for seat in 0..SEATS + 1 {
        let of_seat = announcing().filter(|at| owners[*at].0 == seat as usize);
        let mut expected: Vec<_> = of_seat.map(|at| plain[at]).collect();
        let mut found: Vec<_> = hazards.row_values(seat).collect();
        expected.sort_unstable();
        found.sort_unstable();
        prop_assert_eq!(found, expected);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(2_000)))]

    /// After each step a scan sees what is announced, each value once, and nothing else.
    #[test]
    fn a_scan_sees_what_is_announced(ops in proptest::collection::vec(op(), 0..60)) {
        let hazards = hazards();
        let rows = [0, 1, 2].map(|seat: usize| hazards.row(&MEMBERS[seat]).unwrap());
        let groups: Vec<[Protector; 2]> =
            rows.iter().map(|row| [0, 1].map(|_| row.protector().unwrap())).collect();
        let (mut slots, mut plain): (Vec<Slot<'_>>, Vec<u64>) = (Vec::new(), Vec::new());
        // Whose each slot is: seat and group.
        let mut owners: Vec<(usize, usize)> = Vec::new();
        let (mut protected, place) = (Protected::default(), AtomicU64::new(0));
        for op in ops {
            let index = |slot: usize| if plain.is_empty() { 0 } else { slot % plain.len() };
            match op {
                Op::New { seat, value, is_still } => {
                    let slot = |group: usize| Some((group, groups[seat][group].slot()?));
                    let Some((group, mut slot)) = [0, 1].into_iter().find_map(slot) else {
                        continue;
                    };
                    plain.push(protect(&mut slot, value, is_still));
                    owners.push((seat, group));
                    slots.push(slot);
                }
                _ if plain.is_empty() => {}
                Op::Again { slot, value, is_still } => {
                    let at = index(slot);
                    plain[at] = protect(&mut slots[at], value, is_still);
                }
                Op::Word { slot, value } => {
                    let at = index(slot);
                    place.store(value, Ordering::Relaxed);
                    let what = |word: u64| word >> 1;
                    prop_assert_eq!(slots[at].protect_word(&place, what), Ok(value));
                    plain[at] = value >> 1;
                }
                Op::Clear(slot) => {
                    let at = index(slot);
                    slots[at].clear();
                    plain[at] = 0;
                }
                Op::Drop(slot) => {
                    let at = index(slot);
                    plain.remove(at);
                    slots.remove(at);
                    owners.remove(at);
                }
                Op::Swap(one, other) => {
                    let (one, other) = (index(one), index(other));
                    plain.swap(one, other);
                    slots.swap(one, other);
                    owners.swap(one, other);
                }
            }
            who_announces(&hazards, &slots, &plain, &owners)?;
            let said = slots.iter().map(|slot| slot.value().map_or(0, NonZeroU64::get));
            prop_assert!(said.eq(plain.iter().copied()));
            let plain: BTreeSet<u64> = plain.iter().copied().filter(|value| *value != 0).collect();
            hazards.snapshot_into(&mut protected);
            prop_assert!(protected.iter().eq(plain.iter().copied()));
            let counted = (protected.len(), protected.is_empty());
            prop_assert_eq!(counted, (plain.len(), plain.is_empty()));
            prop_assert!((0..7).all(|value| protected.contains(value) == plain.contains(&value)));
        }
    }

    #[test]
    fn rows_and_groups_are_had_once(turns in proptest::collection::vec(turn(), 0..40)) {
        let hazards = hazards();
        let mut seats: [Option<(HazardRow, Vec<Protector>)>; SEATS as usize] = Default::default();
        for turn in turns {
            match turn {
                Turn::Take(seat) => {
                    let again = hazards.row(&MEMBERS[seat]);
                    let Some((row, groups)) = &mut seats[seat] else {
                        seats[seat] = Some((again.unwrap(), Vec::new()));
                        continue;
                    };
                    prop_assert_eq!(again.unwrap_err(), RowError::Taken);
                    match row.protector() {
                        Ok(protector) => groups.push(protector),
                        Err(error) => {
                            prop_assert_eq!(error, ProtectorError::Exhausted { groups: GROUPS });
                            prop_assert_eq!(groups.len(), GROUPS as usize);
                        }
                    }
                }
                Turn::Give(seat) => {
                    if seats[seat].as_mut().is_some_and(|(_, groups)| groups.pop().is_none()) {
                        seats[seat] = None;
                    }
                }
                Turn::ClearRow(slot) => {
                    let earlier = ParticipantId::from_bits(slot << 22 | 7).unwrap();
                    hazards.clear_row(earlier);
                }
            }
            // Two that work in one slot would see each other's value go.
            let groups = seats.iter().flatten().flat_map(|(_, groups)| groups);
            for (number, group) in (1u64..).zip(groups) {
                let mut slot = group.slot().unwrap();
                protect(&mut slot, number, true);
                prop_assert!(hazards.snapshot().iter().eq([number]));
            }
            prop_assert!(hazards.snapshot().is_empty());
        }
    }

    #[test]
    fn any_words_are_rows_or_an_error(words in proptest::collection::vec(any::<u64>(), 64)) {
        let mapping = Mapping::heap(512);
        let write = |at: usize, word: u64| {
            let address = mapping.region().at::<u64>(at as u64 * 8).unwrap();
            // SAFETY: aligned, in bounds, and only this thread has the mapping.
            unsafe { address.write(word) };
        };
        words.iter().enumerate().for_each(|(at, word)| write(at, *word));
        prop_assert_eq!(Hazards::attach(&mapping, 0).unwrap_err(), HazardsError::NotHazards);
        write(0, u64::from_le_bytes(*b"shmkhaz\x01"));
        write(1, words[1] & 0x3_0000_0003);
        write(2, words[2] % 4);
        if let Ok(hazards) = Hazards::attach(&mapping, 0) {
            hazards.snapshot();
            if let Ok(row) = hazards.row(&MEMBERS[0]) {
                row.protector().unwrap();
            }
        }
    }
}

#[test]
fn sizes_out_of_bounds_are_refused() {
    let mapping = Mapping::heap(4096);
    let create = |seats, groups| {
        // SAFETY: nobody else has the mapping.
        unsafe { Hazards::create(&mapping, 0, seats, groups) }.map(drop)
    };
    for seats in [0, SLOTS_MAX + 1] {
        assert_eq!(create(seats, 1), Err(HazardsError::Seats(seats)));
    }
    for groups in [0, GROUPS_MAX + 1] {
        assert_eq!(create(1, groups), Err(HazardsError::Groups(groups)));
    }
    assert!(matches!(create(64, 1), Err(HazardsError::Place(_))));
    assert_eq!(create(8, 4), Ok(()));
    let hazards = Hazards::attach(&mapping, 0).unwrap();
    assert_eq!((hazards.seats(), hazards.groups()), (8, 4));
}

#[test]
fn a_group_has_so_many_slots_and_a_row_so_many_groups() {
    let hazards = hazards();
    let row = hazards.row(&MEMBERS[0]).unwrap();
    let first = row.protector().unwrap();
    let slots: Vec<_> = std::iter::from_fn(|| first.slot()).collect();
    assert_eq!(slots.len(), GROUP_SLOTS);
    drop(slots);
    assert!(first.slot().is_some());
    let second = row.clone().protector().unwrap();
    assert_eq!(row.protector().unwrap_err(), ProtectorError::Exhausted { groups: 2 });
    drop(first);
    // The row lasts for as long as a group of it.
    let row = second.row();
    assert!(row.protector().is_ok());
    assert_eq!(row.member().id(), MEMBERS[0].id());
    assert_eq!(row.hazards().groups(), GROUPS);
}

/// One who cleans up late finds another in the seat, whose row it leaves alone.
#[test]
fn a_row_is_cleared_of_the_dead_one_only() {
    let hazards = hazards();
    let mine = MEMBERS[0].id();
    let row = hazards.row(&MEMBERS[0]).unwrap();
    let protector = row.protector().unwrap();
    let mut slot = protector.slot().unwrap();
    assert!(slot.protect(NonZeroU64::MIN, || true).unwrap());
    for other in [mine.to_bits() + 1, mine.to_bits() | 1 << 22] {
        hazards.clear_row(ParticipantId::from_bits(other).unwrap());
        assert_eq!(hazards.holder(mine.slot()), Some(mine));
        assert!(hazards.snapshot().contains(1));
    }
    // As if it were dead.
    hazards.clear_row(mine);
    assert_eq!(hazards.holder(mine.slot()), None);
    assert!(hazards.snapshot().is_empty());
}

/// A slot that is forgotten protects until its group goes.
#[test]
fn a_forgotten_slot_goes_with_its_group() {
    let hazards = hazards();
    let row = hazards.row(&MEMBERS[0]).unwrap();
    let protector = row.protector().unwrap();
    let mut slot = protector.slot().unwrap();
    slot.protect(NonZeroU64::MIN, || true).unwrap();
    std::mem::forget(slot);
    assert!(hazards.snapshot().contains(1));
    drop(protector);
    assert!(hazards.snapshot().is_empty());
}

#[test]
fn a_member_of_a_larger_table_has_no_row() {
    let mapping = Mapping::heap(Table::bytes_for(2) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
    let mapping = Mapping::heap(Hazards::bytes_for(1, 1) as usize);
    // SAFETY: as above.
    let hazards = unsafe { Hazards::create(&mapping, 0, 1, 1) }.unwrap();
    let (_first, second) = (table.join().unwrap(), table.join().unwrap());
    assert_eq!(hazards.row(&second).unwrap_err(), RowError::Seat { seat: 1, seats: 1 });
}

#[test]
fn what_was_never_scanned_is_protected() {
    let protected = Protected::default();
    assert!(protected.contains(7) && !protected.is_empty());
    assert_eq!(protected.len(), 0);
}

/// A word that somebody changes without end is given up.
#[test]
fn a_word_that_never_stays_is_given_up() {
    let hazards = hazards();
    let row = hazards.row(&MEMBERS[0]).unwrap();
    let protector = row.protector().unwrap();
    let mut slot = protector.slot().unwrap();
    let word = AtomicU64::new(1);
    let restless = slot.protect_word(&word, |seen| {
        word.store(seen + 1, Ordering::Relaxed);
        seen
    });
    assert_eq!(restless, Err(ProtectError::Restless));
    assert!(hazards.snapshot().is_empty());
}
