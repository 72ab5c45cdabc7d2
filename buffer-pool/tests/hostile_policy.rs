//! A policy that lies, before a process attaches and while it looks for victims: each call ends,
//! frames are frames that there are, none is twice in a batch, and nothing but its bytes is
//! touched.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/hostile_common/mod.rs"]
mod hostile_common;
use buffer_pool::policy::{Batch, FRAMES_MAX, Kind, Policy};
use hostile_common::{LIMIT, guarded};
use shm_core::mapping::Mapping;
use shm_testkit::liar::{Liar, Scribbler, Trials};
use std::collections::BTreeSet;
use std::sync::Arc;

const FRAMES: u32 = 100;

/// What a policy holds in the course of its life.
fn images(kind: Kind) -> Vec<Vec<u8>> {
    let bytes = Policy::bytes_for(kind, FRAMES).unwrap() as usize;
    let (block, mapping) = guarded(&vec![0; bytes], 0);
    // SAFETY: nobody else has the mapping.
    let mut policy = unsafe { Policy::create(&mapping, 0, kind, FRAMES) }.unwrap();
    let mut images = vec![block.outside().read()];
    let mut batch = Batch::new(8);
    for frame in 0..FRAMES {
        policy.admit(frame, frame.into());
    }
    for round in 1..10 {
        images.push(block.outside().read());
        policy.victims(&mut batch, |frame| Some(frame.into())).unwrap();
        for frame in batch.frames() {
            policy.admit(*frame, round * 3 + u64::from(*frame));
            policy.hit(frame / 2);
        }
    }
    images
}

/// Every call there is; whether it could be attached.
fn use_it(trials: &Trials, seed: u64, mapping: &Arc<Mapping>) -> bool {
    let attached = trials.call(seed, "attach", || Policy::attach(mapping, 0));
    let Some(Ok(mut policy)) = attached else { return false };
    let is_right = (1..=FRAMES_MAX).contains(&policy.frames())
        && Policy::bytes_for(policy.kind(), policy.frames()).unwrap() <= mapping.len() as u64;
    trials.check(seed, "attach", is_right, "more frames than there is room for");
    let mut batch = Batch::new(1 + seed as usize % 64);
    for round in 0..4u64 {
        let refuse = |frame: u32| (u64::from(frame) % 3 != round).then_some(u64::from(frame));
        let found = trials.call(seed, "victims", || policy.victims(&mut batch, refuse));
        let all: BTreeSet<u32> = batch.frames().iter().copied().collect();
        let is_right = all.len() == batch.frames().len()
            && all.iter().all(|frame| *frame < policy.frames() && refuse(*frame).is_some())
            && found.is_none_or(|found| found.is_ok() != all.is_empty());
        trials.check(seed, "victims", is_right, "gave frames that are none, or refused, or twice");
        for frame in batch.frames().iter().copied().chain([0, FRAMES - 1, FRAMES, u32::MAX]) {
            trials.call(seed, "admit", || policy.admit(frame, seed ^ u64::from(frame)));
            trials.call(seed, "hit", || policy.hit(frame));
            trials.call(seed, "keep", || policy.keep(frame));
        }
    }
    trials.call(seed, "hand", || policy.hand());
    trials.call(seed, "use_counts", || policy.use_counts());
    true
}

fn liar(seed: u64, images: &[Vec<u8>]) -> Liar {
    let image = &images[seed as usize % images.len()];
    Liar::new(seed, image).with_images(images).with_values(&[
        0,
        1,
        2,
        FRAMES.into(),
        u64::from(FRAMES) + 1,
        FRAMES_MAX.into(),
        u64::MAX,
        0x0808_0808_0808_0808,
        0x1111_1111_1111_1111,
    ])
}

#[test]
fn a_policy_of_lies_is_used_or_refused() {
    let trials = Trials::new("policy, before", LIMIT);
    let all = Kind::ALL.map(images);
    let mut attached = 0;
    for seed in trials.seeds(1000) {
        let images = &all[seed as usize / 16 % 2];
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        trials.tell(&block.outside(), &mut liar(seed, images), seed % 5);
        attached += u32::from(use_it(&trials, seed, &mapping));
        trials.check(seed, "policy", block.is_intact(), "wrote beside the policy");
    }
    assert!(attached > 200, "attached {attached}");
    trials.finish();
}

#[test]
fn a_policy_that_changes_all_the_time_is_used_or_refused() {
    let trials = Trials::new("policy, meanwhile", LIMIT);
    let all = Kind::ALL.map(images);
    let mut attached = 0;
    for seed in trials.seeds(60) {
        let images = &all[seed as usize / 16 % 2];
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        let scribbler = Scribbler::start(block.outside(), liar(seed, images).restoring());
        scribbler.meanwhile(400, || attached += u32::from(use_it(&trials, seed, &mapping)));
        trials.add(scribbler.stop());
        trials.check(seed, "policy", block.is_intact(), "wrote beside the policy");
    }
    assert!(attached > 30, "attached {attached}");
    trials.finish();
}
