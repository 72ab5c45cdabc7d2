//! A child process counts; it is stopped, goes on, and is killed in the middle of its work.
//!
//! `cargo run -p shm-testkit --example 1_child`
use shm_testkit::child::{self, Child};
use shm_testkit::watchdog::within;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

fn counts(args: &[String]) {
    let from: u32 = args[0].parse().expect("a number");
    for number in from.. {
        child::tell_parent(&number.to_string());
    }
}
shm_testkit::children! { counts }

fn main() {
    let mut child = Child::spawn("counts", &["40"]);
    for _ in 0..3 {
        println!("process {} says {}", child.pid(), child.hear(LIMIT));
    }
    child.stop();
    println!("stopped");
    child.cont();
    child.kill();
    let exit = within(LIMIT, || child.wait(LIMIT));
    println!("ended by signal {:?}", exit.signal());
    assert_eq!(exit.signal(), Some(9));
}
