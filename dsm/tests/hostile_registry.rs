//! Names that lie, before the rows are attached and while they are used: each call ends, sleepers
//! obey their deadline, and nothing but the rows' bytes is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/hostile_common/mod.rs"]
mod hostile_common;

use dsm::SegmentHandle;
use dsm::registry::{Entry, Hand, Kind, Name, Registry, Step};
use hostile_common::{LIMIT, guarded, soon};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, ParticipantId, Table};
use shm_core::process::Liveness;
use shm_testkit::liar::{Liar, Scribbler, Trials};
use std::sync::Arc;

const NAMES: u32 = 3;
const BYTES: usize = Registry::bytes_for(NAMES) as usize;
const TEXTS: [&str; 4] = ["a", "b", "a longer name than a word has room for", "d"];

fn member() -> Arc<Member> {
    let mapping = Mapping::heap(Table::bytes_for(2) as usize);
    // SAFETY: nobody else has the mapping.
    unsafe { Table::create(&mapping, 0, 2) }.unwrap().join().unwrap()
}

fn entry(text: &str) -> Entry {
    Entry { name: Name::new(text).unwrap(), kind: Kind::Segment, size: 9, fingerprint: 7 }
}

fn with_hand<R>(me: &Member, act: impl FnOnce(&Hand<'_>) -> R) -> R {
    act(&Hand {
        me: me.id(),
        is_dead: &|id| me.table().liveness(id) == Liveness::Dead,
        unpin: &|_| (),
    })
}

/// What the rows hold in the course of their life.
fn images(me: &Member) -> Vec<Vec<u8>> {
    let (block, mapping) = guarded(&[0; BYTES], 0);
    // SAFETY: nobody else has the mapping.
    let registry = unsafe { Registry::create(&mapping, 0, NAMES) }.unwrap();
    let mut images = vec![block.outside().read()];
    for (number, text) in (1u64..).zip(&TEXTS[..3]) {
        let step = with_hand(me, |hand| registry.step(hand, &entry(text)));
        let Step::Mine(claim) = step else { panic!("{step:?}") };
        images.push(block.outside().read());
        claim.set_segment(SegmentHandle::from_bits(1 << 24 | number).unwrap());
        assert!(claim.publish());
        images.push(block.outside().read());
    }
    images
}

/// Every call there is.
fn use_it(trials: &Trials, seed: u64, mapping: &Arc<Mapping>, me: &Arc<Member>) -> u32 {
    let attached = trials.call(seed, "attach", || Registry::attach(mapping, 0, NAMES));
    let Some(Ok(registry)) = attached else { return 0 };
    let mut steps = 0;
    for text in TEXTS {
        let wanted = entry(text);
        trials.call(seed, "look", || registry.look(&wanted.name));
        let step = trials.call(seed, "step", || with_hand(me, |hand| registry.step(hand, &wanted)));
        match step {
            Some(Step::Mine(claim)) if seed.is_multiple_of(2) => {
                claim.set_segment(SegmentHandle::from_bits(1 << 24).unwrap());
                trials.call(seed, "publish", || claim.publish());
            }
            Some(Step::Mine(claim)) => {
                trials.call(seed, "give_up", || claim.give_up(&|_| ()));
            }
            Some(Step::Busy(found)) => {
                let owner = found.owner().map(|owner| me.watch(owner));
                trials.call(seed, "wait", || registry.wait(&found, owner.as_ref(), Some(soon())));
            }
            _ => {}
        }
        steps += 1;
        trials.call(seed, "remove", || with_hand(me, |hand| registry.remove(hand, &wanted.name)));
    }
    let entries = trials.call(seed, "entries", || registry.entries());
    let bounded = entries.is_none_or(|entries| entries.len() <= NAMES as usize);
    trials.check(seed, "entries", bounded, "more names than rows");
    for bits in [1, me.id().to_bits(), 1 << 22 | 1, u32::MAX] {
        let dead = ParticipantId::from_bits(bits).unwrap();
        trials.call(seed, "reap", || registry.reap(dead, &|_| ()));
    }
    steps
}

fn liar(seed: u64, images: &[Vec<u8>], me: &Member) -> Liar {
    let owners = [0, 1, u64::from(me.id().to_bits()), u64::from(u32::MAX)];
    let states = owners.iter().flat_map(|owner| (0..8).map(move |state| owner << 32 | 8 | state));
    let values: Vec<u64> = states.chain([63, 64, 255, u64::MAX]).collect();
    let image = &images[seed as usize % images.len()];
    Liar::new(seed, image).with_images(images).with_values(&values)
}

#[test]
fn names_that_lie_are_used_or_refused() {
    let (trials, me) = (Trials::new("registry, before", LIMIT), member());
    let images = images(&me);
    let mut steps = 0;
    for seed in trials.seeds(600) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        trials.tell(&block.outside(), &mut liar(seed, &images, &me), seed % 6);
        steps += use_it(&trials, seed, &mapping, &me);
        trials.check(seed, "registry", block.is_intact(), "wrote beside the rows");
    }
    assert!(steps > 1000, "{steps} steps");
    trials.finish();
}

#[test]
fn names_that_change_all_the_time_are_used_or_refused() {
    let (trials, me) = (Trials::new("registry, meanwhile", LIMIT), member());
    let images = images(&me);
    let mut steps = 0;
    for seed in trials.seeds(40) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        let liar = liar(seed, &images, &me).restoring();
        let scribbler = Scribbler::start(block.outside(), liar);
        scribbler.meanwhile(300, || steps += use_it(&trials, seed, &mapping, &me));
        trials.add(scribbler.stop());
        trials.check(seed, "registry", block.is_intact(), "wrote beside the rows");
    }
    assert!(steps > 100, "{steps} steps");
    trials.finish();
}
