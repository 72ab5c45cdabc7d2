//! A header that lies, before it is opened and while it is: each `open` ends by its deadline, with
//! an answer or an error, and touches nothing but the header's 64 bytes.
#![cfg(not(any(shm_loom, shm_explore)))]
mod hostile_common;

use hostile_common::{LIMIT, guarded, soon};
use shm_core::header::{Header, Identity, MAGIC, OpenError, Opened, Opener};
use shm_core::mapping::Mapped;
use shm_core::process::ProcessId;
use shm_testkit::liar::{Liar, Scribbler, Trials};
use std::time::Instant;

const IDENTITY: Identity = Identity::new("hostile", 3, 0xf1f1, 64);
const HOME: u64 = 4;

/// A header whose first word is `state`, made by an honest process or about to be.
fn image(state: u64, magic: u64) -> Vec<u8> {
    let Identity { size, fingerprint, name_hash, version, .. } = IDENTITY;
    let words = [state, magic, size, fingerprint, name_hash, u64::from(version), HOME, 0];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn images() -> Vec<Vec<u8>> {
    let gone = ProcessId::new((1 << 22) - 1, 7).unwrap();
    let initialising = |process: ProcessId| process.to_bits() << 2 | 1;
    vec![
        image(2, MAGIC),
        vec![0; 64],
        image(initialising(gone), 0),
        image(initialising(ProcessId::me()), MAGIC),
    ]
}

fn liar(seed: u64, images: &[Vec<u8>]) -> Liar {
    let valid = &images[seed as usize % images.len()];
    Liar::new(seed, valid).with_images(images).with_values(&[1, 2, 3, MAGIC, HOME])
}

fn open(header: &Header, dead: bool, deadline: Instant) -> Result<Opened, OpenError<&'static str>> {
    let is_dead = move |_| dead;
    let opener = Opener { me: ProcessId::me(), home: HOME, is_dead, deadline };
    header.open(&IDENTITY, &opener, || if dead { Ok(()) } else { Err("no") })
}

#[test]
fn a_header_of_lies_is_opened_or_refused() {
    let (trials, images) = (Trials::new("header, before", LIMIT), images());
    let mut answers = [0; 2];
    for seed in trials.seeds(3000) {
        let mut liar = liar(seed, &images);
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        trials.tell(&block.outside(), &mut liar, seed % 4);
        let header = Mapped::<Header>::new(&mapping, 0).unwrap();
        for dead in [false, true] {
            let opened = trials.call(seed, "open", || open(&header, dead, Instant::now()));
            answers[usize::from(opened.is_some_and(|opened| opened.is_ok()))] += 1;
            trials.call(seed, "home", || header.home());
        }
        trials.check(seed, "open", block.is_intact(), "wrote beside the header");
    }
    assert!(answers.iter().all(|count| *count > 100), "refused, opened: {answers:?}");
    trials.finish();
}

#[test]
fn a_header_that_changes_all_the_time_is_opened_or_refused() {
    let (trials, images) = (Trials::new("header, meanwhile", LIMIT), images());
    for seed in trials.seeds(60) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        let header = Mapped::<Header>::new(&mapping, 0).unwrap();
        let scribbler = Scribbler::start(block.outside(), liar(seed, &images).restoring());
        let mut round = 0;
        scribbler.meanwhile(3000, || {
            round += 1;
            // One who waits, and one who looks once.
            let deadline = if round % 5 == 0 { soon() } else { Instant::now() };
            let _ = trials.call(seed, "open", || open(&header, round % 2 == 0, deadline));
        });
        trials.add(scribbler.stop());
        trials.check(seed, "open", block.is_intact(), "wrote beside the header");
    }
    trials.finish();
}
