//! Any sequence of growing and shrinking, with memory that runs out, with others who die at it,
//! agrees with a number; nonsense in the head is an error.
#![cfg(not(any(shm_loom, shm_explore)))]
mod growth_common;

use dsm::GrowError;
use dsm::growth::Growth;
use growth_common::{Care, PAGES_MAX, World, id};
use proptest::prelude::*;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::depth::cases;

#[derive(Clone, Debug)]
enum Op {
    Grow(u32),
    Shrink(u32),
    /// Of the next so many attempts to grow, none finds memory.
    RunOut(u64),
    /// Somebody claims it, with this length, and dies; or lives.
    Claim {
        pages: u32,
        dies: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let pages = || 0..PAGES_MAX + 2;
    prop_oneof![
        3 => pages().prop_map(Op::Grow),
        3 => pages().prop_map(Op::Shrink),
        1 => (0..3u64).prop_map(Op::RunOut),
        1 => (1..=PAGES_MAX, any::<bool>()).prop_map(|(pages, dies)| Op::Claim { pages, dies }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(1000)))]

    #[test]
    fn agrees_with_a_number(ops in prop::collection::vec(op(), 0..40)) {
        let mapping = Mapping::heap(4096);
        let world = World::at(&mapping, 2, Care::Deaths);
        let length = Mapped::<AtomicU64>::new(&mapping, 8).unwrap();
        let (mut plain, mut refusals, mut dead) = (2, 0, true);
        let other = id(5);
        for op in ops {
            let is_held = !dead && length.load(Ordering::Relaxed) >> 32 != 0;
            let (pages, grows) = match op {
                Op::Grow(pages) => (pages, true),
                Op::Shrink(pages) => (pages, false),
                Op::RunOut(times) => {
                    refusals = times;
                    world.memory.refusals.store(times, Ordering::Relaxed);
                    continue;
                }
                Op::Claim { pages, dies } => {
                    // As who shrinks it does; a dead one may have claimed it to grow, too.
                    let pages = pages.min(plain);
                    let word = u64::from(other.to_bits()) << 32 | u64::from(pages);
                    length.store(word, Ordering::Relaxed);
                    (plain, dead) = (pages, dies);
                    continue;
                }
            };
            let has_left = |id| dead && id == other;
            let told = match grows {
                true => world.growth.grow(id(0), pages, has_left, &world),
                false => world.growth.shrink(id(0), pages, has_left, &world),
            };
            let changes = if grows { pages > plain } else { pages < plain };
            match told {
                Err(GrowError::Length { .. }) => {
                    prop_assert!(!(1..=PAGES_MAX).contains(&pages));
                }
                Err(GrowError::Busy { by }) => prop_assert!(by == other && is_held && changes),
                Err(GrowError::Backend(_)) => {
                    prop_assert!(grows && changes && refusals > 0);
                    refusals -= 1;
                }
                Ok(now) => {
                    prop_assert!(!(is_held && changes), "taken from one who lives");
                    plain = if changes { pages } else { plain };
                    prop_assert_eq!(now, plain);
                }
                Err(other) => prop_assert!(false, "{}", other),
            }
            prop_assert_eq!(world.look(), plain);
        }
        world.memory.refusals.store(0, Ordering::Relaxed);
        world.change(1, PAGES_MAX, |_| true).unwrap();
        world.change(1, 1, |_| true).unwrap();
        world.assert_exact();
    }

    #[test]
    fn nonsense_is_an_error(word: u64, pages in 0..PAGES_MAX + 2) {
        let mapping = Mapping::heap(4096);
        let world = World::at(&mapping, 1, Care::Deaths);
        Mapped::<AtomicU64>::new(&mapping, 8).unwrap().store(word, Ordering::Relaxed);
        let is_sane = (1..=PAGES_MAX).contains(&(word as u32));
        let growth = Growth::attach(&mapping, 0, PAGES_MAX).unwrap();
        let told = growth.pages();
        prop_assert!(told.is_err() || is_sane);
        let _ = world.growth.grow(id(0), pages, |_| false, &world);
        let _ = world.growth.shrink(id(0), pages, |_| true, &world);
    }
}

#[test]
fn a_head_needs_room_and_alignment() {
    let mapping = Mapping::heap(4096);
    for offset in [8, 4096, u64::MAX] {
        assert!(Growth::attach(&mapping, offset, 1).is_err());
    }
}
