//! Under AddressSanitizer (`--cfg shm_asan`): a byte of a message that was given back to the sender
//! is nobody's, and who reads it is reported; one who keeps to the rules is not.
#![cfg(all(shm_asan, not(shm_loom)))]
mod common;

use shm_mq::stream::RecvError;
use shm_testkit::child::{Child, Exit, Setup};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

fn reads_what_it_gave_back(_: &[String]) {
    let (mut sender, mut receiver) = common::stream(256);
    sender.send(b"a message in the ring").unwrap();
    let message = receiver.recv().unwrap();
    let first = message.as_ptr();
    drop(message);
    // Looking in vain, it tells the sender what is consumed.
    assert_eq!(receiver.try_recv().map(drop), Err(RecvError::WouldBlock));
    // SAFETY: none: the byte is the sender's.
    std::hint::black_box(unsafe { first.read_volatile() });
}

fn keeps_to_the_rules(_: &[String]) {
    let (mut sender, mut receiver) = common::stream(64);
    for round in 0..1000_usize {
        let text = vec![round as u8; round % 40];
        sender.send(&text).unwrap();
        assert_eq!(*receiver.recv().unwrap(), text[..]);
    }
}
shm_testkit::children! { reads_what_it_gave_back, keeps_to_the_rules }

fn run(function: &str) -> Exit {
    let setup = Setup { env: &[("SHM_POISON", "1")], ..Setup::default() };
    Child::spawn_with(function, setup).wait(LIMIT)
}

#[test]
fn a_byte_given_back_is_nobodys() {
    let exit = run("reads_what_it_gave_back");
    assert!(exit.stderr.contains("AddressSanitizer: use-after-poison"), "{exit:?}");
    assert_ne!(exit.code(), Some(0), "{exit:?}");
}

#[test]
fn bytes_taken_again_are_used_freely() {
    run("keeps_to_the_rules").assert_success();
}
