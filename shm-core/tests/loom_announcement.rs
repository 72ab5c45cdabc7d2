//! `Announcement` and a bell that keeps what was rung: no wake-up is lost between two sides that
//! share no word both may write, and each sleep costs one ring.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use shm_core::event::Announcement;
use shm_core::futex::Futex;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::sync::{AtomicU32, Ordering};
use shm_testkit::model;

struct Shared {
    /// The sleeper's to write.
    asleep: Announcement,
    /// The other side's to write.
    written: AtomicU32,
    /// A model's socket: 1 where a byte lies in it.
    bell: Futex,
}
// SAFETY: modelled atomics.
unsafe impl shm_core::ShmSync for Shared {}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// The sleeper does not look again once it has announced itself.
    NoSecondLook,
    /// Each sleep has the same number.
    OneNumber,
    /// The other side looks for a sleeper before it changes anything.
    LooksTooEarly,
}

/// Two changes; the sleeper waits for both, and for the first one first.
fn scenario(bug: Bug) {
    let value =
        Shared { asleep: Announcement::new(), written: AtomicU32::new(0), bell: Futex::new(0) };
    // SAFETY: nobody else has the mapping yet.
    let shared = unsafe { Mapped::place(&Mapping::heap(4096), 0, value) }.unwrap();
    let theirs = shared.clone();
    let waker = model::thread::spawn(move || {
        let mut rung = 0;
        for written in 1..=2 {
            let early = theirs.asleep.announced();
            theirs.written.store(written, Ordering::Relaxed);
            let late = theirs.asleep.announced();
            let number = if bug == Bug::LooksTooEarly { early } else { late };
            if number != 0 && number != rung {
                rung = number;
                theirs.bell.word().fetch_or(1, Ordering::Relaxed);
                theirs.bell.wake_all();
            }
        }
    });
    let mut sleeps = 0;
    for wanted in 1..=2 {
        while shared.written.load(Ordering::Relaxed) < wanted {
            sleeps = if bug == Bug::OneNumber { 1 } else { sleeps + 1 };
            shared.asleep.announce(sleeps);
            let second = bug != Bug::NoSecondLook;
            if second && shared.written.load(Ordering::Relaxed) >= wanted {
                break;
            }
            shared.bell.wait(0, None);
            shared.bell.word().fetch_and(0, Ordering::Relaxed);
            shared.asleep.withdraw();
        }
    }
    waker.join().unwrap();
}

#[test]
fn no_wake_up_is_lost() {
    println!("announcement: {:?}", model::check(|| scenario(Bug::None)));
}

#[test]
fn both_fences_matter() {
    let found = model::every_ordering_matters(&["shm-core/src/event.rs"], || {
        model::check(|| scenario(Bug::None));
    });
    assert_eq!(found, 4, "each fence, taken away or weaker");
}

#[test]
fn planted_bugs_are_found() {
    for bug in [Bug::NoSecondLook, Bug::OneNumber, Bug::LooksTooEarly] {
        model::finds("deadlock", || {
            model::check(move || scenario(bug));
        });
    }
}
