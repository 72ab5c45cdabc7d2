//! A hash that lies, before it is attached and while it is used: each call ends, with an error or
//! an answer, and nothing outside of the memory is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
mod hash_common;
#[path = "../../shm-core/tests/hostile_common/mod.rs"]
mod hostile_common;

use dsm::hash::{Hash, HashConfig, Size, Walk};
use hash_common::{Plain, PlainGround};
use hostile_common::{LIMIT, guarded};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::liar::{Guarded, Liar, Scribbler, Trials};
use std::sync::Arc;

const LEN: usize = 32 << 10;

fn config() -> HashConfig {
    HashConfig { threads: 2, lines_log2: 1, ..HashConfig::new(Size::Fixed(8), Size::UpTo(24)) }
}

/// Memory with a hash in it, at one moment of its life, and the word that names the hash.
struct Image {
    bytes: Vec<u8>,
    plain: Arc<Plain>,
    name: u64,
}

fn images() -> Vec<Image> {
    // Few keys; many, amidst a move; after many deletions.
    [(5, 0), (17, 0), (60, 0), (60, 55)]
        .map(|(inserted, deleted)| {
            let (block, mapping) = guarded(&[0; LEN], 0);
            let plain = Plain::over(mapping, true);
            let place = AtomicU64::new(0);
            let mut hash = Hash::create(plain.ground(0), &place, &config()).unwrap();
            for key in 0..inserted {
                hash.insert(&key_of(key), &[7; 20]).unwrap();
            }
            for key in 0..deleted {
                hash.delete(&key_of(key)).unwrap();
            }
            let name = hash.name();
            // Its row stays taken, as a dead one's.
            std::mem::forget(hash);
            Image { bytes: block.outside().read(), plain, name }
        })
        .into()
}

fn key_of(key: u64) -> [u8; 8] {
    key.to_le_bytes()
}

fn liar(seed: u64, images: &[Image]) -> Liar {
    let bytes: Vec<Vec<u8>> = images.iter().map(|image| image.bytes.clone()).collect();
    let image = &bytes[seed as usize % bytes.len()];
    let block = 8 << 60 | 64;
    Liar::new(seed, image)
        .with_images(&bytes)
        .with_values(&[0, 1, 8, 64, block, block | 1 << 60, 6 << 60 | 3, 1 << 60, 11 << 60 | 9])
        .about(0..LEN)
}

/// Every call there is; whether the hash could be attached.
fn use_it(trials: &Trials, seed: u64, plain: &Arc<Plain>, name: u64) -> bool {
    let attach = || Hash::<PlainGround>::attach(plain.ground(1), name, &config());
    let Some(Ok(mut hash)) = trials.call(seed, "attach", attach) else { return false };
    for key in [0, 3, 40, 59, 1000 + seed] {
        let key = key_of(key);
        let mut out = [0; 30];
        if let Some(Ok(Some(len))) = trials.call(seed, "get", || hash.get(&key, &mut out)) {
            trials.check(seed, "get", len <= 24, "a value that is too long");
        }
        let found = trials.call(seed, "find", || hash.find(&key).map(|r| r.map(|r| r.to_vec())));
        if let Some(Ok(Some(value))) = found {
            trials.check(seed, "find", value.len() <= 24, "a value that is too long");
        }
        trials.call(seed, "insert", || hash.insert(&key, b"abc"));
        trials.call(seed, "upsert", || hash.upsert(&key, b"abcdefgh"));
        trials.call(seed, "update", || hash.update(&key, b""));
        trials.call(seed, "compare_update", || hash.compare_update(&key, b"", b"x"));
        trials.call(seed, "compare_delete", || hash.compare_delete(&key, b"y"));
        if seed.is_multiple_of(2) {
            trials.call(seed, "delete", || hash.delete(&key));
        }
    }
    trials.call(seed, "reap", || hash.reap(1));
    trials.call(seed, "settle", || hash.settle());
    trials.call(seed, "tidy", || hash.tidy());
    let mut walk = Walk::new();
    for _ in 0..200 {
        let next = trials.call(seed, "next", || walk.next(&mut hash));
        if !matches!(next, Some(Ok(Some(_)))) {
            break;
        }
    }
    trials.call(seed, "verify", || hash.verify());
    trials.call(seed, "drop", || drop(hash));
    if seed.is_multiple_of(4) {
        let place = AtomicU64::new(name);
        // SAFETY: nobody else is attached.
        trials.call(seed, "destroy", || unsafe { Hash::destroy(plain.ground(1), &place) });
    }
    true
}

fn world(image: &Image, seed: u64) -> (Guarded, Arc<Plain>) {
    let (block, mapping) = guarded(&image.bytes, seed);
    let plain = Plain::over(mapping, true);
    plain.copy_blocks(&image.plain);
    (block, plain)
}

#[test]
fn a_hash_of_lies_is_used_or_refused() {
    let (trials, images) = (Trials::new("hash, before", LIMIT), images());
    let mut attached = 0;
    for seed in trials.seeds(1500) {
        let image = &images[seed as usize % images.len()];
        let (block, plain) = world(image, seed);
        trials.tell(&block.outside(), &mut liar(seed, &images), seed % 9);
        attached += u32::from(use_it(&trials, seed, &plain, image.name));
        trials.check(seed, "hash", block.is_intact(), "wrote beside the mapping");
    }
    assert!(attached > 500, "attached {attached}");
    trials.finish();
}

#[test]
fn a_hash_that_changes_all_the_time_is_used_or_refused() {
    let (trials, images) = (Trials::new("hash, meanwhile", LIMIT), images());
    let mut attached = 0;
    for seed in trials.seeds(60) {
        let image = &images[seed as usize % images.len()];
        let (block, plain) = world(image, seed);
        let scribbler = Scribbler::start(block.outside(), liar(seed, &images).restoring());
        scribbler.meanwhile(400, || {
            attached += u32::from(use_it(&trials, seed, &plain, image.name));
        });
        trials.add(scribbler.stop());
        trials.check(seed, "hash", block.is_intact(), "wrote beside the mapping");
    }
    assert!(attached > 15, "attached {attached}");
    trials.finish();
}

#[test]
fn what_is_no_hash_is_refused() {
    let plain = Plain::new(LEN);
    let place = AtomicU64::new(0);
    let attach = |name, config: &HashConfig| {
        Hash::<PlainGround>::attach(plain.ground(0), name, config).map(drop).unwrap_err()
    };
    assert_eq!(attach(0, &config()), dsm::hash::HashError::NotAHash);
    drop(Hash::create(plain.ground(0), &place, &config()).unwrap());
    let name = place.load(Ordering::Relaxed);
    let other = HashConfig { value: Size::Fixed(24), ..config() };
    let error = attach(name, &other);
    assert!(error.to_string().contains("value size"), "{error}");
    let error = attach(name + 8, &config());
    assert_eq!(error, dsm::hash::HashError::NotAHash);
}
