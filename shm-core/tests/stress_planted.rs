//! The planted ring between threads. What ThreadSanitizer must report of it, or it proves nothing:
//! a payload that is published `Relaxed`. (`ci/hostile.sh` runs this under it, and says so by
//! `SHM_TSAN=1`; on x86-64 the bug shows in no other way.)
#![cfg(not(any(shm_loom, shm_explore)))]
mod planted;

use planted::{Bug, Pop, PushError, Ring};
use shm_core::mapping::Mapping;
use shm_testkit::child::Child;
use shm_testkit::watchdog::within;
use std::thread;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const MESSAGES: u64 = 2000;

/// Two producers and a consumer: each producer's messages come, in order.
fn send_and_receive(bug: Bug) {
    let ring = Ring::create(&Mapping::heap(Ring::bytes_for(8) as usize), 8, bug);
    thread::scope(|scope| {
        for me in [1, 2] {
            let ring = &ring;
            scope.spawn(move || {
                for value in 0..MESSAGES {
                    while ring.push(me, u64::from(me) << 32 | value) != Ok(()) {
                        thread::yield_now();
                    }
                }
            });
        }
        let mut next = [0; 2];
        while next != [MESSAGES; 2] {
            match ring.pop() {
                Pop::Got(value) => {
                    let expected = &mut next[(value >> 32) as usize - 1];
                    assert_eq!(value & 0xffff_ffff, *expected);
                    *expected += 1;
                }
                Pop::Empty | Pop::Pending { .. } => thread::yield_now(),
                Pop::Corrupt => panic!("corrupt"),
            }
        }
    });
    assert_eq!(ring.pop(), Pop::Empty);
    let all: Vec<_> = (0..9).map(|value| ring.push(1, value)).collect();
    assert_eq!(all[7..], [Ok(()), Err(PushError::Full)]);
}

fn publishes_relaxed(_: &[String]) {
    send_and_receive(Bug::PublishRelaxed);
}
shm_testkit::children! { publishes_relaxed }

#[test]
fn a_sound_ring_keeps_the_order_of_each_producer() {
    within(LIMIT, || send_and_receive(Bug::None));
}

#[test]
fn a_relaxed_publication_is_a_race_where_races_are_looked_for() {
    let exit = Child::spawn("publishes_relaxed", &[]).wait(LIMIT);
    let reported = exit.stderr.contains("WARNING: ThreadSanitizer: data race");
    let is_looked_for = std::env::var_os("SHM_TSAN").is_some_and(|set| set == "1");
    assert_eq!(reported, is_looked_for, "{exit:?}");
    println!("looked for races: {is_looked_for}, found the planted one: {reported}");
}
