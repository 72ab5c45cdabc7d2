//! A leader whose name is cut in the middle of a character, as the kernel cuts it. In a file of its
//! own, for the name is the whole process's.
mod common;

use bgworker::{Event, Exit};
use common::{end_of, exits, supervisor};

#[test]
#[ignore = "the child processes' main function"]
fn child() {
    common::child(|role| panic!("{role}"));
}

#[test]
fn a_leader_of_any_name_is_found_alive() {
    std::fs::write("/proc/self/comm", "pr\u{fc}fst\u{e4}nde f\u{fc}rs".as_bytes()).unwrap();
    let supervisor = supervisor();
    let worker = supervisor.spawn(exits(7)).unwrap();
    let end = end_of(&supervisor, worker);
    assert!(matches!(end, Event::Ended { how: Exit::Code(7), .. }), "{end:?}");
}
