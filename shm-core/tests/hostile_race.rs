//! Under ThreadSanitizer (`--cfg shm_tsan`): the planted ring that publishes without Release is
//! reported as a data race on its payload, the sound one is not.
#![cfg(all(shm_tsan, not(shm_loom)))]
mod planted;

use planted::{Bug, Pop, Ring};
use shm_core::mapping::Mapping;
use shm_testkit::child::{Child, Exit};
use std::time::Duration;

const CAPACITY: u64 = 4;
const MESSAGES: u64 = 2000;

/// A producer and a consumer, on one mapping: of two, the tool would see nothing.
fn pass_messages(bug: Bug) {
    let mapping = Mapping::heap(Ring::bytes_for(CAPACITY) as usize);
    let ring = Ring::create(&mapping, CAPACITY, bug);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for value in 0..MESSAGES {
                while ring.push(1, value).is_err() {
                    std::thread::yield_now();
                }
            }
        });
        for value in 0..MESSAGES {
            let got = loop {
                match ring.pop() {
                    Pop::Got(got) => break got,
                    _ => std::thread::yield_now(),
                }
            };
            assert_eq!(got, value);
        }
    });
}

fn publishes_relaxed(_: &[String]) {
    pass_messages(Bug::PublishRelaxed);
}

fn publishes_well(_: &[String]) {
    pass_messages(Bug::None);
}
shm_testkit::children! { publishes_relaxed, publishes_well }

fn run(function: &str) -> Exit {
    Child::spawn(function, &[]).wait(Duration::from_secs(120))
}

#[test]
fn a_relaxed_publication_is_a_data_race() {
    let exit = run("publishes_relaxed");
    assert!(exit.stderr.contains("ThreadSanitizer: data race"), "{exit:?}");
    assert_ne!(exit.code(), Some(0), "{exit:?}");
}

#[test]
fn a_sound_publication_is_none() {
    run("publishes_well").assert_success();
}
